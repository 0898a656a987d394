"""Small kernels that the compile gate must refuse; test_compile_gate.py runs this file in another process.

    python -m tests.kernels.failing_kernels

Prints JSON: for each kernel the kinds of problems that the gate sees in it.
"""

# Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"

import json
import tempfile

import torch
import triton
import triton.language as tl

from maya.kernels.compile_gate import examine
from maya.kernels.gate.cases import GateCase
from maya.kernels.gate.pretence import pretended


@triton.jit
def spilling_kernel(x, out, N, BN: tl.constexpr):
    """Holds 128 numbers a thread at the same time; the launch allows 32 registers."""
    o_n = tl.arange(0, BN)
    b_x = tl.load(x + o_n)
    b_sum = tl.zeros((BN,), tl.float32)
    for i_n in range(N):
        b_sum += b_x * tl.load(x + i_n * BN + o_n)
    tl.store(out + o_n, b_sum * b_x)


@triton.jit
def narrow_store_kernel(x, out, V, BR: tl.constexpr, BV: tl.constexpr):
    """Rows of odd length: a mask that changes between the columns of a vector."""
    o_v = tl.arange(0, BV)
    o = tl.arange(0, BR)[:, None] * BV + o_v[None, :]
    tl.store(out + o, tl.load(x + o), mask=(o_v < V)[None, :])


@triton.jit
def transposing_kernel(x, N: tl.constexpr):
    """Reads by rows and writes by columns, in place."""
    o_n = tl.arange(0, N)
    b_x = tl.load(x + o_n[:, None] * N + o_n[None, :])
    tl.store(x + o_n[None, :] * N + o_n[:, None], b_x)


@triton.jit
def product_kernel(
    a, b, out, H, MOST, N: tl.constexpr, BH: tl.constexpr, CLAMPED: tl.constexpr, PRECISION: tl.constexpr
):
    """CLAMPED: the columns are addressed by a minimum, which destroys their contiguity."""
    o_n, o_h = tl.arange(0, N), tl.arange(0, BH)
    o_column = tl.minimum(o_n, MOST) if CLAMPED else o_n
    b_x = tl.zeros((N, N), tl.float32)
    for i_h in range(0, H, BH):
        b_a = tl.load(a + o_n[:, None] * H + i_h + o_h[None, :])
        b_b = tl.load(b + (i_h + o_h)[:, None] * N + o_column[None, :])
        b_x = tl.dot(b_a, b_b, b_x, input_precision=PRECISION)
    tl.store(out + o_n[:, None] * N + o_n[None, :], b_x)


@triton.jit
def crowded_kernel(a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q):
    tl.store(a, tl.load(b) + tl.load(c) + tl.load(d) + tl.load(e) + tl.load(f) + tl.load(g) + tl.load(h))
    tl.store(i, tl.load(j) + tl.load(k) + tl.load(m) + tl.load(n) + tl.load(o) + tl.load(p) + tl.load(q))


def zeros(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(1 << 20, dtype=dtype, device="cuda")


def product(dtype: torch.dtype, *, clamped: bool = False, precision: str = "ieee", stages: int = 3) -> None:
    a, b, out = zeros(dtype), zeros(dtype), zeros()
    options = {"num_warps": 8, "num_stages": stages}
    product_kernel[(1,)](a, b, out, 512, 100, N=128, BH=64, CLAMPED=clamped, PRECISION=precision, **options)


def in_bf16() -> tuple[torch.Tensor, torch.Tensor]:
    return zeros(torch.bfloat16), zeros(torch.bfloat16)


CASES = [
    GateCase("spills", lambda: spilling_kernel[(1,)](zeros(), zeros(), 9, BN=8192, num_warps=4, maxnreg=32)),
    GateCase("16-bit stores", lambda: narrow_store_kernel[(1,)](*in_bf16(), 33, BR=64, BV=64)),
    GateCase("two layouts", lambda: transposing_kernel[(1,)](zeros(), N=64)),
    GateCase("good product", lambda: product(torch.bfloat16)),
    GateCase("waiting loads", lambda: product(torch.bfloat16, clamped=True)),
    GateCase("no tensor cores", lambda: product(torch.float32)),
    GateCase("rounded", lambda: product(torch.float32, precision="tf32"), exact=True),
    GateCase("too much shared memory", lambda: product(torch.float32, precision="tf32", stages=4)),
    GateCase("arguments", lambda: crowded_kernel[(1,)](*(zeros() for _ in range(16)))),
]


def main() -> None:
    kinds = {}
    with tempfile.TemporaryDirectory() as cache, triton.knobs.cache.scope():
        triton.knobs.cache.dir = cache
        with pretended(90) as launches:
            for case in CASES:
                first = len(launches)
                case.run()
                rows = list(examine(case, launches[first:], 90))
                kinds[case.name] = sorted({p.kind for row in rows for p, _ in row.problems})
    print(json.dumps(kinds))


if __name__ == "__main__":
    main()
