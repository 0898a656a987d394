"""ECAPA-TDNN on the voices of a few hundred people, for a CPU; and the published recipes for VoxCeleb.

Run:    ./egs/speakers/run.sh --cpu true
Cost and result: see RESULTS.md in this folder.
"""

from maya.data.loading.augment import few_speakers
from maya.encoders import CamConfig, EcapaConfig, ResNetConfig
from maya.features import LogMelConfig, VoiceFbankConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.heads import SpeakerConfig
from maya.models.config import SpeechModelConfig
from maya.recipes.experiment import Experiment

LANGUAGES = ("as", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te")
SPEEDS = (0.9, 1.1)


def _experiment(name: str, encoder: EcapaConfig, head: SpeakerConfig) -> Experiment:
    exp = Experiment(name=f"speakers/speakers_{name}", languages=LANGUAGES)
    exp.model = SpeechModelConfig(features=LogMelConfig(normalize="none"), encoder=encoder)
    exp.model.heads = {"speaker": head}
    exp.model.specaugment = SpecAugmentConfig(
        freq_masks=2, freq_width=10, time_masks=2, time_width=0.05, fill="mean"
    )
    exp.tokenizer.model_type, exp.tokenizer.vocab_size = "unigram", 1000  # of texts that no head reads
    exp.data.augment = few_speakers()
    exp.data.speed_perturb = (1.0, *SPEEDS)
    exp.train.per = "utterance"
    return exp


def small() -> Experiment:
    """179 speakers of indic12, 0.2 M parameters: more steps of a small network teach more than few of a large
    one. Frames of 20 ms are half the work. The mean of the features stays: it tells a speaker by the
    microphone too, see RESULTS.md; `--model.encoder.subtract_mean true` takes it out."""
    encoder = EcapaConfig(
        channels=64, d_model=192, se_channels=32, scale=4, padding="zeros", subtract_mean=False
    )
    head = SpeakerConfig(
        speakers=179, attention_dim=64, embedding=128, crop_seconds=2.0, margin_start=240, margin_ramp=60
    )
    exp = _experiment("small", encoder, head)
    exp.model.features = LogMelConfig(normalize="none", hop_ms=20.0, window_ms=32.0)
    exp.data.speed_perturb = (1.0,)
    exp.data.cache_gb = 1.0
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 240.0, 48
    exp.data.plan.temperature = 1.0  # not more of the languages with one speaker
    exp.train.optimizer, exp.train.lr, exp.train.weight_decay = "adamw", 2e-3, 5e-2
    exp.train.clip = 5.0
    exp.train.steps, exp.train.warmup_steps, exp.train.threads = 400, 40, 1
    exp.train.valid_every, exp.train.save_every, exp.train.log_every = 200, 100, 50
    exp.train.average_every = 10
    return exp


def voxceleb() -> Experiment:
    """VoxCeleb1 and 2, 7205 speakers, C = 1024, as SpeechBrain trains it; not run here. MUSAN and rooms:
    --data.augment.noise.folders and --data.augment.rooms."""
    head = SpeakerConfig(speakers=7205, new_speakers=SPEEDS, margin=0.2, scale=30.0, crop_seconds=3.0)
    exp = _experiment("voxceleb", EcapaConfig(channels=1024, d_model=3072), head)
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 800.0, 256
    exp.train.optimizer, exp.train.lr, exp.train.weight_decay = "adamw", 1e-3, 2e-6
    exp.train.steps, exp.train.warmup_steps = 130_000, 4000
    exp.train.valid_every = exp.train.save_every = 5000
    return exp


def resnet34() -> Experiment:
    """The same with wespeaker's ResNet34, sub-centres and penalties on the five hardest wrong speakers; not
    run here."""
    exp = voxceleb()
    exp.name, exp.model.encoder = "speakers/speakers_resnet34", ResNetConfig()
    exp.model.features = VoiceFbankConfig(style="wespeaker")
    exp.model.heads["speaker"] = SpeakerConfig(
        speakers=7205, new_speakers=SPEEDS, variant="wespeaker", pooling="statistics", pool_norm=False,
        embedding=256, scale=32.0, centres=3, hardest=5, crop_seconds=2.0, margin_start=17_000,
        margin_ramp=17_000,
    )  # fmt: skip
    return exp


def campplus() -> Experiment:
    """`resnet34` with CAM++; not run here."""
    exp = resnet34()
    exp.name, exp.model.encoder = "speakers/speakers_campplus", CamConfig()
    head = exp.model.heads["speaker"]
    assert isinstance(head, SpeakerConfig)
    head.embedding, head.embedding_norm = 512, True
    return exp


def large_margin() -> Experiment:
    """The second stage: margin 0.5, long parts, a small rate, no speeds: --train.init_from RUN."""
    exp = voxceleb()
    exp.name = "speakers/speakers_large_margin"
    exp.model.heads["speaker"] = SpeakerConfig(
        speakers=7205, new_speakers=SPEEDS, margin=0.5, scale=30.0, crop_seconds=6.0
    )
    exp.data.speed_perturb = (1.0,)
    exp.train.init_modules = ("encoder", "speaker")
    exp.train.lr, exp.train.min_lr, exp.train.steps, exp.train.warmup_steps = 1e-4, 2.5e-5, 20_000, 500
    return exp
