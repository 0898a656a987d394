"""Checkpoints of models that are spread over ranks: a folder in which each rank writes its share.

torch.distributed.checkpoint keeps the sharded tensors, so that any number of ranks reads them, and one
process reads them whole; rest.pt has all else, and the checksums of the files. The folder has the name that a
file would have, and takes it when it is complete.
"""

import pickle
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

# Importing torch's distributed tensors takes a second, and whoever loads a plain checkpoint needs none.
if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

REST, FILES = "rest.pt", "files"
_BLOCK = 1 << 24  # bytes read at a time
_MARK = "sharded tensor "  # in the place of a tensor in rest.pt


def is_sharded(path: Path) -> bool:
    """Whether a folder is such a checkpoint."""
    return (path / REST).is_file()


def holds_shards(payload: dict[str, Any]) -> bool:
    """Whether tensors of a checkpoint, some levels deep, are sharded over ranks."""
    return bool(_apart(payload)[1])


def save_sharded(folder: Path, payload: dict[str, Any]) -> None:
    """Write a tree of dicts, lists and tensors; all ranks must call this. Raises OSError or RuntimeError."""
    import torch.distributed.checkpoint as dcp  # noqa: PLC0415

    partial = folder.with_name(folder.name + ".partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    rest, shards = _apart(payload)
    with _one_error():
        dcp.save(shards, storage_writer=dcp.FileSystemWriter(partial, sync_files=True))
    own = {p.name: _checksum(p) for p in partial.glob(f"__{dist.get_rank()}_*")}
    sums: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(sums, own)
    if dist.get_rank() == 0:
        merged = {name: value for part in sums for name, value in part.items()}
        merged[".metadata"] = _checksum(partial / ".metadata")
        torch.save(rest | {FILES: merged}, partial / REST)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped at this step
        partial.replace(folder)
    dist.barrier()


def load_sharded(folder: Path, *, training: bool, mesh: "DeviceMesh | None" = None) -> dict[str, Any]:
    """The tree that `save_sharded` wrote, without the entry "training" unless that is asked for.

    mesh: the ranks that the tensors are spread over, all of which must call this; None gives them whole, on
    the CPU. Raises ValueError for a folder of another kind.
    """
    import torch.distributed.checkpoint as dcp  # noqa: PLC0415
    from torch.distributed.tensor import Shard, zeros  # noqa: PLC0415

    rest = torch.load(folder / REST, map_location="cpu", weights_only=True, mmap=True)
    if not training:
        rest["training"] = None
    names: list[str] = []
    _walk(rest, lambda value, _: names.append(value) if _is_mark(value) else None)
    reader = dcp.FileSystemReader(folder)
    entries: dict[str, Any] = reader.read_metadata().state_dict_metadata
    shards: dict[str, Any] = {}
    for name in names:
        size, dtype = entries[name].size, entries[name].properties.dtype
        if mesh is None:
            shards[name] = torch.empty(size, dtype=dtype)
        else:
            shards[name] = zeros(size, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
    with warnings.catch_warnings(), _one_error():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as is meant
        dcp.load(shards, storage_reader=reader, no_dist=mesh is None)
    return _walk(rest, lambda value, _: shards[value] if _is_mark(value) else value)


def damage(folder: Path) -> str:
    """Why the bytes of a checkpoint are not those that were written; empty where they are."""
    try:
        sums = torch.load(folder / REST, map_location="cpu", weights_only=True, mmap=True)[FILES]
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as e:
        return f"{REST} cannot be read ({type(e).__name__})"
    for name, value in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _checksum(folder / name) != value:
            return f"the checksum of {name} differs, so bytes have changed since it was written"
    return ""


@contextmanager
def _one_error() -> Iterator[None]:
    """A RuntimeError for the first error of any rank, in place of all in a BaseException."""
    from torch.distributed.checkpoint.api import CheckpointException  # noqa: PLC0415

    try:
        yield
    except CheckpointException as failed:
        rank, (error, _) = next(iter(failed.failures.items()))
        raise RuntimeError(f"rank {rank}: {error}") from failed


def _is_mark(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_MARK)


def _apart(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A tree with marks in the place of its sharded tensors, and these tensors by mark."""
    shards: dict[str, Tensor] = {}

    def mark(value: Any, place: str) -> Any:
        if type(value).__name__ != "DTensor":
            return value
        shards[_MARK + place] = value
        return _MARK + place

    return _walk(tree, mark), shards


def _walk(tree: Any, change: Callable[[Any, str], Any], place: str = "") -> Any:
    """A copy of a tree with `change(leaf, its place)` in the place of each leaf."""
    if isinstance(tree, dict):
        return {key: _walk(value, change, f"{place}/{key}") for key, value in tree.items()}
    if isinstance(tree, list):
        return [_walk(value, change, f"{place}/{i}") for i, value in enumerate(tree)]
    return change(tree, place)


def _checksum(path: Path) -> int:
    """CRC-32, as torch keeps it for the records of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
