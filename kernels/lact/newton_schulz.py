"""Newton-Schulz orthogonalisation: the nearest matrix with all singular values near 1, by products alone.

Five steps of X <- a X + b (X X^T) X + c (X X^T)^2 X, odd polynomials of the singular values, from X / |X|_F
(Jordan et al. 2024, Muon). README.md measures for which matrices five steps are enough.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-7
TINY = 1e-37  # keeps 0 / 0 at 0
# As published with LaCT (Zhang et al. 2025, arXiv 2505.23884): different steps, or five times Muon's.
COEFFICIENTS = {
    "muon5": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "muon5-constant": ((3.4445, -4.7750, 2.0315),) * 5,
}


def newton_schulz(x: Tensor, kind: str = "muon5") -> Tensor:
    """x (..., M, N), each matrix on its own, orthogonalised in the dtype of x; a zero matrix stays zero.

    kind: a key of `COEFFICIENTS`.
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + EPS)
    for a, b, c in COEFFICIENTS[kind]:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


@dataclass(slots=True)
class Iterate:
    """X before a step, with A = X X^T and P = a + b A + c A^2, (N, M, K) and (N, M, M)."""

    x: Tensor
    gram: Tensor
    polynomial: Tensor


@dataclass(slots=True)
class History:
    """What `backward` needs: the norms of the matrices, (N, 1, 1), and X before each step."""

    norm: Tensor
    steps: list[Iterate]


def forward_with_history(x: Tensor, kind: str, dtype: torch.dtype) -> tuple[Tensor, History]:
    """`newton_schulz` of wide matrices (N, M, K), M <= K. Products and the result are in `dtype`."""
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    history = History(norm, [])
    x = torch.div(x, norm + EPS, out=torch.empty_like(x, dtype=dtype))
    for a, b, c in COEFFICIENTS[kind]:
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        history.steps.append(Iterate(x, gram, polynomial))
        x = torch.bmm(polynomial, x)
    return x, history


def backward(grad: Tensor, history: History, kind: str, dtype: torch.dtype) -> Tensor:
    """Gradient of x in `dtype`, from the gradient of the result.

    With A = X X^T, P = a + b A + c A^2 and Y = P X: dA = b F + c (F A + A F) where F = dY X^T + X dY^T is
    twice the symmetric part, and dX = P dY + dA X. F and A are symmetric, so dA = S + S^T with
    S = b F / 2 + c F A. All of this is linear in the gradient, so it starts from one of norm 1, which fits
    into fp16 whatever the scale of the loss.
    """
    norm, start = history.norm, history.steps[0].x
    size = torch.linalg.matrix_norm(grad, keepdim=True).clamp(min=TINY)
    grad = torch.div(grad, size, out=torch.empty_like(grad, dtype=start.dtype))
    for step, (_, b, c) in zip(reversed(history.steps), reversed(COEFFICIENTS[kind]), strict=True):
        half = torch.bmm(grad, step.x.mT)
        f = half + half.mT
        half = torch.baddbmm(f, f, step.gram, beta=b / 2, alpha=c)
        grad = torch.bmm(step.polynomial, grad).baddbmm_(half + half.mT, step.x)
    dot = (grad * start).sum((-2, -1), keepdim=True, dtype=norm.dtype)
    radial = dot * (norm + EPS) / norm.clamp(min=TINY)
    grad = torch.addcmul(grad, start, radial.to(grad.dtype), value=-1)
    return torch.mul(grad, size / (norm + EPS), out=torch.empty_like(grad, dtype=dtype))
