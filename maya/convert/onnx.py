"""Models as ONNX graphs, in the files and with the metadata that sherpa-onnx reads for NeMo's models."""

import contextlib
import dataclasses
import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from maya.convert.nemo_export import with_language
from maya.convert.onnx_graphs import (
    CTCGraph,
    CTCModelGraph,
    EncoderGraph,
    FeatureGraph,
    JoinerGraph,
    PredictorGraph,
)
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.models.hybrid import HybridModel
from maya.models.hybrid_config import nemo_parts
from maya.text.tokenizer import Tokenizer
from maya.transducer import Predictor

log = logging.getLogger(__name__)
OPSET = 17
WHAT = "the ONNX export"
# A protobuf holds at most 2 GB; a graph with more weights keeps them in a file beside it.
LARGEST_GRAPH_BYTES = 1_800_000_000
TOLERANCE = 1e-3  # between a graph and the model on the check's input, of the largest output

Head = Literal["transducer", "ctc"]
Axes = dict[str, dict[int, str]]


@dataclass(kw_only=True, slots=True)
class Graph:
    """A module to trace, an input to trace it with, and the axes that stay open."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    axes: Axes


def to_onnx(
    model: Recognizer,
    out: str | Path,
    *,
    head: Head | None = None,
    language: str | None = None,
    int8: bool = False,
) -> list[Path]:
    """Write `model` as ONNX graphs into the folder `out`; returns the files.

    features.onnx (waveform to log-mel), tokens.txt, and for a transducer encoder.onnx, decoder.onnx (the
    predictor) and joiner.onnx, with ctc.onnx on the encoder's output where the model has that head; with
    `head` "ctc", or without a transducer, model.onnx from features to CTC log-probabilities.

    language: of a model with a language embedding, the language to fix, or "unknown"; None leaves `language`
        (B,) int64, -1 for unknown, as a third input of the encoder, which sherpa-onnx does not give.
    int8: also write *.int8.onnx, with weights of 8 bits.

    Every graph is run once and compared with the model. Raises MayaError without the packages of the extra
    [onnx], for a head or language that the model does not have, and for parts that NeMo's models lack.
    """
    nemo_parts(model.model.cfg, WHAT)
    onnx, _ = _packages()
    network = _fixed_language(model.model, language)
    head = head or ("ctc" if network.cfg.transducer == "none" else "transducer")
    graphs = _graphs(network, head)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "tokens.txt"]
    written[0].write_text(tokens(model.tokenizer), encoding="utf-8")
    for graph in graphs:
        path = out / f"{graph.name}.onnx"
        facts = metadata(network, head) if graph.name in ("encoder", "model") else {}
        _trace(graph, path)
        _finish(onnx, path, facts)
        _compare(graph, path)
        written.append(path)
        if int8 and graph.name != "features":
            written.append(_quantised(onnx, path, facts))
    return [*written, *(extra for p in written if (extra := p.with_suffix(".weights")).exists())]


def tokens(tokenizer: Tokenizer) -> str:
    """tokens.txt: a piece and its id a line, blank last as <blk>."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return "".join(f"{piece} {i}\n" for i, piece in enumerate([*pieces, "<blk>"]))


def metadata(model: HybridModel, head: Head) -> dict[str, str]:
    """What sherpa-onnx asks of an encoder, and what else a reader needs to run the graphs."""
    cfg = model.cfg
    features, encoder, predictor = nemo_parts(cfg, WHAT)
    tdt = head == "transducer" and cfg.transducer == "tdt"
    facts: dict[str, Any] = {
        "vocab_size": cfg.vocab_size,  # without blank
        "normalize_type": "per_feature" if features.normalize == "per_feature" else "",
        "subsampling_factor": encoder.subsampling_factor,
        "feat_dim": features.num_mels,
        "sample_rate": features.sample_rate,
        "model_type": "EncDecCTCModelBPE" if head == "ctc" else "EncDecRNNTBPEModel",
        "version": "1",
        "model_author": "Maya",
        "url": "maya/tdt" if tdt else f"maya/{head}",  # sherpa-onnx takes a model for TDT by these letters
        "comment": "log-mel front end of NeMo " + ("before 2.5" if features.legacy else "2.5 and later"),
        "languages": " ".join(cfg.languages),
    }
    if head == "transducer":
        facts |= {"pred_rnn_layers": predictor.layers, "pred_hidden": predictor.hidden}
    if tdt:
        facts["durations"] = " ".join(map(str, cfg.durations))
    return {key: str(value) for key, value in facts.items()}


def _packages() -> tuple[Any, Any]:
    try:
        return importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    except ImportError as e:
        raise MayaError(f"exporting to ONNX needs {e.name}: pip install 'maya[onnx]'") from e


def _fixed_language(model: HybridModel, language: str | None) -> HybridModel:
    """`model` itself, or a copy for one language without the embedding."""
    if language is None:
        return model
    if not model.cfg.language_embedding:
        raise MayaError("this model has no language embedding; leave --language out")
    state = with_language(model.state_dict(), model.cfg, language)
    cfg = dataclasses.replace(model.cfg, language_embedding=False)
    with torch.device("meta"):
        fixed = HybridModel(cfg)
    names = fixed.state_dict()
    fixed.load_state_dict({k: v for k, v in state.items() if k in names}, assign=True)
    return fixed.eval()


def _graphs(model: HybridModel, head: Head) -> list[Graph]:
    cfg = model.cfg
    if head == "ctc" and cfg.ctc_weight == 0:
        raise MayaError("this model has no CTC head; export its transducer")
    if head == "transducer" and cfg.transducer == "none":
        raise MayaError("this model has no transducer; export its CTC head")
    dim, mels = cfg.encoder.d_model, cfg.features.num_mels
    batch, frames = {0: "batch"}, {0: "batch", 2: "frames"}
    audio = {"audio": torch.randn(2, 16000) * 0.1, "audio_lens": torch.tensor([16000, 9000])}
    found = [
        Graph(
            name="features",
            module=FeatureGraph(_front_end(model)),
            inputs=audio,
            outputs=("features", "feature_lens"),
            axes={"audio": {0: "batch", 1: "samples"}, "audio_lens": batch, "features": frames}
            | {"feature_lens": batch},
        )
    ]
    signal = {"audio_signal": torch.randn(2, mels, 137), "length": torch.tensor([137, 80])}
    signal_axes: Axes = {"audio_signal": frames, "length": batch}
    if cfg.language_embedding:
        signal["language"] = torch.tensor([0, -1])
        signal_axes["language"] = batch
    if head == "ctc":
        axes = signal_axes | {"logprobs": {0: "batch", 1: "steps"}, "encoded_lengths": batch}
        outputs = ("logprobs", "encoded_lengths")
        graph = Graph(name="model", module=CTCModelGraph(model), inputs=signal, outputs=outputs, axes=axes)
        return [*found, graph]
    axes = signal_axes | {"outputs": {0: "batch", 2: "steps"}, "encoded_lengths": batch}
    outputs = ("outputs", "encoded_lengths")
    found.append(Graph(name="encoder", module=EncoderGraph(model), inputs=signal, outputs=outputs, axes=axes))
    found += _transducer_graphs(model)
    if cfg.ctc_weight > 0:
        steps: Axes = {"encoder_outputs": {0: "batch", 2: "steps"}, "logprobs": {0: "batch", 1: "steps"}}
        enc = {"encoder_outputs": torch.randn(2, dim, 7)}
        graph = Graph(
            name="ctc", module=CTCGraph(model.ctc_decoder), inputs=enc, outputs=("logprobs",), axes=steps
        )
        found.append(graph)
    return found


def _transducer_graphs(model: HybridModel) -> list[Graph]:
    """Predictor and joint, under the names of NeMo's export."""
    p, batch = nemo_parts(model.cfg, WHAT)[2], 2
    assert isinstance(model.decoder, Predictor)
    state = {0: "layers", 1: "batch"}
    predictor = Graph(
        name="decoder",
        module=PredictorGraph(model.decoder),
        inputs={
            "targets": torch.randint(0, model.blank + 1, (batch, 3), dtype=torch.int32),
            "target_length": torch.full((batch,), 3, dtype=torch.int32),
            "h": torch.randn(p.layers, batch, p.hidden) * 0.1,
            "c": torch.randn(p.layers, batch, p.hidden) * 0.1,
        },
        outputs=("outputs", "prednet_lengths", "next_h", "next_c"),
        axes={
            "targets": {0: "batch", 1: "labels"},
            "target_length": {0: "batch"},
            "outputs": {0: "batch", 2: "labels"},
            "prednet_lengths": {0: "batch"},
        }
        | {name: {1: state[1]} for name in ("h", "c", "next_h", "next_c")},
    )
    joiner = Graph(
        name="joiner",
        module=JoinerGraph(model.joint),
        inputs={
            "encoder_outputs": torch.randn(batch, model.cfg.encoder.d_model, 4),
            "decoder_outputs": torch.randn(batch, p.hidden, 3),
        },
        outputs=("outputs",),
        axes={
            "encoder_outputs": {0: "batch", 2: "steps"},
            "decoder_outputs": {0: "batch", 2: "labels"},
            "outputs": {0: "batch", 1: "steps", 2: "labels"},
        },
    )
    return [predictor, joiner]


def _front_end(model: HybridModel) -> Any:
    return model.preprocessor["featurizer"]


def _trace(graph: Graph, path: Path) -> None:
    """By TorchScript: its LSTM and open axes come out as other runtimes expect, and it needs only onnx."""
    module = graph.module.eval()
    with torch.no_grad(), _quiet(), TemporaryDirectory(dir=path.parent) as folder:
        traced = Path(folder) / path.name
        torch.onnx.export(
            module,
            tuple(graph.inputs.values()),
            str(traced),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=graph.axes,
            opset_version=OPSET,
            dynamo=False,
        )
        _gather(importlib.import_module("onnx"), traced, path)


def _gather(onnx: Any, traced: Path, path: Path) -> None:
    """The traced graph as one file, or as one and its weights beside it (the tracer makes one a tensor)."""
    loaded = onnx.load(str(traced))
    large = sum(len(t.raw_data) for t in loaded.graph.initializer) > LARGEST_GRAPH_BYTES
    weights = path.with_suffix(".weights")
    weights.unlink(missing_ok=True)  # onnx appends to what is there
    beside = {"save_as_external_data": True, "all_tensors_to_one_file": True, "location": weights.name}
    onnx.save(loaded, str(path), **(beside if large else {}))


def _finish(onnx: Any, path: Path, facts: dict[str, str]) -> None:
    """Add the metadata, leaving weights beside the graph where they are."""
    loaded = onnx.load(str(path), load_external_data=False)
    del loaded.metadata_props[:]
    onnx.helper.set_model_props(loaded, facts)
    onnx.save(loaded, str(path))


def _compare(graph: Graph, path: Path) -> None:
    """Run the graph on other sizes than it was traced with, and hold it to the module's outputs."""
    inputs = _longer(graph.inputs, graph.axes)
    with torch.no_grad():
        expected = graph.module(*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    for name, theirs, ours in zip(graph.outputs, run(path, inputs), expected, strict=True):
        if tuple(theirs.shape) != tuple(ours.shape):
            raise MayaError(
                f"{path}: {name} has shape {tuple(theirs.shape)} where {tuple(ours.shape)} is right"
            )
        error = (theirs.double() - ours.double()).abs().max().item() / max(1.0, ours.abs().max().item())
        if not error <= TOLERANCE:
            raise MayaError(f"{path}: {name} is {error:.1e} from the model's; please report this")


def _longer(inputs: dict[str, Tensor], axes: Axes) -> dict[str, Tensor]:
    """The same inputs with every open axis half as long again: one row more, and longer rows."""
    longer = {}
    for name, tensor in inputs.items():
        for axis in axes.get(name, {}):
            more = tensor.shape[axis] - tensor.shape[axis] // 2
            tensor = torch.cat([tensor, tensor.narrow(axis, 0, more)], dim=axis)
        longer[name] = tensor
    return longer


def run(path: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    """All outputs of a graph, by onnxruntime on the CPU."""
    runtime = _packages()[1]
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: Sequence[np.ndarray] = session.run(None, {name: t.numpy() for name, t in inputs.items()})
    return [torch.from_numpy(array) for array in found]


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
    """Without the tracer's remarks on constants and the quantiser's advice, which help no user."""
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)
