"""The next best hypotheses of a recording that was decoded in pieces, out of those of its pieces."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from maya.decode.hypothesis import Hypothesis
from maya.decode.long.joining import Joiner
from maya.decode.long.pieces import Piece


def without_samples(piece: Piece) -> Piece:
    """A piece of the same length that holds no audio."""
    return replace(piece, samples=torch.zeros(1).expand(len(piece.samples)))


def joined_alternatives(
    rows: Sequence[tuple[Piece, Hypothesis]], make_joiner: Callable[[], Joiner]
) -> list[Hypothesis]:
    """The best combinations after the first, best first, as many as the piece with most alternatives has.

    A piece's hypotheses are compared by `search_score`; pieces are independent, so that the scores add up.
    Combinations with the same text count once.
    """
    count = 1 + max((len(hyp.alternatives) for _, hyp in rows), default=0)
    combinations: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _, hyp in rows:
        scores = [_score(choice) for choice in (hyp, *hyp.alternatives)]
        grown = [
            (total + score - scores[0], (*chosen, i))
            for total, chosen in combinations
            for i, score in enumerate(scores)
        ]
        combinations = sorted(grown, key=lambda pair: -pair[0])[: 2 * count]
    joined = [_joined(rows, chosen, make_joiner()) for _, chosen in combinations]
    by_text = {hyp.text: hyp for hyp in reversed(joined)}
    first = joined[0].text if joined else ""
    return [hyp for hyp in joined if hyp.text != first and by_text[hyp.text] is hyp][: count - 1]


def search_score(rows: Sequence[tuple[Piece, Hypothesis]]) -> float | None:
    """The sum over the pieces; None where the method ranks nothing."""
    scores = [hyp.search_score for _, hyp in rows]
    return sum(score for score in scores if score is not None) if None not in scores and scores else None


def _joined(rows: Sequence[tuple[Piece, Hypothesis]], chosen: Sequence[int], joiner: Joiner) -> Hypothesis:
    picked = [(piece, (hyp, *hyp.alternatives)[i]) for (piece, hyp), i in zip(rows, chosen, strict=True)]
    for piece, hyp in picked:
        joiner.add(piece, hyp)
    result = joiner.finish()
    result.search_score = search_score(picked)
    return result


def _score(hyp: Hypothesis) -> float:
    return hyp.score if hyp.search_score is None else hyp.search_score
