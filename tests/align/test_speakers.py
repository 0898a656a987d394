"""Who speaks when: the encoder against Resemblyzer's own code, clusters, windows and words."""

import itertools
import json
import math
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maya.align.formats.base import FormatConfig
from maya.align.formats.table import FORMATS
from maya.align.speakers.clustering import OnlineClusters, cluster
from maya.align.speakers.config import SpeakersConfig
from maya.align.speakers.encoder import VoiceEncoder, levelled, load_encoder
from maya.align.speakers.tracking import SpeakerStream, diarize
from maya.align.speakers.words import name_hypothesis, name_words, speaker_of
from maya.audio.vad.config import VADConfig
from maya.audio.vad.detector import SpeechDetector
from maya.decode.hypothesis import Hypothesis, SpeakerTurn, TextSegment, Word
from maya.decode.transcription import Transcript
from maya.errors import MayaError
from maya.score.files.transcript import TranscriptRow
from maya.score.files.transcripts import read_transcripts
from maya.score.meetings.diarization import diarization_errors


def voice(seed: int, seconds: float, level: float = 0.1) -> torch.Tensor:
    """A harmonic tone of its own pitch and formants, with noise."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    pitch = 80 + 40 * (seed % 5)
    tones = sum(
        draw.uniform(0.1, 1) * np.sin(2 * np.pi * pitch * k * time + draw.uniform(0, 6)) for k in range(1, 30)
    )
    return torch.from_numpy((level * (tones + draw.normal(size=len(time))) / 5).astype(np.float32))


def test_encoder_equals_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("librosa", reason="resemblyzer needs librosa")
    # The package imports a voice detector and a name that scipy has moved; the encoder uses neither.
    monkeypatch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))
    moved = types.ModuleType("scipy.ndimage.morphology")
    moved.binary_dilation = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scipy.ndimage.morphology", moved)
    resemblyzer = pytest.importorskip("resemblyzer", reason="the package resemblyzer is not installed")
    package, own = resemblyzer.VoiceEncoder("cpu", verbose=False), load_encoder()
    assert isinstance(own, VoiceEncoder)
    for seed, seconds in itertools.product(range(2), (0.3, 1.6, 2.0, 7.3)):
        audio = voice(seed, seconds)
        mels = resemblyzer.audio.wav_to_mel_spectrogram(audio.numpy())
        assert np.abs(own.mels(audio).numpy() - mels).max() <= 1e-5 * np.abs(mels).max()
        expected = package.embed_utterance(audio.numpy())
        assert np.abs(own.embed_utterance(audio).numpy() - expected).max() < 1e-5
        level = resemblyzer.normalize_volume(0.05 * audio.numpy(), -30, increase_only=True)
        assert np.abs(levelled(0.05 * audio).numpy() - level).max() < 1e-5


def test_windows_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    encoder = VoiceEncoder().eval()
    windows = [voice(seed, seconds) for seed, seconds in enumerate((1.6, 0.5, 1.6, 1.1))]
    together = encoder.embed(windows)
    assert together.shape == (4, 256) and torch.allclose(together.norm(dim=1), torch.ones(4))
    alone = torch.cat([encoder.embed([window]) for window in windows])
    assert torch.allclose(together, alone, atol=1e-6)


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="there is no file"):
        load_encoder(str(tmp_path / "none.pt"))
    for name, content in {"a.pt": b"text", "b.pt": b"", "c.pt": None}.items():
        path = tmp_path / name
        if content is None:
            torch.save({"model_state": {"a": torch.zeros(1)}}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(MayaError, match="does not hold the weights"):
            load_encoder(str(path))


class PitchEncoder:
    """Embeds by the strongest frequency: a stand-in without weights."""

    rate = 16000

    def embed(self, windows: Any) -> torch.Tensor:
        rows = []
        for window in windows:
            power = torch.fft.rfft(window * torch.hann_window(len(window)), 16000).abs()[50:400]
            row = torch.zeros(8)
            row[int(power.argmax()) // 50] = 1.0
            rows.append(row)
        return torch.stack(rows)


def meeting(order: str, seed: int = 0) -> tuple[torch.Tensor, list[SpeakerTurn]]:
    """Turns of tones of 100, 200 and 300 Hz (a, b, c), of 1.5 to 4 s, between pauses."""
    draw, parts, at, turns = random.Random(seed), [torch.zeros(8000)], 0.5, []
    for name in order:
        seconds = draw.uniform(1.5, 4.0)
        time = torch.arange(round(seconds * 16000)) / 16000
        pitch = 100 * (ord(name) - ord("a") + 1)
        tone = sum(torch.sin(2 * math.pi * pitch * k * time) / k for k in range(1, 12))
        parts += [0.1 * tone * (1 + 0.5 * torch.sin(2 * math.pi * 4 * time)), torch.zeros(12_800)]
        turns.append(SpeakerTurn(speaker=name.upper(), start=at, end=at + len(time) / 16000))
        at += len(time) / 16000 + 0.8
    audio = torch.cat(parts)
    return audio + 1e-4 * torch.randn(len(audio), generator=torch.Generator().manual_seed(1)), turns


def error(turns: list[SpeakerTurn], expected: list[SpeakerTurn]) -> float:
    rows = [
        [
            TranscriptRow(id="", text="", recording="m", speaker=t.speaker, start=t.start, end=t.end)
            for t in own
        ]
        for own in (expected, turns)
    ]
    return diarization_errors(*rows, collar=0.25).rate


ENERGY = VADConfig(detector="energy")


@pytest.mark.parametrize("order", ["a", "abab", "abcabcacb"])
def test_turns_of_a_recording_and_of_a_stream(order: str) -> None:
    audio, expected = meeting(order)
    encoder: Any = PitchEncoder()
    turns = diarize(audio.split(50_000), 16000, vad=ENERGY, encoder=encoder)
    assert turns == diarize(audio.split(1237), 16000, vad=ENERGY, encoder=encoder)
    assert error(turns, expected) < 0.03 and {t.speaker for t in turns} == {t.speaker for t in expected}
    detector, stream = SpeechDetector(ENERGY, 16000), SpeakerStream(SpeakersConfig(), 16000)
    kept = 0
    for block in [*audio.split(1280), torch.zeros(0)]:
        if len(block):
            detector.push(block)
        windows = stream.push(block, detector.tracker, last=len(block) == 0)
        if windows:
            stream.assign(windows, encoder.embed([window.samples for window in windows]))
        kept = max(kept, len(stream._audio))
    assert error(stream.turns(), expected) < 0.05
    assert {t.speaker for t in stream.turns()} == {t.speaker for t in expected}
    assert kept < 4 * 16000  # of 35 s


def test_clusters() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(3, 32, generator=draw), dim=1)
    truth = [0, 0, 1, 1, 2, 2, 0, 1, 2, 0] * 30
    rows = centres[truth] + 0.1 * torch.randn(len(truth), 32, generator=draw)
    rows, seconds = torch.nn.functional.normalize(rows, dim=1), torch.full((len(truth),), 1.6)
    cfg = SpeakersConfig()
    assert cluster(rows, seconds, cfg) == truth
    online = OnlineClusters(cfg)
    for i, row in enumerate(rows):
        online.add(row, 1.6)
        if i > 12:
            assert online.speakers == truth[i + 1 - len(online.speakers) : i + 1]
    assert len(online._sums) <= 241 and online.count == 3
    assert set(cluster(rows, seconds, SpeakersConfig(most=2))) == {0, 1}
    assert cluster(rows[:1], seconds[:1], cfg) == [0] and cluster(rows[:0], seconds[:0], cfg) == []
    many = torch.nn.functional.normalize(centres[[0, 1] * 1600] + 0.05, dim=1)
    assert cluster(many, torch.full((3200,), 1.6), cfg) == [0, 1] * 1600


def test_words_and_segments_get_speakers() -> None:
    turns = [SpeakerTurn(speaker="A", start=0, end=1), SpeakerTurn(speaker="B", start=1.2, end=3)]
    times = [
        ("one", 0.0, 0.5),
        ("two", 0.8, 1.1),
        ("three", 1.05, 1.05),
        ("four", 1.1, 2.0),
        ("five", 9.0, 9.5),
    ]
    words = [Word(text=text, start=start, end=end, confidence=0.5) for text, start, end in times]
    words.append(Word(text="six"))
    segment = TextSegment(text="one two three four five six", start=0.0, end=9.5, words=words)
    hyp = Hypothesis(words=words, segments=[segment], text=segment.text)
    name_hypothesis(hyp, turns)
    assert [w.speaker for w in words] == ["A", "A", "A", "B", "B", None]
    parts = [(s.speaker, s.text, s.start, s.end) for s in hyp.segments]
    assert parts == [
        ("A", "one two three", 0.0, 1.05),
        ("B", "four five", 1.1, 9.5),
        (None, "six", None, None),
    ]
    assert speaker_of(words) == "B" and speaker_of([Word(text="a")]) is None
    name_words([Word(text="a", start=0.0, end=1.0)], [])


def test_rttm_can_be_scored(tmp_path: Path) -> None:
    turns = [SpeakerTurn(speaker="A", start=0.25, end=1.5), SpeakerTurn(speaker="B", start=1.5, end=2)]
    transcript = Transcript(id="my talk", place=0, turns=turns, hypothesis=Hypothesis())
    path = tmp_path / "a.rttm"
    path.write_text(FORMATS["rttm"].write(transcript, FormatConfig()))
    rows = read_transcripts(path, "hyp")
    assert [(r.recording, r.speaker, r.start, r.end) for r in rows] == [
        ("my_talk", "A", 0.25, 1.5), ("my_talk", "B", 1.5, 2.0)
    ]  # fmt: skip
    assert json.loads(FORMATS["json"].write(transcript, FormatConfig()))["turns"][1]["speaker"] == "B"
