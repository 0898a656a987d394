"""Speech in the formats of OpenAI's interface, piece by piece: mono, 24 kHz, 16 bits."""

import struct

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 24000
MEDIA_TYPES = {
    "mp3": "audio/mpeg", "opus": "audio/ogg", "flac": "audio/flac", "wav": "audio/wav", "pcm": "audio/pcm",
}  # fmt: skip
_ENCODERS = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16")}
_MP3_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG-2, layer III
_UNKNOWN = 0xFFFFFFFF  # sizes in the header of a WAV that is being written


class _Growing:
    """A file for libsndfile. What was taken cannot be written again."""

    def __init__(self) -> None:
        self.data, self.place, self.taken = bytearray(), 0, 0

    def write(self, data: bytes) -> int:
        self.data[self.place : self.place + len(data)] = data
        self.place += len(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + {0: 0, 1: self.place, 2: len(self.data)}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def take(self) -> bytes:
        begin, self.taken = self.taken, len(self.data)
        return bytes(self.data[begin:])


class SpeechEncoder:
    """Samples in, the bytes of a file out. name: one of `MEDIA_TYPES`.

    FLAC's header tells the length, and readers trust it, so it comes as a whole with the last bytes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._file, self._sound = _Growing(), None
        self._begun = False
        if name in _ENCODERS:
            kind, subtype = _ENCODERS[name]
            # MP3 at a constant rate, because readers take the length from the rate of the first frame.
            options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5} if name == "mp3" else {}
            self._sound = soundfile.SoundFile(self._file, "w", RATE, 1, subtype, format=kind, **options)

    def push(self, samples: NDArray[np.int16]) -> bytes:
        """The next samples (n,) at 24 kHz -> the bytes that are complete now."""
        if self._sound is not None:
            self._sound.write(samples)
            return b"" if self.name == "flac" else self._take()
        data = samples.astype("<i2").tobytes()
        if self.name == "wav" and not self._begun:
            data = _wav_header() + data
        self._begun = True
        return data

    def finish(self) -> bytes:
        """The last bytes."""
        if self._sound is None:
            return b""
        self._sound.close()
        return self._take()

    def _take(self) -> bytes:
        data = self._file.take()
        if self.name == "mp3" and data and not self._begun:
            self._begun = True
            data = data[_information_frame(data) :]
        return data


def _wav_header() -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", _UNKNOWN) + b"WAVEfmt " + struct.pack("<I", 16) + form
        + b"data" + struct.pack("<I", _UNKNOWN)
    )  # fmt: skip


def _information_frame(data: bytes) -> int:
    """The length of the empty frame in front, into which LAME writes the file's length in the end."""
    if any(data[4:64]):
        return 0
    kbits, padding = _MP3_KBITS[data[2] >> 4], data[2] >> 1 & 1
    return 72_000 * kbits // RATE + padding
