"""The tensors of a TorchScript file (icefall's `jit_script.pt` and `cpu_jit.pt`) without loading its code.

The file is a zip: `data.pkl` is a tree of module objects whose attributes are tensors, modules and numbers,
`data/N` are the tensors' values, and `code/` is not read. Every class of the pickle becomes a plain holder of
attributes.
"""

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from maya.convert.report import reason
from maya.errors import MayaError

_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
# The wrappers that icefall's export puts around an encoder, and the names of its state dicts.
_WRAPPED = (("encoder.encoder_embed.", "encoder_embed."), ("encoder.encoder.", "encoder."))


class Holder:
    """An object of the file: its attributes and nothing else."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Holder":
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _TensorUnpickler(pickle.Unpickler):
    """Finds no class but `Holder`, and no function but the one that makes a tensor of its values."""

    def __init__(self, archive: zipfile.ZipFile, top: PurePosixPath) -> None:
        super().__init__(io.BytesIO(archive.read(str(top / "data.pkl"))))
        self._archive, self._top = archive, top

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "__torch__" or module.startswith(("__torch__.", "torch.jit._pickle")):
            return Holder
        raise pickle.UnpicklingError(f"a pickled {module}.{name}, which TorchScript does not save")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        values = bytearray(self._archive.read(str(self._top / "data" / str(key))))
        return (
            torch.frombuffer(values, dtype=dtype, count=int(count)) if count else torch.empty(0, dtype=dtype)
        )


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors by icefall's names. Raises MayaError for a damaged file, and for one whose pickle names
    anything but modules and tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [PurePosixPath(name) for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise MayaError(f"{path} is no TorchScript file: it has {len(pickles)} data.pkl")
            root = _TensorUnpickler(archive, pickles[0].parent).load()
    except (
        *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError),
        *(LookupError, TypeError, AttributeError),
    ) as e:
        raise MayaError(f"{path} is no TorchScript file of modules and tensors ({reason(e)})") from e
    tensors: dict[str, Tensor] = {}
    for name, tensor in _walk(root, ""):
        name = next((new + name.removeprefix(old) for old, new in _WRAPPED if name.startswith(old)), name)
        if name in tensors and not torch.equal(tensors[name], tensor):
            raise MayaError(f"{path} has two different tensors {name}; give the pretrained.pt it came from")
        tensors[name] = tensor
    if not any(name.startswith("encoder_embed.") for name in tensors):
        raise MayaError(
            f"{path} has no modules of icefall's Zipformer, perhaps because it was traced; "
            "give the pretrained.pt or epoch-N.pt it came from"
        )
    return tensors


def _walk(holder: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors below an object by their dotted names."""
    if not isinstance(holder, Holder):
        return
    for name, value in holder.attributes.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _walk(value, f"{prefix}{name}.")


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()
