"""Heads: losses and predictions from encoder frames. A line in this file adds one to the library."""

from maya.heads.attention import AttentionDecoder, AttentionDecoderConfig
from maya.heads.base import (
    Head,
    HeadConfig,
    HeadContext,
    HeadTrack,
    LossStep,
    Prediction,
    SoundEvent,
    final_weights,
    head_weights,
)
from maya.heads.canary import CanaryDecoder, CanaryDecoderConfig
from maya.heads.classify import Classifier, ClassifyConfig, LanguageConfig, RegressConfig, Regressor
from maya.heads.ctc import CTCConfig, CTCHead
from maya.heads.diarization import DiarizationConfig, DiarizationHead
from maya.heads.distillation import Distillation, DistillationConfig
from maya.heads.frames import EventConfig, EventHead, PitchConfig, PitchHead
from maya.heads.language_model import LanguageModel, LanguageModelConfig
from maya.heads.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from maya.heads.multisoftmax import (
    MultisoftmaxCTC,
    MultisoftmaxCTCConfig,
    MultisoftmaxTransducer,
    MultisoftmaxTransducerConfig,
)
from maya.heads.punctuation import PunctuationConfig, PunctuationHead
from maya.heads.separation import SeparationConfig, SeparationHead
from maya.heads.speaker import SpeakerConfig, SpeakerHead
from maya.heads.transducer import TransducerConfig, TransducerHead
from maya.heads.units import UnitCTC, UnitCTCConfig
from maya.heads.whisper import WhisperDecoder, WhisperDecoderConfig

__all__ = [
    "AttentionDecoder",
    "AttentionDecoderConfig",
    "CTCConfig",
    "CTCHead",
    "CanaryDecoder",
    "CanaryDecoderConfig",
    "Classifier",
    "ClassifyConfig",
    "DiarizationConfig",
    "DiarizationHead",
    "Distillation",
    "DistillationConfig",
    "SoundEvent",
    "EventConfig",
    "EventHead",
    "Head",
    "HeadConfig",
    "HeadContext",
    "LanguageConfig",
    "LanguageModel",
    "LanguageModelConfig",
    "LossStep",
    "MaskedPrediction",
    "MaskedPredictionConfig",
    "MultisoftmaxCTC",
    "MultisoftmaxCTCConfig",
    "MultisoftmaxTransducer",
    "MultisoftmaxTransducerConfig",
    "PitchConfig",
    "PitchHead",
    "Prediction",
    "PunctuationConfig",
    "PunctuationHead",
    "RegressConfig",
    "Regressor",
    "HeadTrack",
    "SeparationConfig",
    "SeparationHead",
    "SpeakerConfig",
    "SpeakerHead",
    "TransducerConfig",
    "TransducerHead",
    "UnitCTC",
    "UnitCTCConfig",
    "WhisperDecoder",
    "WhisperDecoderConfig",
    "final_weights",
    "head_weights",
]
