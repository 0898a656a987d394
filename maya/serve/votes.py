"""Several methods of a model, or several models, vote on the words of a final: ROVER (maya.score.rover)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maya.decode.base import Method
from maya.decode.hypothesis import Hypothesis
from maya.decode.recognizer import Recognizer
from maya.decode.words import join_words, segments_of
from maya.encoders import Encoded
from maya.score.rover import RoverOptions, Vote, rover


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
            for word in own.words:
                word.start = None if word.start is None else word.start + first_second
                word.end = None if word.end is None else word.end + first_second
            hyps.append(own)
        return hyps
