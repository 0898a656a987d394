"""The digits with a Zipformer and a pruned transducer: the size, features, masks and data of digits.py.

Run:    ./egs/digits/run.sh --experiment zipformer
Cost and result: see RESULTS.md in this folder.
"""

from maya.heads import CTCConfig, TransducerConfig
from maya.recipes import presets
from maya.recipes.experiment import Experiment

from . import digits


def experiment() -> Experiment:
    exp = digits.experiment()
    exp.name = "digits/zipformer"
    exp.model = presets.zipformer_low_resource()
    exp.model.language_embedding = True
    exp.model.language_init = 1.0
    transducer = exp.model.head("transducer", TransducerConfig)
    transducer.weight, transducer.first_step, transducer.pruned.warmup_steps = 0.7, 500, 0
    exp.model.heads["ctc"] = CTCConfig(weight=0.3, dropout=0.1)
    exp.train.steps = 2400
    exp.train.optimizer = "scaled_adam"
    exp.train.lr = 0.04
    exp.train.min_lr = 1e-4
    exp.train.warmup_steps = 100
    exp.train.encoder_hold = 0
    exp.train.valid_every = exp.train.save_every = 480
    exp.decode.method = "ctc"  # better than the transducer on dev
    exp.train.regularizer_seconds = 1.0  # the regularisers' schedules end early in this training
    return exp
