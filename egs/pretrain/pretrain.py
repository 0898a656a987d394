"""Pre-training of small encoders without texts, and probes of what their frozen layers hold.

Run:    ./egs/pretrain/run.sh --targets best_rq    (mfcc, speaker; --encoder zipformer, lact; a CPU is enough)
Cost and result: see RESULTS.md in this folder.
"""

from typing import Any

from egs.heads.heads import LANGUAGES as ALL_LANGUAGES
from egs.heads.heads import PHONEMES
from maya.encoders import EncoderConfig, FastConformerConfig
from maya.features import LogMelConfig
from maya.features.span_mask import hubert_spans
from maya.heads import (
    CTCConfig,
    HeadConfig,
    LanguageConfig,
    MaskedPredictionConfig,
    SpeakerConfig,
    UnitCTCConfig,
)
from maya.recipes import presets
from maya.recipes.experiment import Experiment
from maya.recipes.lact_presets import lact_tiny

LANGUAGES = tuple(code for code in ALL_LANGUAGES if code != "gu")  # of which there are digits alone
SPEAKERS = 179  # of the training set, as egs/speakers has them


def _fastconformer() -> EncoderConfig:
    """1.3 M parameters, frames of 80 ms."""
    options: dict[str, Any] = {"feat_in": 40, "d_model": 112, "n_layers": 4, "n_heads": 4, "xscaling": False}
    return FastConformerConfig(
        **options, subsampling_channels=32, subsampling_factor=8, dropout_pre_encoder=0.0
    )


ENCODERS = {
    "fastconformer": _fastconformer,
    "zipformer": lambda: presets.zipformer_low_resource().encoder,
    "lact": lact_tiny,
}


def _experiment(name: str, encoder: str, heads: dict[str, HeadConfig]) -> Experiment:
    exp = Experiment(name=f"pretrain/pretrain_{name}", languages=LANGUAGES, model=presets.low_resource())
    exp.model.encoder, exp.model.heads = ENCODERS[encoder](), heads
    exp.model.features = LogMelConfig(num_mels=40)
    exp.model.specaugment.freq_masks = exp.model.specaugment.time_masks = 0
    exp.model.noise.probability = 0.0
    exp.tokenizer.model_type, exp.tokenizer.vocab_size = "unigram", 1000  # of texts that pre-training ignores
    exp.data.cache_gb = 1.0
    exp.data.plan.max_seconds, exp.data.plan.max_utterances = 60.0, 32
    exp.train.per = "utterance"
    exp.train.log_every, exp.train.average_every, exp.train.threads = 50, 10, 1
    return exp


def _pretraining(name: str, encoder: str, head: MaskedPredictionConfig) -> Experiment:
    """Two predictions in an encoder frame."""
    exp = _experiment(name if encoder == "fastconformer" else f"{name}_{encoder}", encoder, {"masked": head})
    head.upsampling = 2
    if encoder == "zipformer":
        exp.train.optimizer, exp.train.lr, exp.train.warmup_steps = "adamw", 2e-3, 100
    else:
        exp.train.optimizer, exp.train.lr, exp.train.warmup_steps = "muon", 3e-3, 50
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 1000, 250, 250
    return exp


def _best_rq(encoder: str) -> Experiment:
    return _pretraining("best_rq", encoder, MaskedPredictionConfig(codes=512))


def _clusters(encoder: str) -> Experiment:
    head = MaskedPredictionConfig(label="clusters", codes=100, mask=hubert_spans())
    exp = _pretraining("clusters", encoder, head)
    exp.model.noise.probability = 0.5
    return exp


def best_rq() -> Experiment:
    """Codes of randomly projected features. 512 codes: an hour has too few frames for 8192."""
    return _best_rq("fastconformer")


def best_rq_zipformer() -> Experiment:
    """The same with a Zipformer."""
    return _best_rq("zipformer")


def best_rq_lact() -> Experiment:
    """The same with a LaCT encoder."""
    return _best_rq("lact")


def clusters() -> Experiment:
    """Clusters that egs.pretrain.targets made, of MFCC or of voices: those of clean audio, while half of the
    utterances have noise, as in DELULU."""
    return _clusters("fastconformer")


def clusters_zipformer() -> Experiment:
    """The same with a Zipformer."""
    return _clusters("zipformer")


def clusters_lact() -> Experiment:
    """The same with a LaCT encoder."""
    return _clusters("lact")


def probes() -> dict[str, HeadConfig]:
    """Languages, speakers and phonemes from weighted sums of layers, each by a linear layer."""
    return {
        "language": LanguageConfig(layers="all", class_weights="balanced"),
        "speaker": SpeakerConfig(layers="all", pooling="statistics", speakers=SPEAKERS, margin=0.0),
        "phonemes": UnitCTCConfig(layers="all", units=PHONEMES, upsampling=3),
    }


def recogniser() -> Experiment:
    """CTC of the transcripts, from a pre-trained FastConformer: --train.init_from RUN."""
    exp = _experiment("recogniser", "fastconformer", {"ctc": CTCConfig()})
    exp.train.steps, exp.train.lr, exp.train.per = 1000, 1e-3, "token"
    return exp
