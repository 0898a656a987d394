"""Zipformer-S with CR-CTC, 22 M parameters, LibriSpeech 960 h; a step holds every utterance twice.

Run:    ./egs/librispeech/run.sh --source DIR --experiment zipformer_small_cr_ctc --gpus 2
Not run yet: RESULTS.md has icefall's figures, which are the target.
"""

from egs.librispeech import zipformer_recipe as recipe
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    return recipe.cr_ctc("zipformer_small_cr_ctc", presets.zipformer_small(), gpus=2, max_seconds=850.0)
