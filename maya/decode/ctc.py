"""Greedy CTC decoding: the best output of each frame, runs merged, blanks dropped."""

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

from maya.decode.hypothesis import Hypothesis

# Of a batch; longer audio goes through the head in stretches. Three hours with 32 000 outputs are 17 GB.
HEAD_FRAMES = 4096


@torch.no_grad()
def greedy_ctc(log_probs: Tensor, lens: Tensor, *, blank: int) -> list[Hypothesis]:
    """log_probs (B, S, V), lens (B,) frames -> one Hypothesis per row.

    A token's frame is the first of its run, its duration the length of the run, and its score the highest log
    probability within the run. Frames beyond `lens` are not read.
    """
    return greedy_ctc_of(lambda x: x, log_probs, lens, blank=blank)


@torch.no_grad()
def greedy_ctc_of(
    head: Callable[[Tensor], Tensor], enc: Tensor, lens: Tensor, *, blank: int
) -> list[Hypothesis]:
    """`greedy_ctc` of head(enc), enc (B, S, D) -> log-probabilities (B, S, V), never held for all frames."""
    parts = [head(part).max(-1) for part in enc.split(max(1, HEAD_FRAMES // len(enc)), dim=1)]
    scores, tokens = torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)
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
