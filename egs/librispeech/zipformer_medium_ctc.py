"""Zipformer-M with CTC, 64 M parameters, LibriSpeech 960 h; batches as with the attention decoder.

Run:    ./egs/librispeech/run.sh --source DIR --experiment zipformer_medium_ctc --gpus 4
Not run yet: RESULTS.md has icefall's figures, which are the target.
"""

from egs.librispeech import zipformer_recipe as recipe
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    return recipe.ctc("zipformer_medium_ctc", presets.zipformer_medium(), gpus=4, max_seconds=1200.0)
