"""The benchmark of the plan at small scale. The limits that do not depend on the machine are met."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from maya.data.plan import PlanConfig
from tools.bench import plan as bench_plan
from tools.bench.plan_measure import corpus, scale
from tools.bench.plan_samplers import sampler, write_cuts

ROWS = 120_000


@pytest.fixture(scope="module")
def scales() -> list[dict]:
    """Measured in a process of its own, as the bench is: memory counts from the start of the process, and
    this one holds what earlier tests left."""
    settings = [(ROWS // 4, 0.3), (ROWS // 2, 0.3), (ROWS, 0.3), (ROWS, 1.0)]
    plans = [PlanConfig(**bench_plan.SCALE, temperature=t) for _, t in settings]  # type: ignore[arg-type]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return list(process.map(scale, [rows for rows, _ in settings], plans))


def test_corpus_is_skewed_and_tokens_follow_durations() -> None:
    durations, tokens, langs = corpus(20_000)
    assert durations.min() >= 1 and durations.max() <= 35 and set(langs) == set(range(12))
    assert (langs == 0).sum() > 10 * (langs == 11).sum()
    assert np.corrcoef(durations, tokens)[0, 1] > 0.6


def test_limits_are_met(scales: list[dict]) -> None:
    missed = [what for what, _, _, met in bench_plan.bars(scales) if not met]
    assert missed == []


def test_both_samplers_are_measured_and_reported(scales: list[dict], tmp_path: Path) -> None:
    write_cuts(tmp_path / "cuts.jsonl", 1500)
    cfg = PlanConfig(**bench_plan.BESIDE)  # type: ignore[arg-type]
    samplers = [
        sampler(kind, tmp_path / "cuts.jsonl", ranks, 3, cfg)
        for ranks in bench_plan.RANKS
        for kind in bench_plan.NAMES
    ]
    assert all(len(s["imbalance"]) == s["steps"] for s in samplers)
    assert [s["steps"] for s in samplers[:2]] == [3, 3]
    load = [0.5, 1.0]
    result = {
        "machine": "here", "scale": scales, "samplers": samplers, "cuts": 1500, "scale_load": load,
        "samplers_load": load, "computed": bench_plan.computed(scales),
    }  # fmt: skip
    text = bench_plan.page(json.loads(json.dumps(result)), "command")
    assert text.count("| lhotse, as icefall |") == 2 and f"{ROWS:,} utterances" in text
    pytest.importorskip("matplotlib")
    bench_plan.plot(result, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000
