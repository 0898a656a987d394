"""The result of decoding, whichever method made it."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maya.text.tokenizer import Tokenizer

_FILLING = threading.RLock()  # of all hypotheses: two threads may be the first to read one


@dataclass(kw_only=True, slots=True)
class Word:
    """A word of a transcript. start, end: seconds from the start of the recording; None where the method has
    no times. confidence: in [0, 1], None where the method gives none. speaker: where one is known."""

    text: str
    start: float | None = None
    end: float | None = None
    confidence: float | None = None
    speaker: str | None = None


@dataclass(kw_only=True, slots=True)
class TextSegment:
    """Words that belong together: a sentence, or what was said between two pauses. Times in seconds. check:
    a verdict on whether they were made up, where one was asked for; see maya.score.hallucination."""

    text: str
    start: float | None = None
    end: float | None = None
    confidence: float | None = None
    words: list[Word] = field(default_factory=list)
    speaker: str | None = None
    check: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeakerTurn:
    """One speaker speaks from start to end, in seconds."""

    speaker: str
    start: float
    end: float


@dataclass(kw_only=True, slots=True)
class Hypothesis:
    """One recognised utterance. The lists of numbers have one entry per token.

    tokens: token ids, never blank.
    frames: encoder frame at which each token was emitted.
    durations: number of frames of each token: as predicted by a TDT model (may be 0), the length of a CTC
        run, or 1 for RNN-T.
    scores: log probability of each token, in nats.
    spans: start and end of each token in seconds, measured on the sound; empty where they were not, and the
        frames give the times. See `maya.decode.word_edges`.
    confidences: of each token, in [0, 1], from the whole distribution; empty where the method gives none.
    search_score: by which the method ranked it, with language models and normalised by length if it did so;
        None where nothing was ranked.
    alternatives: the next best hypotheses, best first, if more than one was asked for.
    words, segments: of the text, with times and confidence where the tokens have them.
    frame_seconds: length of an encoder frame; 0 until `write_texts` sets it.
    Language models give no times: their frames and durations are empty. Those of attention decoders are of
    their text on the best path of a CTC head, and empty in a model without one.
    """

    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    search_score: float | None = None
    alternatives: "list[Hypothesis]" = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    segments: list[TextSegment] = field(default_factory=list)
    text: str = ""
    language: str | None = None
    language_probability: float | None = None  # where the model identified the language
    id: str = ""
    frame_seconds: float = 0.0
    _fill: "Callable[[Hypothesis], None] | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def when_read(cls, fill: "Callable[[Hypothesis], None]") -> "Hypothesis":
        """A hypothesis whose fields `fill` sets when one of them is read for the first time."""
        hyp = cls()
        hyp.defer(
            ("tokens", "frames", "durations", "scores", "confidences", "words", "segments", "text"), fill
        )
        return hyp

    def defer(self, names: "Sequence[str]", fill: "Callable[[Hypothesis], None]") -> None:
        """Let `fill` set the fields `names` when one of them is read for the first time. Nobody pays for
        what is never read."""
        if self._fill is not None:
            getattr(self, names[0])  # complete what was deferred before
        for name in names:
            with suppress(AttributeError):  # not set yet: a fill may defer the costly part of its fields
                delattr(self, name)
        self._fill = fill

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:  # Python calls it for a field that is not set
            if name.startswith("_"):
                raise AttributeError(f"a hypothesis has no attribute {name!r}")
            with _FILLING:
                with suppress(AttributeError):  # another thread may have set it meanwhile
                    return object.__getattribute__(self, name)
                fill = self._fill
                if fill is None:
                    raise AttributeError(f"a hypothesis has no attribute {name!r}")
                self._fill = None
                fill(self)
                return getattr(self, name)

    def copy_of_tokens(self) -> "Hypothesis":
        """The tokens with their numbers, in lists of their own; no text."""
        return Hypothesis(
            tokens=[*self.tokens], frames=[*self.frames], durations=[*self.durations], scores=[*self.scores],
            confidences=[*self.confidences],
        )  # fmt: skip

    @property
    def score(self) -> float:
        """Log probability of the tokens, in nats, on the path that was decoded; 0 without tokens."""
        return sum(self.scores)

    @property
    def times(self) -> list[tuple[float, float]]:
        """Start and end of each token in seconds from the start of the utterance."""
        return [
            (frame * self.frame_seconds, (frame + duration) * self.frame_seconds)
            for frame, duration in zip(self.frames, self.durations, strict=True)
        ]


def write_texts(hyps: list[Hypothesis], tokenizer: Tokenizer, frame_seconds: float) -> list[Hypothesis]:
    """Set the text and the frame length of each hypothesis."""
    for hyp in hyps:
        hyp.text = tokenizer.decode(hyp.tokens)
        hyp.frame_seconds = frame_seconds
    return hyps
