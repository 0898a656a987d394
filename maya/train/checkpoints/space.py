"""Whether the disk has room for the checkpoints of a training."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maya.errors import MayaError
from maya.train.checkpoints.checkpoint import step_checkpoints
from maya.train.config import TrainConfig
from maya.train.distributed import gather_objects, rank

log = logging.getLogger(__name__)


def check_space(run_dir: Path, model: nn.Module, optimizer: torch.optim.Optimizer, cfg: TrainConfig) -> None:
    """MayaError, on every rank, where not even the next checkpoint fits; a warning where those that
    `train.keep` and `train.keep_best` keep do not fit."""
    refusal = ""
    if rank() == 0:
        state = model.state_dict()
        weights = bytes_of(state)
        floats = sum(t.numel() for t in state.values() if t.is_floating_point())
        learning = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        averages = bool(cfg.average_every) * (1 + bool(cfg.ema))
        size = weights + 8 * floats * averages + 2 * 4 * learning  # fp64 averages, two moments in fp32
        best = weights * bool(cfg.valid_every)
        try:
            require_space(run_dir / "checkpoints" / "step.pt", size + best)
        except MayaError as error:
            refusal = str(error)
        missing = max(1, cfg.keep + 1 - len(step_checkpoints(run_dir)))
        needed, free = size * missing + best * (cfg.keep_best + 1), free_space(run_dir)
        if not refusal and free < needed:
            log.warning(
                "%s: %s are free, and the checkpoints of this training will need %s: make room, or lower "
                "train.keep", run_dir, shown(free), shown(needed),
            )  # fmt: skip
    if refusal := gather_objects(refusal)[0]:
        raise MayaError(refusal)


def require_space(path: Path, size: int) -> None:
    """MayaError where a file of `size` bytes does not fit beside what is there."""
    folder = next(p for p in path.absolute().parents if p.exists())
    if (free := free_space(folder)) < size:
        raise MayaError(
            f"{path}: the checkpoint could not be written: it takes {shown(size)} and {shown(free)} "
            "are free; the earlier ones are untouched: free some space and run again"
        )


def free_space(folder: Path) -> int:
    """Free bytes of the file system of a folder."""
    return shutil.disk_usage(folder).free


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return 0
    return sum(map(bytes_of, value))


def shown(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
