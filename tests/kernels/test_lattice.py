"""The lattice doors in torch: the sum over all paths, and what holds for posteriors whatever the weights."""

import math

import pytest
import torch
from torch import Tensor

from maya.kernels.lattice import LatticeResult, rnnt_lattice, tdt_lattice

INF, NAN = float("inf"), float("nan")
# With and without 0 and 1, with gaps, and longer than the longest utterance below.
DURATIONS = [(0, 1, 2, 3, 4), (1, 2), (1,), (0, 1), (2, 3), (0, 2), (0, 1, 12)]
KINDS = ["rnnt", "label ends", *DURATIONS]
FRAMES, LABELS = [9, 6, 2, 1, 7], [4, 0, 1, 0, 5]

Arc = tuple[int, int, str, int]  # frame left, labels before, "blank" or "label", frames it takes


def weights(
    frames: list[int], labels: list[int], kind: str | tuple[int, ...], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Random log weights with one frame and one label more padding than needed: blank, label, durations."""
    shape = (len(frames), max(frames) + 1, max(labels) + 2)
    actual = [2 * torch.randn(shape, dtype=dtype) - 2 for _ in range(2)]
    return actual if isinstance(kind, str) else [*actual, torch.randn(*shape, len(kind), dtype=dtype)]


def run(
    kind: str | tuple[int, ...], given: list[Tensor], frames: list[int], labels: list[int], **options: bool
) -> LatticeResult:
    options = {"with_posteriors": True, **options}
    if isinstance(kind, str):
        return rnnt_lattice(*given, frames, labels, label_ends=kind == "label ends", **options)
    return tdt_lattice(*given, frames, labels, durations=kind, **options)


def outputs(result: LatticeResult) -> list[Tensor]:
    actual = (result.log_prob, result.blank, result.label, result.durations)
    return [x for x in actual if x is not None]


def paths(
    frames: int, labels: int, blanks: list[int], takes: list[int], label_ends: bool, t: int = 0, u: int = 0
) -> list[list[Arc]]:
    """Every list of arcs from (t, u) whose last one lands on (frames, labels) and no other on `frames`."""
    actual = []
    arcs = [("blank", d, u) for d in blanks] + [("label", d, u + 1) for d in takes]
    for kind, d, to in arcs:
        arc = (t, u, kind, d)
        if t + d == frames and to == labels and (kind == "blank" or label_ends):
            actual.append([arc])
        elif t + d < frames and to <= labels:
            rest = paths(frames, labels, blanks, takes, label_ends, t + d, to)
            actual += [[arc, *path] for path in rest]
    return actual


def by_paths(
    kind: str | tuple[int, ...], given: list[Tensor], row: int, frames: int, labels: int
) -> list[Tensor]:
    """`outputs` of one row from all its paths."""
    label_ends = kind == "label ends"
    durations = kind if isinstance(kind, tuple) else ()
    blanks = [d for d in durations if d > 0] or [1]
    actual = [torch.tensor(-INF, dtype=torch.float64)] + [torch.zeros_like(x[row]) for x in given]
    all_paths = paths(frames, labels, blanks, list(durations) or [int(label_ends)], label_ends)
    if not all_paths:
        return actual

    def weight(arc: Arc) -> Tensor:
        t, u, what, d = arc
        value = given[what == "label"][row, t, u]
        return value + given[2][row, t, u, durations.index(d)] if durations else value

    logs = torch.stack([torch.stack([weight(arc) for arc in path]).sum() for path in all_paths])
    actual[0] = logs.logsumexp(0)
    for path, share in zip(all_paths, logs.softmax(0), strict=True):
        for t, u, what, d in path:
            actual[1 + (what == "label")][t, u] += share
            if durations:
                actual[3][t, u, durations.index(d)] += share
    return actual


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_small_lattice_equals_the_sum_over_all_paths(kind: str | tuple[int, ...]) -> None:
    frames = [t for t in range(1, 5) for _ in range(4)]
    labels = [u for _ in range(1, 5) for u in range(4)]
    given = weights(frames, labels, kind)
    actual = outputs(run(kind, given, frames, labels))
    finite = 0
    for row, (t, u) in enumerate(zip(frames, labels, strict=True)):
        truth = by_paths(kind, given, row, t, u)
        finite += int(truth[0].isfinite())
        for x, y in zip(actual, truth, strict=True):
            torch.testing.assert_close(x[row], y, rtol=1e-12, atol=1e-13)
    assert finite


def test_label_ends_a_label_takes_a_frame_and_may_be_last() -> None:
    given = [torch.full((3, 2, 3), -1.0), torch.full((3, 2, 3), -3.0)]
    result = run("label ends", given, [2, 2, 1], [2, 1, 2])
    # Two labels on two frames: one path. A label and a blank: either first. Two labels on one frame: none.
    assert result.log_prob.tolist() == pytest.approx([-6.0, -4.0 + math.log(2.0), -INF])
    assert result.label is not None and result.label[0].tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_posteriors_sum_to_labels_and_frames(kind: str | tuple[int, ...]) -> None:
    result = run(kind, weights(FRAMES, LABELS, kind), FRAMES, LABELS)
    possible = result.log_prob.isfinite()
    blank, label = (x[possible] for x in outputs(result)[1:3])
    frames, labels = (torch.tensor(x, dtype=torch.float64)[possible] for x in (FRAMES, LABELS))
    # Every path starts at (0, 0), emits each label once and spends all frames.
    torch.testing.assert_close((blank + label)[:, 0, 0], torch.ones_like(frames))
    for row, count in enumerate(labels.int().tolist()):
        torch.testing.assert_close(label[row].sum(0)[:count], torch.ones(count, dtype=torch.float64))
        assert label[row, :, count:].abs().max() == 0
    spent = blank.sum((1, 2))
    if kind == "label ends":
        spent = spent + labels
    if result.durations is not None:
        by_duration = result.durations[possible]
        torch.testing.assert_close(by_duration.sum(-1), blank + label)
        spent = (by_duration * torch.tensor(kind, dtype=torch.float64)).sum((1, 2, 3))
    torch.testing.assert_close(spent, frames)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_padding_is_never_read_and_rows_are_independent(kind: str | tuple[int, ...]) -> None:
    given = weights(FRAMES, LABELS, kind)
    clean = outputs(run(kind, given, FRAMES, LABELS))
    alone = [
        outputs(run(kind, [x[row : row + 1, :t, : u + 1] for x in given], [t], [u]))
        for row, (t, u) in enumerate(zip(FRAMES, LABELS, strict=True))
    ]
    for row, (t, u) in enumerate(zip(FRAMES, LABELS, strict=True)):
        for x in given:
            x[row, t:] = NAN
            x[row, :, u + 1 :] = NAN
        given[1][row, :, u:] = NAN  # there is no label after the last
    poisoned = outputs(run(kind, given, FRAMES, LABELS))
    for x, y in zip(poisoned, clean, strict=True):
        assert torch.equal(x, y)
    for row, (t, u) in enumerate(zip(FRAMES, LABELS, strict=True)):
        torch.testing.assert_close(clean[0][row], alone[row][0][0], rtol=1e-12, atol=1e-12)
        for x, y in zip(clean[1:], alone[row][1:], strict=True):
            torch.testing.assert_close(x[row, :t, : u + 1], y[0], rtol=1e-10, atol=1e-13)
            assert x[row, t:].abs().sum() == 0 and x[row, :, u + 1 :].abs().sum() == 0


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_impossible_rows_and_nan_do_not_affect_other_rows(kind: str | tuple[int, ...]) -> None:
    frames, labels = [9, 6, 8, 0, 0, 7], [4, 3, 1, 0, 2, 2]
    given = weights(frames, labels, kind)
    clean = outputs(run(kind, given, frames, labels))
    given[1][1, :, 2] = -INF  # its third label is never emitted
    given[0][5, 0, 0] = given[1][5, 0, 0] = NAN
    actual = outputs(run(kind, given, frames, labels))
    assert actual[0][1] == actual[0][3] == actual[0][4] == -INF
    assert actual[0][5].isnan()
    for x, y in zip(actual[1:], clean[1:], strict=True):
        assert x[[1, 3, 4]].abs().sum() == 0
        assert torch.equal(x[[0, 2]], y[[0, 2]])


@pytest.mark.parametrize("kind", ["rnnt", (0, 1, 2, 3, 4)], ids=str)
def test_arcs_of_probability_zero_are_ignored(kind: str | tuple[int, ...]) -> None:
    given = weights([4], [2], kind)
    given[0][0, :3, 0] = -INF  # so that both labels are emitted on the first frame
    given[1][0, 1:] = -INF
    actual = outputs(run(kind, given, [4], [2]))
    for x, y in zip(actual, by_paths(kind, given, 0, 4, 2), strict=True):
        torch.testing.assert_close(x[0], y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["rnnt", (0, 1, 2, 3, 4)], ids=str)
def test_fp32_weights_are_precise_for_a_long_utterance(kind: str | tuple[int, ...]) -> None:
    frames, labels = [300, 210], [60, 41]
    given = [5 * x for x in weights(frames, labels, kind, torch.float32)]
    actual = outputs(run(kind, given, frames, labels))
    truth = outputs(run(kind, [x.double() for x in given], frames, labels))
    assert all(x.dtype == torch.float32 for x in actual) and truth[0].abs().min() > 800
    torch.testing.assert_close(actual[0].double(), truth[0], rtol=1e-7, atol=0)
    for x, y in zip(actual[1:], truth[1:], strict=True):
        # Sums of a token and a duration are rounded to fp32, whose steps are 4e-6 for some weights arc.
        torch.testing.assert_close(x.double(), y, rtol=0, atol=2e-6 if kind == "rnnt" else 2e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_results_do_not_depend_on_the_block_size(
    kind: str | tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = weights(FRAMES, LABELS, kind)
    whole = outputs(run(kind, given, FRAMES, LABELS))
    monkeypatch.setattr("maya.kernels.lattice.torch_op.BLOCK_BYTES", 1)  # one diagonal each
    for x, y in zip(outputs(run(kind, given, FRAMES, LABELS)), whole, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_without_posteriors_the_log_probability_is_the_same(kind: str | tuple[int, ...]) -> None:
    given = weights(FRAMES, LABELS, kind)
    actual = run(kind, given, FRAMES, LABELS, with_posteriors=False)
    assert torch.equal(actual.log_prob, run(kind, given, FRAMES, LABELS).log_prob)
    assert actual.blank is None and actual.label is None and actual.durations is None


@pytest.mark.parametrize("kind", ["rnnt", "label ends", (0, 1, 2)], ids=str)
def test_weights_need_not_be_contiguous_and_are_not_changed(kind: str | tuple[int, ...]) -> None:
    given = weights(FRAMES, LABELS, kind)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in given]
    copies = [x.clone() for x in given]
    actual = outputs(run(kind, turned, FRAMES, LABELS))
    for x, y in zip(actual, outputs(run(kind, given, FRAMES, LABELS)), strict=True):
        assert torch.equal(x, y)
    for x, y in zip(given, copies, strict=True):
        assert torch.equal(x, y)


def test_unavailable_backends_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    cells = torch.zeros(1, 2, 2)
    for backend, message in (("cuda", "unknown backend 'cuda'"), ("triton", "needs CUDA tensors")):
        with pytest.raises(ValueError, match=f"rnnt_lattice: .*{message}"):
            rnnt_lattice(cells, cells, [2], [1], with_posteriors=False, backend=backend)
        with pytest.raises(ValueError, match=f"tdt_lattice: .*{message}"):
            tdt_lattice(
                cells, cells, cells[..., None], [2], [1],
                durations=(1,), with_posteriors=False, backend=backend,
            )  # fmt: skip
