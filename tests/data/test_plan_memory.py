"""The memory cap: no batch needs more memory, and an utterance that cannot fit is named."""

import numpy as np
import pytest

from maya.data.plan import BatchPlan, MemoryConfig, PlanConfig
from maya.errors import MayaError

TERMS = {
    "fixed": 3e9, "length": 1e5, "utterance": 1e6, "frame": 2e5, "pair": 300.0, "label": 5e4, "node": 90.0,
}  # fmt: skip


def _memory(gb: float) -> MemoryConfig:
    return MemoryConfig(max_bytes=gb * 1e9, **TERMS)  # type: ignore[arg-type]


def _data(n: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(1.6, 0.6, n), 1, 30).astype(np.float32)
    tokens = (seconds * rng.uniform(0.5, 12, n)).astype(np.int32)
    return seconds, tokens, (np.arange(n) % 3).astype(np.int16)


def _needs(plan: BatchPlan, rows: list[int], speeds: list[float], tokens: np.ndarray) -> float:
    played = plan.durations[rows] / np.asarray(speeds, np.float32)
    frames = np.ceil(float(played.max()) / plan.cfg.frame_seconds - 1e-4)
    return float(plan.cfg.memory.bytes(len(rows), frames, int(tokens[rows].max())))


@pytest.mark.parametrize("speeds", [(1.0,), (0.9, 1.0, 1.1)])
def test_no_batch_needs_more_than_the_memory(speeds: tuple[float, ...]) -> None:
    seconds, tokens, langs = _data()
    cfg = PlanConfig(max_seconds=None, max_utterances=None, memory=_memory(12.0))
    plan = BatchPlan(seconds, tokens, langs, cfg, speeds=speeds)
    needs = [
        _needs(plan, plan.batch(0, i), plan.batch_speeds(0, i), tokens) for i in range(plan.num_batches(0))
    ]
    assert max(needs) <= 12e9
    assert np.median(needs) > 0.8 * 12e9  # and it is used
    free = BatchPlan(
        seconds, tokens, langs, PlanConfig(max_seconds=4000.0, max_utterances=None), speeds=speeds
    )
    free.cfg.memory = cfg.memory
    without = [
        _needs(free, free.batch(0, i), free.batch_speeds(0, i), tokens) for i in range(free.num_batches(0))
    ]
    assert max(without) > 1.5 * 12e9  # with the cap on seconds alone


def test_room_is_the_inverse_of_bytes() -> None:
    memory = _memory(12.0)
    for frames, tokens in ((10, 0), (125, 30), (400, 350)):
        room = memory.room(frames, tokens)
        assert memory.bytes(room, frames, tokens) == pytest.approx(12e9)
    assert MemoryConfig().room(400, 350) == np.inf


def test_the_same_plan_on_every_rank_and_after_a_restart() -> None:
    seconds, tokens, langs = _data(800)
    cfg = PlanConfig(memory=_memory(8.0))
    first, second = (BatchPlan(seconds, tokens, langs, cfg, rank=r, world_size=2) for r in range(2))
    again = BatchPlan(seconds, tokens, langs, PlanConfig(memory=_memory(8.0)), rank=1, world_size=2)
    assert second.epoch(3) == again.epoch(3)
    assert first.num_batches(3) == second.num_batches(3)


def test_an_utterance_that_needs_too_much_memory_is_named() -> None:
    seconds, tokens, langs = np.array([3.0, 28.0]), np.array([5, 400]), np.array([0, 0])
    alone = _memory(3.16)
    with pytest.raises(MayaError, match=r"utterance 'b' \(28.0 s, 400 tokens\) alone takes 3.18 GB .* 3.16"):
        BatchPlan(seconds, tokens, langs, PlanConfig(memory=alone), ids=["a", "b"])
    with pytest.raises(MayaError, match=r"\(31.1 s"):  # it fits at its own speed, but not at 0.9
        BatchPlan(seconds, tokens, langs, PlanConfig(memory=_memory(3.19)), ids=["a", "b"], speeds=(0.9, 1.0))
    plan = BatchPlan(seconds, tokens, langs, PlanConfig(memory=alone, too_long="alone"))
    assert plan.stats(0).over_cap == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": -2.0}, "MemoryConfig.limit must be"),
        ({"safety": 0.0}, "MemoryConfig.safety must be"),
        ({"safety": 1.5}, "MemoryConfig.safety must be"),
    ],
)
def test_bad_memory_options_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(MayaError, match=message):
        BatchPlan([1.0], [1], [0], PlanConfig(memory=MemoryConfig(**settings)))
