"""Compiles the launches of the Triton forms, without a device.

    python -m tests.kernels.compile_launches 90

The compile gate states the types of each launch by hand. Here the forms themselves run on CPU tensors, with a
driver that has a target but no device, so arguments, specialisation and dtypes are those of production. The
values of the tensors do not matter.
"""

import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from maya.kernels import checks
from maya.kernels.compile_gate import kernels
from maya.kernels.joint import (
    ALL_NEEDED,
    JointSettings,
    OutputLayer,
    RowGradients,
    cublas,
    kernel,
    packed_rows,
    visited_first,
)
from maya.kernels.lact import FastWeights, chunk_causal, initial, lact
from maya.kernels.lact import kernel as lact_kernel
from maya.kernels.lattice.kernel import rnnt_lattice_triton, tdt_lattice_triton


class TargetAlone:
    """A driver with a target for the compiler, and no device."""

    def __init__(self, target: int) -> None:
        self.target = GPUTarget("cuda", target, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def launch_joint(
    batch: int, size: int, labels: int, hidden: int, vocab: int, dtype: torch.dtype, full: bool
) -> None:
    layer = OutputLayer(torch.zeros(vocab, hidden, dtype=dtype))
    if full:
        layer = OutputLayer(
            layer.weight, torch.zeros(vocab), torch.zeros(5, hidden, dtype=dtype), torch.zeros(5)
        )
    f, g = (torch.zeros(batch * n, hidden, dtype=dtype) for n in (size, labels + 1))
    targets = torch.ones(batch, labels, dtype=torch.int64)
    rows = packed_rows(checks.Transcripts(targets, [size] * batch, [labels] * batch, 0), size)
    settings = JointSettings(0, "tanh" if full else "relu", 0.1 if full else 0.0, seed=1)
    kernel.joint_scores_triton(f, g, layer, rows, settings)
    zeros = torch.zeros(len(rows))
    row_grads = RowGradients(
        torch.zeros(len(rows), 2), zeros, zeros, torch.zeros(len(rows), 5) if full else None
    )
    kernel.joint_gradients_triton(f, g, layer, rows, row_grads, settings, ALL_NEEDED)
    if full:
        _, counted = visited_first(rows, zeros == 0)
        kernel.joint_gradients_triton(f, g, layer, counted, row_grads, settings, ALL_NEEDED)
        cublas.joint_scores_cublas(f, g, layer, rows, settings)
        cublas.joint_gradients_cublas(f, g, layer, rows, row_grads, settings, ALL_NEEDED)


def launch_lattices(batch: int, size: int, labels: int) -> None:
    cells, lens = torch.zeros(batch, size, labels + 1), ([size] * batch, [labels] * batch)
    for label_ends in (False, True):
        rnnt_lattice_triton(cells, cells, *lens, with_posteriors=True, label_ends=label_ends)
    for durations in ((0, 1, 2, 3, 4), (1, 2)):
        scores = torch.zeros(*cells.shape, len(durations))
        tdt_lattice_triton(cells, cells, scores, *lens, durations=durations, with_posteriors=True)


def launch_lact(dtype: torch.dtype, update_weights: str, lens: torch.Tensor | None) -> None:
    q, k, v = (torch.zeros(2, 5, 2, 48, dtype=dtype, requires_grad=True) for _ in range(3))
    weights: FastWeights = initial(torch.zeros(2, 64, 48), torch.zeros(2, 48, 64), torch.zeros(2, 64, 48), 2)
    scale = None if lens is None else torch.zeros(2)
    out, _ = lact(
        q, k, v, torch.zeros(2, 5, 2, 3), weights, chunk_causal(5, 3), lens=lens, step_scale=scale,
        update_weights=update_weights, backend="triton",
    )  # fmt: skip
    out.sum().backward()


def main(target: int) -> None:
    compiled, run = set(), JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled.add(self.fn.__name__)
        return run(self, *args, grid=grid, warmup=True, **options)

    driver.set_active(TargetAlone(target))
    JITFunction.run = compile_only
    kernel.tiles_for = lambda dtype, device: kernel.TILES[target // 10, dtype.itemsize]
    key = target // 10
    kernel.product_tiles_for = lambda dtype, device: kernel.PRODUCT_TILES[key, dtype.itemsize]
    kernel.gradient_registers_for = lambda dtype, device: kernel.GRADIENT_REGISTERS.get((key, dtype.itemsize))
    cublas.CublasJoint._block = lambda self: cublas.ROW_BLOCK
    kernel.concurrent_programs = lambda device: 264
    checks._check_triton = lambda op, sample: None
    lact_kernel.tiles_for = lambda products, x: lact_kernel.TILES[products, x.dtype.itemsize]
    with tempfile.TemporaryDirectory() as cache:
        triton.knobs.cache.dir = cache
        launch_joint(2, 20, 5, 640, 32769, torch.float16, full=True)
        launch_joint(1, 1, 0, 40, 33, torch.float32, full=False)  # Triton turns sizes of 1 into constants
        launch_lattices(2, 20, 5)
        launch_lattices(1, 1, 0)
        launch_lact(torch.float16, "all", None)
        launch_lact(torch.float32, "all", torch.tensor([5, 2]))
        launch_lact(torch.float16, "w1", torch.tensor([5, 2]))
    assert compiled == kernels(), kernels() - compiled
    print("compile_launches: passed")


if __name__ == "__main__":
    main(int(sys.argv[1]))
