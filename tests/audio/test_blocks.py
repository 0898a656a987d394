"""Audio block by block equals the audio read whole, and hours of it are never in memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from maya.audio.blocks import audio_blocks
from maya.audio.load import load_audio
from maya.audio.resampling import ResamplingStream, resample_channels
from maya.errors import MayaError
from tests.data.making import media
from tools.bench import not_speech as sounds


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_blocks_equal_the_whole(tmp_path: Path, suffix: str, rate: int) -> None:
    path = tmp_path / f"a.{suffix}"
    samples = np.stack([sounds.pink_noise(9, -20), sounds.chords(9)], 1)
    soundfile.write(path, samples, rate)
    for channel in (None, 1):
        expected = load_audio(path, 16000, channel)
        blocks = [*audio_blocks(path, 16000, channel, seconds=0.7)]
        assert len(blocks) >= 5 and max(len(block) for block in blocks) <= 0.9 * 16000
        assert torch.equal(torch.cat(blocks), expected)


@pytest.mark.parametrize(
    ("format", "codec"), [("ipod", "aac"), ("webm", "libopus"), ("matroska", "pcm_s16le")]
)
def test_blocks_of_media(tmp_path: Path, format: str, codec: str) -> None:
    pytest.importorskip("av")
    path = tmp_path / "a.media"
    path.write_bytes(media(sounds.pink_noise(9, -20), format, codec, 48000))
    blocks = [*audio_blocks(path, 16000, seconds=0.7)]
    assert len(blocks) >= 4 and torch.equal(torch.cat(blocks), load_audio(path, 16000))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(MayaError, match=f"cannot decode {path} as audio: it is (truncated|damaged)"):
        list(audio_blocks(path))


@pytest.mark.parametrize(("rate", "new_rate"), [(8000, 16000), (44100, 16000), (16000, 16000), (48000, 8000)])
def test_resampling_in_pieces(rate: int, new_rate: int) -> None:
    samples = sounds.white_noise(1.3)[:20011]
    stream, rng = ResamplingStream(rate, new_rate), np.random.default_rng(0)
    for _ in range(2):  # it begins anew
        pieces, i = [], 0
        while i < len(samples):
            count = int(rng.integers(0, 3000))
            pieces.append(stream.push(samples[i : i + count]))
            i += count
        pieces.append(stream.finish())
        np.testing.assert_array_equal(np.concatenate(pieces), resample_channels(samples, rate, new_rate))
    assert len(stream.finish()) == 0


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="there is no audio file"):
        next(audio_blocks(tmp_path / "a.wav"))
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), 16000)
    with pytest.raises(MayaError, match="holds no audio samples"):
        next(audio_blocks(tmp_path / "a.wav"))
    bad = sounds.white_noise(2)
    bad[-1] = np.nan
    soundfile.write(tmp_path / "b.wav", bad, 16000, "FLOAT")
    blocks = audio_blocks(tmp_path / "b.wav", seconds=1)
    assert len(next(blocks)) == 16000
    with pytest.raises(MayaError, match="not finite numbers"):
        next(blocks)
    with pytest.raises(MayaError, match="no channel 3"):
        next(audio_blocks(tmp_path / "b.wav", channel=3, seconds=1))


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_memory_does_not_grow_with_the_recording(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        for seed in range(12):
            file.write(sounds.white_noise(15, seed=seed))  # 11 MB of float32 in all
    tracemalloc.start()
    try:
        total = sum(len(block) for block in audio_blocks(path, seconds=5))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == pytest.approx(180 * 16000, abs=4000)
    assert peak < 3e6
