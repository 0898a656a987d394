"""What every transducer loss asks of its arguments, and the choice of a backend."""

import importlib.util
import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)
_announced: set[tuple[str, str]] = set()


def choose_backend(op: str, requested: str, sample: Tensor) -> str:
    """The backend that will run on tensors like `sample`: "reference", "torch" or "triton". Logged once per
    choice.

    "auto" is "triton" on CUDA where triton can be imported, but "torch" for fp64, which the kernels do not
    compute in. Raises ValueError for an unknown name, and for "triton" where it cannot run.
    """
    if requested not in ("auto", "reference", "torch", "triton"):
        raise ValueError(f'{op}: unknown backend {requested!r}; use "auto", "torch", "triton" or "reference"')
    chosen = requested
    if requested == "auto":
        fast = sample.is_cuda and sample.dtype != torch.float64 and _has_triton()
        chosen = "triton" if fast else "torch"
    elif requested == "triton":
        _check_triton(op, sample)
    if (op, chosen) not in _announced:
        _announced.add((op, chosen))
        log.info("%s: backend %s", op, chosen)
    return chosen


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _check_triton(op: str, sample: Tensor) -> None:
    if not _has_triton():
        raise ValueError(f'{op}: backend "triton" needs the package triton, which is not installed')
    if sample.is_cuda:
        return
    import triton

    if not triton.knobs.runtime.interpret:
        raise ValueError(
            f'{op}: backend "triton" needs CUDA tensors, not {sample.device} '
            "(on a CPU only Triton's interpreter runs it, with TRITON_INTERPRET=1)"
        )


def check_durations(durations: tuple[int, ...], scored: int) -> None:
    """Durations must be as many as scored, ascending, non-negative, and hold a positive one."""
    if len(durations) != scored:
        raise ValueError(f"tdt_loss: {len(durations)} durations {durations} but {scored} duration logits")
    rising = all(a < b for a, b in zip(durations, durations[1:], strict=False))
    if not durations or not rising or durations[0] < 0 or durations[-1] < 1:
        raise ValueError(f"tdt_loss: durations must rise from 0 or more to at least 1, not {durations}")


def check_lattice(
    op: str, logits: Tensor, targets: Tensor, logit_lens: Tensor, target_lens: Tensor, blank: int
) -> tuple[Tensor, list[int], list[int]]:
    """Checks shapes and ranges; returns targets (B, U) int64 with 0 as padding, and the lengths as lists.

    Reading the lengths is the one point where the host waits for the device. Raises ValueError.
    """
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ValueError(
            f"{op}: logits must be floating (B, S, U+1, V), not {tuple(logits.shape)} {logits.dtype}"
        )
    batch, size, width, vocab = logits.shape
    if targets.shape != (batch, width - 1):
        raise ValueError(
            f"{op}: targets must be {(batch, width - 1)} for these logits, not {tuple(targets.shape)}"
        )
    for name, lens in (("logit_lens", logit_lens), ("target_lens", target_lens)):
        if lens.shape != (batch,):
            raise ValueError(f"{op}: {name} must be {(batch,)}, not {tuple(lens.shape)}")
    if not 0 <= blank < vocab:
        raise ValueError(f"{op}: blank {blank} is not one of {vocab} logits")
    frames, labels = (lens.tolist() for lens in (logit_lens, target_lens))
    if batch and (min(frames) < 0 or max(frames) > size or min(labels) < 0 or max(labels) > width - 1):
        raise ValueError(
            f"{op}: lengths must lie in 0..{size} frames and 0..{width - 1} labels, not {frames} and {labels}"
        )
    used = torch.arange(width - 1, device=targets.device) < target_lens.to(targets.device)[:, None]
    targets = torch.where(used, targets, 0).to(device=logits.device, dtype=torch.int64)
    wrong = (targets < 0) | (targets >= vocab) | ((targets == blank) & used.to(logits.device))
    if bool(wrong.any()):
        row = int(wrong.any(1).nonzero()[0])
        raise ValueError(
            f"{op}: row {row} holds target {int(targets[row][wrong[row]][0])}; targets are 0..{vocab - 1} "
            f"without blank {blank}"
        )
    return targets, frames, labels
