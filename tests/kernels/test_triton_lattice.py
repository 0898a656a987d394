"""The Triton lattices against the torch doors: in the interpreter without a GPU, compiled with one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
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


def roundings(n: int) -> float:
    """The relative error of n steps of some fp32 roundings each, which have no preferred sign."""
    return max(8.0, 2 * n**0.5) * EPS


def check(
    actual: LatticeResult, truth: LatticeResult, plain: LatticeResult, frames: list[int], labels: list[int]
) -> None:
    """`actual` errs at most twice what torch errs in fp32 (`plain`), or as the roundings of its steps add up.

    n = T + U steps. Let e = 2^-24, the relative error of a rounding in fp32.

    Roundings have no preferred sign. A step has a few, so they add up as their square root: 4 sqrt(n) e.

    The exponential has one: `ex2.approx` may err by d = 2^-22.5, relative. Shares are s and 1 - s, so no mass
    is lost. But odds that are too large by d move d s (1 - s) <= d/4 < e of a node's mass to the less likely
    arc. After n steps, the distribution over the nodes of a wavefront has moved by at most n e. That is 2e-5
    at T = 250, U = 60. (Sweeps that computed the shares again would also lose mass, and need n 2^-23.)

    log P is a sum of n logarithms of sums of such exponentials. A sum of a term of 1 and odds errs by less
    than d/2 + e < 2 e, its logarithm by about as much, and the result is rounded to fp32 once.

    What no path passes is exactly 0. fp32 ends at 1e-38, fp64 at 1e-308: posteriors below 1e-30 may be 0.
    """
    n = max(frames) + max(labels)
    error = roundings(n) + n * EPS / 2
    for name in NAMES:
        exact, of_torch, got = (getattr(x, name) for x in (truth, plain, actual))
        if exact is None:
            assert got is None
            continue
        assert got.dtype == torch.float32 and got.shape == exact.shape
        of_torch, got = of_torch.double(), got.double()
        if exact.dim() > 1:
            assert not got[exact == 0].any(), name
            assert got[exact > 1e-30].all(), name
        ends = exact.isinf()
        assert torch.equal(got.isinf(), ends), name
        of_torch, got, exact = (x.masked_fill(ends, 0.0) for x in (of_torch, got, exact))
        allowed = 2 * float((of_torch - exact).abs().max()) + error * max(1.0, float(exact.abs().max()))
        assert float((got - exact).abs().max()) <= allowed, name


def expected(
    lattice: Lattice, cells: list[Tensor], frames: list[int], labels: list[int], **rest: object
) -> list[LatticeResult]:
    """What torch computes from `cells` in fp64 and in fp32."""
    dtypes = (torch.float64, torch.float32)
    given = ([x.to(dtype) for x in cells] for dtype in dtypes)
    return [lattice(x, frames, labels, with_posteriors=True, backend="torch", **rest) for x in given]


def compare(
    lattice: Lattice, cells: list[Tensor], frames: list[int], labels: list[int], **rest: object
) -> None:
    bad = poisoned(cells, frames, labels)
    actual = lattice(bad, frames, labels, with_posteriors=True, backend="triton", **rest)
    check(actual, *expected(lattice, cells, frames, labels, **rest), frames, labels)
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


def test_wavefronts_of_more_than_a_warp() -> None:
    """64 columns are stored as 64, 71 as 80 of 128."""
    compare(rnnt, random_cells(1, 3, 64, 0, torch.float32), [3], [63], label_ends=False)
    compare(tdt, random_cells(1, 3, 71, 2, torch.float32), [3], [70], durations=(0, 1))


@pytest.mark.parametrize("arcs", [2, 9, 17])
def test_wavefronts_fit_into_a_program(arcs: int) -> None:
    from maya.kernels.lattice.kernel import MAX_COLUMNS, wavefront

    shapes = [wavefront(width, arcs) for width in range(1, MAX_COLUMNS // (2 if arcs > 9 else 1) + 1)]
    for width, x in enumerate(shapes, 1):
        assert width <= x.stride <= x.columns and x.stride % 16 == 0
        assert x.columns == 32 or x.columns < 2 * width  # a power of two
        assert x.stride <= max(64, 1.25 * width)
        assert all(32 * warps <= x.columns for warps in x.warps)
        assert (x.stages - 1) * arcs * 4 * x.columns <= 64 << 10 and (x.stages - 2) * arcs < 64
    assert len(set(shapes)) <= 18  # each is compiled


def test_log_probabilities_need_not_be_contiguous() -> None:
    cells = random_cells(5, 8, 5, 2, torch.float32)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in cells]
    straight, actual = (
        tdt(x, FRAMES, LABELS, durations=(0, 2), with_posteriors=True, backend="triton")
        for x in (cells, turned)
    )
    for name in NAMES:
        assert torch.equal(getattr(actual, name), getattr(straight, name))


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


CASES = [
    pytest.param(rnnt, 0, {"label_ends": False}, 250, 60, id="rnnt"),
    pytest.param(rnnt, 0, {"label_ends": True}, 250, 60, id="label ends"),
    pytest.param(tdt, 5, {"durations": (0, 1, 2, 3, 4)}, 50, 12, id="tdt"),
    pytest.param(tdt, 5, {"durations": (0, 1, 2, 3, 4)}, 250, 60, id="tdt long", marks=pytest.mark.slow),
    pytest.param(tdt, 9, {"durations": tuple(range(9))}, 300, 150, id="tdt wide", marks=pytest.mark.slow),
]


def hardware(monkeypatch: pytest.MonkeyPatch, bias: float) -> None:
    """Lets the interpreter compute as a GPU may: exponentials and divisions err by 2 ulp, logarithms by 1.

    The errors are random; those of exponentials and divisions have a mean of `bias`, relative.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    random = np.random.default_rng(0)

    def rough(x: np.ndarray, ulps: float, mean: float = 0.0) -> np.ndarray:
        error = mean + ulps * random.uniform(-EPS, EPS, x.shape)
        return (x * (1 + error)).astype(np.float32)

    def exp(self: InterpreterBuilder, x: TensorHandle) -> TensorHandle:
        return self.unary_op(x, lambda x: rough(np.exp(x), 2, bias))

    def log(self: InterpreterBuilder, x: TensorHandle) -> TensorHandle:
        return self.unary_op(x, lambda x: rough(np.log(x), 1))

    def divide(self: InterpreterBuilder, x: TensorHandle, y: TensorHandle) -> TensorHandle:
        return self.binary_op(x, y, lambda x, y: rough(x / y, 2, bias))

    for name, function in {"create_exp": exp, "create_log": log, "create_fdiv": divide}.items():
        monkeypatch.setattr(InterpreterBuilder, name, function)


@pytest.mark.skipif(DEVICE == "cuda", reason="changes the interpreter")
@pytest.mark.parametrize(("lattice", "durations", "rest", "size", "most"), CASES)
def test_the_errors_of_a_gpu_pass_and_a_wrong_cell_does_not(
    lattice: Lattice, durations: int, rest: dict, size: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, labels = [size], [most]
    cells = random_cells(1, size, most + 1, durations, torch.float32, scale=3.0)
    truth, plain = expected(lattice, cells, frames, labels, **rest)
    hardware(monkeypatch, bias=2.0**-22.5)
    actual = lattice(cells, frames, labels, with_posteriors=True, backend="triton", **rest)
    check(actual, truth, plain, frames, labels)
    assert actual.blank is not None and truth.blank is not None
    if size == 250:  # fp64 holds posteriors that fp32 does not; neither is an error
        assert ((truth.blank > 0) & (actual.blank == 0)).any()
    # Each path leaves the first cell once, and spends the frames.
    assert actual.label is not None
    assert (actual.blank + actual.label)[0, 0, 0].item() == pytest.approx(1.0, abs=roundings(size + most))
    occupied = int((truth.blank - 0.5).abs().argmin())
    empty = int((truth.blank == 0).flatten().nonzero()[0])
    rare = int((truth.blank - 1e-20).abs().argmin())
    for place, value in ((occupied, truth.blank.flatten()[occupied] + 1e-4), (empty, 1e-37), (rare, 0.0)):
        blank = actual.blank.clone()
        blank.view(-1)[place] = value
        with pytest.raises(AssertionError, match="blank"):
            check(replace(actual, blank=blank), truth, plain, frames, labels)


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
