"""Every recording is read whole, or an error names it. Sizes and frame counts of all inputs are known."""

import builtins
import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, Recording

from maya.audio import decoding
from maya.audio.decoding import open_audio
from maya.audio.lhotse_audio import byte_range_source, teach_lhotse
from maya.audio.load import load_audio, load_cut_audio
from maya.audio.tar_index import index_tar
from maya.data.corpus.manifest import Row
from maya.data.measure.probe import ProbeConfig, probe
from maya.errors import MayaError
from tests.data.making import encoded, media, tone, write_tar

RATE = 16000
ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)  # an empty tag of 128 bytes
# (format, subtype): what of it is in use for speech
FORMS = [
    *(("WAV", s) for s in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "GSM610", "IMA_ADPCM")),
    *(("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT")),
    *(("AU", "PCM_16"), ("AU", "ULAW"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16")),
    *(("VOC", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")),
    ("MP3", "MPEG_LAYER_III"),
]
BY_BLOCKS = {
    "GSM610": 640,
    "IMA_ADPCM": 4100,
    "MPEG_LAYER_III": 2400,
}  # samples of padding at the end


def speech(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A tone of changing level and noise, so that variable bit rates vary."""
    n = round(seconds * rate)
    rng, time = np.random.default_rng(n), np.arange(n) / rate
    mono = 0.3 * np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * time) ** 2 + 0.01 * rng.standard_normal(
        n
    )
    return mono if channels == 1 else np.stack([mono / (c + 1) for c in range(channels)], axis=1)


def decode(data: bytes, whole: bool = True) -> np.ndarray:
    with open_audio(data, whole=whole) as audio:
        samples = audio.read()
        assert len(samples) == audio.num_samples
        return samples


def refusal(data: bytes) -> str:
    with pytest.raises(MayaError, match="^cannot decode these bytes as audio|^these bytes") as caught:
        decode(data)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def number(value: int, width: int = 4) -> bytes:
    return value.to_bytes(width, "little")


# Intact files: none of them may be refused or shortened.


@pytest.mark.parametrize(("kind", "subtype"), FORMS)
@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_sound_files_are_read_whole(kind: str, subtype: str, seconds: float) -> None:
    for rate in (8000, 16000, 22050, 48000):
        for channels in (1, 2):
            if (subtype == "OPUS" and rate == 22050) or (subtype == "GSM610" and channels == 2):
                continue
            samples = speech(seconds, rate, channels)
            data = encoded(samples, rate, kind, subtype)
            for whole in (True, False):
                with open_audio(data, whole=whole) as audio:
                    assert (audio.sample_rate, audio.channels) == (rate, channels)
                    read = audio.read()
                assert len(samples) <= len(read) <= len(samples) + BY_BLOCKS.get(subtype, 0)
            error = read[: len(samples)] - samples.reshape(len(samples), -1)
            assert float(np.square(error).mean()) < 0.2 * float(np.square(samples).mean())


@pytest.mark.parametrize(("kind", "subtype"), FORMS)
def test_truncated_files_are_named(tmp_path: Path, kind: str, subtype: str) -> None:
    """Not even a few bytes may be missing, except behind the sound."""
    data = encoded(speech(2.0), RATE, kind, subtype)
    length = len(decode(data))
    rng = np.random.default_rng(0)
    for end in [len(data) // 2, len(data) * 6 // 10, *rng.integers(1, len(data), 12).tolist()]:
        try:
            assert len(decode(data[:end])) == length, "only bytes behind the sound are missing"
            assert len(data) - end < 200
        except MayaError as error:
            assert "cannot decode these bytes" in str(error)
    path = tmp_path / "a.bin"
    path.write_bytes(data[: len(data) * 6 // 10])
    row = Row(id="a", language="en", text="one two", audio=path.name, where="x:1")
    kept, dropped = probe(tmp_path, [row], ProbeConfig())
    assert not kept and dropped[0].reason == "unreadable_audio" and str(path) in dropped[0].detail
    with pytest.raises(MayaError, match=r"a\.bin"):
        load_audio(path)
    tar = write_tar(tmp_path / "a.tar", {"a": path.read_bytes()})
    member = index_tar(tar)[0]
    recording = Recording("r", [byte_range_source(tar, member.offset, member.size, [0])], RATE, 32000, 2.0)
    with pytest.raises(MayaError, match=r"utterance 'r': cannot read .*a\.tar"):
        load_cut_audio(recording.to_cut())


@pytest.mark.parametrize("missing", [1, 2, 100, 10_000])
@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64", "NIST"])
def test_a_truncated_wav_is_detected_by_its_size(kind: str, missing: int) -> None:
    data = encoded(speech(1.0), RATE, kind, "PCM_16")
    end = data.rindex(b"PEAK") if b"PEAK" in data else len(data)
    assert "is truncated: its header gives" in refusal(data[: end - missing])


# Sizes that the writer did not fill in.


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF - 36])
@pytest.mark.parametrize("listed", [False, True])
def test_wav_of_unknown_length_is_read_to_its_end(size: int, listed: bool) -> None:
    samples = speech(1.5)
    data = encoded(samples, RATE, "WAV", "PCM_16")
    header, sound = data[:36], data[44:]
    info = b"LIST" + number(26) + b"INFOISFT" + number(14) + b"Lavf58.29.100\0" if listed else b""
    for riff in (0, 0xFFFFFFFF, min(size + 36, 0xFFFFFFFF)):
        made = header[:4] + number(riff) + header[8:] + info + b"data" + number(size) + sound
        read = decode(made)
        assert np.array_equal(read, decode(data))


def test_wav_without_samples_is_empty() -> None:
    data = encoded(np.zeros(0), RATE, "WAV", "PCM_16")
    assert len(decode(data)) == 0
    assert len(decode(data + b"LIST" + number(4) + b"INFO")) == 0


@pytest.mark.parametrize(
    "junk", [b"", b"x", b"\0" * 999, b"LIST\x04\0\0\0INFO", b"junk", b"TAG" + bytes(125)]
)
def test_chunks_after_the_samples_of_a_wav_are_ignored(junk: bytes) -> None:
    data = encoded(speech(1.0), RATE, "WAV", "PCM_16")
    assert np.array_equal(decode(data + junk), decode(data))


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
def test_joined_wavs_are_read_to_the_end(kind: str) -> None:
    first, second = (encoded(speech(seconds), RATE, kind, "PCM_16") for seconds in (1.0, 0.5))
    assert np.array_equal(decode(first + second), np.concatenate([decode(first), decode(second)]))
    assert "several recordings joined" in refusal(first + encoded(speech(1.0, 8000), 8000, "WAV"))
    assert "truncated" in refusal(first + second[:-9])


def test_compressed_sphere_files_are_refused_with_advice() -> None:
    data = encoded(speech(1.0), RATE, "NIST", "PCM_16")
    packed = data.replace(b"-s3 pcm\n", b"-s26 pcm,embedded-shorten-v2.00\n")[:1024] + data[1024:]
    assert "which is not read; expand it with sph2pipe" in refusal(packed)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("odd", [1, 5, 27])
def test_odd_chunks_before_the_samples(odd: int, padded: bool) -> None:
    data = encoded(speech(1.0), RATE, "WAV", "PCM_16")
    chunk = b"note" + number(odd) + b"i" * odd + (b"\0" if padded else b"")
    assert np.array_equal(decode(data[:36] + chunk + data[36:]), decode(data))


def test_a_wav_whose_size_includes_its_header_is_read_whole() -> None:
    data = encoded(speech(1.0), RATE, "WAV", "PCM_16")
    for size in (len(data), len(data) - 8):
        assert len(decode(data[:40] + number(size) + data[44:])) == RATE


@pytest.mark.parametrize(
    ("kind", "mark", "skip", "width", "order", "sizes"),
    [
        ("AU", b".snd", 4, 4, "big", (0, 0xFFFFFFFF)),
        ("AIFF", b"SSND", 0, 4, "big", (0, 0xFFFFFFFF)),
        ("CAF", b"data", 0, 8, "big", (0xFFFFFFFFFFFFFFFF,)),
        ("W64", b"data\xf3", 12, 8, "little", (0, 0xFFFFFFFFFFFFFFFF)),
        ("RF64", b"ds64", 12, 8, "little", (0, 0xFFFFFFFFFFFFFFFF)),
    ],
)
def test_other_formats_of_unknown_length(
    kind: str, mark: bytes, skip: int, width: int, order: str, sizes: tuple[int, ...]
) -> None:
    data = encoded(speech(1.0), RATE, kind, "PCM_16")
    at = data.index(mark) + 4 + skip
    for size in sizes:
        made = data[:at] + size.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]
        assert np.array_equal(decode(made)[:RATE], decode(data))
        assert len(decode(made)) <= RATE + 8


# FLAC


def without_total(data: bytes, total: int = 0) -> bytes:
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    return data[:18] + packed.to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_S8"])
@pytest.mark.parametrize(("seconds", "rate", "channels"), [(0.05, 8000, 1), (1.0, 16000, 2), (3.3, 44100, 2)])
@pytest.mark.parametrize("tag", [b"", ID3], ids=["plain", "id3"])
def test_flac_of_unknown_length(
    tmp_path: Path, subtype: str, seconds: float, rate: int, channels: int, tag: bytes
) -> None:
    data = encoded(speech(seconds, rate, channels), rate, "FLAC", subtype)
    expected = decode(data)
    assert np.array_equal(decode(tag + without_total(data)), expected)
    assert np.array_equal(decode(tag + without_total(data) + b"TAG" + bytes(125)), expected)
    for end in (50, len(data) // 2, len(data) - 1):
        if end > 200:
            assert "truncated" in refusal(tag + without_total(data)[:end])
    (tmp_path / "a.flac").write_bytes(without_total(data))
    row = Row(id="a", language="en", text="a", audio="a.flac", where="x:1")
    for decoded in (True, False):
        kept, _ = probe(tmp_path, [row], ProbeConfig(decode=decoded, min_seconds=0.01))
        assert [entry.num_samples for entry in kept] == [len(expected)]


def test_flac_with_a_wrong_length(tmp_path: Path) -> None:
    data = encoded(speech(2.0), RATE, "FLAC", "PCM_16")
    assert np.array_equal(decode(without_total(data, 5000)), decode(data)), "more than the header says"
    assert "its header gives 40000 samples" in refusal(without_total(data, 40_000))
    both = decode(data + encoded(speech(1.0), RATE, "FLAC", "PCM_16"))
    assert len(both) == 3 * RATE and np.array_equal(both[: 2 * RATE], decode(data))


# Ogg


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_streams_are_read_whole(tmp_path: Path, subtype: str) -> None:
    parts = [encoded(speech(seconds), RATE, "OGG", subtype) for seconds in (1.0, 0.4, 2.0)]
    chain = b"".join(parts)
    assert np.array_equal(decode(chain), np.concatenate([decode(part) for part in parts]))
    (tmp_path / "a.ogg").write_bytes(chain)
    recording = Recording.from_file(tmp_path / "a.ogg", "r")
    assert recording.num_samples == round(3.4 * RATE)
    cut = recording.to_cut().truncate(offset=0.8, duration=1.2)  # from one link into the third
    np.testing.assert_allclose(cut.load_audio()[0], decode(chain)[12800:32000, 0], atol=1e-4)
    assert "truncated" in refusal(chain[:-100])
    assert "has a wrong checksum" in refusal(parts[0][:-50] + parts[1])
    other = encoded(speech(1.0, 8000), 8000, "OGG", subtype)
    assert "several recordings joined" in refusal(parts[0] + other)


def ogg_pages(data: bytes) -> list[bytes]:
    pages, at = [], 0
    while at < len(data):
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        size = 27 + len(lacing) + sum(lacing)
        pages.append(data[at : at + size])
        at += size
    return pages


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_without_a_last_page_or_one_in_the_middle(subtype: str) -> None:
    data = encoded(speech(6.0), RATE, "OGG", subtype)
    pages = ogg_pages(data)
    assert len(pages) > 5
    assert "no page that ends the stream" in refusal(b"".join(pages[:-1]))
    assert "pages are missing" in refusal(b"".join(pages[:3] + pages[4:]))
    assert "begins in the middle" in refusal(b"".join(pages[3:]))
    assert "no Ogg page begins" in refusal(b"".join(pages[:3]) + b"noise" * 9 + b"".join(pages[3:]))
    assert np.array_equal(decode(data + b"TAG" + bytes(125)), decode(data))


# Which readers open which files.


def test_non_finite_samples_are_refused(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for subtype in ("FLOAT", "DOUBLE"):
            samples = speech(1.0)
            samples[7] = bad
            assert "not finite numbers" in refusal(encoded(samples, RATE, "WAV", subtype))
    large = encoded(np.full(100, 1e30), RATE, "WAV", "FLOAT")
    assert len(decode(large)) == 100, "large, and finite"


@pytest.fixture(scope="module")
def cancelling() -> dict[str, np.ndarray]:
    mono, other = speech(1.0), 0.1 * np.random.default_rng(1).standard_normal(RATE)
    return {
        "opposite": np.stack([mono, -mono], 1),
        "nearly": np.stack([mono, -0.9 * mono], 1),
        "with an offset": np.stack([mono, -mono], 1) + 0.05,
        "four": np.stack([mono, -mono, other, -other], 1),
    }


def test_channels_that_cancel_are_refused(tmp_path: Path, cancelling: dict[str, np.ndarray]) -> None:
    for name, samples in cancelling.items():
        soundfile.write(tmp_path / "a.wav", samples, RATE)
        row = Row(id="a", language="en", text="one two", audio="a.wav", where="x:1")
        kept, dropped = probe(tmp_path, [row], ProbeConfig())
        assert not kept and dropped[0].reason == "silent", name
        assert "cancel each other" in dropped[0].detail and "name one channel" in dropped[0].detail
        with pytest.raises(MayaError, match=r"the channels of .*a\.wav cancel each other"):
            load_audio(tmp_path / "a.wav")
        with pytest.raises(MayaError, match="the channels of utterance 'r' cancel each other"):
            load_cut_audio(Recording.from_file(tmp_path / "a.wav", "r").to_cut())
        assert len(load_audio(tmp_path / "a.wav", channel=1)) == RATE
        kept, _ = probe(tmp_path, [replace(row, channel=0)], ProbeConfig())
        assert len(kept) == 1 and kept[0].sound is not None and kept[0].sound.level > -40


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 64])
def test_channels_that_do_not_cancel_are_kept(tmp_path: Path, channels: int) -> None:
    """Channels may be equal, independent, or silent except for the first."""
    rng = np.random.default_rng(0)
    for samples in (
        np.repeat(speech(0.5)[:, None], channels, 1),
        np.pad(speech(0.5)[:, None], ((0, 0), (0, channels - 1))),
        0.2 * rng.standard_normal((8000, channels)),
    ):
        soundfile.write(tmp_path / "a.wav", samples, RATE)
        row = Row(id="a", language="en", text="one two", audio="a.wav", where="x:1")
        kept, dropped = probe(tmp_path, [row], ProbeConfig())
        assert len(kept) == 1, dropped


def test_one_channel_is_read(tmp_path: Path) -> None:
    samples = np.stack([speech(1.0), 0.5 * speech(1.0)[::-1]], 1)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    for channel in (0, 1):
        read = load_audio(tmp_path / "a.wav", channel=channel)
        np.testing.assert_allclose(read, samples[:, channel], atol=1e-4)
    with pytest.raises(MayaError, match=r"a\.wav has 2 channels, numbered from 0: there is no channel 2"):
        load_audio(tmp_path / "a.wav", channel=2)
    row = Row(id="a", language="en", text="one two", audio="a.wav", where="x:1", channel=2)
    _, dropped = probe(tmp_path, [row], ProbeConfig())
    assert "there is no channel 2" in dropped[0].detail


def test_lhotse_runs_no_command_and_opens_no_address(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0), RATE)
    teach_lhotse()  # again, which changes nothing
    for kind, source in (
        ("command", f"touch {tmp_path}/mark; cat {tmp_path}/a.wav"),
        ("url", "http://127.0.0.1:9/a.wav"),
        ("url", f"file://{tmp_path}/a.wav"),
        ("url", f"pipe:cat {tmp_path}/a.wav"),
        ("file", "http://127.0.0.1:9/a.wav"),
    ):
        cut = Recording("r", [AudioSource(kind, [0], source)], RATE, RATE, 1.0).to_cut()
        with pytest.raises(MayaError, match=r"utterance 'r': cannot read .*: audio of type .* is not read"):
            load_cut_audio(cut)
        with pytest.raises(Exception, match="is not read"):
            cut.load_audio()
    assert not (tmp_path / "mark").exists()
    in_memory = AudioSource("memory", [0], (tmp_path / "a.wav").read_bytes())
    assert len(load_cut_audio(Recording("r", [in_memory], RATE, RATE, 1.0).to_cut())) == RATE


TEXTS = [
    *(
        b"#EXTM3U\n/etc/hostname\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"[playlist]\nFile1=/a.wav\n",
    ),
    *(b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", b"", b"RIFF", b"fLaC", b"OggS", bytes(1000), bytes(range(256)) * 9),
    *(b"ID3\x04\0\0\0\0\0\0#EXTM3U\n/a.wav\n", b"\xff\xfb\x90\x00 no frames"),
    b"\0\0\0\x10ftypM4A \0\0\0\0#EXTM3U\n",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("suffix", ["mp3", "wav", "m4a", "m3u8"])
def test_text_files_with_audio_names_are_refused(tmp_path: Path, text: bytes, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(text)
    with pytest.raises(MayaError, match=rf"cannot decode .*a\.{suffix} as audio: it "):
        load_audio(path)
    with pytest.raises(MayaError, match="cannot decode"):
        load_cut_audio(Recording("r", [AudioSource("file", [0], str(path))], RATE, RATE, 1.0).to_cut())


FORMS_OF_MEDIA = [
    ("ipod", "aac", 16000), ("mp4", "aac", 44100), ("adts", "aac", 16000), ("webm", "libopus", 48000),
    ("matroska", "pcm_s16le", 16000), ("mp4", "alac", 16000), ("mov", "pcm_s16le", 16000),
]  # fmt: skip


@pytest.mark.parametrize(("form", "codec", "rate"), FORMS_OF_MEDIA)
def test_media_are_read_whole_or_named(tmp_path: Path, form: str, codec: str, rate: int) -> None:
    pytest.importorskip("av")
    data = media(speech(2.0, rate), form, codec, rate)
    samples = decode(data)
    assert 2 * rate <= len(samples) <= 2 * rate + 3000
    (tmp_path / "a.m4a").write_bytes(data)
    recording = Recording.from_file(tmp_path / "a.m4a", "r")
    cut = recording.to_cut().truncate(offset=0.5, duration=1.0)
    np.testing.assert_array_equal(cut.load_audio()[0], samples[rate // 2 : rate // 2 + rate, 0])
    for end in (len(data) // 2, len(data) * 6 // 10, len(data) - 5):
        assert "truncated" in refusal(data[:end])


@pytest.fixture
def no_av(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    importing = builtins.__import__

    def without(name: str, *args: object, **options: object) -> object:
        if name == "av":
            raise ImportError(name)
        return importing(name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    yield


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x14ftypM4A \0\0\0\0isom",
        b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x80",
        b"\xff\xf1P@\x01\x1f\xfc\0\0",
    ],
)
def test_without_pyav_the_message_says_what_to_install(no_av: None, head: bytes) -> None:
    with pytest.raises(MayaError, match=r"pip install 'maya-asr\[media\]'"):
        load_audio(head)


def test_a_part_equals_that_part_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from memory and from disk, for an intact file and for one with a repaired header."""
    monkeypatch.setattr(decoding, "_LARGEST_IN_MEMORY", 1 << 18)
    samples = speech(20.0)
    data = encoded(samples, RATE, "WAV", "PCM_16")
    for made in (data, data[:40] + number(0) + data[44:], data[:40] + number(0xFFFFFFFF) + data[44:]):
        (tmp_path / "a.wav").write_bytes(made)
        for begin, count in ((0, 100), (5, 1), (160_000, 32_000), (319_990, 10)):
            with open_audio(tmp_path / "a.wav", whole=False) as audio:
                assert audio.num_samples == 20 * RATE
                part = audio.read(begin, count)[:, 0]
            np.testing.assert_allclose(part, samples[begin : begin + count], atol=1e-4)
    buffer = io.BytesIO(data)
    with open_audio(buffer) as audio:
        assert audio.num_samples == 20 * RATE
    assert struct.unpack("<I", data[40:44])[0] == 2 * 20 * RATE
