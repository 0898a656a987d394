"""Reading hypotheses off the back-pointers of a batched beam search."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Traced:
    """One hypothesis: its tokens, the steps at which they came, and their scores."""

    tokens: list[int]
    steps: list[int]
    scores: list[float]


class Trace:
    """What a beam search of B rows and K places has done, step by step, kept on its device until it is read.

    Each step fills the first n rows; for the others it leaves everything as it was.
    """

    def __init__(self, steps: int, rows: int, beam: int, silent: int, device: torch.device) -> None:
        """`silent` is the token that adds nothing: blank, or the end of the sentence."""
        self.silent = silent
        self.parents = torch.arange(beam, device=device).repeat(steps, rows, 1)
        self.tokens = torch.full((steps, rows, beam), silent, device=device)
        self.scores = torch.zeros(steps, rows, beam, device=device)

    def add(self, step: int, parents: Tensor, tokens: Tensor, scores: Tensor) -> None:
        """(n, K) each: the place that a hypothesis comes from, what it took, and with what score."""
        n = len(parents)
        self.parents[step, :n], self.tokens[step, :n], self.scores[step, :n] = parents, tokens, scores

    def read(self, best: Tensor) -> list[Traced]:
        """The hypotheses that stand in the end at places `best` (B,)."""
        parents, tokens, scores = (x.cpu().numpy() for x in (self.parents, self.tokens, self.scores))
        places, rows = best.cpu().numpy(), np.arange(len(best))
        taken, gained = np.empty((2, len(tokens), len(rows)))
        for step in range(len(tokens) - 1, -1, -1):
            taken[step], gained[step] = tokens[step, rows, places], scores[step, rows, places]
            places = parents[step, rows, places]
        traced = []
        for row in rows:
            (steps,) = (taken[:, row] != self.silent).nonzero()
            labels = taken[steps, row].astype(int).tolist()
            traced.append(Traced(labels, steps.tolist(), gained[steps, row].tolist()))
        return traced
