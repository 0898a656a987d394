"""A Sortformer-class diarization head on a small FastConformer, trained on meetings that are made on the fly.

Run:    ./egs/diarization/run.sh --cpu true
Cost and result: see RESULTS.md in this folder.
"""

from dataclasses import replace

from maya.data.loading.augment import AugmentConfig
from maya.data.loading.meetings import MeetingConfig
from maya.encoders import FastConformerConfig
from maya.features import LogMelConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.heads import DiarizationConfig, HeadConfig, SpeakerConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment

LANGUAGES = ("as", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te")


SMALL = FastConformerConfig(
    feat_in=40, d_model=96, n_layers=3, n_heads=4, subsampling_factor=4, subsampling_channels=32
)


def _experiment(name: str, encoder: FastConformerConfig, heads: dict[str, HeadConfig]) -> Experiment:
    exp = Experiment(name=f"diarization/diarization_{name}", languages=LANGUAGES)
    exp.model = SpeechModelConfig(features=LogMelConfig(), encoder=encoder, heads=heads)
    exp.model.specaugment = SpecAugmentConfig(freq_masks=0, time_masks=0)
    exp.prepare.split.dev = exp.prepare.split.test = 0.0  # the corpus says whose voices are held out
    exp.tokenizer.model_type, exp.tokenizer.vocab_size = "unigram", 1000  # of texts that no head reads
    # Formants that are moved, the same way in all of a meeting, stand in for voices that are not there.
    exp.data.augment = AugmentConfig(clean_share=0.2, warp_prob=1.0, warp_spread=0.05)
    exp.train.per = "utterance"
    return exp


def _for_cpu(exp: Experiment) -> Experiment:
    exp.model.features = LogMelConfig(num_mels=40, hop_ms=20.0, window_ms=32.0)
    exp.data.cache_gb = 1.0
    exp.train.optimizer, exp.train.lr, exp.train.weight_decay = "adamw", 1e-3, 1e-2
    exp.train.threads, exp.train.log_every, exp.train.average_every = 1, 20, 10
    return exp


def speakers() -> Experiment:
    """The encoder of `small` learns voices first, by the names of the training speakers: without, so short a
    training hears no difference between them."""
    head = SpeakerConfig(
        speakers=200, embedding=96, pooling="statistics", crop_seconds=3.0, margin_start=200, margin_ramp=100
    )
    exp = _for_cpu(_experiment("speakers", replace(SMALL), {"speaker": head}))
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 120.0, 32
    exp.train.lr, exp.train.steps, exp.train.warmup_steps = 2e-3, 500, 50
    exp.train.valid_every = exp.train.save_every = 500
    return exp


def small() -> Experiment:
    """Up to 3 speakers, 0.9 M parameters, frames of 80 ms, meetings of 20 s: for a CPU, after `speakers`."""
    head = DiarizationConfig(speakers=3, hidden=96, n_layers=2, dropout=0.1)
    exp = _for_cpu(_experiment("small", replace(SMALL), {"diarization": head}))
    exp.data.meetings = MeetingConfig(speakers=(1, 3), seconds=20.0)
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 120.0, 8
    exp.data.valid_utterances = 4
    exp.train.steps, exp.train.warmup_steps = 800, 100
    exp.train.valid_every = exp.train.save_every = 200
    return exp


def sortformer() -> Experiment:
    """NVIDIA's sizes: FastConformer of 18 layers, 18 Transformer layers, 4 speakers, 90 s; not run here.
    Rooms and noise: --data.augment.rooms and --data.meetings.noise.folders."""
    encoder = FastConformerConfig(d_model=512, n_layers=18)
    head = DiarizationConfig(speakers=4, hidden=192, n_layers=18, n_heads=8, dropout=0.5)
    exp = _experiment("sortformer", encoder, {"diarization": head})
    exp.data.meetings = MeetingConfig(speakers=(1, 4), seconds=90.0, overlap=0.12)
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 120.0, 4
    exp.train.optimizer, exp.train.lr, exp.train.weight_decay = "adamw", 1e-4, 1e-3
    exp.train.steps, exp.train.warmup_steps = 100_000, 2500
    exp.train.valid_every = exp.train.save_every = 5000
    return exp
