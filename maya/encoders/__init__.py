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
from maya.encoders.beats.config import BeatsConfig, beats
from maya.encoders.beats.encoder import BeatsEncoder
from maya.encoders.campplus import CamConfig, CamEncoder
from maya.encoders.conformer.config import FastConformerConfig
from maya.encoders.conformer.fastconformer import FastConformer
from maya.encoders.ecapa.config import EcapaConfig
from maya.encoders.ecapa.encoder import EcapaEncoder
from maya.encoders.emotion2vec.config import Emotion2vecConfig, emotion2vec
from maya.encoders.emotion2vec.encoder import Emotion2vecEncoder
from maya.encoders.hugging_face.config import HuggingFaceConfig, hugging_face
from maya.encoders.hugging_face.encoder import HuggingFaceEncoder
from maya.encoders.lact.config import LaCTConfig
from maya.encoders.lact.encoder import LaCT
from maya.encoders.mlp import MLPConfig, MLPEncoder
from maya.encoders.recurrent import RecurrentConfig, RecurrentEncoder
from maya.encoders.resnet import ResNetConfig, ResNetEncoder
from maya.encoders.separation.config import ConvTasNetConfig, SepReformerConfig
from maya.encoders.separation.conv_tasnet import ConvTasNet
from maya.encoders.separation.sepreformer import SepReformer
from maya.encoders.speech_tokenizer.codes import CodesEncoder
from maya.encoders.speech_tokenizer.config import (
    CodesConfig,
    SpeechTokenizerConfig,
    speech_codes,
    speech_tokenizer,
)
from maya.encoders.speech_tokenizer.encoder import SpeechTokenizerEncoder
from maya.encoders.whisper.encoder import WhisperEncoder, WhisperEncoderConfig
from maya.encoders.zipformer.config import ZipformerConfig
from maya.encoders.zipformer.encoder import Zipformer
from maya.features.frames import frame_mask

__all__ = [
    "BeatsConfig",
    "BeatsEncoder",
    "CamConfig",
    "CamEncoder",
    "CodesConfig",
    "CodesEncoder",
    "ConvTasNet",
    "ConvTasNetConfig",
    "EcapaConfig",
    "EcapaEncoder",
    "Emotion2vecConfig",
    "Emotion2vecEncoder",
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
    "SpeechTokenizerConfig",
    "SpeechTokenizerEncoder",
    "ResNetConfig",
    "ResNetEncoder",
    "RecurrentConfig",
    "RecurrentEncoder",
    "SepReformer",
    "SepReformerConfig",
    "WhisperEncoder",
    "WhisperEncoderConfig",
    "Zipformer",
    "ZipformerConfig",
    "beats",
    "check_hidden",
    "emotion2vec",
    "frame_mask",
    "hugging_face",
    "speech_codes",
    "speech_tokenizer",
]
