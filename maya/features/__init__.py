"""Waveforms to features, (B, N) -> (B, T, F), and their augmentation."""

from maya.features.fbank import Fbank, FbankConfig, FbankStream
from maya.features.frames import frame_samples
from maya.features.logmel import LogMel, LogMelConfig
from maya.features.logmel_stream import LogMelStream
from maya.features.specaugment import SpecAugment, SpecAugmentConfig

FeaturesConfig = LogMelConfig | FbankConfig


def build_features(cfg: FeaturesConfig) -> LogMel | Fbank:
    return LogMel(cfg) if isinstance(cfg, LogMelConfig) else Fbank(cfg)


def feature_stream(features: LogMel | Fbank) -> LogMelStream | FbankStream:
    """The same features of audio that comes in chunks: `push` each of them, then `finish`."""
    return LogMelStream(features) if isinstance(features, LogMel) else FbankStream(features)


__all__ = [
    "Fbank",
    "FbankConfig",
    "FbankStream",
    "FeaturesConfig",
    "LogMel",
    "LogMelConfig",
    "LogMelStream",
    "SpecAugment",
    "SpecAugmentConfig",
    "build_features",
    "feature_stream",
    "frame_samples",
]
