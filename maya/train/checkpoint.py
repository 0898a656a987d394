"""Checkpoints that describe themselves: weights, model configuration and tokenizer in one file, so that
decoding needs nothing else; training checkpoints add everything an exact resume needs."""

import io
import os
import pickle
import random
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.config import from_dict, to_dict
from maya.errors import MayaError
from maya.files import replacing
from maya.models.hybrid import HybridConfig, HybridModel
from maya.models.speech_llm import SpeechLLMConfig
from maya.models.speech_model import SpeechModel
from maya.text.load import tokenizer_from_bytes
from maya.text.tokenizer import Tokenizer

FORMAT = "maya-checkpoint-1"
# Settings of an encoder that change what its weights do, and no shape.
TRACELESS = ("xscaling", "causal_downsampling", "conv_context")
STEP_NAME = re.compile(r"step-(\d+)\.pt")
EPOCH_NAME = re.compile(r"epoch-(\d+)\.pt")


class Damaged(MayaError):
    """A checkpoint file that is cut off, empty, or holds other bytes than were written."""


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint in memory. `training` is None in a file meant only for inference."""

    model_config: Any  # HybridConfig or SpeechLLMConfig
    tokenizer: Tokenizer
    weights: dict[str, Tensor]
    step: int
    notes: dict[str, Any]  # experiment name, git commit, dev scores: whatever explains the file
    training: dict[str, Any] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a crash or a full disk leaves the previous file (or none), never half of one."""
    payload = {
        "format": FORMAT,
        "model_config": to_dict(checkpoint.model_config),
        # A tensor, because it loads under `weights_only=True` with every torch.
        "tokenizer": torch.frombuffer(bytearray(checkpoint.tokenizer.model_bytes), dtype=torch.uint8),
        "weights": checkpoint.weights,
        "step": checkpoint.step,
        "notes": checkpoint.notes,
        "training": checkpoint.training,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Through a buffered file object: torch's own writer turns a full disk into an unnamed C++ error.
        with replacing(path) as partial, open(partial, "wb") as f:
            torch.save(payload, f)
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        raise MayaError(
            f"{path}: the checkpoint could not be written ({e.strerror}); free some space and run again"
        ) from e
    except RuntimeError as e:
        raise MayaError(
            f"{path}: the checkpoint could not be written ({(str(e) or type(e).__name__).splitlines()[0]})"
        ) from e


def load_checkpoint(path: Path, *, training: bool = False, verify: bool = True) -> Checkpoint:
    """Read a checkpoint file; `training=False` drops the optimizer and the rest. Runs nothing pickled.

    `verify` reads the whole file first and compares its checksums (some GB a second). Raises Damaged for a
    file that was cut off or changed, and MayaError for a file of another kind.
    """
    path = find_checkpoint(path)
    reason = damage(path) if verify else ""
    if not reason:
        try:
            payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, EOFError, io.UnsupportedOperation, ValueError, KeyError) as e:
            reason = _first_line(e)
        except pickle.UnpicklingError as e:
            raise MayaError(f"{path} is not a Maya checkpoint: it holds objects that are refused") from e
    if reason:
        raise Damaged(f"{path} is not a readable checkpoint: {reason}; restore it from a copy, or delete it")
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise MayaError(f"{path} is not a Maya checkpoint (no format mark {FORMAT!r})")
    return Checkpoint(
        model_config=from_dict(kind_of_model(payload["model_config"]), payload["model_config"]),
        tokenizer=tokenizer_from_bytes(payload["tokenizer"].numpy().tobytes()),
        weights=payload["weights"],
        step=payload["step"],
        notes=payload["notes"],
        training=payload["training"] if training else None,
    )


def damage(path: Path) -> str:
    """Why the bytes of a checkpoint are not those that were written; empty where they are.

    Compares every record with the checksum (CRC-32) that torch wrote beside it. torch.load does not: a bit
    that flipped in a tensor would become a weight.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as e:
        return f"{_first_line(e)} ({path.stat().st_size} bytes)"
    if record is None:
        return ""
    return f"the checksum of {record} differs, so bytes have changed since it was written"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def load_newest(paths: Sequence[Path], *, training: bool = False) -> tuple[Checkpoint, list["Damaged"]]:
    """(the last of `paths` that can be read, the errors of those after it). Raises Damaged, naming the last
    one, where none can be read."""
    errors: list[Damaged] = []
    for path in reversed(paths):
        try:
            return load_checkpoint(path, training=training), errors
        except Damaged as error:
            errors.append(error)
    raise errors[0]


def kind_of_model(saved: dict[str, Any]) -> type:
    """The type of a model configuration that was saved."""
    return SpeechLLMConfig if "llm" in saved else HybridConfig


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file from a file or a run folder (averaged.pt, then best.pt, then the newest step)."""
    path = Path(path)
    if path.is_file():
        return path
    for name in ("averaged.pt", "best.pt"):
        if (path / name).is_file():
            return path / name
    steps = step_checkpoints(path)
    if not steps:
        raise MayaError(f"{path} holds no checkpoint: expected a .pt file or a run folder")
    return steps[-1][1]


def step_checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """The (step, path) of every training checkpoint of a run, oldest first."""
    found = [
        (int(m[1]), p)
        for p in (run_dir / "checkpoints").glob("step-*.pt")
        if (m := STEP_NAME.fullmatch(p.name))
    ]
    return sorted(found)


def step_path(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:07d}.pt"


def epoch_checkpoints(run_dir: Path) -> dict[int, Path]:
    """What each epoch left (see train.epochs), by its number from 1, in order."""
    paths = sorted((run_dir / "checkpoints").glob("epoch-*.pt"))
    return {int(m[1]): p for p in paths if (m := EPOCH_NAME.fullmatch(p.name))}


def epoch_path(run_dir: Path, epoch: int) -> Path:
    return run_dir / "checkpoints" / f"epoch-{epoch:04d}.pt"


def build(checkpoint: Checkpoint) -> HybridModel:
    """The hybrid model of a checkpoint with its weights, in evaluation mode. MayaError for a speech LLM."""
    if isinstance(checkpoint.model_config, SpeechLLMConfig):
        raise MayaError("this checkpoint is of a speech LLM; `maya llm decode` decodes with it")
    model = HybridModel(checkpoint.model_config)
    model.load_state_dict(checkpoint.weights)
    return model.eval()


def start_from(
    model: SpeechModel,
    path: Path,
    modules: Sequence[str],
    load: Callable[[Path], Checkpoint] = load_checkpoint,
) -> int:
    """Copy `weights_for` into the model; returns how many values came over."""
    taken = weights_for(model, path, modules, load)
    model.load_state_dict(taken, strict=False)
    return sum(t.numel() for t in taken.values())


def weights_for(
    model: SpeechModel,
    path: Path,
    modules: Sequence[str],
    load: Callable[[Path], Checkpoint] = load_checkpoint,
) -> dict[str, Tensor]:
    """The state of `modules` ("encoder", "decoder", "ctc_decoder" ...) out of another model's checkpoint.

    `path` is a file or a run folder, read by `load`; of the model, which may be on the meta device, only
    shapes matter. Every tensor of a named module must be there in the same shape and no other beside them,
    else MayaError names the first that is not; so it does for settings of an encoder that leave no trace in
    shapes.
    """
    path = find_checkpoint(path)
    loaded = load(path)
    theirs = loaded.weights
    if "encoder" in modules:
        refuse_other_meaning(path, loaded.model_config, model.cfg)
    taken: dict[str, Tensor] = {}
    for module in modules:
        mine = {k: v for k, v in model.state_dict().items() if k.startswith(module + ".")}
        if not mine:
            raise MayaError(f"the model has no module {module!r} to start from {path}")
        for name, tensor in mine.items():
            if name not in theirs or theirs[name].shape != tensor.shape:
                found = tuple(theirs[name].shape) if name in theirs else "nothing"
                raise MayaError(
                    f"{path} does not fit: {name} is {tuple(tensor.shape)} here and {found} there; "
                    "give the experiment that checkpoint's model, or name other modules"
                )
        if extra := [k for k in theirs if k.startswith(module + ".") and k not in mine]:
            shape = tuple(theirs[extra[0]].shape)
            raise MayaError(
                f"{path} does not fit: it has {extra[0]} {shape} and this model has not; "
                "give the experiment that checkpoint's model, or name other modules"
            )
        taken |= {name: theirs[name] for name in mine}
    return taken


def refuse_other_meaning(path: Path, theirs: Any, mine: Any) -> None:
    """MayaError if an encoder's weights would be given other features, or be used in another way, than they
    were trained for."""

    def settings(cfg: Any) -> dict[str, Any]:
        features = {f"model.features.{k}": v for k, v in to_dict(cfg.features).items() if k != "dither"}
        encoder = to_dict(cfg.encoder)
        return features | {f"model.encoder.{k}": encoder[k] for k in TRACELESS if k in encoder}

    wanted, have = settings(theirs), settings(mine)
    differing = {name: value for name, value in wanted.items() if have[name] != value}
    if differing:
        options = " ".join(f"--{name} {str(value).lower()}" for name, value in differing.items())
        raise MayaError(f"{path} holds an encoder that was trained with other settings; give {options}")


def rng_state() -> dict[str, Any]:
    """Every random state of this process, in types that load under `weights_only=True`."""
    name, keys, pos, has_gauss, cached = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), pos, has_gauss, cached],
        "python": [version, list(internal), gauss_next],
    }


def restore_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
