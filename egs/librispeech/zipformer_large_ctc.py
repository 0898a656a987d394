"""Zipformer-L with CTC, 147 M parameters, LibriSpeech 960 h; batches as with the attention decoder.

Run:    ./egs/librispeech/run.sh --source DIR --experiment zipformer_large_ctc --gpus 4
Not run yet: RESULTS.md has icefall's figures, which are the target.
"""

from egs.librispeech import zipformer_recipe as recipe
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    return recipe.ctc("zipformer_large_ctc", presets.zipformer_large(), gpus=4, max_seconds=1200.0)
