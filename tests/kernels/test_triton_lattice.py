"""The Triton lattices against the torch doors: in the interpreter without a GPU, compiled with one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maya.kernels.lattice import LatticeResult, rnnt_lattice, tdt_lattice

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = torch.finfo(torch.float32).eps
pytestmark = (
    [pytest.mark.gpu] if DEVICE == "cuda" else []
)  # so that `make gpu-check` runs all of this, compiled
NAMES = ("log_prob", "blank", "label", "durations")
# Lengths of a ragged batch: a full row, no labels, one frame, no frames, more labels than frames.
FRAMES, LABELS = [7, 5, 1, 0, 2], [4, 0, 1, 2, 3]
Lattice = Callable[..., LatticeResult]


def rnnt(cells: list[Tensor], frames: list[int], labels: list[int], **rest: object) -> LatticeResult:
    return rnnt_lattice(*cells, frames, labels, **rest)


def tdt(cells: list[Tensor], frames: list[int], labels: list[int], **rest: object) -> LatticeResult:
    return tdt_lattice(*cells, frames, labels, **rest)


def random_cells(
    batch: int, size: int, width: int, durations: int, dtype: torch.dtype, scale: float = 1.0
) -> list[Tensor]:
    """Log probabilities of blank, label and, if there are any, durations, as `dtype`, on DEVICE."""
    tokens = (scale * torch.randn(batch, size, width, 5)).log_softmax(-1)
    cells = [tokens[..., 0], tokens[..., 1]]
    if durations:
        cells.append((scale * torch.randn(batch, size, width, durations)).log_softmax(-1))
    return [x.to(DEVICE, dtype) for x in cells]


def poisoned(cells: list[Tensor], frames: list[int], labels: list[int]) -> list[Tensor]:
    """The same with nan wherever there is no cell."""
    out = [torch.full_like(x, float("nan")) for x in cells]
    for x, y in zip(out, cells, strict=True):
        for b, (t, u) in enumerate(zip(frames, labels, strict=True)):
            x[b, :t, : u + 1] = y[b, :t, : u + 1]
    return out


def compare(
    lattice: Lattice, cells: list[Tensor], frames: list[int], labels: list[int], **rest: object
) -> None:
    """Triton errs at most twice what torch errs in fp32, or as the roundings of its steps add up."""
    luck = max(8.0, 2 * (max(frames) + max(labels)) ** 0.5) * EPS
    truth, plain = (
        lattice([x.to(as_) for x in cells], frames, labels, with_posteriors=True, backend="torch", **rest)
        for as_ in (torch.float64, torch.float32)
    )
    bad = poisoned(cells, frames, labels)
    actual = lattice(bad, frames, labels, with_posteriors=True, backend="triton", **rest)
    for name in NAMES[: len(cells) + 1]:
        exact, of_torch, got = (getattr(x, name).double() for x in (truth, plain, actual))
        assert getattr(actual, name).dtype == torch.float32
        ends = exact.isinf()
        assert torch.equal(got.isinf(), ends), name
        of_torch, got, exact = (x.masked_fill(ends, 0.0) for x in (of_torch, got, exact))
        allowed = 2 * float((of_torch - exact).abs().max()) + luck * max(1.0, float(exact.abs().max()))
        assert float((got - exact).abs().max()) <= allowed, name
        assert torch.equal(got == 0, exact == 0) or exact.dim() == 1, name  # what no path passes is exactly 0
    alone = lattice(bad, frames, labels, with_posteriors=False, backend="triton", **rest)
    assert torch.equal(alone.log_prob, actual.log_prob)
    assert alone.blank is None and alone.label is None and alone.durations is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("label_ends", [False, True])
def test_rnnt_is_as_precise_as_torch(label_ends: bool, dtype: torch.dtype) -> None:
    compare(rnnt, random_cells(5, 8, 5, 0, dtype), FRAMES, LABELS, label_ends=label_ends)


@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (1, 2), (0, 3), (2,), (0, 1, 8)])
def test_tdt_is_as_precise_as_torch(durations: tuple[int, ...]) -> None:
    dtype = torch.float16 if len(durations) == 2 else torch.float32
    compare(tdt, random_cells(5, 8, 5, len(durations), dtype), FRAMES, LABELS, durations=durations)


def test_rows_without_a_path_have_zero_posteriors() -> None:
    blank, label, of_durations = random_cells(3, 6, 3, 2, torch.float32)
    blank[0] = float("-inf")
    label[1, :, 1] = float("-inf")
    frames, labels = [6, 5, 5], [2, 2, 1]
    actual = rnnt_lattice(blank, label, frames, labels, with_posteriors=True, backend="triton")
    assert actual.log_prob.isinf().tolist() == [True, True, False]
    assert actual.blank is not None and actual.label is not None
    assert not actual.blank[:2].any() and not actual.label[:2].any()
    # Durations 2 and 4 never add up to five frames.
    actual = tdt_lattice(
        blank, label, of_durations, frames, labels, durations=(2, 4), with_posteriors=True, backend="triton"
    )
    assert actual.log_prob.isinf().all()
    assert actual.durations is not None and not actual.durations.any()


def test_nan_affects_only_its_row() -> None:
    blank, label = random_cells(2, 6, 3, 0, torch.float32)
    blank[0, 3, 1] = float("nan")
    actual = rnnt_lattice(blank, label, [6, 6], [2, 2], with_posteriors=True, backend="triton")
    assert actual.log_prob.isnan().tolist() == [True, False]
    assert actual.blank is not None
    assert actual.blank.isnan().flatten(1).any(1).tolist() == [True, False]


def test_posteriors_sum_to_labels_and_frames() -> None:
    frames, labels, durations = [9, 6], [3, 1], (0, 1, 2, 4)
    cells = random_cells(2, 9, 4, len(durations), torch.float32, scale=3.0)
    actual = tdt(cells, frames, labels, durations=durations, with_posteriors=True, backend="triton")
    assert actual.blank is not None and actual.label is not None and actual.durations is not None
    spent = (actual.durations.sum((1, 2)) * torch.tensor(durations, device=DEVICE)).sum(-1)
    torch.testing.assert_close(spent.cpu(), torch.tensor(frames).float())
    torch.testing.assert_close(actual.label.sum((1, 2)).cpu(), torch.tensor(labels).float())
    torch.testing.assert_close((actual.blank + actual.label)[:, 0, 0].cpu(), torch.ones(2))


def test_unsupported_inputs_run_in_torch() -> None:
    cells = random_cells(2, 5, 3, 2, torch.float64)
    actual = tdt(cells, [5, 4], [2, 1], durations=(0, 1), with_posteriors=True, backend="triton")
    assert actual.log_prob.dtype == torch.float64
    cells = random_cells(1, 12, 2, 2, torch.float32)
    actual = tdt(cells, [12], [1], durations=(1, 11), with_posteriors=True, backend="triton")
    plain = tdt(cells, [12], [1], durations=(1, 11), with_posteriors=True, backend="torch")
    torch.testing.assert_close(actual.log_prob, plain.log_prob)
    nothing = torch.empty(0, 4, 3, device=DEVICE)
    assert rnnt([nothing, nothing], [], [], with_posteriors=True, backend="triton").log_prob.shape == (0,)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 250, 60), (4, 300, 150), (2, 400, 300)])
def test_production_shapes_on_a_gpu(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    batch, size, most = shape
    frames = [size - 7 * b for b in range(batch)]
    labels = [most - 3 * b for b in range(batch)]
    durations = (0, 1, 2, 3, 4)
    cells = random_cells(batch, size, most + 1, len(durations), dtype, scale=3.0)
    compare(rnnt, cells[:2], frames, labels, label_ends=False)
    compare(rnnt, cells[:2], frames, labels, label_ends=True)
    compare(tdt, cells, frames, labels, durations=durations)
    wide = [*cells[:2], random_cells(batch, size, most + 1, 9, dtype)[2]]
    compare(tdt, wide, frames, labels, durations=tuple(range(9)))
