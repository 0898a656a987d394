"""A Sortformer-class diarization head on a small FastConformer, trained on meetings that are made on the fly.

Run:    ./egs/diarization/run.sh --cpu true
Cost and result: see RESULTS.md in this folder.
"""

from maya.data.loading.augment import AugmentConfig
from maya.data.loading.meetings import MeetingConfig
from maya.encoders import FastConformerConfig
from maya.features import LogMelConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.heads import DiarizationConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment

LANGUAGES = ("as", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te")


def _experiment(name: str, encoder: FastConformerConfig, head: DiarizationConfig) -> Experiment:
    exp = Experiment(name=f"diarization/diarization_{name}", languages=LANGUAGES)
    exp.model = SpeechModelConfig(features=LogMelConfig(), encoder=encoder, heads={"diarization": head})
    exp.model.specaugment = SpecAugmentConfig(freq_masks=0, time_masks=0)
    exp.prepare.split.dev = exp.prepare.split.test = 0.0  # the corpus says whose voices are held out
    exp.tokenizer.model_type, exp.tokenizer.vocab_size = "unigram", 1000  # of texts that no head reads
    # Formants that are moved, the same way in all of a meeting, stand in for voices that are not there.
    exp.data.augment = AugmentConfig(clean_share=0.2, warp_prob=1.0, warp_spread=0.05)
    exp.train.per = "utterance"
    return exp


def small() -> Experiment:
    """Up to 3 speakers, 1 M parameters, frames of 80 ms, meetings of 30 s: for a CPU."""
    encoder = FastConformerConfig(d_model=112, n_layers=4, n_heads=4, subsampling_channels=48)
    head = DiarizationConfig(speakers=3, hidden=112, n_layers=2, dropout=0.1)
    exp = _experiment("small", encoder, head)
    exp.data.meetings = MeetingConfig(speakers=(1, 3), seconds=25.0)
    exp.data.cache_gb = 1.0
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 120.0, 8
    exp.data.valid_utterances = 8
    exp.train.optimizer, exp.train.lr, exp.train.weight_decay = "adamw", 1e-3, 1e-2
    exp.train.steps, exp.train.warmup_steps, exp.train.threads = 2000, 100, 1
    exp.train.valid_every, exp.train.save_every, exp.train.log_every = 200, 200, 20
    exp.train.average_every = 10
    return exp


def sortformer() -> Experiment:
    """NVIDIA's sizes: FastConformer of 18 layers, 18 Transformer layers, 4 speakers, 90 s; not run here.
    Rooms and noise: --data.augment.rooms and --data.meetings.noise.folders."""
    encoder = FastConformerConfig(d_model=512, n_layers=18)
    head = DiarizationConfig(speakers=4, hidden=192, n_layers=18, n_heads=8, dropout=0.5)
    exp = _experiment("sortformer", encoder, head)
    exp.data.meetings = MeetingConfig(speakers=(1, 4), seconds=90.0, overlap=0.12)
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 120.0, 4
    exp.train.optimizer, exp.train.lr, exp.train.weight_decay = "adamw", 1e-4, 1e-3
    exp.train.steps, exp.train.warmup_steps = 100_000, 2500
    exp.train.valid_every = exp.train.save_every = 5000
    return exp
