"""The digits with a Zipformer and a pruned transducer: the size, features, masks and data of digits.py.

Run:    ./egs/digits/run.sh --experiment zipformer
Cost and result: see RESULTS.md in this folder.
"""

from maya.recipes import presets
from maya.recipes.experiment import Experiment

from . import digits


def experiment() -> Experiment:
    exp = digits.experiment()
    exp.name = "digits/zipformer"
    exp.model = presets.zipformer_low_resource()
    exp.model.language_embedding = True
    exp.model.language_init = 1.0
    exp.model.ctc_weight = 0.3
    exp.model.loss_warmup = 0
    exp.train.steps = 2400
    exp.train.optimizer = "scaled_adam"
    exp.train.lr = 0.04
    exp.train.min_lr = 1e-4
    exp.train.warmup_steps = 100
    exp.train.encoder_hold = 0
    exp.train.ctc_first = 500
    exp.train.valid_every = exp.train.save_every = 480
    exp.decode.method = "ctc"  # better than the transducer on dev
    exp.train.regularizer_seconds = 1.0  # the regularisers' schedules end early in this training
    return exp
