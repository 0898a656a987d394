"""Adaptation at test time: a loaded model learns from the speech that it recognises, without texts.

`Recognizer.adapted` puts an adapter between audio and decoding. An adapter leaves the model as it was: after
`reset` every parameter has its earlier bits.
"""

from maya.decode.adapt.adapter import AdaptConfig, Adapter, Carried, CarriedConfig
from maya.decode.adapt.gradient import (
    DSUTA,
    SUTA,
    DSUTAConfig,
    PseudoLabels,
    PseudoLabelsConfig,
    SUTAConfig,
)
from maya.decode.adapt.prompt import EBATS, EBATSConfig
from maya.decode.adapt.source import Source, measure_source

__all__ = [
    "DSUTA",
    "EBATS",
    "SUTA",
    "AdaptConfig",
    "Adapter",
    "Carried",
    "CarriedConfig",
    "DSUTAConfig",
    "EBATSConfig",
    "PseudoLabels",
    "PseudoLabelsConfig",
    "SUTAConfig",
    "Source",
    "measure_source",
]
