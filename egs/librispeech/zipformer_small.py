"""Zipformer-S with a pruned transducer, 23 M parameters, LibriSpeech 960 h.

Run:    ./egs/librispeech/run.sh --source DIR --experiment zipformer_small --gpus 2
Not run yet: RESULTS.md has icefall's figures, which are the target.
"""

from egs.librispeech import zipformer_recipe as recipe
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    return recipe.pruned("zipformer_small", presets.zipformer_small(), gpus=2, max_seconds=1500.0, lr=0.04)
