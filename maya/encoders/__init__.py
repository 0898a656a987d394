"""Acoustic encoders: one config in; forward(x (B, T, F), x_lens (B,)) -> (B, S, D), lens (B,)."""

from maya.encoders.fastconformer import FastConformer, FastConformerConfig
from maya.encoders.zipformer import Zipformer
from maya.encoders.zipformer_config import ZipformerConfig

AnyEncoder = FastConformer | Zipformer
AnyEncoderConfig = FastConformerConfig | ZipformerConfig


def build_encoder(cfg: AnyEncoderConfig) -> AnyEncoder:
    """A freshly initialised encoder on the current default device."""
    return FastConformer(cfg) if isinstance(cfg, FastConformerConfig) else Zipformer(cfg)


__all__ = [
    "AnyEncoder",
    "AnyEncoderConfig",
    "FastConformer",
    "FastConformerConfig",
    "Zipformer",
    "ZipformerConfig",
    "build_encoder",
]
