"""Zipformer-M with CTC and an attention decoder, 90 M parameters, LibriSpeech 960 h.

Run:    ./egs/librispeech/run.sh --source DIR --experiment zipformer_medium_ctc_aed --gpus 4
Not run yet: RESULTS.md has icefall's figures, which are the target.
"""

from egs.librispeech import zipformer_recipe as recipe
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    return recipe.ctc_aed("zipformer_medium_ctc_aed", presets.zipformer_medium(), gpus=4, max_seconds=1200.0)
