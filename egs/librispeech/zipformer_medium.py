"""Zipformer-M with a pruned transducer, 66 M parameters, LibriSpeech 960 h: icefall's default.

Run:    ./egs/librispeech/run.sh --source DIR --experiment zipformer_medium --gpus 4
Not run yet: RESULTS.md has icefall's figures, which are the target.
"""

from egs.librispeech import zipformer_recipe as recipe
from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    return recipe.pruned("zipformer_medium", presets.zipformer_medium(), gpus=4, max_seconds=1000.0)
