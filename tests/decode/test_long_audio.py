"""Long recordings: no word lost or doubled at a border, in constant memory.

The recogniser of most tests is artificial: its output is exactly determined by the audio, errors at the edges
of a piece included, so that every word that a join loses, doubles or takes from an edge is seen.
"""

import itertools
import random
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maya.audio.vad import SpeechSpan
from maya.decode.hypothesis import Hypothesis
from maya.decode.long.joining import Joiner, passage
from maya.decode.long.joining import _Token as Token
from maya.decode.long.long_audio import LongAudioConfig, VADConfig, pieces, transcribe_long
from maya.decode.long.pieces import Piece, _Grouping
from maya.encoders import FrameClock
from maya.errors import MayaError
from maya.features import LogMelConfig

VOCAB = 50
RATE, FRAME = 8000, 320  # Hz, samples of an encoder frame: 40 ms


class WordTokenizer:
    """Token i is the word "wi"."""

    def decode(self, tokens: list[int]) -> str:
        return " ".join(f"w{t}" for t in tokens)

    def pieces(self, tokens: list[int]) -> list[str]:
        return [f"\u2581w{t}" for t in tokens]


class ToneRecognizer:
    """Recognises the words of `recording`. A word that the piece cuts becomes another word. The frames of a
    word differ from piece to piece by up to `jitter`."""

    def __init__(self, *, times: bool = True, jitter: int = 2) -> None:
        features = SimpleNamespace(hop_samples=FRAME // 4, sample_rate=RATE)
        clock: Any = FrameClock(features, SimpleNamespace(subsampling_factor=4))  # type: ignore[arg-type]
        self.model: Any = SimpleNamespace(
            cfg=SimpleNamespace(clock=clock, features=features), frame_seconds=FRAME / RATE
        )
        self.tokenizer: Any = WordTokenizer()
        self.times, self.jitter, self.pieces, self.longest = times, jitter, 0, 0

    def choose_method(self, name: str = "auto", *, stream: bool = False) -> str:
        return name

    def make_method(self, choice: Any) -> Any:
        return choice

    def model_language(self, language: str | None) -> str | None:
        return language

    def _transcribe_batch(
        self, samples: list[Tensor], language: str | None, decoder: Any
    ) -> list[Hypothesis]:
        self.pieces += len(samples)
        self.longest = max(self.longest, *map(len, samples))
        return [self._hypothesis(audio.numpy(), language) for audio in samples]

    def _hypothesis(self, audio: np.ndarray, language: str | None) -> Hypothesis:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], np.abs(audio) > 0.05, [0]]).astype(np.int8)))
        hyp, draw = Hypothesis(language=language), random.Random(len(audio))
        # A word is a tone without zero crossings of more than a few samples below the threshold.
        begin = None
        bounds: list[tuple[int, int]] = []
        for rise, fall in zip(edges[::2], edges[1::2], strict=True):
            if begin is not None and rise - bounds[-1][1] < 200:
                bounds[-1] = (bounds[-1][0], fall)
            else:
                bounds.append((rise, fall))
                begin = rise
        for rise, fall in bounds:
            level = float(np.abs(audio[rise:fall]).max())
            token = round((level - 0.1) * VOCAB / 0.8)
            if fall - rise < 0.9 * WORD:
                token = (token + 1) % VOCAB
            hyp.tokens.append(token)
            if self.times:
                shift = draw.randrange(self.jitter + 1)
                hyp.frames.append(int(rise) // FRAME + shift)
                hyp.durations.append(1)
                hyp.scores.append(0.0)
        return hyp


WORD = 1600  # samples of a word: 0.2 s


def word(token: int) -> np.ndarray:
    t = np.arange(WORD) / RATE
    return ((0.1 + 0.8 * token / VOCAB) * np.sign(np.sin(2 * np.pi * 300 * t + 0.1))).astype(np.float32)


def recording(
    seconds: float,
    tokens: list[int],
    *,
    pause: tuple[float, float] = (0.06, 0.5),
    every: float = 0.0,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Words of random tokens with random pauses, and now and then one of 3 s with probability `every`."""
    draw, total = random.Random(seed), 0
    while total < seconds * RATE:
        token = draw.randrange(VOCAB)
        gap = 3.0 if draw.random() < every else draw.uniform(*pause)
        block = np.concatenate([word(token), np.zeros(int(gap * RATE), np.float32)])
        tokens.append(token)
        total += len(block)
        yield torch.from_numpy(block)


def borders(seconds: float, cfg: LongAudioConfig) -> float:
    return seconds / (cfg.window_seconds - cfg.overlap_seconds)


@pytest.mark.parametrize("window", [6.0, 11.3])
def test_no_word_is_lost_or_doubled_where_windows_overlap(window: float) -> None:
    cfg = LongAudioConfig(strategy="overlap", window_seconds=window, overlap_seconds=2.0)
    seconds = 1010 * (window - 2.0)
    tokens: list[int] = []
    recognizer = ToneRecognizer()
    hyp = transcribe_long(recognizer, "any", recording(seconds, tokens), "hi", cfg)
    assert hyp.tokens == tokens and len(tokens) > 5000 and hyp.language == "hi"
    assert hyp.frames == sorted(hyp.frames) and recognizer.longest <= window * RATE
    assert len(hyp.frames) == len(hyp.durations) == len(hyp.scores) == len(hyp.tokens)
    cfg.overlap_seconds = 0.0  # the recogniser does err at the edges
    blind = transcribe_long(recognizer, "any", recording(100 * window, own := []), None, cfg)
    assert blind.tokens != own


def test_no_word_is_lost_or_doubled_where_speech_is_cut() -> None:
    """1000 cuts in continuous speech, and long pauses."""
    vad = VADConfig(detector="energy", min_silence_seconds=0.3, pad_seconds=0.2)
    cfg = LongAudioConfig(window_seconds=5.0, overlap_seconds=2.0, vad=vad)
    tokens: list[int] = []
    recognizer = ToneRecognizer()
    hyp = transcribe_long(recognizer, "any", recording(4200, tokens, every=0.02, seed=1), None, cfg)
    assert recognizer.pieces > 1000
    assert hyp.tokens == tokens
    assert len(hyp.segments) > 100
    assert " ".join(s.text for s in hyp.segments) == hyp.text
    for a, b in zip(hyp.segments, hyp.segments[1:], strict=False):
        assert a.start is not None and a.end is not None and b.start is not None
        assert a.start < a.end < b.start


def test_times_are_on_the_clock_of_the_recording() -> None:
    tokens: list[int] = []
    starts, total = [], 0
    blocks = [*recording(120, tokens, every=0.1, seed=2)]
    for block in blocks:
        starts.append(total / RATE)
        total += len(block)
    for strategy in ("overlap", "vad", "whole"):
        vad = VADConfig(detector="energy", min_silence_seconds=0.3, pad_seconds=0.2)
        cfg = LongAudioConfig(strategy=strategy, window_seconds=7.0, overlap_seconds=2.0, vad=vad)  # type: ignore[arg-type]
        hyp = transcribe_long(ToneRecognizer(jitter=0), "any", iter(blocks), None, cfg)
        assert hyp.tokens == tokens, strategy
        for (start, _), expected in zip(hyp.times, starts, strict=True):
            assert abs(start - expected) <= 0.05


def test_memory_does_not_grow_with_the_recording() -> None:
    """An hour has the peak of 10 minutes; its audio is 115 MB."""
    peaks = []
    for seconds in (600, 3600):
        cfg = LongAudioConfig(strategy="overlap", window_seconds=20.0, batch_seconds=60.0)
        tracemalloc.start()
        try:
            transcribe_long(ToneRecognizer(), "any", recording(seconds, []), None, cfg)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    text = 3600 * 2 * 400  # bytes of the hypothesis, about
    assert peaks[1] < peaks[0] + text and peaks[1] < 20e6


def test_silence_gives_no_piece() -> None:
    vad = VADConfig(detector="energy")
    silence = (torch.zeros(RATE * 10) for _ in range(6))
    recognizer = ToneRecognizer()
    hyp = transcribe_long(recognizer, "any", silence, None, LongAudioConfig(vad=vad))
    assert (hyp.text, hyp.tokens, hyp.segments, recognizer.pieces) == ("", [], [], 0)
    for strategy in ("overlap", "whole", "vad"):
        cfg = LongAudioConfig(strategy=strategy, vad=vad)  # type: ignore[arg-type]
        assert transcribe_long(recognizer, "any", iter(()), None, cfg).tokens == []


def test_methods_without_times_are_joined_by_their_tokens() -> None:
    cfg = LongAudioConfig(strategy="overlap", window_seconds=9.0, overlap_seconds=0.0)
    tokens: list[int] = []
    blocks = [*recording(60, tokens)]
    hyp = transcribe_long(ToneRecognizer(times=False), "any", iter(blocks), None, cfg)
    assert (
        hyp.frames == [] and len(hyp.segments) == 7 and hyp.segments[1].start == pytest.approx(9.0, abs=0.1)
    )
    joiner = Joiner(WordTokenizer(), 0.04)  # type: ignore[arg-type]
    for first, own in ((0, [1, 2, 3, 4]), (50, [3, 4, 5]), (100, [5, 5])):
        piece = Piece(first_frame=first, frame_samples=1, samples=torch.zeros(60))
        joiner.add(piece, Hypothesis(tokens=own))
    assert joiner.finish().text == "w1 w2 w3 w4 w5 w5"


@pytest.mark.parametrize("timed", itertools.product([True, False], repeat=3))
def test_no_text_is_lost_where_some_pieces_have_times(timed: tuple[bool, ...]) -> None:
    joiner = Joiner(WordTokenizer(), 0.04)  # type: ignore[arg-type]
    for i, (first, has) in enumerate(zip((0, 50, 100), timed, strict=True)):
        hyp = Hypothesis(tokens=[2 * i + 1, 2 * i + 2, 2 * i + 3])
        if has:
            hyp.frames, hyp.durations = [5, 30, 48], [1, 1, 1]
        joiner.add(Piece(first_frame=first, frame_samples=1, samples=torch.zeros(60)), hyp)
    joiner.add(Piece(first_frame=150, frame_samples=1, samples=torch.zeros(60)), Hypothesis())
    hyp = joiner.finish()
    assert hyp.text == "w1 w2 w3 w4 w5 w6 w7" and len(hyp.frames) == (7 if all(timed) else 0)
    assert [s.start for s in hyp.segments] == sorted(s.start for s in hyp.segments)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([(1, 0), (2, 10), (3, 20)], [(2, 10), (3, 21), (4, 30)], (2, 1)),  # at the match nearest to 15
        ([(1, 0), (2, 10), (9, 29)], [(8, 1), (2, 11), (3, 20), (4, 30)], (2, 2)),  # errors at the edges
        ([(5, 10), (5, 14), (5, 18)], [(5, 11), (5, 14), (5, 19)], (2, 2)),  # a word three times
        ([(1, 3)], [(4, 28)], (1, 0)),  # nothing in common: in the pause between them
        (
            [],
            [(4, 10), (5, 20)],
            (0, 1),
        ),  # each side of the middle from the piece that has more context there
        ([(4, 10), (5, 20)], [], (1, 0)),
        ([], [], (0, 0)),
    ],
)
def test_passage(before: list, after: list, expected: tuple[int, int]) -> None:
    a, b = ([Token(*pair) for pair in pairs] for pairs in (before, after))
    kept, skipped = passage(a, b, middle=15, slack=3)
    tokens = [t.token for t in a[:kept]] + [t.token for t in b[skipped:]]
    assert tokens == [t.token for t in a[: expected[0]]] + [t.token for t in b[expected[1] :]]


def test_grouping_of_spans() -> None:
    grouping = _Grouping(window=10.0, overlap=2.0, join=1.0)
    spans = [
        SpeechSpan(0, 4),
        SpeechSpan(4.5, 9),
        SpeechSpan(9.4, 12),
        SpeechSpan(20, 21),
        SpeechSpan(22.5, 23),
    ]
    groups = [(g.start, g.end, len(g.spans)) for g in grouping.push(spans, float("inf"))]
    # The first two share a piece; the third would be too long, and overlaps; the others stand alone.
    assert groups == [(0, 10.2, 2), (pytest.approx(8.2), 12, 1), (20, 21, 1), (22.5, 23, 1)]
    assert grouping.push([SpeechSpan(30, 31)], 31.5) == [] and grouping.earliest(31.5) == 28.0
    assert len(grouping.push([], 32.5)) == 1 and grouping.earliest(50.0) == 48.0


def test_buffered_chunks_are_no_pieces() -> None:
    with pytest.raises(MayaError, match="call transcribe_long"):
        pieces(ToneRecognizer(), iter(()), LongAudioConfig(strategy="buffered"))
    assert LogMelConfig().hop_samples == 160  # what `samples_of_frame` multiplies
