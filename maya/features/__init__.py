"""Waveforms to features, (B, N) -> (B, T, F), and their augmentation."""

from maya.features.base import Features, FeaturesConfig, FeatureStream
from maya.features.fbank import Fbank, FbankConfig, FbankStream
from maya.features.frames import frame_samples
from maya.features.logmel import LogMel, LogMelConfig, LogMelStream
from maya.features.specaugment import SpecAugment, SpecAugmentConfig
from maya.features.voice_fbank import VoiceFbank, VoiceFbankConfig
from maya.features.waveform import Waveform, WaveformConfig
from maya.features.whisper_mel import WhisperMel, WhisperMelConfig
from maya.features.whole_frames import (
    ASTFbank,
    ASTFbankConfig,
    BeatsFbank,
    BeatsFbankConfig,
    SeamlessFbank,
    SeamlessFbankConfig,
)

__all__ = [
    "ASTFbank", "ASTFbankConfig", "BeatsFbank", "BeatsFbankConfig", "Fbank", "FbankConfig", "FbankStream",
    "FeatureStream", "Features", "FeaturesConfig", "LogMel", "LogMelConfig", "LogMelStream",
    "SeamlessFbank", "SeamlessFbankConfig", "SpecAugment", "SpecAugmentConfig", "VoiceFbank",
    "VoiceFbankConfig", "Waveform", "WaveformConfig", "WhisperMel", "WhisperMelConfig", "frame_samples",
]  # fmt: skip
