"""Timing shared by the operators' bench programs: one line per form, forward and backward apart."""

import resource
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def time_loss(name: str, loss: Callable[[], Tensor], leaves: Sequence[Tensor], repeats: int) -> None:
    """Prints the best of `repeats` runs, in ms, and the process's peak resident memory so far, in MiB."""
    forward, backward = [], []
    for _ in range(repeats):
        for leaf in leaves:
            leaf.grad = None
        start = time.perf_counter()
        value = loss()
        middle = time.perf_counter()
        value.sum().backward()
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:22} forward {min(forward) * 1e3:8.1f}  backward {min(backward) * 1e3:8.1f}  peak {peak:6.0f}"
    )


def header(batch: int, frames: int, labels: int, vocab: int) -> None:
    print(f"B={batch} S={frames} U={labels} V={vocab} fp32, {torch.get_num_threads()} threads; ms, MiB")
