"""Reading hypotheses off the back-pointers of a batched beam search."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maya.decode.hypothesis import Hypothesis


@dataclass(frozen=True, slots=True)
class Traced:
    """One hypothesis: its tokens, the frames (or steps) at which they came, their scores and durations."""

    tokens: list[int]
    frames: list[int]
    scores: list[float]
    durations: list[int]

    def hypothesis(self) -> Hypothesis:
        return Hypothesis(
            tokens=self.tokens, frames=self.frames, durations=self.durations, scores=self.scores
        )


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step of B rows and K places, (B, K) each.

    parents: the place that a hypothesis comes from. tokens: what it took, `silent` for nothing. scores: of
    the token. frames: where it stood, durations: that it predicted; None where a search has none.
    """

    parents: Tensor
    tokens: Tensor
    scores: Tensor
    frames: Tensor | None = None
    durations: Tensor | None = None


class Trace:
    """What a beam search has done, step by step, kept on its device until it is read."""

    def __init__(self, silent: int) -> None:
        """`silent` is the token that adds nothing: blank, or the end of the sentence."""
        self.silent = silent
        self.steps: list[TraceStep] = []

    def add(self, step: TraceStep) -> None:
        self.steps.append(step)

    def read(self, places: Tensor) -> list[list[Traced]]:
        """The hypotheses that stand in the end at `places` (B, N): N for each row. The only transfer to the
        host."""
        places_now, steps = places.cpu().numpy(), len(self.steps)
        rows = np.arange(len(places_now))[:, None]
        names = ("tokens", "scores", "frames", "durations")
        columns = {name: self._column(name) for name in ("parents", *names)}
        picked = {name: np.zeros((steps, *places_now.shape), columns[name].dtype) for name in names}
        for step in range(steps - 1, -1, -1):
            for name in names:
                picked[name][step] = columns[name][step][rows, places_now]
            places_now = columns["parents"][step][rows, places_now]
        return [
            [self._traced({name: x[:, b, n] for name, x in picked.items()}) for n in range(places.shape[1])]
            for b in range(len(places))
        ]

    def _column(self, name: str) -> np.ndarray:
        """(steps, B, K) of one field; frames are the numbers of the steps where the search gives none."""
        if not self.steps:
            return np.zeros((0, 0, 0), np.int64)
        parts = [getattr(step, name) for step in self.steps]
        if parts[0] is not None:
            return np.asarray(torch.stack(parts).cpu().numpy())
        shape = (len(parts), *self.steps[0].parents.shape)
        numbers = np.arange(len(parts)) if name == "frames" else np.ones(len(parts), np.int64)
        return np.broadcast_to(numbers[:, None, None], shape)

    def _traced(self, fields: dict[str, np.ndarray]) -> Traced:
        (steps,) = (fields["tokens"] != self.silent).nonzero()
        columns = {name: x[steps].tolist() for name, x in fields.items()}
        return Traced(columns["tokens"], columns["frames"], columns["scores"], columns["durations"])


def with_alternatives(hyps: list[Hypothesis], totals: list[float]) -> Hypothesis:
    """The first of the hypotheses of one utterance, best first, with the others as its alternatives and their
    search scores. Places without a hypothesis score -inf and are left out."""
    for hyp, total in zip(hyps, totals, strict=True):
        hyp.search_score = total
    best, *others = hyps
    best.alternatives = [hyp for hyp in others if hyp.search_score != -float("inf")]
    return best
