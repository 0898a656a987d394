"""Reading hypotheses off the back-pointers of a batched beam search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maya.decode.hypothesis import Hypothesis

_FIELDS = ("tokens", "scores", "frames", "durations")


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
    """What a beam search has done, step by step, kept on its device until it is read.

    A step may have fewer rows than the step before; the other rows are complete.
    """

    def __init__(self, silent: int) -> None:
        """`silent` is the token that adds nothing: blank, or the end of the sentence."""
        self.silent = silent
        self.steps: list[TraceStep] = []

    def add(self, step: TraceStep) -> None:
        self.steps.append(step)

    def read(self, places: Tensor) -> list[list[Traced]]:
        """The hypotheses that stand in the end at `places` (B, N): N for each row. The only transfer to the
        host."""
        picked = self._walk(places, _FIELDS)
        return [
            [self._traced({name: x[:, b, n] for name, x in picked.items()}) for n in range(places.shape[1])]
            for b in range(len(places))
        ]

    def tokens(self, places: Tensor) -> list[list[list[int]]]:
        """The tokens of the hypotheses that stand in the end at `places` (B, N)."""
        picked = self._walk(places, _FIELDS[:1])["tokens"]
        return [[x[x != self.silent].tolist() for x in row] for row in picked.transpose(1, 2, 0)]

    def _walk(self, places: Tensor, names: Sequence[str]) -> dict[str, np.ndarray]:
        """What the hypotheses at `places` (B, N) took in each step, (steps, B, N) of each field."""
        places_now, steps = places.cpu().numpy().copy(), len(self.steps)
        columns = {name: self._column(name) for name in ("parents", *names)}
        picked = {name: np.zeros((steps, *places_now.shape), columns[name].dtype) for name in names}
        picked["tokens"][:] = self.silent
        first, rows = columns["parents"].shape[0], np.arange(len(places_now))[:, None]
        for step in range(steps - 1, -1, -1):
            n = len(self.steps[step].parents)
            first -= n
            at = (first + rows[:n], places_now[:n])
            for name in names:
                picked[name][step, :n] = columns[name][at]
            places_now[:n] = columns["parents"][at]
        return picked

    def _column(self, name: str) -> np.ndarray:
        """(rows of all steps, K) of one field; frames are the numbers of the steps where the search gives
        none."""
        if not self.steps:
            return np.zeros((0, 0), np.int64)
        parts = [getattr(step, name) for step in self.steps]
        if parts[0] is not None:
            return np.asarray(torch.cat(parts).cpu().numpy())
        lengths = [len(step.parents) for step in self.steps]
        numbers = np.arange(len(parts)) if name == "frames" else np.ones(len(parts), np.int64)
        beam = self.steps[0].parents.shape[1]
        return np.broadcast_to(np.repeat(numbers, lengths)[:, None], (sum(lengths), beam))

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
