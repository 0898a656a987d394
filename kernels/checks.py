"""Checks of the arguments of the losses, and the choice of a backend."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels import host

log = logging.getLogger(__name__)
BACKENDS = ("auto", "torch", "triton", "reference")
_announced: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class Transcripts:
    """Checked targets of a batch, with their lengths on the host.

    targets: (B, U) int64, 0 as padding. frames, labels: T and U of each utterance. blank: its id.
    """

    targets: Tensor
    frames: list[int]
    labels: list[int]
    blank: int


def choose_backend(op: str, requested: str, sample: Tensor, names: Sequence[str] = BACKENDS) -> str:
    """The backend for tensors like `sample`: "reference", "torch" or "triton". Logged once per choice.

    "auto" is "triton" on CUDA if triton is installed, except for fp64, which the kernels do not compute in;
    otherwise "torch". Raises ValueError for a backend that is not in `names`, and for "triton" if it cannot
    run.
    """
    if requested not in names:
        quoted = [f'"{name}"' for name in names]
        raise ValueError(f"{op}: unknown backend {requested!r}; use {', '.join(quoted[:-1])} or {quoted[-1]}")
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


def check_durations(op: str, durations: Sequence[int], scored: int) -> tuple[int, ...]:
    """The durations as integers. They must be `scored` in number, ascend from 0 or more, and end at 1 or
    more.
    """
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
    op: str, name: str, x: Tensor, shape: Sequence[int | None], *, like: Tensor | None = None,
    floating: bool = True,
) -> None:  # fmt: skip
    """Raises ValueError that names `name` if x has another shape, kind of dtype, or device than `like`.

    shape: None stands for any size. floating: floats, or else integers.
    """
    fits = x.dim() == len(shape) and all(b in (None, a) for a, b in zip(x.shape, shape, strict=True))
    if not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{op}: {name} must be ({expected}), not {tuple(x.shape)}")
    is_int = not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool
    if not (x.is_floating_point() if floating else is_int):
        raise ValueError(f"{op}: {name} must be {'floating' if floating else 'integers'}, not {x.dtype}")
    if like is not None and x.device != like.device:
        raise ValueError(f"{op}: {name} is on {x.device}, but the scores come from {like.device}")


def check_lens(
    op: str, name: str, lens: Tensor, batch: int, most: int, like: Tensor, unit: str = ""
) -> list[int]:
    """Lengths (B,) as a list; each must lie in 0..most.

    They may be on the CPU or on the device of `like`. The host waits for the device only if they are on it.
    """
    _check_integers(op, name, lens, (batch,), like)
    return _within(op, name, host.read_together(lens)[0], most, unit)


def check_targets(
    op: str, scores: Tensor, targets: Tensor, lens: dict[str, Tensor], shape: tuple[int, ...], blank: int
) -> Transcripts:
    """Checks targets (B, U) and lengths on the host. Raises ValueError that names the argument.

    scores: gives the device. lens: frames and labels of each row, (B,), by the argument's name. shape: B, S,
    U+1, V. Each may be on the CPU or on the device of `scores`. If all are on the CPU, nothing waits;
    otherwise the host waits for the device once.
    """
    batch, size, width, vocab = shape
    _check_integers(op, "targets", targets, (batch, width - 1), scores)
    if not 0 <= blank < vocab:
        raise ValueError(f"{op}: blank {blank} is not one of {vocab} logits")
    for name, x in lens.items():
        _check_integers(op, name, x, (batch,), scores)
    targets, *on_host = host.read_together(targets, *lens.values())
    limits = ((size, "frames"), (width - 1, "labels"))
    frames, labels = (
        _within(op, name, x, most, unit) for name, x, (most, unit) in zip(lens, on_host, limits, strict=True)
    )
    used = torch.arange(width - 1) < on_host[1][:, None]
    targets = torch.where(used, targets, 0)
    wrong = (targets < 0) | (targets >= vocab) | ((targets == blank) & used)
    if bool(wrong.any()):
        row = int(wrong.any(1).nonzero()[0])
        raise ValueError(
            f"{op}: row {row} holds target {int(targets[row][wrong[row]][0])}; targets are 0..{vocab - 1} "
            f"without blank {blank}"
        )
    return Transcripts(host.to_device(targets, scores.device), frames, labels, blank)


def _check_integers(op: str, name: str, x: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Like `check_tensor`, for integers on the CPU or on the device of `like`."""
    check_tensor(op, name, x, shape, like=None if host.reads_freely(x) else like, floating=False)


def _within(op: str, name: str, lens: Tensor, most: int, unit: str) -> list[int]:
    """Lengths on the host as a list."""
    values: list[int] = lens.tolist()
    if values and not 0 <= min(values) <= max(values) <= most:
        raise ValueError(f"{op}: {name} must lie in 0..{most}{unit and ' ' + unit}, not {values}")
    return values
