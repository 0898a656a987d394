"""Phonemes by CTC from Maya's own encoders, of about a million parameters, and from Whisper's, frozen.

Run:    ./egs/phonemes/run.sh --experiment phonemes:fastconformer    (zipformer, lact, mlp; a CPU is enough)
        ./egs/phonemes/run.sh --experiment phonemes:whisper --init RUN    of `maya convert`, such as tiny.en
Cost and result: see RESULTS.md in this folder.
"""

from typing import cast

from maya.data.loading.augment import few_speakers
from maya.encoders import FastConformerConfig, MLPConfig, WhisperEncoderConfig, ZipformerConfig
from maya.features import SpecAugmentConfig, WhisperMelConfig
from maya.heads import UnitCTCConfig
from maya.models.config import SpeechModelConfig
from maya.recipes import presets
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact_tiny

# The units of eSpeak's American English, see maya.text.ipa.
UNITS = (
    *"nəɹɪkælmsitdbɛɡpzjɐŋwvʃhɚfɾʌʊɔθᵻʒðʔr",
    *("ɑː", "oʊ", "uː", "eɪ", "iː", "aɪ", "dʒ", "ɔː", "tʃ", "ɜː", "aʊ", "ɔɪ", "n̩"),
)


def frame_experiment(name: str, model: SpeechModelConfig, head: UnitCTCConfig | None = None) -> Experiment:
    """An experiment with a head of phonemes alone."""
    exp = Experiment(name=f"phonemes/{name}", languages=("en",), model=model)
    exp.model.heads = {"phonemes": head or UnitCTCConfig(units=UNITS, dropout=0.1)}
    exp.tokenizer.model_type, exp.tokenizer.vocab_size = (
        "unigram",
        64,
    )  # of texts that this head does not read
    exp.data.cache_gb = 1.0
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 60.0, 32
    exp.train.per = "utterance"
    exp.train.log_every, exp.train.average_every, exp.train.threads = 50, 10, 1
    exp.train.steps, exp.train.warmup_steps = 1000, 50
    exp.train.valid_every = exp.train.save_every = 250
    return exp


def fastconformer() -> Experiment:
    """Frames of 40 ms: at 80 ms a head needs `upsampling`."""
    model = presets.low_resource()
    cast(FastConformerConfig, model.encoder).subsampling_factor = 4
    exp = frame_experiment("phonemes_fastconformer", model)
    exp.data.augment, exp.data.speed_perturb = few_speakers(), (0.87, 0.93, 1.0, 1.07, 1.15)
    exp.train.optimizer, exp.train.lr = "muon", 3e-3
    return exp


def zipformer() -> Experiment:
    """The size of `fastconformer`, with its data and frames of 40 ms."""
    model = presets.zipformer_low_resource()
    cast(ZipformerConfig, model.encoder).output_downsampling = 2
    exp = frame_experiment("phonemes_zipformer", model)
    exp.data.augment, exp.data.speed_perturb = few_speakers(), (0.87, 0.93, 1.0, 1.07, 1.15)
    exp.train.optimizer, exp.train.lr, exp.train.min_lr = "scaled_adam", 0.04, 1e-4
    exp.train.regularizer_seconds = 1.0
    return exp


def lact() -> Experiment:
    """LaCT in place of FastConformer, else all the same."""
    exp = fastconformer()
    exp.name = "phonemes/phonemes_lact"
    exp.model.encoder = lact_tiny(ff_dim=336, subsampling_factor=4)
    return exp


def mlp() -> Experiment:
    """Means of 40 ms of features and three linear layers that see 280 ms: what needs no encoder."""
    exp = fastconformer()
    exp.name = "phonemes/phonemes_mlp"
    exp.model.encoder = MLPConfig(feat_in=40, context=3)
    exp.train.optimizer, exp.train.lr = "adamw", 3e-3
    return exp


def whisper() -> Experiment:
    """A frozen encoder of Whisper's, by default tiny's sizes, and a learnt sum of its layers: --init RUN. Its
    frames are those of the utterance, not the 1500 of 30 s, which cost ten times as much and would be 1500
    steps of CTC."""
    encoder = WhisperEncoderConfig(whole=False)
    model = SpeechModelConfig(
        features=WhisperMelConfig(),
        encoder=encoder,
        specaugment=SpecAugmentConfig(time_masks=0, freq_masks=0),
    )
    exp = frame_experiment("phonemes_whisper", model, UnitCTCConfig(units=UNITS, layers="all", dropout=0.1))
    exp.data.plan.max_seconds = 30.0
    exp.train.freeze = ("encoder",)
    exp.train.lr, exp.train.weight_decay, exp.train.steps = 1e-2, 1e-2, 500
    return exp
