"""Checkpoints as icefall's training writes them, of tiny random models."""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.convert.icefall.names import to_icefall_name, to_icefall_tensor
from maya.convert.icefall.tokens import read_tokenizer
from maya.decode.recognizer import Recognizer
from maya.heads import AttentionDecoderConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from tests import tiny_zipformer

SPECIAL = ["<blk>", "<sos/eos>", "<unk>"]
AED = {
    "attention_weight": 0.5,
    "attention_decoder": AttentionDecoderConfig(layers=2, dim=16, heads=2, feed_forward=24, eos=1),
}
# Every kind of model of icefall's recipe, as options of `tiny_zipformer.config`.
KINDS: dict[str, dict[str, Any]] = {
    "transducer": {"ctc_weight": 0.0},
    "transducer and CTC": {"ctc_weight": 0.2},
    "causal": {"ctc_weight": 0.0, "causal": True},
    "CTC": {"transducer": "none", "ctc_weight": 1.0},
    "CTC and attention": {"transducer": "none", "ctc_weight": 1.0, **AED},
}


def model(**fields: Any) -> SpeechModel:
    """A tiny model with random parameters."""
    built = SpeechModel(tiny_zipformer.config(**fields)).eval()
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return built


def state(built: SpeechModel) -> dict[str, Tensor]:
    """The model's parameters by icefall's names."""
    named = {name: (to_icefall_name(name), tensor) for name, tensor in built.state_dict().items()}
    return {saved: to_icefall_tensor(name, t).clone() for name, (saved, t) in named.items() if saved}


def options(cfg: SpeechModelConfig) -> dict[str, Any]:
    """icefall's options for a model of this configuration. Numbers for each stack are strings."""
    e: Any = cfg.encoder
    attention = cfg.heads.get("attention")
    listed = {
        "num_encoder_layers": e.layers, "downsampling_factor": e.downsampling, "feedforward_dim": e.ff_dims,
        "num_heads": e.heads, "encoder_dim": e.dims, "encoder_unmasked_dim": e.unmasked_dims,
        "cnn_module_kernel": e.conv_kernels, "query_head_dim": [e.query_head_dim],
        "value_head_dim": [e.value_head_dim], "pos_head_dim": [e.pos_head_dim],
    }  # fmt: skip
    if e.causal:
        listed |= {"chunk_size": e.chunk_frames, "left_context_frames": e.left_context_frames}
    saved: dict[str, Any] = {name: ",".join(map(str, sizes)) for name, sizes in listed.items()}
    return saved | {
        "pos_dim": e.pos_dim, "causal": e.causal, "feature_dim": 80, "context_size": 2, "decoder_dim": 32,
        "joiner_dim": 32, "vocab_size": cfg.vocab_size, "blank_id": 0, "prune_range": 4, "warm_step": 300,
        "ctc_loss_scale": 0.25, "attention_decoder_num_heads": 2 if attention else 8,
        "attention_decoder_loss_scale": 0.75, "use_transducer": "transducer" in cfg.heads,
        "use_ctc": "ctc" in cfg.heads, "use_attention_decoder": "attention" in cfg.heads,
        "use_cr_ctc": False, "batch_idx_train": 1234, "average_period": 200, "dtype": torch.float16,
        "exp_dir": PosixPath("zipformer/exp"), "best_valid_loss": np.float64(0.25),
        "env_info": {"hostname": "somewhere"}, "lang_dir": None, "start_epoch": 1,
    }  # fmt: skip


@contextmanager
def attribute_dict() -> Iterator[type]:
    """icefall's options class, made importable while it is pickled."""
    made = type("AttributeDict", (dict,), {"__module__": "icefall.utils"})
    modules = {"icefall": types.ModuleType("icefall"), "icefall.utils": types.ModuleType("icefall.utils")}
    modules["icefall.utils"].AttributeDict = made  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]


def save_epoch(
    path: Path, weights: dict[str, Tensor], average: dict[str, Tensor] | None, saved: dict[str, Any]
) -> Path:
    """Write epoch-N.pt: weights, their mean, the state of training, and all options."""
    with attribute_dict() as kind:
        payload: dict[str, Any] = {
            "model": weights,
            "optimizer": {"state": {0: {"step": 7, "delta": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
            "scheduler": {"base_lrs": [0.045], "epoch": 3, "batch": 5},
            "grad_scaler": {"scale": 2.0, "_growth_tracker": 0},
            "sampler": {"epoch": 3, "diagnostics": {"stats": {}}, "rng": np.arange(3)},
            "finetuning": kind(init_modules="encoder"),
        }
        if average is not None:
            payload["model_avg"] = average
        torch.save(payload | saved, path)
    return path


def tokens(path: Path, size: int = 20) -> Path:
    """Write tokens.txt with `size` pieces."""
    pieces = [*SPECIAL, *(f"▁{i}" for i in range(size - 3))]
    path.write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(pieces)), encoding="utf-8")
    return path


def recognizer(folder: Path, **fields: Any) -> Recognizer:
    """A model of these options with the pieces of `tokens`, which are written into the folder."""
    pieces = read_tokenizer(tokens(folder / "tokens.txt"))
    return Recognizer(model=model(**fields), tokenizer=pieces, device=torch.device("cpu"))
