"""Statistics of an epoch of a plan."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.data.plan.caps import Caps
from maya.data.plan.deal import Deal
from maya.data.plan.epoch import Draws
from maya.text.languages import indexed_language


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanStats:
    """One epoch over all ranks.

    efficiency: audio over padded audio, after the change of speed.
    max_*: the largest over batches of more than one utterance, or over all if there is no such batch.
    over_cap: batches of one utterance, which alone exceeds a cap.
    imbalance_median, imbalance_p95: highest over mean estimated cost of the ranks, over the steps.
    hours: audio after the change of speed, per language index.
    repeated: share of the draws of a language that are not the first of their utterance in this epoch;
    skipped: share of its utterances that are not drawn in this epoch.
    """

    steps: int
    batches: int
    utterances: int
    repeated_batches: int
    seconds: float
    padded_seconds: float
    efficiency: float
    max_padded_seconds: float
    max_tokens: int
    max_lattice: int
    max_utterances: int
    over_cap: int
    imbalance_median: float
    imbalance_p95: float
    hours: dict[int, float]
    repeated: dict[int, float]
    skipped: dict[int, float]

    def as_dict(self, languages: Sequence[str]) -> dict[str, Any]:
        """For JSON, with the codes `languages` in place of their indices, "unknown" in place of -1."""
        values = asdict(self)
        for name in ("hours", "repeated", "skipped"):
            values[name] = {indexed_language(i, languages): value for i, value in values[name].items()}
        return values


def measure(
    dealt: Deal, draws: Draws, durations: NDArray[np.float32], tokens: NDArray[np.int32],
    langs: NDArray[np.signedinteger], codes: NDArray[np.int64], speeds: Sequence[float], caps: Caps,
) -> PlanStats:  # fmt: skip
    """Count through the draws of an epoch. langs: (n,) index into codes, (L,) language indices."""
    played = durations[draws.rows] / np.asarray(speeds, np.float32)[draws.speeds]
    batches = dealt.batches
    given = np.zeros(len(batches.first), np.int64)  # how often each batch is trained on
    np.add.at(given, dealt.steps.ravel(), 1)
    used = np.flatnonzero(given)
    used = used[np.argsort(batches.first[used])]  # they follow each other without a gap
    first, times = batches.first[used], given[used]
    sizes = batches.last[used] - first
    longest = np.maximum.reduceat(played, first).astype(np.float64)
    most = np.maximum.reduceat(tokens[draws.rows], first).astype(np.int64)
    lattice = (sizes * caps.frames(longest) * (most + 1)).astype(np.int64)
    cost = np.zeros(len(given))
    cost[used] = caps.cost(sizes, longest, most)
    per_step = cost[dealt.steps]
    imbalance = per_step.max(axis=1) / per_step.mean(axis=1)
    times_drawn = np.repeat(times, sizes)
    drawn_langs = langs[draws.rows]
    count = len(codes)
    hours = np.bincount(drawn_langs, weights=played * times_drawn, minlength=count) / 3600
    number = np.bincount(drawn_langs, weights=times_drawn, minlength=count)
    seen = np.zeros(len(durations), bool)
    seen[draws.rows] = True
    distinct = np.bincount(langs[seen], minlength=count)
    skipped = 1 - distinct / np.bincount(langs, minlength=count)
    total, padded = (
        float((played * times_drawn).sum(dtype=np.float64)),
        float((times * sizes * longest).sum()),
    )
    shared = sizes > 1 if (sizes > 1).any() else sizes > 0
    return PlanStats(
        steps=len(dealt.steps),
        batches=dealt.steps.size,
        utterances=int((times * sizes).sum()),
        repeated_batches=dealt.repeated,
        seconds=total,
        padded_seconds=padded,
        efficiency=total / padded,
        max_padded_seconds=float((sizes * longest)[shared].max()),
        max_tokens=int((sizes * most)[shared].max()),
        max_lattice=int(lattice[shared].max()),
        max_utterances=int(sizes.max()),
        over_cap=int((caps.room(longest, most)[sizes == 1] < 1).sum()),
        imbalance_median=float(np.median(imbalance)),
        imbalance_p95=float(np.quantile(imbalance, 0.95)),
        hours=_by_language(codes, hours),
        repeated=_by_language(codes, 1 - distinct / np.maximum(number, 1)),
        skipped=_by_language(codes, skipped),
    )


def _by_language(codes: NDArray[np.int64], values: NDArray[np.float64]) -> dict[int, float]:
    return {int(code): max(0.0, float(value)) for code, value in zip(codes, values, strict=True)}
