"""LaCT base that streams, with CTC, 101 M parameters, LibriSpeech 960 h.

It learns from a chunk of 2.56 s, then reads it, and waits for nothing beyond the end of the chunk.

Run:    ./egs/librispeech/run.sh --source DIR --experiment lact_base_ctc_streaming --gpus 1
Not run yet: README.md in this folder has what is to be expected.
"""

from egs.librispeech import lact_recipe as recipe
from maya.encoders.lact.config import streaming
from maya.features import LogMelConfig
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact, lact_base


def experiment() -> Experiment:
    exp = recipe.train("lact_base_ctc_streaming", lact(streaming(lact_base(), chunk=32), "ctc"))
    # The mean of an utterance is not known before its end.
    exp.model.features = LogMelConfig(normalize="none")
    exp.model.specaugment.fill = "mean"
    return exp
