"""The parts of the plan, each alone: caps, cells and dealing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maya.data.plan import CostConfig, PlanConfig
from maya.data.plan.caps import Caps
from maya.data.plan.cells import log_bins, make_cells
from maya.data.plan.deal import Deal, deal
from maya.data.plan.epoch import Batches


def test_the_smallest_cap_decides() -> None:
    caps = Caps(PlanConfig(max_seconds=100, max_utterances=30, max_tokens=1000, max_lattice=50_000))
    # 8 s are 100 frames: 12 by seconds, 30, 1000 // 20 and 50 000 // (100 * 21)
    assert caps.size(8.0, 20).tolist() == 12
    assert caps.size([2.0, 8.0, 8.0, 8.0], [10, 100, 49, 90_000]).tolist() == [30, 4, 10, 1]


def test_cost_is_the_documented_formula() -> None:
    cost = CostConfig(fixed=7.0, attention_frames=50.0, lattice=0.5)
    caps = Caps(PlanConfig(cost=cost))
    assert caps.cost(3, 0.8, 4) == pytest.approx(7 + 3 * 10 * (1 + 10 / 50) + 0.5 * 3 * 10 * 5)


@given(st.floats(0.01, 1000), st.integers(0, 6))
def test_bins_are_logarithms(value: float, bits: int) -> None:
    assert log_bins(2 * np.float32(value), bits) - log_bins(value, bits) == 2**bits
    assert log_bins(np.float32(value) * np.float32(1.0001), bits) >= log_bins(value, bits)


@pytest.mark.parametrize("by_tokens", [False, True])
def test_cells_hold_each_row_once_and_are_narrow(by_tokens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    durations = rng.uniform(0.5, 30, 5000).astype(np.float32)
    tokens, langs = rng.integers(0, 300, 5000).astype(np.int32), rng.integers(0, 3, 5000).astype(np.int16)
    monkeypatch.setattr("maya.data.plan.cells._CHUNK", 700)
    cells = make_cells(durations, tokens, langs, 3, by_tokens, seed=1)
    assert sorted(cells.rows) == list(range(5000)) and cells.counts.sum() == 5000
    for cell in range(len(cells.counts)):
        rows = cells.rows[cells.starts[3 * cell] : cells.starts[3 * cell + 3]]
        assert np.bincount(langs[rows], minlength=3).tolist() == cells.counts[cell].tolist()
        assert (np.diff(langs[rows]) >= 0).all()
        assert durations[rows].max() == cells.seconds[cell] <= durations[rows].min() * 1.02
        assert tokens[rows].max() == cells.tokens[cell]
        assert not by_tokens or cells.tokens[cell] + 1 <= (tokens[rows].min() + 1) * 1.13
    assert make_cells(durations, tokens, langs, 3, by_tokens, seed=1).rows.tolist() == cells.rows.tolist()


def made(sizes: list[int]) -> Batches:
    last = np.cumsum(sizes)
    return Batches(last - sizes, last, np.asarray(sizes, np.float64) * 10)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 9))
@settings(deadline=None)
def test_each_draw_is_dealt_once_and_steps_are_whole(sizes: list[int], ranks: int) -> None:
    dealt = Deal(made(sizes), ranks, np.random.default_rng(0))
    given_out = [
        draw
        for batch in dealt.steps.ravel()
        for draw in range(dealt.batches.first[batch], dealt.batches.last[batch])
    ]
    assert set(given_out) == set(range(sum(sizes))) and dealt.steps.shape[1] == ranks
    assert len(given_out) - sum(sizes) == dealt.repeated < ranks
    assert len(dealt.steps) == -(-len(sizes) // ranks)
    assert not dealt.repeated or sum(sizes) < dealt.steps.size, (
        "batches are repeated only if draws are fewer than places"
    )


def test_ranks_of_a_step_cost_the_same() -> None:
    sizes = np.random.default_rng(0).integers(10, 100, 800)
    dealt = Deal(made(sizes.tolist()), 8, np.random.default_rng(0))
    cost = dealt.batches.cost[dealt.steps]
    assert np.median(cost.max(axis=1) / cost.mean(axis=1)) < 1.02
    assert abs(np.corrcoef(cost.mean(axis=1), np.arange(100))[0, 1]) < 0.3, "steps are shuffled"


def test_a_finished_epoch_has_no_remaining_batches() -> None:
    assert deal(made([3, 3, 3, 3]), 3, [(2, 2)], seed=0, epoch=0) is None
    dealt = deal(made([3, 3, 3, 3]), 2, [(1, 1)], seed=0, epoch=0)
    assert dealt is not None and dealt.steps.shape == (2, 2)
