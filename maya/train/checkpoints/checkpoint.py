"""Checkpoints that describe themselves: weights, model configuration and tokenizer in one file, so that
decoding needs nothing else; training checkpoints add everything an exact resume needs."""

import io
import os
import pickle
import random
import re
import shlex
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from maya.config import from_dict, leaves, to_dict
from maya.encoders.hugging_face.folder import folder_with, weights_file
from maya.errors import MayaError
from maya.files import replacing, sync_folder
from maya.models.adapters import is_adapter, plain_name
from maya.models.config import ENCODER, SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.text.load import tokenizer_from_bytes
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoints import older, sharded

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

FORMAT = "maya-checkpoint-2"
STEP_NAME = re.compile(r"step-(\d+)\.pt")
BEST_NAME = re.compile(r"best-(\d+)\.pt")
EPOCH_NAME = re.compile(r"epoch-(\d+)\.pt")


class Damaged(MayaError):
    """A checkpoint file that is cut off, empty, or holds other bytes than were written."""


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint in memory. `training` is None in a file meant only for inference; `older` marks a file of
    Maya 0.2, which no training can resume from."""

    model_config: SpeechModelConfig
    tokenizer: Tokenizer
    weights: dict[str, Tensor]
    step: int
    notes: dict[str, Any]  # experiment name, trained heads, dev scores: what explains the file
    training: dict[str, Any] | None = None
    older: bool = False


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a crash or a full disk leaves the previous file (or none), never half of one. With
    tensors that are sharded over ranks all ranks must call this; it makes a folder."""
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
        if sharded.holds_shards(payload):
            return sharded.save_sharded(path, payload)
        # Through a buffered file object: torch's own writer turns a full disk into an unnamed C++ error.
        with replacing(path) as partial, open(partial, "wb") as f:
            torch.save(payload, f)
            f.flush()
            os.fsync(f.fileno())
        sync_folder(path.parent)
    except OSError as e:
        raise MayaError(
            f"{path}: the checkpoint could not be written ({e.strerror}); free some space and run again"
        ) from e
    except RuntimeError as e:
        raise MayaError(
            f"{path}: the checkpoint could not be written ({(str(e) or type(e).__name__).splitlines()[0]})"
        ) from e


def load_checkpoint(
    path: Path, *, training: bool = False, verify: bool = True, mesh: "DeviceMesh | None" = None
) -> Checkpoint:
    """Read a checkpoint file; `training=False` drops the optimizer and the rest. Runs nothing pickled.

    Of a sharded checkpoint the tensors are whole, or with `mesh` each rank's share of them.

    `verify` reads the whole file first and compares its checksums (some GB a second). Raises Damaged for a
    file that was cut off or changed, and MayaError for a file of another kind.
    """
    path = find_checkpoint(path)
    reason = damage(path) if verify else ""
    if not reason:
        try:
            if path.is_dir():
                payload = sharded.load_sharded(path, training=training, mesh=mesh)
            else:
                payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, EOFError, io.UnsupportedOperation, ValueError, KeyError) as e:
            reason = _first_line(e)
        except pickle.UnpicklingError as e:
            raise MayaError(f"{path} is not a Maya checkpoint: it holds objects that are refused") from e
    if reason:
        raise Damaged(f"{path} is not a readable checkpoint: {reason}; restore it from a copy, or delete it")
    if not isinstance(payload, dict) or payload.get("format") not in (FORMAT, older.FORMAT):
        raise MayaError(f"{path} is not a Maya checkpoint (no format mark {FORMAT!r})")
    tokenizer = tokenizer_from_bytes(payload["tokenizer"].numpy().tobytes())
    is_older = payload["format"] == older.FORMAT
    try:
        if is_older:
            payload = older.upgraded(payload, tokenizer.vocab_size, path)
        model_config = from_dict(SpeechModelConfig, payload["model_config"])
    except MayaError as e:
        raise MayaError(f"{path}: {e}") from e
    return Checkpoint(
        model_config=model_config,
        tokenizer=tokenizer,
        weights=payload["weights"],
        step=payload["step"],
        notes=payload["notes"],
        training=payload["training"] if training else None,
        older=is_older,
    )


def damage(path: Path) -> str:
    """Why the bytes of a checkpoint are not those that were written; empty where they are.

    Compares every record with the checksum (CRC-32) that torch wrote beside it. torch.load does not: a bit
    that flipped in a tensor would become a weight.
    """
    if path.is_dir():
        return sharded.damage(path)
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


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file from a file or a run folder (averaged.pt, then best.pt, then the newest step), or the
    weights of a folder of Hugging Face."""
    path = Path(path)
    if path.is_file() or sharded.is_sharded(path):
        return path
    if (folder := folder_with(path)) is not None:  # of Hugging Face
        return weights_file(folder)
    for name in ("averaged.pt", "best.pt"):
        if (path / name).is_file():
            return path / name
    steps = step_checkpoints(path)
    if not steps:
        archives, weights = (sorted(path.glob(f"*.{kind}")) for kind in ("nemo", "safetensors"))
        hint = f"; name the archive {archives[0]}" if archives else ""
        if weights and not archives:
            hint = f"; {weights[0].name} of Hugging Face needs its config.json beside it"
        raise MayaError(f"{path} holds no checkpoint: expected a .pt file or a run folder{hint}")
    return steps[-1][1]


def step_checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """The (step, path) of every training checkpoint of a run, oldest first."""
    return _numbered(run_dir, STEP_NAME)


def best_checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """The (step, path) of the weights that `train.keep_best` keeps where it is above 1, by step."""
    return _numbered(run_dir, BEST_NAME)


def _numbered(run_dir: Path, name: re.Pattern[str]) -> list[tuple[int, Path]]:
    paths = (run_dir / "checkpoints").glob("*.pt")
    return sorted((int(m[1]), p) for p in paths if (m := name.fullmatch(p.name)))


def step_path(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:07d}.pt"


def remove(path: Path) -> None:
    """Delete a checkpoint, a file or a folder of shards, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def best_path(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"best-{step:07d}.pt"


def epoch_checkpoints(run_dir: Path) -> dict[int, Path]:
    """The checkpoint of each epoch (see train.epochs), by its number from 1, in order."""
    return dict(_numbered(run_dir, EPOCH_NAME))


def epoch_path(run_dir: Path, epoch: int) -> Path:
    return run_dir / "checkpoints" / f"epoch-{epoch:04d}.pt"


def build(checkpoint: Checkpoint) -> SpeechModel:
    """The model of a checkpoint with its weights, LoRA merged into them, in evaluation mode, at the
    checkpoint's step."""
    model = SpeechModel(checkpoint.model_config)
    model.load_state_dict(checkpoint.weights)
    model.merge_adapters()
    model.step = checkpoint.step
    return model.eval()


Loader = Callable[[Path], Checkpoint]


def start_from(model: SpeechModel, path: Path, parts: Sequence[str], load: Loader = load_checkpoint) -> int:
    """Copy `weights_for` into the model; returns the number of values copied."""
    taken = weights_for(model, path, parts, load)
    model.load_state_dict(taken, strict=False)
    return sum(t.numel() for t in taken.values())


def weights_for(
    model: SpeechModel, path: Path, parts: Sequence[str], load: Loader = load_checkpoint
) -> dict[str, Tensor]:
    """The state of some parts out of another model's checkpoint: "encoder", names of heads, or the beginnings
    of names in the state dict, such as heads.transducer.decoder.

    `path` is a file or a run folder, read by `load`; only the shapes of the model matter, which may be on the
    meta device. Raises MayaError unless the checkpoint has every tensor of a part in the same shape and no
    others, and for settings of an encoder that leave no trace in shapes.
    """
    path = find_checkpoint(path)
    loaded = load(path)
    other, state = loaded.weights, model.state_dict()
    if ENCODER in parts:
        refuse_other_meaning(path, loaded.model_config, model.cfg)
    taken: dict[str, Tensor] = {}
    for part in parts:
        prefix = f"heads.{part}." if part in model.heads else f"{part}."
        # Adapters begin as they are where the other model has none.
        own = {k: plain_name(k) for k in state if k in other or not is_adapter(k)}
        own = {k: k if k in other else plain for k, plain in own.items() if k.startswith(prefix)}
        if not own:
            raise MayaError(f"the model has no part {part!r} to start from {path}")
        present = {plain: state[k] for k, plain in own.items()}
        for name, tensor in present.items():
            if name not in other or other[name].shape != tensor.shape:
                shape = tuple(other[name].shape) if name in other else "nothing"
                raise MayaError(
                    f"{path} does not fit: {name} is {tuple(tensor.shape)} here and {shape} there; "
                    "give the experiment that checkpoint's model, or name other parts"
                )
        if extra := [k for k in other if k.startswith(prefix) and k not in present]:
            raise MayaError(
                f"{path} does not fit: it has {extra[0]} {tuple(other[extra[0]].shape)} and this model has "
                "not; give the experiment that checkpoint's model, or name other parts"
            )
        taken |= {k: other[plain] for k, plain in own.items()}
    return taken


def refuse_other_meaning(path: Path, saved: SpeechModelConfig, cfg: SpeechModelConfig) -> None:
    """MayaError if an encoder's weights would be given other features, or be used in another way, than they
    were trained for."""

    def settings(cfg: SpeechModelConfig) -> dict[str, Any]:
        features = {f"model.features.{k}": v for k, v in to_dict(cfg.features).items() if k != "dither"}
        encoder = dict(leaves(cfg.encoder))
        names = [name for name in cfg.encoder.traceless if name in encoder]
        return features | {f"model.encoder.{name}": encoder[name] for name in names}

    before, now = settings(saved), settings(cfg)
    differing = {name: value for name, value in before.items() if now.get(name) != value}
    if differing:
        options = " ".join(f"--{name} {_option(value)}" for name, value in differing.items())
        raise MayaError(f"{path} holds an encoder that was trained with other settings; give {options}")


def _option(value: Any) -> str:
    """A value as the command line takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else shlex.quote(str(value))


def rng_state() -> dict[str, Any]:
    """Every random state of this process, in types that load under `weights_only=True`. Of the GPUs only the
    one that the process uses: the training may continue where there are fewer, or in another order."""
    name, keys, pos, has_gauss, cached = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), pos, has_gauss, cached],
        "python": [version, list(internal), gauss_next],
    }


def restore_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
