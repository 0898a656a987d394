"""Memory of training a hybrid model, on paper: what each component holds, and how large a batch fits.

A step's memory is highest at one of a few moments, each a polynomial in utterances, frames and tokens; the
largest of them counts. What the moments have in common is that weights, optimizer and all that earlier layers
keep is there. docs/benchmarks/sizing.md compares this with measured peaks.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn

from maya.encoders import Encoder
from maya.errors import MayaError
from maya.heads.cost import Terms, total
from maya.models.config import SpeechModelConfig, head_context
from maya.models.sizing.encoder import encoder_memory
from maya.models.speech_model import SpeechModel

# What a process needs besides: on a CPU Python with torch, lhotse and accelerate; on CUDA the context and the
# workspaces of cuBLAS and NCCL, a guess.
PROCESS_CPU, PROCESS_CUDA = 0.5e9, 2.0e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How training is set up. cuda, bf16: where it runs. hold_gradients: with accumulation or under DDP
    gradients stay in memory through the forward pass. shards: processes among which FSDP2 divides the
    model."""

    cuda: bool
    bf16: bool
    hold_gradients: bool = False
    shards: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A point of a step where memory may be highest. extra: memory beside the components that are kept.
    gone: kept components that do not exist at this point."""

    extra: Terms
    gone: frozenset[str] = frozenset()


# Moments that use memory which other moments have freed, or will use again.
_AMONG_FREED = ("features", "end of the backward pass")


@dataclass(kw_only=True, slots=True)
class TrainingMemory:
    """states: what is always there; kept: from forward to backward; moments: where memory may be highest;
    host: beside the GPU, in the memory of the first process.

    resident: count the resident set of a process on a CPU. There training lets glibc keep freed memory
    (maya.train.accelerator.keep_freed_memory). It is fragmented, so the moments add up.
    """

    states: dict[str, Terms] = field(default_factory=dict)
    kept: dict[str, Terms] = field(default_factory=dict)
    moments: dict[str, Moment] = field(default_factory=dict)
    host: dict[str, Terms] = field(default_factory=dict)
    resident: bool = False

    @property
    def base(self) -> Terms:
        return total(self.states.values())

    def peaks(self) -> dict[str, Terms]:
        """All memory in use at each moment."""
        if self.resident:
            extras = [m.extra for name, m in self.moments.items() if name not in _AMONG_FREED]
            return {"all moments together": self.base + total(self.kept.values()) + total(extras)}
        return {
            name: self.base + total(t for k, t in self.kept.items() if k not in moment.gone) + moment.extra
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


def parameters(model: SpeechModel) -> dict[str, int]:
    """Parameters by component: the encoder in two, a head with several children by these."""
    encoder: Encoder = model.encoder
    counts: dict[str, int] = {}
    for name, p in model.named_parameters():
        first, *rest = name.split(".")
        key = first.replace("_", " ")
        if first == "encoder":
            key = "subsampling" if rest[0] in encoder.front else "encoder layers"
        elif first == "heads":
            children = [
                child
                for child in model.head(rest[0]).children()
                if next(child.parameters(), None) is not None
            ]
            key = f"{rest[0]} {rest[1] if len(children) > 1 else 'head'}".replace("_", " ")
        counts[key] = counts.get(key, 0) + p.numel()
    return counts


def memory(cfg: SpeechModelConfig, training: Training, model: nn.Module | None = None) -> TrainingMemory:
    """The memory of training `cfg`. model: if it exists already, on any device. Raises MayaError for a head
    that cannot be estimated; `maya.train.memory.probe` measures those."""
    model = model or meta_model(cfg)
    whole = sum(p.numel() for p in model.parameters())
    count = whole / training.shards
    out = TrainingMemory(resident=not training.cuda)
    out.states = {
        "process": Terms(fixed=PROCESS_CUDA if training.cuda else PROCESS_CPU),
        "weights (fp32)": Terms(fixed=4.0 * count),
        "optimizer (AdamW, fp32)": Terms(fixed=8.0 * count),
        "audio": Terms(frame=2 * 4.0 * _samples_per_frame(cfg)),
    }
    if training.shards > 1:
        out.states["gathered weights (fp32)"] = Terms(fixed=4.0 * _gathered(model, whole))
    average = {"average of the weights (fp64)": Terms(fixed=8.0 * count)}
    if training.cuda:
        out.host = average
    else:
        out.states |= average
    gradients = Terms(fixed=4.0 * count)
    if training.hold_gradients:
        out.states["gradients (fp32)"] = gradients
    if training.bf16:
        out.states["bf16 copies of the weights"] = Terms(fixed=2.0 * whole)
    heads = _heads(out, cfg, training)
    _encoder(out, cfg, training, heads)
    out.moments["features"] = Moment(extra=_features(cfg), gone=frozenset(out.kept))
    return out


def _gathered(model: nn.Module, whole: int) -> int:
    """Weights that FSDP2 holds whole at a time: two blocks, one of them on its way, and what is in none."""
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.encoder.blocks()]  # type: ignore[operator, union-attr]
    return whole - sum(blocks) + 2 * max(blocks, default=0)


def _samples_per_frame(cfg: SpeechModelConfig) -> float:
    return cfg.features.sample_rate * cfg.features.hop_ms / 1000 * cfg.encoder.subsampling_factor


def _encoder(
    out: TrainingMemory, cfg: SpeechModelConfig, training: Training, released: frozenset[str]
) -> None:
    """released: components of heads that are gone when the encoder's backward pass runs."""
    enc, front = cfg.encoder, "features and subsampling"
    measured = encoder_memory(enc, cuda=training.cuda, bf16=training.bf16)
    features = 4.0 * enc.feat_in * enc.subsampling_factor
    # Features and the encoder's output exist in two versions each: before and after masks.
    ends = Terms(frame=2 * features + 2 * 4.0 * enc.d_model)
    layers, before = measured.kept.views(cfg.views), (measured.front + ends).views(cfg.views)
    out.kept = {"encoder layers": layers, front: before} | out.kept
    out.moments["encoder layer, backward"] = Moment(extra=measured.work.views(cfg.views), gone=released)
    # Gradients of the widest activation and of what it was made of.
    widest = Terms(frame=2 * measured.widest).views(cfg.views)
    gone = frozenset(out.kept) - {front}
    out.moments["subsampling, backward"] = Moment(extra=widest, gone=gone)
    if not training.hold_gradients:  # all of them exist when the backward pass ends
        gradients = out.states["weights (fp32)"]
        out.moments["end of the backward pass"] = Moment(extra=gradients + widest, gone=gone)


def _features(cfg: SpeechModelConfig) -> Terms:
    """The front end: complex spectrum, its squares, their sums; three versions of the audio."""
    bins = cfg.features.n_fft // 2 + 1 if cfg.features.n_fft else 0
    spectrum = (8 + 8 + 4) * bins * cfg.encoder.subsampling_factor
    return Terms(frame=float(spectrum) + 3 * 4.0 * _samples_per_frame(cfg))


def _heads(out: TrainingMemory, cfg: SpeechModelConfig, training: Training) -> frozenset[str]:
    """Adds the heads; returns the components that their backward pass frees. It begins with the last head."""
    context, released = head_context(cfg), frozenset[str]()
    for name, head in reversed(cfg.heads.items()):
        if head.weight:
            parts = head.memory(name, context, cuda=training.cuda)
            out.kept = {part: terms.views(cfg.views) for part, terms in parts.kept.items()} | out.kept
            moments = {
                part: Moment(extra=extra.views(cfg.views), gone=released)
                for part, extra in parts.moments.items()
            }
            out.moments = moments | out.moments
            released |= parts.released
    return released


def largest_batch(memory: TrainingMemory, allowed: float, frames: int, tokens: int, *, seconds: float) -> int:
    """The most utterances of a size that `allowed` bytes hold; MayaError where not one fits."""
    batch = memory.room(allowed, frames, tokens)
    if not batch:
        needed = memory.bytes(1, frames, tokens)
        raise MayaError(
            f"one utterance of {seconds:.1f} s with {tokens} tokens needs {needed / 1e9:.1f} GB where "
            f"{allowed / 1e9:.1f} GB may be used; set model.encoder.activation_checkpointing=true, take a "
            "larger GPU or a smaller model"
        )
    return batch


def with_checkpointing(cfg: SpeechModelConfig, on: bool) -> SpeechModelConfig:
    """The configuration with activation checkpointing on or off; unchanged if its encoder has none."""
    encoder: Any = cfg.encoder
    if not any(f.name == "activation_checkpointing" for f in fields(encoder)):
        return cfg
    return replace(cfg, encoder=replace(encoder, activation_checkpointing=on))
