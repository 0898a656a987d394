"""FastConformer large (about 115 M parameters) for one to eight GPUs.

Run:    ./egs/indic12/run.sh --experiment large --corpus DIR --gpus 8
Not run yet: no result is claimed.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment

from . import small


def experiment() -> Experiment:
    exp = small.experiment()
    exp.name = "indic12/large"
    exp.model = presets.large()
    exp.model.language_embedding = True
    exp.tokenizer.vocab_size = 8192
    exp.train.steps = 200_000
    exp.train.lr = 1e-3
    exp.train.warmup_steps = 10_000
    return exp
