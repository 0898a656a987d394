"""Newton-Schulz orthogonalisation: the nearest matrix with all singular values near 1, by products alone.

Five steps of X <- a X + b (X X^T) X + c (X X^T)^2 X, odd polynomials of the singular values, from X / |X|_F
(Jordan et al. 2024, Muon). README.md measures for which matrices five steps are enough.
"""

import torch
from torch import Tensor

EPS = 1e-7
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


def forward_with_history(x: Tensor, kind: str) -> tuple[Tensor, list[Tensor]]:
    """`newton_schulz` of wide matrices (N, M, K), M <= K, and the iterates, x first, for `backward`."""
    steps = [x, x / (torch.linalg.matrix_norm(x, keepdim=True) + EPS)]
    for a, b, c in COEFFICIENTS[kind]:
        x = steps[-1]
        gram = torch.bmm(x, x.mT)
        steps.append(torch.baddbmm(x, _polynomial(gram, b, c), x, beta=a))
    return steps.pop(), steps


def backward(grad: Tensor, steps: list[Tensor], kind: str) -> Tensor:
    """Gradient of x, from the gradient of the result.

    With A = X X^T, P = b A + c A^2 and Y = a X + P X: dA = b F + c (F A + A F) where F = dY X^T + X dY^T is
    twice the symmetric part, and dX = a dY + P dY + dA X.
    """
    for x, (a, b, c) in zip(reversed(steps[1:]), reversed(COEFFICIENTS[kind]), strict=True):
        gram = torch.bmm(x, x.mT)
        half = torch.bmm(grad, x.mT)
        f = half + half.mT
        f_gram = torch.bmm(f, gram)
        dgram = f.mul_(b).add_(f_gram + f_gram.mT, alpha=c)
        dx = torch.baddbmm(grad, _polynomial(gram, b, c), grad, beta=a)
        grad = torch.baddbmm(dx, dgram, x)
    x = steps[0]
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    radial = (grad * x).sum((-2, -1), keepdim=True) / (norm + EPS)
    radial /= norm.clamp(min=torch.finfo(norm.dtype).tiny)
    return (grad - radial * x) / (norm + EPS)


def _polynomial(gram: Tensor, b: float, c: float) -> Tensor:
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
