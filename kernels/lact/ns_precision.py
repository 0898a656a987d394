"""What 16 bits cost Newton-Schulz: `python -m maya.kernels.lact.ns_precision`.

Prints two tables in Markdown. The first has the relative error (Frobenius norm, against fp64) of the result
and of the gradient for single matrices. The second has the error of a whole LaCT call, whose q, k and v are
bf16, with Newton-Schulz in each dtype. CPU products in 16 bits have fp32 sums, as on a GPU.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from maya.kernels.lact import chunk_causal, initial, lact, update
from maya.kernels.lact.newton_schulz import backward, forward_with_history

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYERS = ((2, 2, 48, 96, 64), (1, 2, 96, 96, 64), (1, 1, 192, 192, 64), (1, 1, 192, 384, 128))
NAMES = ("output", "q", "k", "v", "rates", "w0", "w1", "w2")


def matrices() -> Iterator[tuple[str, Tensor]]:
    """Batches of 8 in fp64."""
    for rows, columns in ((64, 64), (192, 192), (192, 384), (512, 512)):
        yield f"Gaussian {rows} × {columns}", torch.randn(8, rows, columns, dtype=torch.float64)
    for digits in (2, 4, 6):
        sides = [torch.linalg.qr(torch.randn(8, n, 192, dtype=torch.float64))[0] for n in (192, 384)]
        values = torch.logspace(0, -digits, 192, dtype=torch.float64)
        yield f"192 × 384, condition 1e{digits}", (sides[0] * values) @ sides[1].mT
    tall, wide = (torch.randn(8, *shape, dtype=torch.float64) for shape in ((192, 32), (32, 384)))
    yield "192 × 384, rank 32", tall @ wide


def error(x: Tensor, exact: Tensor) -> float:
    return float((x.detach().double() - exact.detach()).norm() / exact.detach().norm())


def matrix_errors(x: Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Of the result and of the gradient."""
    grad = torch.randn_like(x)
    exact, history = forward_with_history(x, "muon5", torch.float64)
    of_exact = backward(grad, history, "muon5", torch.float64)
    result, history = forward_with_history(x.float(), "muon5", dtype)
    return error(result, exact), error(backward(grad.float(), history, "muon5", torch.float32), of_exact)


def layer_errors(batch: int, heads: int, channels: int, hidden: int, chunk: int) -> list[list[float]]:
    """Of the output and the gradients (`NAMES`), for each dtype; 500 frames."""
    frames = (batch, 500, heads)
    q, k, v = (torch.nn.functional.silu(torch.randn(*frames, channels)) for _ in range(3))
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    rates = 10 * torch.nn.functional.softplus(0.54 + 0.3 * torch.randn(*frames, 3))
    shapes = (hidden, channels), (channels, hidden), (hidden, channels)
    weights = [torch.randn(heads, *shape) / shape[1] ** 0.5 for shape in shapes]
    inputs, grad = [x.bfloat16() for x in (q, k, v)], torch.randn(*frames, channels).bfloat16()

    def run(dtype: torch.dtype, state: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        leaves += [x.to(state, copy=True).requires_grad_() for x in (rates, *weights)]
        w0, w1, w2 = leaves[4:]
        q, k, v, rate = leaves[:4]
        plan = chunk_causal(500, chunk)
        out, _ = lact(q, k, v, rate, initial(w0, w1, w2, batch), plan, orthogonalize="muon5", backend="torch")
        return [out, *torch.autograd.grad(out, leaves, grad.to(dtype))]

    exact, errors = run(torch.float64, torch.float64), []
    usual = update.newton_schulz_dtype
    for dtype in DTYPES:
        update.newton_schulz_dtype = lambda k, state, dtype=dtype: dtype  # type: ignore[misc]
        results = run(torch.bfloat16, torch.float32)
        errors.append([error(x, y) for x, y in zip(results, exact, strict=True)])
    update.newton_schulz_dtype = usual
    return errors


def main() -> None:
    torch.manual_seed(0)
    print("| matrix | fp32: result, gradient | bf16 | fp16 |\n|---|---|---|---|")
    for name, x in matrices():
        cells = [", ".join(f"{e:.1e}" for e in matrix_errors(x, dtype)) for dtype in DTYPES]
        print("|", " | ".join([name, *cells]), "|")
    print(f"\n| D, Dh, chunk | dtype | {' | '.join(NAMES)} |\n|{'---|' * (2 + len(NAMES))}")
    for sizes in LAYERS:
        for dtype, errors in zip(DTYPES, layer_errors(*sizes), strict=True):
            shape = ", ".join(map(str, sizes[2:]))
            print("|", " | ".join([shape, str(dtype)[6:], *(f"{e:.3f}" for e in errors)]), "|")


if __name__ == "__main__":
    main()
