"""Small models and their `.nemo` archives, with changes that a test needs."""

import io
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
import yaml

from maya.convert import to_nemo
from maya.convert.heads import transducer_head
from maya.decode.recognizer import Recognizer
from maya.encoders import FastConformerConfig
from maya.features import LogMelConfig, SpecAugmentConfig
from maya.heads.transducer import JointConfig, PredictorConfig
from maya.models.hybrid import HybridOptions
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer, TokenizerConfig

TEXTS = {"en": ["the quick brown fox jumps over the lazy dog"] * 20, "hi": ["नमस्ते दुनिया कैसे हो"] * 20}

# Every kind of model that NeMo supports, as options of `recognizer`.
KINDS: list[dict[str, Any]] = [
    {},
    {"transducer": "none", "ctc_weight": 1.0},
    {"transducer": "rnnt", "ctc_weight": 0.0, "predictor.layers": 2},
    {"ctc_weight": 0.0, "durations": (0, 1, 2)},
    {"encoder.use_bias": False, "encoder.xscaling": False, "features.num_mels": 128, "encoder.feat_in": 128},
    {"encoder.conv_norm": "layer_norm", "encoder.untie_biases": False, "features.normalize": "none"},
    {"joint.dropout": 0.1, "joint.activation": "tanh", "encoder.subsampling_factor": 8},
    {
        "encoder.att_context_size": ((4, 1), (4, 0)),
        "encoder.att_context_style": "chunked_limited",
        "encoder.att_context_probs": (0.25, 0.75),
        "encoder.conv_context": "causal",
        "encoder.causal_downsampling": True,
        "encoder.conv_norm": "layer_norm",
        "features.normalize": "none",
    },
    {"encoder.att_context_size": ((16, 8),)},
    {  # Conformer
        "encoder.subsampling": "striding",
        "encoder.subsampling_channels": 32,
        "encoder.conv_kernel": 31,
        "transducer": "rnnt",
        "predictor.layers": 2,
    },
    {
        "encoder.subsampling": "striding",
        "encoder.subsampling_factor": 8,
        "transducer": "none",
        "ctc_weight": 1.0,
    },
    {"features.legacy": True, "encoder.conv_kernel": 5, "encoder.ff_expansion": 2, "encoder.n_heads": 4},
]


def tokenizer(language: str = "en", vocab_size: int = 40) -> Tokenizer:
    return Tokenizer.train({language: TEXTS[language]}, TokenizerConfig(vocab_size=vocab_size))


def options(vocab_size: int) -> HybridOptions:
    """A tiny FastConformer with TDT and CTC, without dropout."""
    encoder = FastConformerConfig(
        d_model=32, n_layers=2, n_heads=2, subsampling_channels=8, subsampling_factor=4,
        dropout=0.0, dropout_pre_encoder=0.0, dropout_att=0.0,
    )  # fmt: skip
    return HybridOptions(
        features=LogMelConfig(dither=0.0), specaugment=SpecAugmentConfig(freq_masks=0, time_masks=0),
        encoder=encoder, predictor=PredictorConfig(hidden=32, layers=1, dropout=0.0),
        joint=JointConfig(hidden=32, dropout=0.0), omega=0.0, vocab_size=vocab_size, languages=("en", "hi"),
        language_dropout=0.0,
    )  # fmt: skip


def recognizer(pieces: Tokenizer | None = None, **fields: Any) -> Recognizer:
    """A tiny model with random parameters and statistics. fields: options of a hybrid model,
    "encoder.use_bias" and so on."""
    pieces = pieces or tokenizer()
    made = options(pieces.vocab_size)
    for name, value in fields.items():
        *groups, leaf = name.split(".")
        node: Any = made
        for group in groups:
            node = getattr(node, group)
        setattr(node, leaf, value)
    cfg = made.model_config()
    model = SpeechModel(cfg).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith("preprocessor") or not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            else:
                tensor.add_(0.1 * torch.randn_like(tensor))
        if "transducer" in cfg.heads:
            transducer_head(model).decoder.prediction["embed"].weight[-1] = 0.0  # type: ignore[union-attr,index]
    return Recognizer(model=model, tokenizer=pieces, device=torch.device("cpu"))


def archive(path: Path, **fields: Any) -> Path:
    to_nemo(recognizer(**fields), path)
    return path


def changed(
    source: Path,
    out: Path,
    *,
    config: Callable[[dict[str, Any]], object] = lambda c: None,
    weights: Callable[[dict[str, Any]], object] = lambda w: None,
    without: Collection[str] = (),
    mode: str = "w",
) -> Path:
    """A copy of an archive with a changed yaml and state dict, without the members of some endings."""
    with tarfile.open(source) as old, tarfile.open(out, mode) as new:
        for member in old.getmembers():
            opened = old.extractfile(member)
            if opened is None or member.name.endswith(tuple(without)):
                continue
            content = opened.read()
            if member.name.endswith(".yaml"):
                values = yaml.safe_load(content)
                config(values)
                content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
            elif member.name.endswith(".ckpt"):
                state = torch.load(io.BytesIO(content), weights_only=True)
                saved = io.BytesIO()
                replaced = weights(state)
                torch.save(state if replaced is None else replaced, saved)
                content = saved.getvalue()
            entry = tarfile.TarInfo(member.name)
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    return out
