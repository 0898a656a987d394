"""The weak cells of the simple pruned loss in Triton, against torch: in the interpreter without a GPU."""

import pytest
import torch
from torch import Tensor

from maya.kernels.pruned_rnnt import simple_rnnt_loss
from maya.kernels.pruned_rnnt.weak import ListedCells, MaskedCells, find_weak
from tests.kernels.pruned_cases import BLANK, problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# With a GPU, `make gpu-check` runs all tests of this file, compiled.
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []


def logits(vocab: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """am (2, 5, V), lm (2, 4, V), and a mask of cells."""
    am, lm = (5 * torch.randn(2, n, vocab, device=DEVICE).to(dtype) for n in (5, 4))
    return am, lm, torch.rand(2, 5, 4, device=DEVICE) < 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("vocab", [3, 1030])
def test_norms_and_gradients_of_cells_equal_those_of_torch(vocab: int, dtype: torch.dtype) -> None:
    am, lm, small = logits(vocab, dtype)
    listed, masked = (find_weak(am, lm, small, backend) for backend in ("torch", "triton"))
    assert isinstance(listed, ListedCells) and isinstance(masked, MaskedCells)
    # Each adds `vocab` terms in fp32, torch pairwise and a program in blocks.
    torch.testing.assert_close(masked.norm[small], listed.norm, rtol=1e-6, atol=1e-6)
    peaks = torch.rand(2, 5, device=DEVICE), torch.rand(2, 4, device=DEVICE)
    norm, mass = torch.rand(2, 2, 5, 4, device=DEVICE)
    mass[0, 0] = 0.0
    placed = [cells.put_norms(norm.clone(), *peaks) for cells in (listed, masked)]
    torch.testing.assert_close(placed[1], placed[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(masked.cleared(norm.clone()), listed.cleared(norm.clone()))
    starts = torch.rand(2, 5, vocab, device=DEVICE), torch.rand(2, 4, vocab, device=DEVICE)
    grads = []
    for cells in (listed, masked):
        sums = [x.clone() for x in starts]
        cells.add_gradients(am, lm, mass, sums[0], sums[1])
        grads.append(sums)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-6)


def test_cells_without_a_possible_token_have_norm_minus_infinity() -> None:
    am, lm, small = logits(7)
    am[0, 0], am[0, 1, :3] = -torch.inf, -torch.inf
    norm = find_weak(am, lm, small | True, "triton").tensors[1]
    expected = torch.logsumexp(am[:, :, None] + lm[:, None], -1)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=1e-6)


def test_two_runs_agree_bit_for_bit() -> None:
    """Texts that repeat tokens, all terms of the smoothing, and cells that underflow."""
    am, lm, targets, *lens = problem([9, 8], [6, 5], vocab=4, dtype=torch.float32)
    am[0, :, 0] += 200.0
    lm[0, :, 1] += 200.0
    grads = []
    for _ in range(3):
        leaves = [x.to(DEVICE).requires_grad_() for x in (am.clone(), lm.clone())]
        loss = simple_rnnt_loss(
            *leaves, targets.to(DEVICE), *lens, blank=BLANK, lm_only_scale=0.2, am_only_scale=0.1,
            backend="triton",
        )[0]  # fmt: skip
        grads.append(torch.autograd.grad(loss.sum(), leaves))
    for x, y, z in zip(*grads, strict=True):
        assert torch.equal(x, y) and torch.equal(x, z)


def test_the_loss_of_peaked_logits_equals_that_in_fp64() -> None:
    """Peaks 200 nats apart: fp32 exponentials of every cell underflow."""
    am, lm, targets, *lens = problem([5, 4], [3, 2], dtype=torch.float32)
    am[..., 0] += 200.0
    lm[..., 1] += 200.0
    am, lm, targets = (x.to(DEVICE) for x in (am, lm, targets))

    def run(wide: torch.dtype, backend: str) -> tuple[Tensor, ...]:
        leaves = [x.to(wide).requires_grad_() for x in (am, lm)]
        loss, px, py = simple_rnnt_loss(*leaves, targets, *lens, blank=BLANK, backend=backend)
        return loss, px, py, *torch.autograd.grad(loss.sum(), leaves)

    exact = [x.float() for x in run(torch.float64, "torch")]
    # 1e-6 of a loss of 1000 nats is what fp32 logits of 200 can show.
    torch.testing.assert_close(list(run(torch.float32, "triton")), exact, rtol=1e-5, atol=1e-4)
