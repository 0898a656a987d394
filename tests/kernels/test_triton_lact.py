"""LaCT's Triton parts against torch's in fp64: in the interpreter without a GPU, compiled with one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from maya.kernels.lact import chunk_causal
from maya.kernels.lact.kernel import TritonOps
from maya.kernels.lact.torch_op import TorchOps
from tests.kernels.lact_cases import ORDERS, problem

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
            inputs = [x.clone() for x in (*saved, of_both, of_hidden, rates)]
            actual += ops.second_order(saved, of_both, of_hidden, rates, share)
            if isinstance(ops, TritonOps):  # writes in place would need one layout of loads and stores
                same = zip((*saved, of_both, of_hidden, rates), inputs, strict=True)
                assert all(torch.equal(x, before) for x, before in same)
        results.append(actual)
    check(*results)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(24,), (3,), ()], ids=str)
@pytest.mark.parametrize("masked", [True, False])
def test_gather(dtype: torch.dtype, shape: tuple[int, ...], masked: bool) -> None:
    x = make(2, 70, 3, *shape, dtype=dtype)
    mask = torch.arange(70, device=DEVICE) < torch.tensor([[70], [41]], device=DEVICE) if masked else None
    x[1, 41:] = float("nan") if masked else 0.0
    for given in (x, x.transpose(1, 2).contiguous().transpose(1, 2), x.expand(4, 2, *x.shape[1:])[2]):
        assert torch.equal(TritonOps().gather(given, mask), TorchOps().gather(given, mask))
    part = slice(5, 60)
    expected = TorchOps().gather(x[:, part], None if mask is None else mask[:, part])
    assert torch.equal(TritonOps().gather(x[:, part], None if mask is None else mask[:, part]), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spans_of_longer_tensors_equal_copies(dtype: torch.dtype) -> None:
    ops, at = TritonOps(), slice(4, 4 + FRAMES)
    x, y = (make(N, 30, CHANNELS, dtype=dtype) for _ in range(2))
    up, down = make(N, 2 * HIDDEN, CHANNELS, dtype=dtype), make(N, CHANNELS, HIDDEN, dtype=dtype)
    rates, share = make(N, 30, 3, dtype=torch.float32), make(N, dtype=torch.float32)
    assert torch.equal(ops.swiglu(x[:, at], up), ops.swiglu(x[:, at].contiguous(), up))
    results = []
    for cut in (lambda z: z[:, at], lambda z: z[:, at].contiguous()):
        halves, hidden, saved = ops.terms(cut(x), cut(y), up, down, cut(rates), share, keep=True)
        assert saved is not None
        dac, ddelta, drates = ops.second_order(saved, halves, hidden, cut(rates), share)
        results.append([halves, hidden, *saved, dac, ddelta, drates])
    mixed = ops.terms(x[:, at], y[:, at].contiguous(), up, down, rates[:, at], share)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(mixed[0], results[0][0]) and torch.equal(mixed[1], results[0][1])


def test_weights_that_utterances_share_equal_copies() -> None:
    w, step, grad = (make(n, 10, 270, dtype=torch.float32) for n in (2, 6, 6))
    norms, scale = make(6, 10, dtype=torch.float32).abs(), make(6, dtype=torch.float32)
    learned = torch.tensor([True, False, True, True, False, True], device=DEVICE)
    for ops in (TritonOps(), TorchOps()):
        shared, copied = (
            [*ops.add_renormalise(x, step, norms, scale, learned, torch.float16),
             *ops.add_renormalise_backward(grad, x, step, norms, scale, learned, torch.float16)]
            for x in (w, w.repeat(3, 1, 1))
        )  # fmt: skip
        for a, b in zip(shared, copied, strict=True):
            assert a is not None and b is not None and torch.equal(a, b)


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


OPTIONS = {
    "momentum": {"momentum": True, "scaled": True, "lens": [9, 4]},
    "muon": {"orthogonalize": "muon5"},
    "w1": {"update_weights": "w1", "scaled": True},
    "masked": {"lens": [9, 0], "normalize": "none"},
}


PAIRS = [("strictly causal", "momentum"), ("passes", "masked"), ("chunk causal", "muon"), ("whole", "masked")]


@pytest.mark.parametrize(("order", "options"), [*PAIRS, ("strictly causal", "w1"), ("passes", "w1")])
def test_operator_end_to_end(order: str, options: str) -> None:
    exact = problem(2, 9, 1, 6, 10, **OPTIONS[options])  # type: ignore[arg-type]
    given = exact.to(torch.float32, torch.float32, DEVICE)
    exact = given.to(torch.float64, torch.float64)
    plan = ORDERS[order](9)
    truth, of_truth = exact.gradients(plan, "reference")
    actual, grads = given.gradients(plan, "triton")
    plain, of_plain = given.to(torch.float32, torch.float32, DEVICE).gradients(plan, "torch")
    for x, y, z in zip(
        [*actual, *grads.values()], [*plain, *of_plain.values()], [*truth, *of_truth.values()], strict=True
    ):
        error, of_torch = (float((w.cpu().double() - z).norm()) for w in (x, y))
        assert error <= 3 * of_torch + 1e-5 * float(z.norm())


@pytest.mark.parametrize("dtype", [torch.float16, *DTYPES[2:]])
@pytest.mark.parametrize("orthogonalize", ["none", "muon5"])
def test_operator_in_16_bits(dtype: torch.dtype, orthogonalize: str) -> None:
    given = problem(2, 12, 1, 16, 24, lens=[12, 9], scaled=True, orthogonalize=orthogonalize)
    given = given.to(dtype, torch.float32, DEVICE)
    exact = given.to(torch.float64, torch.float64)
    plan = chunk_causal(12, 6)
    truth, of_truth = exact.gradients(plan, "reference")
    actual, grads = given.gradients(plan, "triton")
    plain, of_plain = given.to(dtype, torch.float32, DEVICE).gradients(plan, "torch")
    for x, y, z in zip(
        [*actual, *grads.values()], [*plain, *of_plain.values()], [*truth, *of_truth.values()], strict=True
    ):
        error, of_torch = (float((w.cpu().double() - z.cpu()).norm()) for w in (x, y))
        assert error <= 2 * of_torch + 4 * torch.finfo(dtype).eps * float(z.norm())
