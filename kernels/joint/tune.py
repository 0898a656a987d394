"""Times tiles for the products of the Triton joint on this machine's GPU.

    python -m maya.kernels.joint.tune

Nothing is tuned at run time, because batches differ in size from step to step and each would be tuned anew.
Run this on a GPU and write the tiles with the smallest sum into TILES of kernel.py. The kernels are compared
with cuBLAS, which writes the same logits; a product that writes nothing should be faster.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
import triton

from maya.kernels.bench.measure import seconds_of
from maya.kernels.joint import JointSettings, OutputLayer
from maya.kernels.joint.kernel import SMALL_TILES, JointKernels
from maya.kernels.triton_common import Tiles

# Rows, columns, depth, warps, stages.
CANDIDATES = tuple(Tiles(*row) for row in (
    (128, 128, 64, 4, 3), (128, 128, 64, 8, 3), (128, 128, 32, 8, 4), (128, 128, 64, 8, 4),
    (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 64, 64, 4, 4), (64, 128, 64, 4, 4), (64, 64, 32, 4, 3),
))  # fmt: skip
ROUNDS = 10


def tune(
    rows: int, hidden: int, vocab: int, dtype: torch.dtype, device: str, candidates: tuple[Tiles, ...]
) -> dict[str, dict[Tiles | str, float | str]]:
    """Median seconds of each candidate and of "cuBLAS" for each kernel, or the reason why it does not run."""
    h = torch.randn(rows, hidden, device=device).relu().to(dtype)
    weight = (torch.randn(vocab, hidden, device=device) / hidden**0.5).to(dtype)
    layer = OutputLayer(weight, torch.zeros(vocab, device=device))
    label = torch.ones(rows, dtype=torch.int64, device=device)
    norm, scores = torch.zeros(rows, 2, device=device), torch.zeros(2, rows, device=device)
    masses = torch.full((2, rows), 1e-2, device=device)
    bias_grad = torch.zeros(vocab, device=device)
    logits = torch.empty(rows, vocab, dtype=dtype, device=device)

    def product() -> None:
        torch.mm(h, weight.t(), out=logits)

    def score(joint: JointKernels) -> None:
        joint.score(h, label, norm, *scores)

    def gradient(joint: JointKernels) -> None:
        joint.logit_gradient(h, label, [norm, *masses], bias_grad)

    times: dict[str, dict[Tiles | str, float | str]] = {}
    for name, run in (("norm", score), ("logit_gradient", gradient)):
        times[name] = {"cuBLAS": _median(product, device)}
        for tiles in candidates:
            if hidden % tiles.depth:
                continue
            joint = JointKernels(h, h, layer, JointSettings(blank=0), tiles)
            times[name][tiles] = _median(partial(run, joint), device)
    return times


def _median(run: Callable[[], object], device: str) -> float | str:
    try:
        run()  # compiles
        return statistics.median(seconds_of(run, device) for _ in range(ROUNDS))
    except triton.runtime.errors.OutOfResources as error:
        return str(error)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m maya.kernels.joint.tune", description=__doc__
    )
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--hidden", type=int, default=640)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--dry-run", action="store_true", help="small shapes in the interpreter, on the CPU")
    options = parser.parse_args(arguments)
    sizes = (options.rows, options.hidden, options.vocab)
    dtype, device, candidates = getattr(torch, options.dtype), "cuda", CANDIDATES
    if options.dry_run:
        sizes, dtype, device, candidates = (64, 32, 65), torch.float32, "cpu", (SMALL_TILES,)
    elif not torch.cuda.is_available():
        print("tune: no CUDA device, so nothing was timed")
        return 1
    where = "the interpreter" if options.dry_run else torch.cuda.get_device_name()
    print(f"{where}, R={sizes[0]} H={sizes[1]} V={sizes[2]} {dtype}")
    for name, times in tune(*sizes, dtype, device, candidates).items():
        for what, seconds in times.items():
            if isinstance(seconds, str):
                print(f"{name:15} {what}: {seconds}")
                continue
            rate = 2e-12 * sizes[0] * sizes[1] * sizes[2] / seconds
            print(f"{name:15} {1e3 * seconds:8.3f} ms {rate:7.1f} TFLOP/s  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
