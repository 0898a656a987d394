"""A model's folder as Hugging Face keeps it: config.json, and weights in safetensors files."""

import importlib
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from maya.errors import MayaError
from maya.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CTRANSLATE2 = "model.bin"  # Whisper's weights in CTranslate2's folders
INDEX = WEIGHTS + ".index.json"
HUB = "hf:"  # before a name on the hub, hf:owner/name or hf:owner/name@revision
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "pytorch_model.pt")
# No code of a repository is ever fetched, nor run.
_FETCHED = ("*.json", "*.safetensors", "*.model", "*.txt")


def folder_of(name: str | Path) -> Path:
    """A local folder, or the copy of `hf:owner/name` that huggingface_hub keeps and fetches where it is
    absent. Raises MayaError without the folder or the package, and for a name that the hub does not give."""
    text = str(name)
    if not text.startswith(HUB):
        path = Path(name)
        if not path.is_dir():
            raise MayaError(f"{path} is no folder; name a model's folder, or one on the hub as hf:owner/name")
        return path
    repository, _, revision = text.removeprefix(HUB).partition("@")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MayaError("names on the hub need pip install 'maya-asr[hub]'; or give a folder") from error
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=_FETCHED))
    except _hub_errors() as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MayaError(f"the hub does not give {repository!r} ({first}); give a local folder") from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises: its own errors are OSErrors and ValueErrors, and its client is httpx."""
    try:
        httpx = importlib.import_module("httpx")
    except ImportError:
        return OSError, ValueError
    return OSError, ValueError, httpx.HTTPError, httpx.InvalidURL


def model_type(folder: Path) -> str:
    """The kind of model that a folder holds, "" where it holds none of transformers."""
    return str(read_json(folder / CONFIG).get("model_type", ""))


def is_whisper(path: Path) -> bool:
    """Whether a folder is a Whisper model of Hugging Face or of CTranslate2, or a file is its weights."""
    if path.name == CTRANSLATE2 or (path / CTRANSLATE2).is_file():
        return True
    return model_type(folder_with(path) or path) == "whisper"


def folder_with(path: Path) -> Path | None:
    """The folder of a model of transformers, named itself or by its weights; None for anything else."""
    folder = path.parent if path.name in (WEIGHTS, INDEX) else path
    return folder if model_type(folder) else None


def weights_file(folder: Path) -> Path:
    """The file that names the weights: model.safetensors, or the index of its parts."""
    return folder / (INDEX if (folder / INDEX).is_file() else WEIGHTS)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises MayaError where it is missing or is not JSON."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MayaError(f"{folder} has no readable {CONFIG} ({error}); take the whole folder") from error
    if not isinstance(values, dict):
        raise MayaError(f"{folder / CONFIG} holds no settings; take the whole folder")
    return values


def tensors(folder: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the weights, of `wanted` or of all of them, a tensor at a time. Raises MayaError for
    weights that are missing, pickled or damaged."""
    for path, names in _files(folder).items():
        yield from file_tensors(path, names if wanted is None else [n for n in names if n in wanted])


def tensor_names(folder: Path) -> list[str]:
    """The names of all tensors."""
    return [name for names in _files(folder).values() for name in names]


def file_tensors(path: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of one safetensors file. Raises MayaError where it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys() if names is None else names:  # noqa: SIM118 (no mapping)
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise MayaError(f"{path} is no whole safetensors file ({error}); copy it again") from error


def _files(folder: Path) -> dict[Path, list[str]]:
    """The files of the weights, each with the names of its tensors."""
    from safetensors import SafetensorError, safe_open

    if weights_file(folder).name == INDEX:
        shards = sorted(set(map(str, read_json(folder / INDEX).get("weight_map", {}).values())))
        if bad := [s for s in shards if not re.fullmatch(r"[\w.-]+\.safetensors", s)]:
            raise MayaError(f"{folder / INDEX} names {bad[0]!r}, which is no safetensors file of the folder")
    elif (folder / WEIGHTS).is_file():
        shards = [WEIGHTS]
    elif pickled := [name for name in _PICKLES if (folder / name).exists()]:
        raise MayaError(
            f"{folder} has its weights in {pickled[0]}, a pickle, which could run code and is not opened; "
            f"save the model with safe_serialization=True, which writes {WEIGHTS}"
        )
    else:
        raise MayaError(f"{folder} has no {WEIGHTS}; take the whole folder")
    files: dict[Path, list[str]] = {}
    for shard in shards:
        try:
            with safe_open(folder / shard, framework="pt", device="cpu") as file:
                files[folder / shard] = list(file.keys())
        except (SafetensorError, OSError) as error:
            raise MayaError(
                f"{folder / shard} is no whole safetensors file ({error}); copy it again"
            ) from error
    return files
