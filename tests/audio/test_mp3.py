"""MP3 files: their length is their number of frames, and many files state a wrong number."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from lhotse import Recording

from maya.audio import decoding
from maya.audio.decoding import open_audio
from maya.audio.load import load_audio
from maya.data.corpus.manifest import Row
from maya.data.measure.probe import ProbeConfig, probe
from maya.errors import MayaError
from tests.audio.test_decoding import ID3, decode, refusal, speech
from tests.data.making import encoded

SAMPLES = {8000: 576, 16000: 576, 22050: 576, 24000: 576, 32000: 1152, 44100: 1152, 48000: 1152}
TAG = b"TAG" + bytes(125)  # ID3v1
MODES = ("CONSTANT", "VARIABLE", "AVERAGE")


@lru_cache(64)
def mp3(
    seconds: float, rate: int = 16000, mode: str = "VARIABLE", level: float = 0.4, channels: int = 1
) -> bytes:
    return encoded(speech(seconds, rate, channels), rate, "MP3", bitrate_mode=mode, compression_level=level)


def frames(data: bytes, rate: int) -> list[bytes]:
    """The frames of what libsndfile wrote; the first has no sound, but the number of the others. It is empty
    at a bit rate that leaves no room for that."""
    kbps = (
        (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
        if rate >= 32000
        else (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    )
    parts, at = [], 0
    while at < len(data):
        length = SAMPLES[rate] * 125 * kbps[data[at + 2] >> 4] // rate + (data[at + 2] >> 1 & 1)
        parts.append(data[at : at + length])
        at += length
    assert at == len(data)
    return parts if b"Xing" in parts[0] or b"Info" in parts[0] else [b"", *parts]


def no_number(data: bytes, rate: int = 16000) -> bytes:
    return b"".join(frames(data, rate)[1:])


@pytest.mark.parametrize("rate", SAMPLES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("channels", "seconds"), [(1, 3.0), (2, 0.2)])
def test_all_frames_are_read_without_a_frame_count(
    rate: int, mode: str, channels: int, seconds: float
) -> None:
    """libsndfile would guess the length from the first frame, too low or too high."""
    data = mp3(seconds, rate, mode, channels=channels)
    count, step = len(frames(data, rate)) - 1, SAMPLES[rate]
    whole, bare = decode(data), decode(no_number(data, rate))
    assert step * (count - 2) < len(bare) <= step * count
    assert len(whole) == round(seconds * rate)
    # The same sound, delayed by the encoder; the delay is no longer in the file.
    n = min(len(whole), len(bare) - 576)
    assert n >= len(whole) - step and np.abs(bare[576 : 576 + n] - whole[:n]).max() < 1e-4


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("quiet", "loud"), [(0.2, 0.9), (0.9, 0.2)])
def test_frames_of_different_bit_rates_are_read(level: float, quiet: float, loud: float) -> None:
    """Two bit rates in one file; the second part is fifty times as long as the first."""
    first = frames(mp3(0.1, mode="CONSTANT", level=quiet), 16000)[1:]
    second = frames(mp3(5.0, mode="CONSTANT", level=loud), 16000)[1:]
    samples = decode(b"".join(first + second))
    assert abs(len(samples) - 576 * (len(first) + len(second))) < 576 * 2


@pytest.mark.parametrize(
    "between", [b"", ID3, b"TAG" + bytes(125), ID3 + ID3, bytes(500), b"TAG" + bytes(125) + ID3]
)
@pytest.mark.parametrize("bare", [(False, False), (True, False), (False, True), (True, True)])
def test_joined_files_are_read_to_the_end(between: bytes, bare: tuple[bool, bool]) -> None:
    parts = [mp3(2.0), mp3(1.0, mode="AVERAGE")]
    parts = [no_number(part) if without else part for part, without in zip(parts, bare, strict=True)]
    samples = decode(parts[0] + between + parts[1])
    assert 3 * 16000 <= len(samples) < 3 * 16000 + 4 * 1152 + 1105 * 2
    alone = decode(parts[0])
    if not bare[0] and (between or not bare[1]):
        assert np.array_equal(samples[: len(alone)], alone)


def test_three_joined_files_in_every_reader(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(ID3 + mp3(1.0) + mp3(2.0) + ID3 + mp3(0.5))
    assert len(load_audio(tmp_path / "a.mp3")) == 56000
    row = Row(id="a", language="en", text="one two", audio="a.mp3", where="x:1")
    for decoded in (True, False):
        kept, _ = probe(tmp_path, [row], ProbeConfig(decode=decoded))
        assert kept[0].duration == pytest.approx(3.5)
    recording = Recording.from_file(tmp_path / "a.mp3", "r")
    assert recording.num_samples == 56000
    part = recording.to_cut().truncate(offset=0.75, duration=2.5).load_audio()[0]
    np.testing.assert_allclose(part, load_audio(tmp_path / "a.mp3")[12000:52000], atol=1e-4)


def test_a_part_of_a_file_without_a_frame_count(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(no_number(mp3(8.0)))
    recording, whole = Recording.from_file(tmp_path / "a.mp3", "r"), load_audio(tmp_path / "a.mp3")
    assert recording.num_samples == len(whole)
    for offset, seconds in ((0.0, 1.0), (3.21, 2.0), (7.5, 0.5)):
        part = recording.to_cut().truncate(offset=offset, duration=seconds).load_audio()[0]
        begin = round(offset * 16000)
        np.testing.assert_allclose(part, whole[begin : begin + len(part)], atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("level", [0.5, 0.99])
def test_parts_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, rate: int, mode: str, level: float
) -> None:
    """At low bit rates frames lie far before their place: a decoder that jumps there gives other samples."""
    data = encoded(speech(20.0, rate), rate, "MP3", bitrate_mode=mode, compression_level=level)
    whole = decode(data)
    for begin in np.random.default_rng(0).integers(1, 19 * rate, 6).tolist():
        with open_audio(data, whole=False) as audio:
            part = audio.read(begin, rate)
        np.testing.assert_allclose(part, whole[begin : begin + rate], atol=1e-6)
    monkeypatch.setattr(decoding, "_SAMPLES_AT_ONCE", 10_000)
    assert np.array_equal(decode(data), whole)


def test_joined_files_of_different_rates_or_channels_are_refused() -> None:
    for other in (mp3(1.0, 44100), mp3(1.0, channels=2)):
        assert "several recordings joined" in refusal(mp3(1.0) + other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bare", [False, True])
def test_a_truncated_mp3_is_named(mode: str, bare: bool) -> None:
    data = mp3(4.0, mode=mode)
    parts = frames(data, 16000)
    if bare:
        data, parts = no_number(data), parts[1:]
    assert "truncated" in refusal(data[:-1]) and "truncated" in refusal(data[: -len(parts[-1]) + 7])
    middle = sum(map(len, parts[: len(parts) // 2]))
    assert "truncated" in refusal(data[: middle + 9])
    if not bare:  # cut between two frames; only the frame count shows it
        assert "its header counts" in refusal(data[:middle])


def test_a_wrong_frame_count() -> None:
    """If the stated number is too small, all frames are read. If it is too large, frames are missing."""
    data = mp3(2.0)
    count = len(frames(data, 16000)) - 1
    at = data.index(b"Xing") + 8
    assert int.from_bytes(data[at : at + 4], "big") == count
    smaller = data[:at] + (count // 3).to_bytes(4, "big") + data[at + 4 :]
    assert len(decode(smaller)) >= 2 * 16000
    larger = data[:at] + (count * 3).to_bytes(4, "big") + data[at + 4 :]
    assert f"its header counts {count * 3} frames, and {count} are in it" in refusal(larger)


def test_vbri_headers_are_read() -> None:
    """VBRI is at byte 36 of the first frame in every MPEG version."""
    parts = frames(mp3(3.0, mode="CONSTANT", level=0.1), 16000)
    count = len(parts) - 1
    for claimed, right in ((count, True), (count // 2, True), (count * 2, False)):
        info = bytearray(len(parts[1]))
        info[:4] = parts[1][:4]
        info[36:54] = b"VBRI" + bytes(6) + bytes(4) + claimed.to_bytes(4, "big")
        data = bytes(info) + b"".join(parts[1:])
        if right:
            assert 3 * 16000 <= len(decode(data)) <= 576 * count
        else:
            assert "its header counts" in refusal(data)


APE = b"APETAGEX" + (2000).to_bytes(4, "little") * 2 + (1).to_bytes(4, "little") + bytes(12)


@pytest.mark.parametrize("tag", [TAG, APE, bytes(417)])
@pytest.mark.parametrize("bare", [False, True])
def test_tags_at_the_end_are_ignored(tag: bytes, bare: bool) -> None:
    data = no_number(mp3(2.0)) if bare else mp3(2.0)
    assert np.array_equal(decode(data + tag), decode(data))
    assert np.array_equal(decode(ID3 + data + tag), decode(data))
    assert np.array_equal(decode(ID3 + bytes(1000) + data), decode(data))


def test_other_bytes_between_frames_are_named() -> None:
    parts = frames(mp3(2.0), 16000)
    assert "no MPEG frame begins at byte" in refusal(
        b"".join(parts[:20]) + b"noise" * 30 + b"".join(parts[20:])
    )
    lost = b"".join(parts[:20]) + b"".join(parts[25:])
    assert "its header counts" in refusal(lost)


def test_a_file_with_only_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(frames(mp3(1.0), 16000)[0])
    with pytest.raises(MayaError, match=r"a\.mp3"):
        load_audio(tmp_path / "a.mp3")
