"""Read icefall's checkpoint files without running anything that is pickled in them.

`epoch-N.pt` and `checkpoint-N.pt` hold a state dict `model`, its running mean `model_avg`, the states of
optimizer, schedule and sampler, and every option of the training. `pretrained.pt` and `epoch-E-avg-A.pt`
hold only `model`. A bare state dict is accepted, too, and so is a `jit_script.pt`.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from maya.convert.icefall.torchscript import read_torchscript
from maya.convert.report import reason, some
from maya.errors import MayaError

Which = Literal["model", "average"]
STATE = ("optimizer", "scheduler", "grad_scaler", "sampler")  # of the training; not used


class Inert:
    """A stand-in for an unused object of a checkpoint. It accepts any arguments and does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _path(*parts: str) -> str:
    return "/".join(parts)


def _dict(*_args: Any) -> dict[Any, Any]:
    return {}


def _list(*_args: Any) -> list[Any]:
    return []


# Types that icefall's training pickles beside tensors, and their stand-ins. Torch allows the plain types.
STAND_INS: dict[str, Callable[..., Any]] = {
    **{f"pathlib.{name}": _path for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")},
    **{f"pathlib._local.{name}": _path for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")},
    "icefall.utils.AttributeDict": dict,
    "collections.defaultdict": _dict,
    "collections.deque": _list,
    **dict.fromkeys(
        (
            *("argparse.Namespace", "builtins.int", "builtins.float", "builtins.list", "builtins.dict"),
            *("numpy.dtype", "numpy.ndarray"),
            *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
            *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
            *("torch.torch_version.TorchVersion", "optim.ScaledAdam", "optim.Eden"),
            *(f"lhotse.dataset.sampling.base.{name}" for name in ("SamplingDiagnostics", "EpochDiagnostics")),
            "lhotse.dataset.sampling.base.TimeConstraint",
            "lhotse.dataset.sampling.dynamic_bucketing.DynamicBucketingSampler",
        ),
        Inert,
    ),
}


@dataclass(kw_only=True, slots=True)
class IcefallCheckpoint:
    """The contents of a file.

    model: tensors by icefall's names, without "module.".     average: the running mean, None if missing.
    settings: the options of the training.                    batches: the number of batches in the average.
    """

    path: Path
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    settings: dict[str, Any]
    batches: int | None = None

    def weights(self, which: Which) -> dict[str, Tensor]:
        """The model or the average. Raises MayaError if the file has no average."""
        if which == "model":
            return self.model
        if self.average is None:
            raise MayaError(f"{self.path} has no model_avg; take its model, or an epoch-N.pt that has one")
        return self.average


def read_icefall(path: str | Path) -> IcefallCheckpoint:
    """Read a checkpoint. Raises MayaError for a file that is missing, damaged or of another kind, and for an
    object of a type that icefall does not save."""
    path = Path(path)
    if path.is_file() and zipfile.is_zipfile(path) and _is_torchscript(path):
        return IcefallCheckpoint(path=path, model=read_torchscript(path), average=None, settings={})
    payload = _load(path)
    if not isinstance(payload, dict):
        raise MayaError(f"{path} holds a {type(payload).__name__}, not a dict as icefall's checkpoints do")
    if payload and all(isinstance(value, Tensor) for value in payload.values()):
        return IcefallCheckpoint(path=path, model=_tensors(payload, path, "it"), average=None, settings={})
    if "model" not in payload:
        raise MayaError(
            f"{path} is not a checkpoint of icefall: it has {some(list(map(str, payload)))}, but no `model`"
        )
    average = payload.get("model_avg")
    others = ("model", "model_avg", *STATE)
    settings = {str(name): value for name, value in payload.items() if name not in others}
    return IcefallCheckpoint(
        path=path,
        model=_tensors(payload["model"], path, "`model`"),
        average=None if average is None else _tensors(average, path, "`model_avg`"),
        settings=settings,
        batches=_counted(settings),
    )


def averaged(first: IcefallCheckpoint, last: IcefallCheckpoint) -> tuple[dict[str, Tensor], int]:
    """The mean of the weights between two checkpoints of one training, and its number of batches.

    Each `model_avg` is the mean over the first n batches of the training. The mean between a and b is (n_b
    mean_b - n_a mean_a) / (n_b - n_a), computed in fp64. `first` is the earlier checkpoint, whose batches are
    left out: epoch E - A for icefall's `--epoch E --avg A`.
    """
    for checkpoint in (first, last):
        if checkpoint.average is None or checkpoint.batches is None:
            missing = "model_avg" if checkpoint.average is None else "batch_idx_train"
            raise MayaError(
                f"{checkpoint.path} has no {missing}, needed for a mean; give two epoch-N.pt of one training"
            )
    assert first.batches is not None and last.batches is not None
    n, before = last.batches - first.batches, first.batches
    if n <= 0:
        raise MayaError(
            f"{first.path} was saved after {first.batches} batches, {last.path} after {last.batches}: the "
            "checkpoint to average from must be the earlier one"
        )
    old, new = first.weights("average"), last.weights("average")
    if differing := sorted(set(old) ^ set(new)) or [k for k in new if old[k].shape != new[k].shape]:
        raise MayaError(
            f"{first.path} and {last.path} are not from one training: they differ in {differing[0]}"
        )
    mean = {}
    for name, tensor in new.items():
        wide = (tensor.double() * last.batches - old[name].double() * before) / n
        mean[name] = wide.float() if tensor.is_floating_point() else tensor
    return mean, n


def _load(path: Path) -> Any:
    if not path.is_file():
        raise MayaError(f"{path} is not a file; give an epoch-N.pt or pretrained.pt of icefall")
    zipped = zipfile.is_zipfile(path)
    stand_ins: list[Any] = [(value, name) for name, value in STAND_INS.items()]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as e:
        if refused := re.search(r"GLOBAL (\S+)", str(e)):
            raise MayaError(
                f"{path} holds a pickled {refused[1]}, which icefall does not save and Maya does not run; "
                'save it again with torch.save({"model": model.state_dict()}, ...)'
            ) from e
        raise _damaged(path, e) from e
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise _damaged(path, e) from e


def _damaged(path: Path, error: Exception) -> MayaError:
    return MayaError(f"{path} is not a checkpoint, or damaged ({reason(error)}); copy or download it again")


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _tensors(state: Any, path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a state dict, without "module.". Raises MayaError for a value that is no tensor."""
    if not isinstance(state, Mapping) or not state:
        raise MayaError(f"{path}: {what} is not a state dict with tensors")
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise MayaError(f"{path}: {what} holds {name} of type {type(tensor).__name__}, not a tensor")
        short = str(name).removeprefix("module.")
        if short in tensors:
            raise MayaError(f"{path}: {what} holds {short} twice, with and without `module.` in front")
        tensors[short] = tensor
    return tensors


def _counted(settings: Mapping[str, Any]) -> int | None:
    """The number of batches in `model_avg`. icefall updates it every `average_period` batches."""
    batches, period = settings.get("batch_idx_train"), settings.get("average_period", 1)
    if not isinstance(batches, int) or not isinstance(period, int) or period < 1:
        return None
    return batches // period * period
