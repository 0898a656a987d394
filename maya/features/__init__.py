"""Waveforms to features, (B, N) -> (B, T, F), and their augmentation."""

from maya.features.base import Features, FeaturesConfig, FeatureStream
from maya.features.fbank import Fbank, FbankConfig, FbankStream
from maya.features.frames import frame_samples
from maya.features.logmel import LogMel, LogMelConfig, LogMelStream
from maya.features.specaugment import SpecAugment, SpecAugmentConfig
from maya.features.voice_fbank import VoiceFbank, VoiceFbankConfig

__all__ = [
    "Fbank", "FbankConfig", "FbankStream", "FeatureStream", "Features", "FeaturesConfig", "LogMel",
    "LogMelConfig", "LogMelStream", "SpecAugment", "SpecAugmentConfig", "VoiceFbank", "VoiceFbankConfig",
    "frame_samples",
]  # fmt: skip
