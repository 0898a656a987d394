"""The fault campaign: what counts as lost, and the faults themselves (all but one are slow)."""

from pathlib import Path

import pytest
import torch

from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from tools import fault_campaign
from tools.fault_campaign import FAULTS, prepared, table
from tools.fault_injections import NOTES, STEPS
from tools.fault_runs import FaultRuns, Outcome, lost, sentence

QUICK = "kill"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> FaultRuns:
    return prepared(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    "fault", [QUICK, *(pytest.param(f, marks=pytest.mark.slow) for f in FAULTS if f != QUICK)]
)
def test_nothing_verified_is_lost(runs: FaultRuns, fault: str) -> None:
    try:
        result = FAULTS[fault](runs)
    finally:
        runs.end()
    if result is None:
        pytest.skip(f"{fault} cannot be injected here")
    assert result.good, table([result])[-1]


@pytest.mark.slow
def test_two_processes_leave_the_same_step_out(runs: FaultRuns) -> None:
    """The NaN is in the batches of both; each keeps its own."""
    run = runs.run("two_left_out")
    status, out = runs.finish(run, "nan_in_activations", "train.skip_non_finite=1", processes=2)
    assert status == 0 and out.count("is left out: ") == 1, out
    last = load_checkpoint(step_checkpoints(run)[-1][1])
    assert last.step == STEPS and all(v.isfinite().all() for v in last.weights.values() if torch.is_tensor(v))
    kept = sorted(path.name for path in (run / "not-a-number").glob("rank-*.pt"))
    assert kept == ["rank-00000-step-0000012.pt", "rank-00001-step-0000012.pt"]


def test_what_counts_as_lost(tmp_path: Path) -> None:
    (tmp_path / NOTES).write_text("1 0\n1 1\n1 2\n2 1\n2 2\n2 3\n")
    assert lost(tmp_path, {tmp_path / "checkpoints" / "step-0000002.pt": 7}) == (2, 7)
    good = Outcome(fault="f", injected="i", happened="h", steps=5, size=0, equal=True)
    assert good.good and good.equal
    for wrong in ({"steps": 6}, {"size": 1}, {"equal": False}, {"happened": sentence("a\nb", "c")}):
        values = {"fault": "f", "injected": "i", "happened": "h", "steps": 0, "size": 0, "equal": True}
        assert not Outcome(**(values | wrong)).good  # type: ignore[arg-type]


def test_the_page_has_a_row_for_each_fault() -> None:
    page = fault_campaign.PAGE.read_text()
    rows = page.split(fault_campaign.MARKS[0])[1].split(fault_campaign.MARKS[1])[0]
    for fault in FAULTS:
        assert f"| {fault.replace('_', ' ')} |" in rows, (
            f"run python -m tools.fault_campaign --write: {fault}"
        )
    assert "WRONG" not in rows and "FAILED" not in rows
