"""CTranslate2's model.bin: named tensors, some of them with 8- or 16-bit weights and scales."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from maya.errors import MayaError
from maya.files import replacing

SPEC, VERSION, REVISION = "WhisperSpec", 6, 3
Precision = Literal["float32", "float16", "int8"]
_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_QUANTISED = ("linear_0/weight", "linear_1/weight", "linear_2/weight", "embeddings/weight")
_SCALE = "_scale"
_OTHER = "is no readable CTranslate2 model"


def read_model(path: Path) -> dict[str, Tensor]:
    """The tensors of a Whisper model.bin: weights in fp32, settings as they are. Raises MayaError for another
    model or version, and for a damaged file."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise MayaError(f"cannot read {path}: {error.strerror}") from None
    reader = _FileReader(data, path)
    version = reader.number("<I")
    if not 4 <= version <= VERSION:
        raise MayaError(f"{path} {_OTHER} (version {version}); convert it with CTranslate2 3 or 4")
    if (spec := reader.text()) != SPEC:
        raise MayaError(f"{path} holds a model of class {spec!r}; Maya reads {SPEC}")
    reader.number("<I")
    tensors: dict[str, Tensor] = {}
    for _ in range(reader.number("<I")):
        name = reader.text()
        shape = [reader.number("<I") for _ in range(reader.number("<B"))]
        kind, size = reader.number("<B"), reader.number("<I")
        if kind >= len(_DTYPES) or size != math.prod(shape) * _DTYPES[kind].itemsize:
            raise MayaError(f"{path} {_OTHER} ({name} has a wrong size); copy it again")
        raw = bytearray(reader.take(size))
        tensor = torch.frombuffer(raw, dtype=_DTYPES[kind]) if size else torch.empty(0, dtype=_DTYPES[kind])
        tensors[name] = tensor.reshape(shape)
    for _ in range(reader.number("<I")):
        alias, target = reader.text(), reader.text()
        if target not in tensors:
            raise MayaError(f"{path} {_OTHER} ({alias} stands for {target}, which it lacks); copy it again")
    return _dequantised(tensors, path)


def write_model(path: Path, tensors: Mapping[str, Tensor], precision: Precision) -> None:
    """Write weights (fp32, CTranslate2's names) and settings (integers) as a model.bin."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            stored[name] = tensor
        elif precision == "int8" and name.endswith(_QUANTISED):
            peaks = tensor.abs().amax(1)
            scale = 127.0 / torch.where(peaks > 0, peaks, 1.0)
            stored[name], stored[name + _SCALE] = (tensor * scale[:, None]).round().to(torch.int8), scale
        else:
            stored[name] = tensor.to(torch.float16 if precision == "float16" else torch.float32)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<I", VERSION))
        _write_text(file, SPEC)
        file.write(struct.pack("<II", REVISION, len(stored)))
        for name, tensor in sorted(stored.items()):
            _write_text(file, name)
            raw = tensor.contiguous().numpy().astype(tensor.numpy().dtype.newbyteorder("<")).tobytes()
            file.write(struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape))
            file.write(struct.pack("<BI", _DTYPES.index(tensor.dtype), len(raw)))
            file.write(raw)
        weights = [name for name in ("decoder/embeddings/weight", "decoder/embeddings/weight_scale")
                   if name in stored]  # fmt: skip
        file.write(struct.pack("<I", len(weights)))
        for name in weights:
            _write_text(file, name.replace("embeddings", "projection"))
            _write_text(file, name)


class _FileReader:
    """Numbers and texts of a file, in order. Raises MayaError at its end."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def take(self, size: int) -> memoryview:
        if self.at + size > len(self.data):
            raise MayaError(f"{self.path} {_OTHER} (it ends too early); copy it again")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def text(self) -> str:
        return bytes(self.take(self.number("<H"))).rstrip(b"\0").decode("utf-8", "replace")


def _write_text(file: BinaryIO, text: str) -> None:
    raw = text.encode() + b"\0"
    file.write(struct.pack("<H", len(raw)) + raw)


def _dequantised(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("/weight" + _SCALE):
            continue
        if name.endswith("/weight") and not tensor.is_floating_point():
            scale = tensors.get(name + _SCALE)
            if scale is None or (scale.ndim and len(scale) != len(tensor)):
                raise MayaError(f"{path} {_OTHER} ({name} has no scale of its rows); copy it again")
            scale = scale.float()
            tensor = tensor.float() / (scale if scale.ndim == 0 else scale.view(-1, *[1] * (tensor.ndim - 1)))
        out[name] = tensor.float() if tensor.is_floating_point() else tensor
    return out


def setting(tensors: Mapping[str, Tensor], name: str, default: int) -> int:
    """A number among the tensors of a model."""
    value = tensors.get(name)
    return default if value is None or value.numel() != 1 else int(value.reshape(()).item())


def settings(heads: int) -> dict[str, Tensor]:
    """The settings of a Whisper model of so many heads of attention."""
    values: dict[str, Tensor] = {}
    for side in ("encoder", "decoder"):
        values[f"{side}/num_heads"] = torch.tensor(heads, dtype=torch.int16)
        for name, value in (("activation", 3), ("pre_norm", 1), ("scale_embeddings", 0), ("alibi", 0),
                            ("multi_query_attention", 0), ("start_from_zero_embedding", 0)):  # fmt: skip
            values[f"{side}/{name}"] = torch.tensor(value, dtype=torch.int8)
    values["decoder/alignment_heads"] = torch.tensor(1, dtype=torch.int16)
    values["decoder/alignment_layer"] = torch.tensor(-1, dtype=torch.int16)
    return values


def element_count(tensors: Mapping[str, Tensor]) -> int:
    """Numbers in all tensors."""
    return int(np.sum([t.numel() for t in tensors.values()]))
