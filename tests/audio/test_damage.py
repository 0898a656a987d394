"""Recordings that are damaged inside, or joined: nothing of them is left out in silence."""

import re

import numpy as np
import pytest

from maya.audio.load import load_audio
from maya.errors import MayaError
from tests.data.making import encoded, media, tone

RATE = 16000
SEGMENT, CLUSTER = bytes.fromhex("18538067"), bytes.fromhex("1f43b675")
OPEN = b"\x01" + b"\xff" * 7  # the size of an element that was not known when it was begun


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * rate)).astype(np.float32)


def refusal(data: bytes) -> str:
    with pytest.raises(MayaError, match="^cannot decode these bytes as audio: it is") as caught:
        load_audio(data)
    return str(caught.value)


def with_damage(data: bytes, place: float, fill: int | None) -> bytes:
    """The bytes with a twentieth of them overwritten; fill: None for random bytes."""
    begin, count = int(place * len(data)), len(data) // 20
    random = np.random.default_rng(int(100 * place)).integers(0, 256, count, dtype=np.uint8).tobytes()
    return data[:begin] + (random if fill is None else bytes([fill]) * count) + data[begin + count :]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("fill", [None, 0])
def test_damaged_ogg_pages_are_named(subtype: str, place: float, fill: int | None) -> None:
    data = encoded(noise(3.0), RATE, "OGG", subtype)
    assert abs(len(load_audio(data)) - 3 * RATE) <= 1
    refusal(with_damage(data, place, fill))
    chained = data + with_damage(data, place, fill)
    refusal(chained)


def test_one_wrong_bit_of_an_ogg_page_is_noticed() -> None:
    data = bytearray(encoded(noise(1.0), RATE, "OGG", "VORBIS"))
    data[-10] ^= 1
    assert re.search(r"Ogg page \d+ has a wrong checksum", refusal(bytes(data)))


def webm(open_sizes: bool) -> bytes:
    """WebM of 3 s, with open sizes as a browser records it."""
    pytest.importorskip("av")
    data = media(noise(3.0, 48000), "webm", "libopus", 48000)
    if open_sizes:
        for name in (SEGMENT, CLUSTER):
            begin = data.index(name) + 4
            width = 9 - data[begin].bit_length()
            data = data[:begin] + OPEN + data[begin + width :]
    return data


@pytest.mark.parametrize("open_sizes", [False, True])
def test_damaged_webm_is_named(open_sizes: bool) -> None:
    data = webm(open_sizes)
    whole = len(load_audio(data))
    assert abs(whole - 3 * RATE) < 0.05 * RATE
    for place in (0.3, 0.5, 0.7):
        for fill in (None, 0):
            assert "no element of Matroska" in refusal(with_damage(data, place, fill))
    assert "is truncated" in refusal(data[: len(data) * 6 // 10])
    assert abs(len(load_audio(data + data)) - 2 * whole) < 0.05 * RATE
    refusal(data + with_damage(data, 0.5, None))


@pytest.mark.parametrize("form", ["mp4", "mov"])
def test_joined_mp4_is_refused(form: str) -> None:
    """The demuxer reads the first recording only."""
    pytest.importorskip("av")
    data = media(noise(1.0), form, "aac" if form == "mp4" else "pcm_s16le")
    assert len(load_audio(data)) >= RATE
    assert "2 recordings joined" in refusal(data + data)


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "W64", "VOC", "NIST"])
def test_joined_files_that_libsndfile_does_not_read_are_refused(form: str) -> None:
    data = encoded(tone(1.0), RATE, form)
    assert len(load_audio(data)) == RATE
    assert "several recordings joined" in refusal(data + data)


def test_thousands_of_joined_wavs_are_read() -> None:
    assert len(load_audio(1500 * encoded(tone(0.01), RATE, "WAV"))) == 1500 * 160


def test_an_mp3_that_ends_in_its_frame_count_is_refused() -> None:
    """The last frame, of 24 bytes, is followed by the mark of a frame count without the count."""
    header = bytes([0xFF, 0xF3, 0x14, 0x00])
    frames = (header + bytes(20)) * 5
    assert "damaged" in refusal(frames + header + bytes(17) + b"Info")
