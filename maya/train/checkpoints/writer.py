"""Writing checkpoints in the background: a copy in memory, then one thread that writes in order."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from maya.train.checkpoints.space import bytes_of, free_space, require_space, shown

log = logging.getLogger(__name__)

WAITING = 2  # copies in memory at most: the checkpoint of a step, and best.pt or that of an epoch


class CheckpointWriter:
    """Writes checkpoints in the order of the calls, on a thread with `background`, else at once.

    A failed write is raised by the next call of any method, or when the `with` block ends. Each file gets its
    name when it is complete. At the end of the block everything is on disk.
    """

    def __init__(self, *, background: bool = False) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoints") if background else None
        self._pending: deque[Future[None]] = deque()

    def write(self, path: Path, checkpoint: Checkpoint, then: Callable[[], None] | None = None) -> None:
        """Write the checkpoint as it is now, and call `then` after that. Raises MayaError where the disk has
        no room for it, before anything is written."""
        self.check()
        size = bytes_of((checkpoint.weights, checkpoint.training))
        if self._thread is None or _is_sharded(checkpoint):  # all ranks write their shards together
            self.flush()
            _write(path, checkpoint, size, then)
            return
        while len(self._pending) >= WAITING:
            self._pending.popleft().result()
        copy = replace(
            checkpoint, weights=in_memory(checkpoint.weights), notes=in_memory(checkpoint.notes),
            training=in_memory(checkpoint.training),
        )  # fmt: skip
        self._pending.append(self._thread.submit(_write, path, copy, size, then))

    def check(self) -> None:
        """Raise the error of a write that failed. Waits for nothing."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def flush(self) -> None:
        """Wait until everything is on disk. Raises the error of the first write that failed."""
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        except Exception as failed:
            if error is None:
                raise
            log.warning("%s", failed)  # the error that ends the training goes first
        finally:
            if self._thread is not None:
                self._thread.shutdown()


def _write(path: Path, checkpoint: Checkpoint, size: int, then: Callable[[], None] | None) -> None:
    require_space(path, size)
    save_checkpoint(path, checkpoint)
    if then is not None:
        then()
    if (free := free_space(path.parent)) < 2 * size:
        log.warning(
            "%s: %s are free and a checkpoint takes %s: there is room for %d more; make room, or training "
            "will stop",
            path.parent, shown(free), shown(size), free // size,
        )  # fmt: skip


def _is_sharded(checkpoint: Checkpoint) -> bool:
    return any(isinstance(value, DTensor) for value in checkpoint.weights.values())


def in_memory(value: Any, shared: dict[Any, Tensor] | None = None) -> Any:
    """A copy of nested dicts, lists and tuples with all tensors on the CPU; equal views become one tensor."""
    shared = {} if shared is None else shared
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else id(value)
        if key not in shared:
            shared[key] = _copied(value)
        return shared[key]
    if isinstance(value, dict):
        return {name: in_memory(entry, shared) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(in_memory(entry, shared) for entry in value)
    return value


@torch.no_grad()
def _copied(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)
