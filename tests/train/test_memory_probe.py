"""The memory probe: batch sizes of known functions, caching, and caps that hold."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maya.config import to_dict
from maya.data.plan import BatchPlan, MemoryConfig, PlanConfig
from maya.data.plan.caps import Caps
from maya.errors import MayaError
from maya.train.failure import is_out_of_memory
from maya.train.memory import probe as memory_probe
from maya.train.memory.probe import corners, fit, largest, probe, with_memory
from maya.train.memory.steps import Order, Steps, synthetic
from tests.tiny import experiment

TRUE = {
    "fixed": 2e9,
    "length": 3e5,
    "utterance": 4e5,
    "frame": 5e5,
    "pair": 700.0,
    "label": 9e4,
    "node": 60.0,
}
FRAMES = Caps(PlanConfig()).frames


def true_bytes(batch: int, seconds: float, tokens: int) -> int:
    return int(MemoryConfig(**TRUE).bytes(batch, FRAMES(seconds), tokens))  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 17, 100, 101, 4096, 10_000])
@pytest.mark.parametrize("start", [1, 16, 90])
def test_search_finds_the_largest_batch(limit: int, start: int) -> None:
    tries: list[int] = []
    size = largest(lambda n: tries.append(n) or n <= limit, start=start, most=4096)  # type: ignore[func-returns-value]
    limit = min(limit, 4096)
    assert size <= limit
    assert limit - size <= max(0, 0.05 * size)
    assert len(tries) <= 20 and len(set(tries)) == len(tries)
    if start == 1 and limit:
        doubled = int(np.log2(limit))
        assert tries[: doubled + 1] == [2**i for i in range(doubled + 1)]


def test_good_initial_guess_needs_few_tries() -> None:
    tries: list[int] = []
    assert largest(lambda n: tries.append(n) or n <= 1000, start=980) >= 980  # type: ignore[func-returns-value]
    assert len(tries) <= 3


def test_fit_recovers_a_known_function() -> None:
    result = probe(true_bytes, MemoryConfig(), 80e9, corners(30.0, 300), FRAMES)
    assert result.memory.max_bytes == pytest.approx(72e9)
    assert result.excess_max < 0.01
    for seconds, tokens in ((30.0, 300), (30.0, 1), (7.0, 90), (1.0, 3), (18.0, 250)):
        truth = (72e9 - 2e9 - 3e5 * FRAMES(seconds)) / (
            true_bytes(2, seconds, tokens) - true_bytes(1, seconds, tokens)
        )
        assert result.memory.room(FRAMES(seconds), tokens) == pytest.approx(truth, rel=0.02)
    rows = memory_probe.table(result, 80e9)
    assert len(rows) == len(corners(30.0, 300))
    for seconds, tokens, batch in rows:
        assert true_bytes(int(batch), seconds, int(tokens)) <= 72e9
        assert true_bytes(int(batch * 1.06) + 1, seconds, int(tokens)) > 72e9


def test_fit_is_an_upper_bound_of_other_functions() -> None:
    """Memory with allocator granularity and a term that is not proportional."""

    def lumpy(batch: int, seconds: float, tokens: int) -> int | None:
        need = true_bytes(batch, seconds, tokens) + min(batch * seconds, 900.0) * 3e6
        return int(np.ceil(need / 5e8) * 5e8) if need < 40e9 else None

    result = probe(lumpy, MemoryConfig(safety=0.95), 40e9, corners(20.0, 200), FRAMES)
    for x in result.samples:
        if x.peak is not None:
            assert result.memory.bytes(x.batch, FRAMES(x.seconds), x.tokens) >= x.peak * (1 - 1e-9)
    assert 0 < result.excess_median < 0.15
    rng = np.random.default_rng(0)
    for seconds, tokens in zip(rng.uniform(2.5, 20, 50), rng.integers(1, 200, 50), strict=True):
        batch = int(result.memory.room(FRAMES(seconds), int(tokens)))
        peak = lumpy(batch, seconds, int(tokens))
        assert peak is not None and peak <= 40e9


def test_no_term_is_negative() -> None:
    samples = [memory_probe.MemorySample(b, 10.0, u, 10**9 - 10**6 * b) for b in (1, 4, 9) for u in (1, 50)]
    terms = fit(samples, FRAMES)
    assert min(terms.values()) >= 0 and terms["fixed"] > 5e8


def test_too_little_memory_for_one_utterance_is_refused() -> None:
    with pytest.raises(
        MayaError, match=r"one utterance of 30.0 s with 300 tokens needs 2.4\d GB where 1.80 GB"
    ):
        probe(true_bytes, MemoryConfig(), 2e9, corners(30.0, 300), FRAMES)
    with pytest.raises(MayaError, match="needs more than there is"):
        probe(lambda *_: None, MemoryConfig(), 2e9, corners(30.0, 300), FRAMES)


def _config(vocab_size: int = 20) -> tuple:
    exp = experiment()
    exp.model.vocab_size, exp.model.languages = vocab_size, ("en", "hi")
    return exp.model, exp.train


def _ask(plan: PlanConfig, cache: Path, **options: object) -> PlanConfig:
    settings: dict = {"seconds": 9.0, "tokens": 30, "device": torch.device("cpu"), "bf16": False} | options
    size = {name: settings.pop(name) for name in ("seconds", "tokens")}
    return with_memory(plan, Order.of(*_config(), **settings), cache, **size)


def test_measurement_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[Order] = []

    class FakeSteps:
        free_bytes = 0.0

        def __init__(self, order: Order) -> None:
            orders.append(order)

        def __enter__(self) -> "FakeSteps":
            return self

        def __exit__(self, *_: object) -> None: ...

        def limit(self, limit_bytes: float) -> None:
            assert limit_bytes == 20e9

        def peak(self, batch: int, seconds: float, tokens: int) -> int:
            assert seconds <= 10.0 and tokens <= 32  # rounded up from 9 s and 30
            return true_bytes(batch, seconds, tokens)

    monkeypatch.setattr(memory_probe, "Steps", FakeSteps)
    plan = PlanConfig(memory=MemoryConfig(limit=20.0))
    first = _ask(plan, tmp_path)
    assert first.memory.max_bytes == pytest.approx(18e9) and first.memory.node > 0
    assert _ask(plan, tmp_path, seconds=8.2, tokens=17) == first and len(orders) == 1
    (file,) = tmp_path.iterdir()
    saved = json.loads(file.read_text())
    assert saved["device"] == "cpu" and saved["precision"] == "fp32" and saved["torch"] == torch.__version__
    assert {"batch", "seconds", "tokens", "peak"} == set(saved["samples"][0])
    assert orders[0].hold_gradients is False
    for other in ({"seconds": 14.0}, {"tokens": 33}, {"bf16": True}, {"world_size": 2}):
        before = len(orders)
        _try(lambda other=other: _ask(plan, tmp_path, **other))
        assert len(orders) == before + 1, other
    assert orders[-1].hold_gradients is True  # DDP's buckets
    file.write_text("{")
    with pytest.raises(MayaError, match="damaged; remove it"):
        _ask(plan, tmp_path)


def _try(call) -> None:  # noqa: ANN001
    """The replacement refuses longer audio. It is enough that it was called."""
    with contextlib.suppress(AssertionError):
        call()


def test_off_and_auto_on_a_cpu(tmp_path: Path) -> None:
    plan = PlanConfig()
    assert _ask(plan, tmp_path) is plan and not list(tmp_path.iterdir())
    with pytest.raises(MayaError, match='"auto" takes what a GPU has free'):
        _ask(PlanConfig(memory=MemoryConfig(limit="auto")), tmp_path)


def test_out_of_memory_errors_are_recognised() -> None:
    for error in (
        MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("could not create a primitive"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):  # fmt: skip
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("size mismatch"))


@pytest.mark.parametrize("first", [0, 1])  # from 1, because the blank is 0
def test_synthetic_batches_can_be_aligned(first: int) -> None:
    batch = synthetic(3, 2.0, 200, 40, first)
    assert batch.audio.shape == (3, 32000) and batch.tokens.shape == (3, 200)
    assert int(batch.tokens.min()) == first and int(batch.tokens.max()) == 39
    assert bool((batch.tokens[:, 1:] != batch.tokens[:, :-1]).all())


@pytest.mark.slow
def test_batches_planned_under_the_cap_stay_within_the_memory(tmp_path: Path) -> None:
    """Trains a real model on the worst batches of the plan, on a CPU, and measures the memory."""
    limit = 1.0
    model, train = _config()
    cfg = PlanConfig(max_seconds=None, max_utterances=None, memory=MemoryConfig(limit=limit))
    order = Order.of(model, train, torch.device("cpu"), bf16=False)
    capped = with_memory(cfg, order, tmp_path, seconds=10.0, tokens=32)
    assert capped.memory.max_bytes == pytest.approx(0.9 * limit * 1e9)
    rng = np.random.default_rng(0)
    seconds = rng.uniform(1.0, 10.0, 4000).astype(np.float32)
    tokens = np.minimum(32, seconds * rng.uniform(0.5, 3.2, 4000)).astype(np.int32)
    plan = BatchPlan(seconds, tokens, np.zeros(4000, np.int16), capped)
    shapes = [(len(rows), float(seconds[rows].max()), int(tokens[rows].max())) for rows in plan.epoch(0)]
    needs = [float(capped.memory.bytes(n, FRAMES(s), u)) for n, s, u in shapes]
    worst = sorted({int(np.argmax(needs)), int(np.argmax([n for n, _, _ in shapes]))})
    with Steps(order) as steps:
        for i in worst:
            peak = steps.peak(*shapes[i])
            assert peak is not None and peak <= limit * 1e9, shapes[i]
            assert peak >= 0.6 * limit * 1e9, shapes[i]  # the memory is used, too


def test_error_in_the_measuring_process_is_one_sentence() -> None:
    model, train = _config()
    broken = to_dict(model)
    broken["heads"]["transducer"]["joint"]["hidden"] = 0
    measured = Steps(Order(model=broken, train=to_dict(train), device="cpu", bf16=False))
    words = "hidden must be 1 or more, not 0.*memory.limit=off"
    with measured as steps, pytest.raises(MayaError, match=words):
        steps.peak(1, 1.0, 1)
