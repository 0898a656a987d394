"""Greedy CTC decoding: the best output of each frame, runs merged, blanks dropped."""

from itertools import groupby

import torch
from torch import Tensor

from maya.decode.hypothesis import Hypothesis


@torch.no_grad()
def greedy_ctc(log_probs: Tensor, lens: Tensor, *, blank: int) -> list[Hypothesis]:
    """log_probs (B, S, V), lens (B,) frames -> one Hypothesis per row.

    A token's frame is the first of its run, its duration the length of the run, and its score the highest log
    probability within the run. Frames beyond `lens` are not read.
    """
    scores, tokens = log_probs.max(-1)
    rows = zip(tokens.tolist(), scores.tolist(), lens.tolist(), strict=True)
    return [
        _merge(row_tokens[:length], row_scores[:length], blank) for row_tokens, row_scores, length in rows
    ]


def _merge(tokens: list[int], scores: list[float], blank: int) -> Hypothesis:
    hyp = Hypothesis(tokens=[], frames=[], durations=[], scores=[])
    frame = 0
    for token, run in groupby(tokens):
        length = len(list(run))
        if token != blank:
            hyp.tokens.append(token)
            hyp.frames.append(frame)
            hyp.durations.append(length)
            hyp.scores.append(max(scores[frame : frame + length]))
        frame += length
    return hyp
