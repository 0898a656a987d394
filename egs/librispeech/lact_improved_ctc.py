"""LaCT improved with CTC, 207 M parameters, LibriSpeech 960 h.

Run:    ./egs/librispeech/run.sh --source DIR --experiment lact_improved_ctc --gpus 1
Not run yet: README.md in this folder has what is to be expected.
"""

from egs.librispeech import lact_recipe as recipe
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact, lact_improved


def experiment() -> Experiment:
    return recipe.train("lact_improved_ctc", lact(lact_improved(), "ctc"))
