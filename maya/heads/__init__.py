"""Heads: losses and predictions from encoder frames. A line in this file adds one to the library."""

from maya.heads.attention import AttentionDecoder, AttentionDecoderConfig
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep, Prediction, final_weights, head_weights
from maya.heads.classify import Classifier, ClassifyConfig, LanguageConfig
from maya.heads.ctc import CTCConfig, CTCHead
from maya.heads.distillation import Distillation, DistillationConfig
from maya.heads.language_model import LanguageModel, LanguageModelConfig
from maya.heads.transducer import TransducerConfig, TransducerHead

__all__ = [
    "AttentionDecoder",
    "AttentionDecoderConfig",
    "CTCConfig",
    "CTCHead",
    "Classifier",
    "ClassifyConfig",
    "Distillation",
    "DistillationConfig",
    "Head",
    "HeadConfig",
    "HeadContext",
    "LanguageConfig",
    "LanguageModel",
    "LanguageModelConfig",
    "LossStep",
    "Prediction",
    "TransducerConfig",
    "TransducerHead",
    "final_weights",
    "head_weights",
]
