"""LaCT base with CTC, 101 M parameters, LibriSpeech 960 h.

Run:    ./egs/librispeech/run.sh --source DIR --experiment lact_base_ctc --gpus 1
Not run yet: README.md in this folder has what is to be expected.
"""

from egs.librispeech import lact_recipe as recipe
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact, lact_base


def experiment() -> Experiment:
    return recipe.train("lact_base_ctc", lact(lact_base(), "ctc"))
