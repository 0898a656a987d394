"""The plan's sampler or lhotse's over some cuts, for a process of its own; see tools/bench/plan.py."""

import copy
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.dataset.sampling import DynamicBucketingSampler

from maya.data.plan import PlanConfig
from maya.data.plan.caps import Caps
from maya.data.plan.sampler import PlanSampler, count_characters
from tools.bench.plan_measure import corpus, peak_bytes, timed

# Cuts that lhotse holds: icefall's setting for 30 buckets, and the default.
LHOTSE_BUFFERS = {"lhotse": 150_000, "lhotse-default": 20_000}


def write_cuts(path: Path, count: int) -> None:
    """Synthetic cuts with one supervision and no audio, as JSON lines."""
    durations, tokens, langs = corpus(count)
    with CutSet.open_writer(path) as writer:
        for i in range(count):
            seconds, name = round(float(durations[i]), 2), f"utt-{i:08d}"
            recording = Recording(name, [], 16000, round(seconds * 16000), seconds)
            segment = SupervisionSegment(
                name, name, 0.0, seconds, text="x" * int(tokens[i]), language=f"l{langs[i]}"
            )
            writer.write(MonoCut(name, 0.0, seconds, 0, recording=recording, supervisions=[segment]))


def sampler(kind: str, path: Path, ranks: int, steps: int, cfg: PlanConfig) -> dict[str, Any]:
    """One rank of a sampler over the cuts of a lazy manifest: start-up, steps, memory, padding, balance of
    cost, and resuming in a fresh sampler after `steps` steps."""
    make = _maya if kind == "maya" else partial(_lhotse, buffer_size=LHOTSE_BUFFERS[kind])
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is counted from here on
    before = peak_bytes()
    (made, steps_of_ranks), started = timed(lambda: _started(*make(CutSet.from_jsonl_lazy(path), ranks, cfg)))
    batches, walked = timed(lambda: list(islice(steps_of_ranks, steps)))
    peak = peak_bytes()
    state = copy.deepcopy(made.state_dict())
    again, batches_again = make(CutSet.from_jsonl_lazy(path), ranks, cfg)
    _, resumed = timed(lambda: (again.load_state_dict(state), next(batches_again)))
    caps = Caps(cfg)
    cost = np.array([[caps.cost(size, longest, most) for size, longest, _, most in step] for step in batches])
    imbalance = cost.max(axis=1) / cost.mean(axis=1)
    flat = np.array([batch for step in batches for batch in step])
    return {
        "kind": kind,
        "ranks": ranks,
        "steps": len(batches),
        "start_s": started,
        "step_ms": {key: 1e3 * value / len(batches) for key, value in walked.items()},
        "bytes": peak - before,
        "padding": float(1 - flat[:, 2].sum() / (flat[:, 0] * flat[:, 1]).sum()),
        "fill": float((flat[:, 0] * flat[:, 1]).mean() / (cfg.max_seconds or np.inf)),
        "imbalance": imbalance.tolist(),
        "resume_s": resumed,
    }


def _started(made: Any, steps: Any) -> tuple[Any, Any]:
    next(steps)
    return made, steps


_Shapes = list[tuple[int, float, float, int]]  # of the ranks' batches: size, longest, seconds, most tokens


def _shape(batch: Iterable[Any]) -> tuple[int, float, float, int]:
    cuts = list(batch)
    seconds = [cut.duration for cut in cuts]
    return len(cuts), max(seconds), sum(seconds), max(map(count_characters, cuts))


def _maya(cuts: CutSet, ranks: int, cfg: PlanConfig) -> tuple[Any, Any]:
    """Rank 0 reads its cuts; of the other ranks' batches only the columns are looked up."""
    sampler = PlanSampler(cuts, cfg, rank=0, world_size=ranks)
    others = [sampler.plan.for_rank(rank, ranks) for rank in range(1, ranks)]
    for other in others:
        other._epochs, other._deals = sampler.plan._epochs, sampler.plan._deals
    durations, tokens = sampler.plan.durations, sampler.plan._data.tokens

    def steps() -> Any:
        for position, batch in zip(sampler.plan.positions(sampler._position), sampler, strict=False):
            shapes = [_shape(batch)]
            for other in others:
                rows = other.take(position).rows
                shapes.append(
                    (len(rows), durations[rows].max(), durations[rows].sum(), int(tokens[rows].max()))
                )
            yield shapes

    return sampler, steps()


def _lhotse(cuts: CutSet, ranks: int, cfg: PlanConfig, buffer_size: int) -> tuple[Any, Any]:
    """Rank 0, which samples the batches of all ranks and keeps its own: the others are noted in passing."""
    sampler = DynamicBucketingSampler(
        cuts, max_duration=cfg.max_seconds, max_cuts=cfg.max_utterances, num_buckets=30, shuffle=True,
        drop_last=True, buffer_size=buffer_size, seed=0, rank=0, world_size=ranks,
    )  # fmt: skip
    noted: _Shapes = []
    sample = sampler._next_batch

    def noting() -> CutSet:
        batch = sample()
        noted.append(_shape(batch))
        return batch

    sampler._next_batch = noting

    def steps() -> Any:
        for _ in sampler:
            yield noted[-ranks:]
            noted.clear()

    return sampler, steps()
