"""FastConformer small (about 14 M parameters) for one GPU.

Run:    ./egs/indic12/run.sh --experiment small --corpus DIR --gpus 1
Not run yet: no result is claimed.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="indic12/small", model=presets.small())
    exp.tokenizer.vocab_size = 4096
    exp.model.language_embedding = True
    exp.data.plan.max_seconds = 600.0
    exp.data.plan.max_utterances = 256
    exp.data.plan.temperature = 0.5
    exp.data.num_workers = 4
    exp.data.speed_perturb = (0.9, 1.0, 1.1)
    exp.train.steps = 50_000
    exp.train.lr = 2e-3
    exp.train.warmup_steps = 5_000
    exp.train.valid_every = exp.train.save_every = 2_000
    exp.train.log_every = 100
    return exp
