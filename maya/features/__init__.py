"""Waveforms to features, (B, N) -> (B, T, F), and their augmentation."""

from maya.features.fbank import Fbank, FbankConfig, FbankStream
from maya.features.logmel import LogMel, LogMelConfig
from maya.features.specaugment import SpecAugment, SpecAugmentConfig

__all__ = [
    "Fbank",
    "FbankConfig",
    "FbankStream",
    "LogMel",
    "LogMelConfig",
    "SpecAugment",
    "SpecAugmentConfig",
]
