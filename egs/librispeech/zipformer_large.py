"""Zipformer-L with a pruned transducer, 148 M parameters, LibriSpeech 960 h.

Run:    ./egs/librispeech/run.sh --source DIR --experiment zipformer_large --gpus 4
Not run yet: RESULTS.md has icefall's figures, which are the target.
"""

from egs.librispeech import zipformer_recipe as recipe
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    return recipe.pruned("zipformer_large", presets.zipformer_large(), gpus=4, max_seconds=1000.0)
