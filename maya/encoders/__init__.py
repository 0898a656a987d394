"""Acoustic encoders: one config in; forward(x (B, T, F), x_lens (B,)) -> (B, S, D), lens (B,)."""

from maya.encoders.conformer.fastconformer import FastConformer, FastConformerConfig
from maya.encoders.lact.config import LaCTConfig
from maya.encoders.lact.encoder import LaCT
from maya.encoders.zipformer.config import ZipformerConfig
from maya.encoders.zipformer.encoder import Zipformer

AnyEncoder = FastConformer | Zipformer | LaCT
AnyEncoderConfig = FastConformerConfig | ZipformerConfig | LaCTConfig


def build_encoder(cfg: AnyEncoderConfig) -> AnyEncoder:
    """A freshly initialised encoder on the current default device."""
    if isinstance(cfg, FastConformerConfig):
        return FastConformer(cfg)
    return LaCT(cfg) if isinstance(cfg, LaCTConfig) else Zipformer(cfg)


__all__ = [
    "AnyEncoder",
    "AnyEncoderConfig",
    "FastConformer",
    "FastConformerConfig",
    "LaCT",
    "LaCTConfig",
    "Zipformer",
    "ZipformerConfig",
    "build_encoder",
]
