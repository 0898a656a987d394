"""Adaptation at test time: a loaded model learns from the speech that it recognises, without texts.

`Recognizer.adapted` puts an adapter between audio and decoding. An adapter leaves the model as it was: after
`reset` every parameter has its earlier bits.
"""

from maya.decode.adapt.adapter import Adaptation, AdaptConfig, Carried, CarriedConfig
from maya.decode.adapt.gradient import (
    DSUTA,
    SUTA,
    DSUTAConfig,
    PseudoLabels,
    PseudoLabelsConfig,
    SUTAConfig,
)
from maya.decode.adapt.prompt import EBATS, EBATSConfig
from maya.decode.adapt.source import SourceStatistics, measure_source

__all__ = [
    "DSUTA",
    "EBATS",
    "SUTA",
    "AdaptConfig",
    "Adaptation",
    "Carried",
    "CarriedConfig",
    "DSUTAConfig",
    "EBATSConfig",
    "PseudoLabels",
    "PseudoLabelsConfig",
    "SUTAConfig",
    "SourceStatistics",
    "measure_source",
]
