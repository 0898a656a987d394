"""One batch plan over synthetic utterances, for a process of its own; see tools/bench/plan.py."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.data.plan import BatchPlan, PlanConfig, Position
from maya.data.plan.caps import Caps

LANGUAGES = 12
RANKS = 8
SEEKS = 5
CHUNK = 1 << 20


def corpus(rows: int) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int16]]:
    """Durations, log-normal from 1 to 35 s; tokens, about 4 per second, that is 2 to 8; languages, the k-th
    with hours in proportion to k^-1.5."""
    rng = np.random.default_rng(0)
    durations, tokens, langs = np.empty(rows, np.float32), np.empty(rows, np.int32), np.empty(rows, np.int16)
    shares = np.arange(1, LANGUAGES + 1) ** -1.5
    for begin in range(0, rows, CHUNK):
        some = slice(begin, min(begin + CHUNK, rows))
        n = some.stop - begin
        durations[some] = np.exp(rng.normal(1.9, 0.6, n)).clip(1, 35)
        tokens[some] = np.maximum(1, durations[some] * rng.lognormal(1.35, 0.35, n))
        langs[some] = rng.choice(LANGUAGES, n, p=shares / shares.sum())
    return durations, tokens, langs


def peak_bytes() -> int:
    """Largest resident set of this program so far (ru_maxrss would begin with that of its parent)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def scale(rows: int, cfg: PlanConfig, *, prove: bool = True) -> dict[str, Any]:
    """One plan over `rows` utterances: time, memory, and whether an epoch is what it should be (`prove`;
    otherwise only some steps are taken)."""
    columns = corpus(rows)
    before = peak_bytes()
    plan, built = timed(lambda: BatchPlan(*columns, cfg, rank=RANKS // 2, world_size=RANKS))
    steps, planned = timed(lambda: plan.num_batches(0))
    rng = np.random.default_rng(1)
    # Each in an epoch that the plan has not seen.
    targets = [Position(epoch, int(rng.integers(0.99 * steps))) for epoch in range(1, SEEKS + 1)]
    seeks = [timed(partial(plan.take, target))[1] for target in targets]
    walk = steps if prove else min(steps, 20_000)
    stepped, walked = timed(lambda: _walk(plan, walk))
    plan_bytes = peak_bytes()
    return {
        "rows": rows,
        "temperature": cfg.temperature,
        "steps": steps,
        "walked": walk,
        "build_s": built,
        "epoch_s": planned,
        "seek_s": {key: max(seek[key] for seek in seeks) for key in ("wall", "cpu")},
        "step_ms": {key: 1e3 * value / walk for key, value in walked.items()},
        "step_ms_p99": float(np.quantile(stepped, 0.99)),
        "step_ms_max": float(stepped.max()),
        "columns_bytes": before,
        "peak_bytes": plan_bytes,
        **(_proved(plan, columns, steps) if prove else {}),
    }


def _walk(plan: BatchPlan, steps: int) -> NDArray[np.float64]:
    """Milliseconds of each step of one rank through an epoch."""
    took = np.empty(steps)
    for step in range(steps):
        began = time.perf_counter()
        plan.take(Position(0, step))
        took[step] = 1e3 * (time.perf_counter() - began)
    return took


def _proved(plan: BatchPlan, columns: tuple[NDArray, NDArray, NDArray], steps: int) -> dict[str, Any]:
    """Read all batches of all ranks and measure them, without the plan's own counting."""
    durations, tokens, langs = columns
    cfg, caps = plan.cfg, Caps(plan.cfg)
    uses = np.zeros(len(durations), np.int64)
    cost, over, seconds, padded = np.empty((steps, RANKS)), 0, 0.0, 0.0
    for rank in range(RANKS):
        rank_plan = plan.for_rank(rank, RANKS)
        rank_plan._epochs, rank_plan._deals = plan._epochs, plan._deals  # one epoch in memory, not eight
        batches = [rank_plan.take(Position(0, step)).rows for step in range(steps)]
        sizes = np.array([len(batch) for batch in batches])
        rows = np.concatenate(batches)
        heads = np.cumsum(sizes) - sizes
        longest = np.maximum.reduceat(durations[rows], heads).astype(np.float64)
        most = np.maximum.reduceat(tokens[rows], heads).astype(np.int64)
        cost[:, rank] = caps.cost(sizes, longest, most)
        many = sizes > 1
        over += int((many & (sizes * longest > (cfg.max_seconds or np.inf) * 1.00001)).sum())
        over += int((many & (sizes > (cfg.max_utterances or np.inf))).sum())
        over += int((many & (sizes * most > (cfg.max_tokens or np.inf))).sum())
        over += int((many & (sizes * caps.frames(longest) * (most + 1) > (cfg.max_lattice or np.inf))).sum())
        np.add.at(uses, rows, 1)
        seconds += float(durations[rows].sum(dtype=np.float64))
        padded += float((sizes * longest).sum())
    imbalance = cost.max(axis=1) / cost.mean(axis=1)
    by_language = [uses[langs == lang] for lang in range(LANGUAGES)]
    hours = np.bincount(langs, weights=durations) / 3600
    weight = hours**cfg.temperature / (hours**cfg.temperature).sum()
    used = np.bincount(langs, weights=durations * uses) / 3600
    return {
        "padding": 1 - seconds / padded,
        "over_caps": over,
        "imbalance_median": float(np.median(imbalance)),
        "imbalance_p95": float(np.quantile(imbalance, 0.95)),
        "uses_spread": max(int(counts.max() - counts.min()) for counts in by_language),
        "uses_once": bool((uses == 1).all()),
        "share_error": float(np.abs(used / used.sum() / weight - 1).max()),
        "hours": hours.tolist(),
        "hours_used": used.tolist(),
        "repeated": [float(max(0, 1 - len(counts) / max(1, counts.sum()))) for counts in by_language],
        "skipped": [float((counts == 0).mean()) for counts in by_language],
    }
