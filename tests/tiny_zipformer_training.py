"""The smallest training with all that Zipformer's recipes have: pruned RNN-T, CR-CTC, an attention decoder,
ScaledAdam, Eden, regularisers on schedules, and everything random on."""

from maya.features.specaugment import lhotse
from maya.heads import AttentionDecoderConfig
from maya.heads.transducer import JointConfig
from maya.recipes.experiment import Experiment
from tests import tiny, tiny_zipformer


def experiment() -> Experiment:
    exp = tiny.experiment()
    exp.name = "tests/tiny_zipformer"
    exp.model = tiny_zipformer.config(
        blank_first=False, vocab_size=0, ctc_weight=0.3, cr_ctc_weight=0.02, attention_weight=0.2,
        attention_decoder=AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=32), loss_warmup=20,
        joint=JointConfig(hidden=32, activation="tanh", dropout=0.1),
    )  # fmt: skip
    exp.model.specaugment = lhotse(time_mask_ratio=2.5)
    exp.model.specaugment.warp_frames = 10
    exp.train.optimizer, exp.train.schedule, exp.train.lr = "scaled_adam", "eden", 0.045
    exp.train.eden.steps, exp.train.eden.epochs, exp.train.eden.warmup_steps = 20.0, 2.0, 5.0
    exp.train.regularizer_seconds = 0.05  # the schedules run through in this training
    exp.train.steps, exp.train.save_every, exp.train.valid_every = 30, 10, 30
    exp.train.keep, exp.train.log_every = 9, 10
    exp.data.plan.max_utterances = 3
    return exp
