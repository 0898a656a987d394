"""LaCT's Triton parts against torch's in fp64: in the interpreter without a GPU, compiled with one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from maya.kernels.lact import chunk_causal, strictly_causal
from maya.kernels.lact.kernel import TritonOps
from maya.kernels.lact.torch_op import TorchOps
from tests.kernels.lact_cases import problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE == "cuda" else [])
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
N, FRAMES, CHANNELS, HIDDEN = 2, 19, 24, 37  # no multiples of a tile


@pytest.fixture(autouse=True)
def _empty_is_nan() -> Iterator[None]:
    """torch.empty fills its tensors with nan, so that elements which a kernel does not write are detected."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def make(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape) * scale).to(DEVICE, dtype)


def check(actual: list[Tensor | None], plain: list[Tensor | None], exact: list[Tensor | None]) -> None:
    """An output errs at most twice what torch errs in the same precision, or a few roundings."""
    for x, of_torch, truth in zip(actual, plain, exact, strict=True):
        assert (x is None) == (truth is None)
        if x is None or of_torch is None or truth is None:
            continue
        assert x.shape == truth.shape and x.dtype == of_torch.dtype
        error, allowed = (float((y.double() - truth).norm()) for y in (x, of_torch))
        assert error <= 2 * allowed + 8 * torch.finfo(torch.float32).eps * float(truth.norm())


def double(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.double() if x.is_floating_point() else x for x in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype: torch.dtype) -> None:
    given = [make(N, FRAMES, CHANNELS, dtype=dtype), make(N, 2 * HIDDEN, CHANNELS, dtype=dtype, scale=0.2)]
    actual = [
        [ops.swiglu(*x)]
        for ops, x in ((TritonOps(), given), (TorchOps(), given), (TorchOps(), double(*given)))
    ]
    check(*actual)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rated", [True, False])
def test_terms_and_second_order(dtype: torch.dtype, rated: bool) -> None:
    given = [
        make(N, FRAMES, CHANNELS, dtype=dtype),
        make(N, FRAMES, CHANNELS, dtype=dtype),
        make(N, 2 * HIDDEN, CHANNELS, dtype=dtype, scale=0.2),
        make(N, CHANNELS, HIDDEN, dtype=dtype, scale=0.2),
        make(N, FRAMES, 3, dtype=torch.float32).abs() if rated else None,
    ]
    given_share = make(N, dtype=torch.float32).abs() if rated else None
    grads = make(N, FRAMES, 2 * HIDDEN, dtype=dtype), make(N, FRAMES, HIDDEN, dtype=dtype)
    results = []
    for ops, wide in ((TritonOps(), False), (TorchOps(), False), (TorchOps(), True)):
        x = double(*given) if wide else given
        share = double(given_share)[0] if wide and rated else given_share
        halves, hidden, saved = ops.terms(*x, share, keep=rated)  # type: ignore[arg-type]
        actual = [halves, hidden, *(saved or ())]
        if rated:
            rates = x[4]
            assert rates is not None
            of_both, of_hidden = (g.double() if wide else g.clone() for g in grads)
            assert saved is not None
            actual += ops.second_order(saved, of_both, of_hidden, rates, share)
        results.append(actual)
    check(*results)  # type: ignore[arg-type]


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_sum_with_renormalised_rows(scaled: bool, masked: bool) -> None:
    w, step = (make(3, 10, 270, dtype=torch.float32) for _ in range(2))
    w[0, 1], step[0, 1] = 0.0, 0.0  # a row without a direction
    norms = make(3, 10, dtype=torch.float32).abs()
    scale = make(3, dtype=torch.float32) if scaled else None
    learned = torch.tensor([True, False, True], device=DEVICE) if masked else None
    grad = make(3, 10, 270, dtype=torch.float32)
    results = []
    for ops, wide in ((TritonOps(), False), (TorchOps(), False), (TorchOps(), True)):
        x = [w, step, norms, scale, learned]
        x, g = (double(*x), grad.double()) if wide else (x, grad)
        low = torch.float64 if wide else torch.float16
        gradients = ops.add_renormalise_backward(g, *x, low)  # type: ignore[arg-type]
        results.append([*ops.add_renormalise(*x, low), *gradients])  # type: ignore[arg-type]
    if masked:
        assert torch.equal(results[0][0][1], w[1])
    check(*results)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": True, "scaled": True, "lens": [9, 4]},
        {"orthogonalize": "muon5"},
        {"update_weights": "w1", "scaled": True},
    ],
    ids=["momentum", "muon", "w1"],
)
def test_operator_end_to_end(options: dict[str, object]) -> None:
    exact = problem(2, 9, 1, 6, 10, **options)  # type: ignore[arg-type]
    given = exact.to(torch.float32, torch.float32, DEVICE)
    exact = given.to(torch.float64, torch.float64)
    plan = strictly_causal(9, 4) if "momentum" in options else chunk_causal(9, 4)
    truth, of_truth = exact.gradients(plan, "reference")
    actual, grads = given.gradients(plan, "triton")
    plain, of_plain = given.to(torch.float32, torch.float32, DEVICE).gradients(plan, "torch")
    for x, y, z in zip(
        [*actual, *grads.values()], [*plain, *of_plain.values()], [*truth, *of_truth.values()], strict=True
    ):
        error, of_torch = (float((w.cpu().double() - z).norm()) for w in (x, y))
        assert error <= 3 * of_torch + 1e-5 * float(z.norm())
