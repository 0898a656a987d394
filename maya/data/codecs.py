"""Lossy codecs as they distort speech: encoded and decoded again, in memory."""

import io
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from maya.data.audio import SAMPLE_RATE, resample

_AT_ONCE = 1 << 14  # samples; libsndfile's Vorbis encoder overflows its stack with very many


class _Codec(NamedTuple):
    """A format and subtype of libsndfile, its sampling rate in Hz, and whether it has a quality."""

    format: str
    subtype: str
    rate: int
    graded: bool


CODECS = {
    "mulaw": _Codec("WAV", "ULAW", 8000, False),
    "alaw": _Codec("WAV", "ALAW", 8000, False),
    "gsm": _Codec("WAV", "GSM610", 8000, False),
    "mp3": _Codec("MP3", "MPEG_LAYER_III", SAMPLE_RATE, True),
    "opus": _Codec("OGG", "OPUS", SAMPLE_RATE, True),
    "vorbis": _Codec("OGG", "VORBIS", SAMPLE_RATE, True),
}


def through_codec(audio: Tensor, name: str, quality: float = 0.5) -> Tensor:
    """(N,) at 16 kHz through a codec of CODECS and back, (N,) without its delay.

    quality: 0 (smallest) to 1 (best), for those that have one. Audio over full scale is scaled down
    before and up after, since every codec cuts it off there.
    """
    codec, n = CODECS[name], len(audio)
    peak = max(1.0, float(audio.abs().max()))
    narrow = resample(audio / peak, SAMPLE_RATE, codec.rate).numpy()
    buffer = io.BytesIO()
    options = {"compression_level": 0.99 * (1.0 - quality)} if codec.graded else {}
    with soundfile.SoundFile(
        buffer, "w", codec.rate, 1, codec.subtype, format=codec.format, **options
    ) as file:
        for start in range(0, len(narrow), _AT_ONCE):
            file.write(narrow[start : start + _AT_ONCE])
    buffer.seek(0)
    heard, rate = soundfile.read(buffer, dtype="float32")
    decoded = resample(torch.from_numpy(np.ascontiguousarray(heard)), rate, SAMPLE_RATE)[:n] * peak
    return torch.nn.functional.pad(decoded, (0, n - len(decoded)))
