"""Acoustic encoders: features (B, T, F) to frames (B, S, D). A line in this file adds one to the library."""

from maya.encoders.base import (
    Encoded,
    Encoder,
    EncoderConfig,
    EncoderStream,
    FrameClock,
    Miniatures,
    check_hidden,
)
from maya.encoders.conformer.config import FastConformerConfig
from maya.encoders.conformer.fastconformer import FastConformer
from maya.encoders.ecapa.config import EcapaConfig
from maya.encoders.ecapa.encoder import EcapaEncoder
from maya.encoders.hugging_face.config import HuggingFaceConfig, hugging_face
from maya.encoders.hugging_face.encoder import HuggingFaceEncoder
from maya.encoders.lact.config import LaCTConfig
from maya.encoders.lact.encoder import LaCT
from maya.encoders.mlp import MLPConfig, MLPEncoder
from maya.encoders.whisper.encoder import WhisperEncoder, WhisperEncoderConfig
from maya.encoders.zipformer.config import ZipformerConfig
from maya.encoders.zipformer.encoder import Zipformer
from maya.features.frames import frame_mask

__all__ = [
    "EcapaConfig",
    "EcapaEncoder",
    "Encoded",
    "Encoder",
    "EncoderConfig",
    "EncoderStream",
    "FastConformer",
    "FastConformerConfig",
    "FrameClock",
    "HuggingFaceConfig",
    "HuggingFaceEncoder",
    "MLPConfig",
    "MLPEncoder",
    "Miniatures",
    "LaCT",
    "LaCTConfig",
    "WhisperEncoder",
    "WhisperEncoderConfig",
    "Zipformer",
    "ZipformerConfig",
    "check_hidden",
    "frame_mask",
    "hugging_face",
]
