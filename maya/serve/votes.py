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
