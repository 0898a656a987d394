"""What every transducer loss asks of its arguments, and the choice of a backend."""

import importlib.util
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from maya.kernels.lattice import lattice_dtype

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


def scores_dtype(backend: str, sample: Tensor) -> torch.dtype:
    """What a lattice of `backend` wants scores of `sample` in; the Triton one keeps fp64 sums itself."""
    if backend == "triton" and sample.dtype != torch.float64:
        return torch.float32
    return lattice_dtype(sample.device)


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


def check_durations(op: str, durations: Sequence[int], scored: int) -> tuple[int, ...]:
    """Durations must be whole, as many as scored, ascending, non-negative, and hold a positive one."""
    whole = tuple(int(d) for d in durations)
    if whole != tuple(durations):
        raise ValueError(f"{op}: durations must be whole numbers of frames, not {tuple(durations)}")
    if len(whole) != scored:
        raise ValueError(f"{op}: {len(whole)} durations {whole} but {scored} duration logits")
    rising = all(a < b for a, b in zip(whole, whole[1:], strict=False))
    if not whole or not rising or whole[0] < 0 or whole[-1] < 1:
        raise ValueError(f"{op}: durations must rise from 0 or more to at least 1, not {whole}")
    return whole


def check_tensor(
    op: str,
    name: str,
    x: Tensor,
    shape: Sequence[int | None],
    *,
    like: Tensor | None = None,
    floating: bool = True,
) -> None:
    """ValueError, naming `name`, unless x has `shape` (None: any size), the kind of dtype, and the device of
    `like`.
    """
    fits = x.dim() == len(shape) and all(b in (None, a) for a, b in zip(x.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{op}: {name} must be ({wanted}), not {tuple(x.shape)}")
    is_int = not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool
    if not (x.is_floating_point() if floating else is_int):
        raise ValueError(f"{op}: {name} must be {'floating' if floating else 'integers'}, not {x.dtype}")
    if like is not None and x.device != like.device:
        raise ValueError(f"{op}: {name} is on {x.device}, but the scores come from {like.device}")


def check_lattice(
    op: str, logits: Tensor, targets: Tensor, logit_lens: Tensor, target_lens: Tensor, blank: int
) -> tuple[Tensor, list[int], list[int]]:
    """Checks the arguments of a loss of logits (B, S, U+1, V); returns what `check_targets` returns."""
    check_tensor(op, "logits", logits, (None,) * 4)
    lens = {"logit_lens": logit_lens, "target_lens": target_lens}
    return check_targets(op, logits, targets, lens, tuple(logits.shape), blank)


def check_targets(
    op: str,
    scores: Tensor,
    targets: Tensor,
    lens: dict[str, Tensor],
    shape: tuple[int, ...],
    blank: int,
) -> tuple[Tensor, list[int], list[int]]:
    """Checks targets and lengths; returns targets (B, U) int64 with 0 as padding, and the lengths as lists.

    scores: whose device counts; lengths may also be on the CPU, for the host reads them anyway.
    lens: frames and labels of each row, (B,), by their argument's name. shape: B, S, U+1, V.
    Reading the lengths is the one point where the host waits for the device. Raises ValueError.
    """
    batch, size, width, vocab = shape
    check_tensor(op, "targets", targets, (batch, width - 1), like=scores, floating=False)
    for name, given in lens.items():
        check_tensor(op, name, given, (batch,), like=None if given.is_cpu else scores, floating=False)
    if not 0 <= blank < vocab:
        raise ValueError(f"{op}: blank {blank} is not one of {vocab} logits")
    frames, labels = (given.tolist() for given in lens.values())
    ranges = ((frames, size, "frames"), (labels, width - 1, "labels"))
    for name, (values, most, unit) in zip(lens, ranges, strict=True):
        if values and not 0 <= min(values) <= max(values) <= most:
            raise ValueError(f"{op}: {name} must lie in 0..{most} {unit}, not {values}")
    used = (
        torch.arange(width - 1, device=targets.device) < torch.tensor(labels, device=targets.device)[:, None]
    )
    targets = torch.where(used, targets, 0).long()
    wrong = (targets < 0) | (targets >= vocab) | ((targets == blank) & used)
    if bool(wrong.any()):
        row = int(wrong.any(1).nonzero()[0])
        raise ValueError(
            f"{op}: row {row} holds target {int(targets[row][wrong[row]][0])}; targets are 0..{vocab - 1} "
            f"without blank {blank}"
        )
    return targets, frames, labels
