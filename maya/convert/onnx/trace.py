"""Trace modules to ONNX graphs, add metadata, compare the outputs with the module, quantise."""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import symbolic_helper

from maya.errors import MayaError

OPSET = 17
# A protobuf holds at most 2 GB; larger weights go to a file beside the graph.
LARGEST_GRAPH_BYTES = 1_800_000_000
TOLERANCE = 1e-3  # largest difference between graph and module, relative to the largest output


@dataclass(kw_only=True, slots=True)
class Graph:
    """A module to trace, example inputs, and the names of the axes of variable size.

    Axes are words such as "batch _ frames"; "_" is an axis of fixed size, as are those that are not named.
    """

    name: str
    module: nn.Module
    inputs: dict[str, tuple[Tensor, str]]
    outputs: dict[str, str]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The inputs by name."""
        return {name: tensor for name, (tensor, _) in self.inputs.items()}

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """The names of variable axes, by input or output and number."""
        words = {name: axes for name, (_, axes) in self.inputs.items()} | self.outputs
        return {
            name: {i: word for i, word in enumerate(axes.split()) if word != "_"}
            for name, axes in words.items()
        }


def packages() -> tuple[Any, Any]:
    """onnx and onnxruntime. Raises MayaError, naming the extra, if they are not installed."""
    try:
        return importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    except ImportError as e:
        raise MayaError(f"exporting to ONNX needs {e.name}: pip install 'maya-asr[onnx]'") from e


def write(graph: Graph, out: Path, facts: dict[str, str], *, int8: bool = False) -> list[Path]:
    """Trace a graph into `out`, with `facts` as metadata, and compare it with its module. Returns the files.

    int8: also write a graph with weights of 8 bits. Raises MayaError if graph and module differ.
    """
    onnx, _ = packages()
    path = out / f"{graph.name}.onnx"
    _trace(graph, path)
    _finish(onnx, path, facts)
    _compare(graph, path)
    written = [path, *([_quantised(onnx, path, facts)] if int8 else [])]
    return [*written, *(extra for p in written if (extra := p.with_suffix(".weights")).exists())]


def _trace(graph: Graph, path: Path) -> None:
    """Trace by TorchScript: other runtimes read its LSTM and variable axes, and it needs only onnx."""
    module = graph.module.eval()
    torch.onnx.register_custom_op_symbolic("aten::mT", _transposed, OPSET)
    torch.onnx.register_custom_op_symbolic("aten::unflatten", _unflattened, OPSET)
    with torch.no_grad(), _quiet(), TemporaryDirectory(dir=path.parent) as folder:
        traced = Path(folder) / path.name
        torch.onnx.export(
            module,
            tuple(graph.tensors.values()),
            str(traced),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=graph.axes,
            opset_version=OPSET,
            dynamo=False,
        )
        _gather(importlib.import_module("onnx"), traced, path)


def _transposed(g: Any, x: Any) -> Any:
    """`Tensor.mT`, the last two axes swapped, which torch cannot export."""
    order = list(range(x.type().dim()))
    return g.op("Transpose", x, perm_i=[*order[:-2], order[-1], order[-2]])


@symbolic_helper.parse_args("v", "i", "is")
def _unflattened(g: Any, x: Any, dim: int, sizes: list[int]) -> Any:
    """`Tensor.unflatten` as a reshape whose shape is constant where possible. With torch's own form the
    exporter forgets which axes are variable, and writes the traced lengths."""
    static = x.type().varyingSizes()  # None for a variable axis
    dim %= len(static)
    parts = [_constant(g, [0] * dim + list(sizes))]  # a 0 keeps an axis as it is
    for axis in range(dim + 1, len(static)):
        size = static[axis]
        parts.append(
            _constant(g, [size])
            if size is not None
            else g.op("Gather", g.op("Shape", x), _constant(g, [axis]))
        )
    return g.op("Reshape", x, g.op("Concat", *parts, axis_i=0))


def _constant(g: Any, numbers: list[int]) -> Any:
    return g.op("Constant", value_t=torch.tensor(numbers, dtype=torch.int64))


def _gather(onnx: Any, traced: Path, path: Path) -> None:
    """Save the traced graph as one file, or as a graph and a file of weights. The tracer writes a file for
    each tensor."""
    loaded = onnx.load(str(traced))
    large = sum(len(t.raw_data) for t in loaded.graph.initializer) > LARGEST_GRAPH_BYTES
    weights = path.with_suffix(".weights")
    weights.unlink(missing_ok=True)  # onnx appends to an existing file
    beside = {"save_as_external_data": True, "all_tensors_to_one_file": True, "location": weights.name}
    onnx.save(loaded, str(path), **(beside if large else {}))


def _finish(onnx: Any, path: Path, facts: dict[str, str]) -> None:
    """Add the metadata. Weights beside the graph stay as they are."""
    loaded = onnx.load(str(path), load_external_data=False)
    del loaded.metadata_props[:]
    onnx.helper.set_model_props(loaded, facts)
    onnx.save(loaded, str(path))


def _compare(graph: Graph, path: Path) -> None:
    """Run the graph on other sizes than those of the trace, and compare it with the module."""
    inputs = _longer(graph.tensors, graph.axes)
    with torch.no_grad():
        expected = graph.module(*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    for name, output, right in zip(graph.outputs, run(path, inputs), expected, strict=True):
        if output.shape != right.shape:
            raise MayaError(f"{path}: {name} has shape {tuple(output.shape)}, not {tuple(right.shape)}")
        error = (output.double() - right.double()).abs().max().item() / max(1.0, right.abs().max().item())
        if not error <= TOLERANCE:
            raise MayaError(f"{path}: {name} differs by {error:.1e} from the model's; please report this")


def _longer(inputs: dict[str, Tensor], axes: dict[str, dict[int, str]]) -> dict[str, Tensor]:
    """The same inputs with every variable axis half as long again: more rows, and longer ones."""
    longer = {}
    for name, tensor in inputs.items():
        for axis in axes.get(name, {}):
            added = tensor.shape[axis] - tensor.shape[axis] // 2
            tensor = torch.cat([tensor, tensor.narrow(axis, 0, added)], dim=axis)
        longer[name] = tensor
    return longer


def run(path: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    """All outputs of a graph, by onnxruntime on the CPU."""
    runtime = packages()[1]
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: Sequence[np.ndarray] = session.run(None, {name: t.numpy() for name, t in inputs.items()})
    return [torch.from_numpy(array) for array in outputs]


def _quantised(onnx: Any, path: Path, facts: dict[str, str]) -> Path:
    """The graph with the weights of its matrix products and LSTMs in 8 bits, dynamically scaled."""
    quantization = importlib.import_module("onnxruntime.quantization")
    small = path.with_suffix(".int8.onnx")
    encoder = path.stem in ("encoder", "model")
    kind = quantization.QuantType.QUInt8 if encoder else quantization.QuantType.QInt8
    with _quiet():
        quantization.quantize_dynamic(
            str(path), str(small), weight_type=kind, op_types_to_quantize=["MatMul", "Gemm", "LSTM"]
        )
    _finish(onnx, small, facts)
    return small


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer's remarks on constants and the quantiser's advice, which do not help users."""
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)
