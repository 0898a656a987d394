"""A voice detector: 123 k parameters, 20 ms frames, no look-ahead.

Run:    ./egs/vad/run.sh --init exp/digits/digits/digits
Cost and result: see RESULTS.md in this folder.
"""

from maya.data.loading.augment import AugmentConfig
from maya.encoders import RecurrentConfig
from maya.features import LogMelConfig
from maya.heads import EventConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment


def experiment() -> Experiment:
    exp = Experiment(name="vad/vad", languages=("en", "gu"))
    exp.model = SpeechModelConfig(
        # A window of two hops, so that a frame ends where its samples end.
        features=LogMelConfig(num_mels=40, window_ms=20.0, normalize="none"),
        encoder=RecurrentConfig(feat_in=40, d_model=96, n_layers=2, dropout=0.1),
        heads={"speech": EventConfig(label="speech", classes=("speech",), hidden=32, gap_seconds=0.1)},
    )
    exp.model.specaugment.freq_masks = exp.model.specaugment.time_masks = 0
    exp.tokenizer.model_type, exp.tokenizer.vocab_size = "unigram", 64  # of texts that the head does not read
    exp.data.augment = AugmentConfig(
        clean_share=0.1, made_noise_prob=0.95, made_snr_db=(-5.0, 20.0), equalizer_prob=0.5,
        made_room_prob=0.2, volume=(0.1, 2.0), volume_prob=1.0,
    )  # fmt: skip
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 120.0, 16
    exp.train.per = "utterance"
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 600, 300, 300
    exp.train.optimizer, exp.train.lr, exp.train.warmup_steps = "adamw", 3e-3, 30
    exp.train.log_every, exp.train.threads = 50, 1
    return exp
