"""CTC in Triton against torch in fp64: in the interpreter without a GPU, compiled with one."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maya.losses import ctc_loss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# With a GPU, `make gpu-check` runs all tests of this file, compiled.
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
INF, EPS = float("inf"), torch.finfo(torch.float32).eps


def both(logits: Tensor, targets: Tensor, frames: list[int], labels: list[int], blank: int) -> None:
    """Losses and gradients of Triton and of torch in fp64, with another incoming gradient for each row."""
    lens = torch.tensor(frames), torch.tensor(labels)
    weights = torch.linspace(0.5, 2.0, len(frames), device=DEVICE)
    results = []
    for backend, dtype in (("triton", torch.float32), ("torch", torch.float64)):
        x = logits.to(DEVICE, dtype).requires_grad_()
        loss = ctc_loss(x, targets.to(DEVICE), *lens, blank=blank, backend=backend)
        assert loss.dtype == dtype
        (grad,) = torch.autograd.grad(loss, x, weights.to(dtype))
        results.append((loss.double(), grad.double()))
    (loss, grad), (exact_loss, exact_grad) = results
    # A frame adds a rounding of its log probability, a logarithm and an exponential.
    torch.testing.assert_close(loss, exact_loss, rtol=4 * EPS, atol=4 * EPS * max(frames))
    torch.testing.assert_close(grad, exact_grad, rtol=0, atol=2 * 4 * EPS * max(frames))


def test_lengths_of_all_kinds_and_repeated_labels() -> None:
    frames, labels = [9, 7, 5, 1, 1, 2, 9, 3], [4, 4, 0, 1, 0, 2, 1, 2]
    targets = torch.randint(1, 6, (8, 5))
    targets[0], targets[5, 1] = torch.tensor([3, 3, 3, 2, 1]), targets[5, 0] % 5 + 1
    targets[1, :4], targets[7, :2] = torch.tensor([2, 2, 1, 1]), torch.tensor([4, 4])
    both(3 * torch.randn(8, 10, 6), targets, frames, labels, blank=0)


@pytest.mark.parametrize("columns", [31, 32, 33, 130])
def test_sizes_around_a_block(columns: int) -> None:
    size, labels = 2 * columns, columns - 1
    targets = torch.randint(39, (2, labels))
    both(torch.randn(2, size, 40), targets, [size, size - 3], [labels, labels // 2], blank=39)


def test_rows_without_an_alignment_are_infinite_with_zero_gradient() -> None:
    """Too few frames; a repeat that needs one more; no frames; a label of probability 0; a good row."""
    logits = torch.randn(5, 4, 5, device=DEVICE, requires_grad=True)
    barred = torch.zeros(5, 4, 5, device=DEVICE)
    barred[3, :, 2] = -INF
    targets = torch.tensor([[1, 2, 3], [1, 1, 0], [0, 0, 0], [2, 0, 0], [1, 2, 0]])
    lens = torch.tensor([2, 2, 0, 4, 4]), torch.tensor([3, 2, 0, 1, 2])
    loss = ctc_loss(logits + barred, targets, *lens, blank=4, backend="triton")
    assert loss.isinf().tolist() == [True, True, True, True, False] and (loss > 0).all()
    loss.backward(torch.tensor([INF, float("nan"), INF, 1.0, 1.0], device=DEVICE))
    assert logits.grad is not None and not logits.grad[:4].any()
    assert logits.grad[4].isfinite().all() and logits.grad[4].abs().max() > 0


def test_nan_comes_through_and_padding_is_never_read() -> None:
    logits, targets = torch.randn(3, 6, 5), torch.tensor([[1, 2, 3], [2, -1, 99], [1, 0, 0]])
    lens = torch.tensor([6, 4, 6]), torch.tensor([3, 1, 1])
    logits[1, 4:], logits[2, 3] = float("nan"), float("nan")
    logits = logits.to(DEVICE).requires_grad_()
    loss = ctc_loss(logits, targets, *lens, blank=4, backend="triton")
    loss.sum().backward()
    assert loss.isnan().tolist() == [False, False, True]
    assert logits.grad is not None and not logits.grad[1, 4:].any() and logits.grad[:2].isfinite().all()
    assert logits.grad[2].isnan().any()


def test_two_runs_agree_bit_for_bit() -> None:
    logits, targets = torch.randn(4, 60, 9, device=DEVICE), torch.randint(8, (4, 20), device=DEVICE)
    lens, grads = (torch.tensor([60, 55, 60, 41]), torch.tensor([20, 20, 9, 20])), []
    for _ in range(3):
        x = logits.clone().requires_grad_()
        grads += torch.autograd.grad(ctc_loss(x, targets, *lens, blank=8, backend="triton").sum(), x)
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])


def test_long_texts_and_fp64_are_left_to_torch() -> None:
    logits, targets = torch.randn(1, 1100, 4), torch.arange(1050)[None] % 3
    lens = torch.tensor([1100]), torch.tensor([1050])
    expected = F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, *lens, blank=3, reduction="none")
    loss = ctc_loss(logits.to(DEVICE), targets, *lens, blank=3, backend="triton")
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-5, atol=1e-4)
