"""Distortion by lossy codecs: audio is encoded and decoded again, in memory."""

import io
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from maya.audio.load import resample

_AT_ONCE = 1 << 14  # samples; libsndfile's Vorbis encoder overflows its stack with very many


class _Codec(NamedTuple):
    """A format and subtype of libsndfile, the sampling rates in Hz that it takes, and whether it has a
    quality."""

    format: str
    subtype: str
    rates: tuple[int, ...]
    graded: bool

    def rate(self, sample_rate: int) -> int:
        """The lowest of its rates that keeps the band of audio at `sample_rate`, or its highest."""
        return min((rate for rate in self.rates if rate >= sample_rate), default=self.rates[-1])


_TELEPHONE = (8000,)
_MPEG = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_OPUS = (8000, 12000, 16000, 24000, 48000)


CODECS = {
    "mulaw": _Codec("WAV", "ULAW", _TELEPHONE, False),
    "alaw": _Codec("WAV", "ALAW", _TELEPHONE, False),
    "gsm": _Codec("WAV", "GSM610", _TELEPHONE, False),
    "mp3": _Codec("MP3", "MPEG_LAYER_III", _MPEG, True),
    "opus": _Codec("OGG", "OPUS", _OPUS, True),
    "vorbis": _Codec("OGG", "VORBIS", _MPEG, True),
}


def through_codec(audio: Tensor, name: str, quality: float = 0.5, *, sample_rate: int) -> Tensor:
    """(N,) at `sample_rate` Hz through a codec of CODECS and back, (N,) without its delay.

    quality: 0 (smallest) to 1 (best), for those that have one. Audio over full scale is scaled down
    before and up after, since every codec cuts it off there.
    """
    codec, n = CODECS[name], len(audio)
    codec_rate = codec.rate(sample_rate)
    peak = max(1.0, float(audio.abs().max()))
    narrow = resample(audio / peak, sample_rate, codec_rate).numpy()
    buffer = io.BytesIO()
    options = {"compression_level": 0.99 * (1.0 - quality)} if codec.graded else {}
    with soundfile.SoundFile(
        buffer, "w", codec_rate, 1, codec.subtype, format=codec.format, **options
    ) as file:
        for start in range(0, len(narrow), _AT_ONCE):
            file.write(narrow[start : start + _AT_ONCE])
    buffer.seek(0)
    samples, rate = soundfile.read(buffer, dtype="float32")
    decoded = resample(torch.from_numpy(np.ascontiguousarray(samples)), rate, sample_rate)[:n] * peak
    return torch.nn.functional.pad(decoded, (0, n - len(decoded)))
