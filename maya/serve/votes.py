"""Several methods of a model, or several models, vote on the words of a final: ROVER (maya.score.rover)."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maya.audio.load import resample
from maya.decode.base import Method
from maya.decode.hypothesis import Hypothesis
from maya.decode.recognizer import Recognizer
from maya.decode.words import join_words, segments_of
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.score.rover import RoverOptions, Vote, rover

log = logging.getLogger(__name__)
_MARGIN_SECONDS = 0.5  # of audio before the first and after the last word
_WAITING_SECONDS = 4.0  # of audio that is kept before the first token, which may come later than its sound


def combined(hyps: Sequence[Hypothesis], vote: Vote) -> Hypothesis:
    """The first hypothesis with the words that win the vote, changed in place; as it is where none wins. The
    vote is by number alone where a word has no confidence."""
    first = hyps[0]
    if not all(word.confidence is not None for hyp in hyps for word in hyp.words):
        vote = "freq"
    words = rover([hyp.words for hyp in hyps], RoverOptions(vote=vote))
    if not words:
        return first
    first.words = words
    first.text = join_words([word.text for word in first.words])
    first.segments = segments_of(first.words)
    return first


class Voters:
    """Other methods of one recogniser. Raises MayaError for a method that it does not have."""

    def __init__(self, recognizer: Recognizer, names: Sequence[str]) -> None:
        self.recognizer = recognizer
        self.methods: list[Method] = [recognizer.make_method(recognizer.choose_method(n)) for n in names]

    @torch.inference_mode()
    def hypotheses(self, encoded: Encoded, langs: Tensor, first_second: float) -> list[Hypothesis]:
        """What each method makes of frames (1, S, D) without a language, which begin at `first_second`."""
        hyps: list[Hypothesis] = []
        for method in self.methods:
            own = self.recognizer.with_text(method(encoded, langs), method=method.cfg.kind)[0]
            hyps.append(shifted(own, first_second))
        return hyps


class OtherModels:
    """Models that vote on the words of another one: each reads the audio of a segment whole, by its best
    method. One thread uses it at a time."""

    def __init__(self, recognizers: Mapping[str, Recognizer]) -> None:
        self.recognizers = recognizers

    def hypotheses(
        self, audio: Tensor, rate: int, language: str | None, first_second: float
    ) -> tuple[list[Hypothesis], list[str]]:
        """What each model makes of audio (N,) at `rate`, which begins at `first_second`, and a sentence for
        each model that has no vote because it fails or does not know the language."""
        hyps, warnings = list[Hypothesis](), list[str]()
        for name, recognizer in self.recognizers.items():
            try:
                samples = resample(audio, rate, recognizer.sample_rate)
                (own,) = recognizer.transcribe(samples, language)
                hyps.append(shifted(own, first_second))
            except MayaError as error:
                warnings.append(f"{name} has no vote: {error}")
            except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError):  # a bug, or no memory
                log.exception("the model %s failed; it has no vote", name)
                warnings.append(f"{name} has no vote: it failed; the server's log has the reason")
        return hyps, warnings


def shifted(hyp: Hypothesis, seconds: float) -> Hypothesis:
    """A hypothesis with the times of its words moved, in place."""
    for word in hyp.words:
        word.start = None if word.start is None else word.start + seconds
        word.end = None if word.end is None else word.end + seconds
    return hyp


class SegmentAudio:
    """The audio of the open segment of a session, for `OtherModels`: the samples since some time before the
    segment's first token."""

    def __init__(self, rate: int) -> None:
        self.rate, self.first, self.size = rate, 0, 0  # the first sample that is kept, samples that are kept
        self.blocks: list[Tensor] = []

    def push(self, samples: Tensor, has_text: bool) -> None:
        """The next samples (n,). has_text: whether the segment has begun."""
        self.blocks.append(samples)
        self.size += len(samples)
        if not has_text:
            self._forget(self.first + self.size - int(_WAITING_SECONDS * self.rate))

    def part(self, start: float, end: float) -> tuple[Tensor, float]:
        """The samples (n,) from `start` to `end`, in seconds of the session, with a margin, and the second of
        the first of them. What lies before `end` is then forgotten, but for the margin of what follows."""
        begin = max(self.first, int((start - _MARGIN_SECONDS) * self.rate))
        stop = min(self.first + self.size, int((end + _MARGIN_SECONDS) * self.rate))
        own = torch.cat(self.blocks)[begin - self.first : max(begin, stop) - self.first]
        self._forget(int((end - _MARGIN_SECONDS) * self.rate))
        return own, begin / self.rate

    def _forget(self, sample: int) -> None:
        """Forget blocks that end before a sample."""
        while self.blocks and self.first + len(self.blocks[0]) <= sample:
            size = len(self.blocks.pop(0))
            self.first, self.size = self.first + size, self.size - size
