"""Writing checkpoints in the background: a copy in memory, then one thread that writes in order."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from maya.train.checkpoints.space import bytes_of, free_space, require_space, shown
from maya.train.distributed import is_dtensor

log = logging.getLogger(__name__)

_LARGE = 1 << 16  # bytes; smaller tensors are not worth keeping
WAITING = 2  # copies in memory at most: the checkpoint of a step, and best.pt or that of an epoch


class CheckpointWriter:
    """Writes checkpoints in the order of the calls, on a thread with `background`, else at once.

    A failed write is raised by the next call of any method, or when the `with` block ends. Each file gets its
    name when it is complete. At the end of the block everything is on disk.
    """

    def __init__(self, *, background: bool = False) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoints") if background else None
        self._pending: deque[Future[None]] = deque()
        self._memory = CopyMemory()

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
        weights, notes, training = in_memory(
            (checkpoint.weights, checkpoint.notes, checkpoint.training), self._memory
        )
        copy = replace(checkpoint, weights=weights, notes=notes, training=training)
        self._pending.append(self._thread.submit(self._written, path, copy, size, then))

    def _written(self, path: Path, copy: Checkpoint, size: int, then: Callable[[], None] | None) -> None:
        _write(path, copy, size, then)
        self._memory.release((copy.weights, copy.notes, copy.training))

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
    return any(is_dtensor(value) for value in checkpoint.weights.values())


class CopyMemory:
    """Memory of earlier copies that is used again: new memory costs the system more than the copy itself.

    It holds as much as `WAITING` copies at most. `release` may run on another thread than `copied`.
    """

    def __init__(self) -> None:
        self._free: tuple[dict[Any, list[Tensor]], ...] = ()  # by copy, and in it by layout

    @torch.no_grad()
    def copied(self, value: Tensor) -> Tensor:
        """A copy on the CPU."""
        layout = _layout(value)
        free = next((copy[layout] for copy in self._free if copy.get(layout)), None)
        return free.pop().copy_(value) if free else value.detach().to("cpu", copy=True)

    def release(self, value: Any) -> None:
        """Take back the tensors of a copy that is on disk."""
        free: dict[Any, list[Tensor]] = {}
        for tensor in {id(t): t for t in _tensors(value) if t.nbytes >= _LARGE}.values():
            free.setdefault(_layout(tensor), []).append(tensor)
        self._free = (*self._free, free)[-WAITING:]


def _layout(value: Tensor) -> tuple[Any, ...]:
    return value.dtype, value.shape, value.stride()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _tensors(entry)


def in_memory(value: Any, memory: CopyMemory | None = None, shared: dict[Any, Tensor] | None = None) -> Any:
    """A copy of nested dicts, lists and tuples with all tensors on the CPU, in `memory` as far as it goes;
    equal views become one tensor."""
    memory, shared = memory or CopyMemory(), {} if shared is None else shared
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else id(value)
        if key not in shared:
            shared[key] = memory.copied(value)
        return shared[key]
    if isinstance(value, dict):
        return {name: in_memory(entry, memory, shared) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(in_memory(entry, memory, shared) for entry in value)
    return value
