"""Memory of training a hybrid model, on paper: what each component holds, and how large a batch fits.

A step's memory is highest at one of a few moments, each a polynomial in utterances, frames and tokens; the
largest of them counts. What the moments have in common is that weights, optimizer and all that earlier layers
keep is there. docs/benchmarks/sizing.md compares this with measured peaks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import nn

from maya.data.plan import MemoryConfig
from maya.encoders import AnyEncoderConfig, FastConformerConfig, LaCTConfig, ZipformerConfig
from maya.errors import MayaError
from maya.heads.transducer import PredictorConfig
from maya.models.config import SpeechModelConfig
from maya.models.sizing.activations import layer_memory
from maya.models.sizing.counted import Counts, encoder_memory, is_counted, widest_of_front
from maya.models.sizing.flops import check_parts, transform_size
from maya.models.speech_model import SpeechModel

TERMS = ("fixed", "length", "utterance", "frame", "pair", "label", "node")
# What a process needs besides: on a CPU Python with torch, lhotse and accelerate; on CUDA the context and the
# workspaces of cuBLAS and NCCL, a guess.
PROCESS_CPU, PROCESS_CUDA = 0.5e9, 2.0e9
_CPU_CHUNK, _CUDA_LOGITS, _CUDA_HIDDEN = 1 << 22, 1 << 30, 1 << 27  # of maya.kernels.joint
_KEPT_ROW, _FORWARD_ROW = 64, 200  # bytes of a lattice cell: for the backward pass; while the lattice runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Bytes as in MemoryConfig: of B utterances of S frames and U tokens,
    fixed + length·S + B·(utterance + frame·S + pair·S² + label·(U+1) + node·S·(U+1))."""

    fixed: float = 0.0
    length: float = 0.0
    utterance: float = 0.0
    frame: float = 0.0
    pair: float = 0.0
    label: float = 0.0
    node: float = 0.0

    def __add__(self, other: "Terms") -> "Terms":
        return Terms(**{name: getattr(self, name) + getattr(other, name) for name in TERMS})

    def times(self, factor: float) -> "Terms":
        return Terms(**{name: getattr(self, name) * factor for name in TERMS})

    def bytes(self, batch: float, frames: float, tokens: float) -> float:
        return float(self.config().bytes(batch, frames, tokens))

    def config(self, max_bytes: float | None = None) -> MemoryConfig:
        return MemoryConfig(max_bytes=max_bytes, **{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How training is set up. cuda, bf16: where it runs. hold_gradients: with accumulation or under DDP
    gradients stay in memory through the forward pass."""

    cuda: bool
    bf16: bool
    hold_gradients: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A point where memory may be highest: what is there beside what is kept, and what of that is not there,
    not yet or no longer."""

    extra: Terms
    gone: frozenset[str] = frozenset()


# They find room in what others have freed or, coming first, leave it to them.
_AMONG_FREED = ("features", "end of the backward pass")


@dataclass(kw_only=True, slots=True)
class Memory:
    """states: what is always there; kept: from forward to backward; moments: where memory may be highest;
    host: beside the GPU, in the memory of the first process.

    resident: count the resident set of a process on a CPU. There training lets glibc keep what is freed
    (maya.train.loop.keep_freed_memory), in pieces that suit the next moment badly: all of them add up.
    """

    states: dict[str, Terms] = field(default_factory=dict)
    kept: dict[str, Terms] = field(default_factory=dict)
    moments: dict[str, Moment] = field(default_factory=dict)
    host: dict[str, Terms] = field(default_factory=dict)
    resident: bool = False

    @property
    def base(self) -> Terms:
        return _sum(self.states.values())

    def peaks(self) -> dict[str, Terms]:
        """All that is there at each moment."""
        if self.resident:
            extras = [m.extra for name, m in self.moments.items() if name not in _AMONG_FREED]
            return {"all moments together": self.base + _sum(self.kept.values()) + _sum(extras)}
        return {
            name: self.base + _sum(t for k, t in self.kept.items() if k not in moment.gone) + moment.extra
            for name, moment in self.moments.items()
        }

    def bytes(self, batch: float, frames: float, tokens: float) -> float:
        return max(terms.bytes(batch, frames, tokens) for terms in self.peaks().values())

    def room(self, max_bytes: float, frames: float, tokens: float) -> int:
        """The most utterances of this size that max_bytes hold; 0 for none."""
        rooms = [float(t.config(max_bytes).room(frames, tokens)) for t in self.peaks().values()]
        return max(0, int(min(rooms)))


def meta_model(cfg: SpeechModelConfig) -> SpeechModel:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return SpeechModel(cfg)


def parameters(model: nn.Module) -> dict[str, int]:
    """Parameters by component: the parts of the model, the encoder in two."""
    found: dict[str, int] = {}
    for name, p in model.named_parameters():
        first, *rest = name.split(".")
        if first == "encoder":
            front = rest[0] in ("pre_encode", "encoder_embed")
            first = "subsampling" if front else "encoder layers"
        key = {"decoder": "predictor", "ctc_decoder": "ctc head"}.get(first, first.replace("_", " "))
        found[key] = found.get(key, 0) + p.numel()
    return found


def memory(cfg: SpeechModelConfig, how: Training, model: nn.Module | None = None) -> Memory:
    """The memory of training `cfg`. model: where it is at hand already, on any device. Raises MayaError for
    a model with an attention decoder; `maya.train.memory_probe` measures that."""
    check_parts(cfg)
    model = model or meta_model(cfg)
    count = sum(p.numel() for p in model.parameters())
    out = Memory(resident=not how.cuda)
    out.states = {
        "process": Terms(fixed=PROCESS_CUDA if how.cuda else PROCESS_CPU),
        "weights (fp32)": Terms(fixed=4.0 * count),
        "optimizer (AdamW, fp32)": Terms(fixed=8.0 * count),
        "audio": Terms(frame=2 * 4.0 * _samples_per_frame(cfg)),
    }
    average = {"average of the weights (fp64)": Terms(fixed=8.0 * count)}
    if how.cuda:
        out.host = average
    else:
        out.states |= average
    gradients = Terms(fixed=4.0 * count)
    if how.hold_gradients:
        out.states["gradients (fp32)"] = gradients
    if how.bf16:
        out.states["bf16 copies of the weights"] = Terms(fixed=2.0 * count)
    _encoder(out, cfg.encoder, how)
    _heads(out, cfg, how)
    gone = frozenset(out.kept) - {"features and subsampling"}
    # Gradients of the widest activation and of what it was made of.
    widest = Terms(frame=2 * (2.0 if how.bf16 else 4.0) * _widest(cfg.encoder))
    out.moments["subsampling, backward"] = Moment(extra=widest, gone=gone)
    if not how.hold_gradients:  # all of them are there when the backward pass ends
        out.moments["end of the backward pass"] = Moment(extra=gradients + widest, gone=gone)
    out.moments["features"] = Moment(extra=_features(cfg), gone=frozenset(out.kept))
    return out


def _samples_per_frame(cfg: SpeechModelConfig) -> float:
    return cfg.features.sample_rate * cfg.features.hop_ms / 1000 * cfg.encoder.subsampling_factor


def _encoder(out: Memory, enc: AnyEncoderConfig, how: Training) -> None:
    heads = frozenset(("ctc head and loss", "lattice"))
    features = 4.0 * enc.feat_in * enc.subsampling_factor
    # Features and the encoder's output lie there in two versions each: before and after masks.
    ends = Terms(frame=2 * features + 2 * 4.0 * enc.d_model)
    if is_counted(enc):
        counted = encoder_memory(enc, cuda=how.cuda, bf16=how.bf16)
        out.kept["encoder layers"] = _counted(counted.kept)
        out.moments["encoder layer, backward"] = Moment(extra=_counted(counted.work), gone=heads)
        front = _counted(counted.front)
        if not isinstance(enc, ZipformerConfig):
            front = Terms(frame=(2.0 if how.bf16 else 4.0) * _subsampling(enc)[1])
        out.kept["features and subsampling"] = front + ends
        return
    assert isinstance(enc, FastConformerConfig)
    layer = layer_memory(enc, cuda=how.cuda, bf16=how.bf16)
    one = Terms(length=layer.kept_length, frame=layer.kept_frame, pair=layer.kept_pair)
    work = Terms(frame=layer.work_frame, pair=layer.work_pair)
    if enc.activation_checkpointing:
        out.kept["encoder layers"] = Terms(frame=layer.input_frame).times(enc.n_layers)
        work = one + work
    else:
        out.kept["encoder layers"] = one.times(enc.n_layers)
    out.moments["encoder layer, backward"] = Moment(extra=work, gone=heads)
    front = Terms(frame=(2.0 if how.bf16 else 4.0) * _subsampling(enc)[1])
    out.kept["features and subsampling"] = front + ends + Terms(length=8.0 * enc.d_model)


def _counted(counts: Counts) -> Terms:
    return Terms(**{f.name: getattr(counts, f.name) for f in fields(counts)})


def _widest(enc: AnyEncoderConfig) -> float:
    """Numbers per encoder frame in the widest activation before the layers."""
    return widest_of_front(enc) if isinstance(enc, ZipformerConfig) else _subsampling(enc)[0]


def _features(cfg: SpeechModelConfig) -> Terms:
    """Of the front end: complex spectrum, its squares, their sums; three versions of the audio."""
    bins = transform_size(cfg.features) // 2 + 1
    spectrum = (8 + 8 + 4) * bins * cfg.encoder.subsampling_factor
    return Terms(frame=float(spectrum) + 3 * 4.0 * _samples_per_frame(cfg))


def _subsampling(enc: FastConformerConfig | LaCTConfig) -> tuple[float, float]:
    """Numbers per encoder frame: of the widest activation, and of all that are kept."""
    stages = enc.subsampling_factor.bit_length() - 1
    bins, cells = enc.feat_in, []
    for stage in range(stages):
        bins = (bins + 1) // 2
        cells.append(enc.subsampling_channels * bins * 2 ** (stages - 1 - stage))
    flat = enc.subsampling_channels * bins
    return float(cells[0]), float(cells[0] + 2 * sum(cells[1:]) + flat + enc.d_model)


def _heads(out: Memory, cfg: SpeechModelConfig, how: Training) -> None:
    vocab, predictor = cfg.vocab_size + 1, cfg.predictor
    if cfg.transducer != "none":
        hidden = cfg.joint.hidden
        tensors = 10 * predictor.layers + 4 if isinstance(predictor, PredictorConfig) else 4
        out.kept["predictor"] = Terms(label=4.0 * predictor.hidden * tensors)
        out.kept["joint projections"] = Terms(frame=4.0 * hidden, label=4.0 * hidden)
        out.kept["lattice"] = Terms(node=_KEPT_ROW)
        chunk = _CPU_CHUNK * 4.0 + (2 * _CPU_CHUNK / vocab) * hidden * 4.0
        if how.cuda:
            chunk = _CUDA_LOGITS + _CUDA_HIDDEN
        weight = (2 if how.cuda else 1) * 4.0 * hidden * vocab
        ctc = frozenset(("ctc head and loss",))  # which comes later in the forward pass and is gone first
        gradients = Terms(fixed=chunk + weight, frame=8.0 * hidden, label=8.0 * hidden, node=_KEPT_ROW)
        if cfg.transducer == "pruned":  # the lattice of the simple loss is whole, that of the joint is not
            out.kept["simple joint"] = Terms(frame=2 * 4.0 * vocab, label=2 * 4.0 * vocab)
            gradients += Terms(frame=2 * 4.0 * vocab, label=2 * 4.0 * vocab)
        out.moments["joint and loss, backward"] = Moment(extra=gradients, gone=ctc)
        out.moments["lattice"] = Moment(extra=Terms(fixed=chunk, node=_FORWARD_ROW), gone=ctc)
    if cfg.ctc_weight > 0:
        # Log probabilities of the head and of the loss are kept; their gradients join them.
        out.kept["ctc head and loss"] = Terms(frame=2 * 4.0 * vocab)
        out.moments["ctc loss, backward"] = Moment(extra=Terms(frame=2 * 4.0 * vocab))


def _sum(terms: Iterable[Terms]) -> Terms:
    total = Terms()
    for each in terms:
        total = total + each
    return total


def largest_batch(found: Memory, allowed: float, frames: int, tokens: int, *, seconds: float) -> int:
    """The most utterances of a size that `allowed` bytes hold; MayaError where not one fits."""
    batch = found.room(allowed, frames, tokens)
    if not batch:
        needed = found.bytes(1, frames, tokens)
        raise MayaError(
            f"one utterance of {seconds:.1f} s with {tokens} tokens needs {needed / 1e9:.1f} GB where "
            f"{allowed / 1e9:.1f} GB may be used; set model.encoder.activation_checkpointing=true, take a "
            "larger GPU or a smaller model"
        )
    return batch


def with_checkpointing(cfg: SpeechModelConfig, on: bool) -> SpeechModelConfig:
    """The configuration with activation checkpointing on or off."""
    return replace(cfg, encoder=replace(cfg.encoder, activation_checkpointing=on))
