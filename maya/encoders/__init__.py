"""Acoustic encoders: one config in; forward(x (B, T, F), x_lens (B,)) -> (B, S, D), lens (B,)."""

from maya.encoders.fastconformer import FastConformer, FastConformerConfig
from maya.encoders.zipformer import Zipformer
from maya.encoders.zipformer_config import ZipformerConfig

__all__ = ["FastConformer", "FastConformerConfig", "Zipformer", "ZipformerConfig"]
