"""Acoustic encoders: one config in; forward(x (B, T, F), x_lens (B,)) -> (B, S, D), lens (B,)."""

from maya.encoders.fastconformer import FastConformer, FastConformerConfig

__all__ = ["FastConformer", "FastConformerConfig"]
