"""The interface of heads: encoder frames in, losses and predictions out. A head of your own subclasses both
classes; `maya.heads.classify` is the shortest example.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from maya.config import Kinds, config, leaves, register_builder, required_fields
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.features.span_mask import SpanMaskConfig
from maya.heads.cost import HeadFlops, HeadMemory
from maya.ranges import Count, NonNegFloat
from maya.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadContext:
    """The facts about a model that its heads are built from.

    dim: channels D of the encoder.                labels: token ids that stand for text, without blank.
    blank: the id of blank.                        languages: codes, in the order of `Batch.langs`.
    hidden_dims: channels of the encoder's hidden states, from layer 0 on, for heads that read them.
    frame_seconds: seconds from one encoder frame to the next, for heads whose labels have times.
    feature_dim, subsampling: channels F of the features, and how many of their frames an encoder frame has.
    """

    dim: int
    labels: int
    blank: int
    languages: tuple[str, ...] = ()
    hidden_dims: tuple[int, ...] = ()
    frame_seconds: float = 0.0
    feature_dim: int = 0
    subsampling: int = 1


@config
class HeadConfig(Kinds):
    """The base of head configurations.

    A head has no weight before `first_step`; then its weight rises linearly from 0 to `weight` over
    `ramp_steps`. See `head_weights`. A subclass has a field `kind`, and where it applies:
    writes_text: its output is tokens. needs: names of the labels that a batch must hold (maya.data).
    needs_frames: its loss is infinite where an utterance has fewer frames than CTC needs for its text.
    places: names of fields that hold paths or names of models, which may differ on another machine.
    """

    writes_text: ClassVar[bool] = False
    needs_frames: ClassVar[bool] = False
    places: ClassVar[tuple[str, ...]] = ()

    weight: NonNegFloat = 1.0  # of its loss in the total
    first_step: Count = 0  # optimizer steps before it is trained
    ramp_steps: Count = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the labels that its loss reads, besides text and language."""
        return ()

    @property
    def views(self) -> int:
        """Copies of each utterance that its loss compares, masked differently."""
        return 1

    @property
    def span_mask(self) -> SpanMaskConfig | None:
        """The spans of features that training hides from the encoder, for a head that predicts what is there;
        such a head reads `Encoded.masked`."""
        return None

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that its tokens are of, for a head that brings one; None: any tokenizer will do."""
        return None

    def weight_at(self, step: int) -> float:
        """Its own weight at an optimizer step, counted from 0."""
        if step < self.first_step:
            return 0.0
        return self.weight * (min(1.0, (step - self.first_step) / self.ramp_steps) if self.ramp_steps else 1)

    def describe(self) -> str:
        """One line for `maya info`: the weight, and the options without a default or that differ from it."""
        required = {name: getattr(self, name) for name in required_fields(type(self))}
        defaults = dict(leaves(type(self)(**required)))
        options = [
            f"{name} {value}"
            for name, value in leaves(self)
            if name.split(".")[0] in required or value != defaults.get(name)
        ]
        return ", ".join([f"weight {self.weight:g}", *(o for o in options if not o.startswith("weight "))])

    def flops(self, name: str, context: HeadContext, frames: int, tokens: int) -> HeadFlops:
        """Operations for an utterance of so many encoder frames and tokens, for `maya plan`; `name` is that
        of the head in the model. By default every weight is used once a frame."""
        with torch.device("meta"):
            weights = sum(p.numel() for p in self.build(context).parameters())
        forward = {f"{name} head": 2.0 * weights * frames}
        return HeadFlops(forward=forward, training={key: 3 * value for key, value in forward.items()})

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        """Memory of its activations in training, for `maya plan`. By default it is neglected."""
        return HeadMemory()

    def skip_ramps(self) -> None:
        """Take waiting times and ramps out, in place: a head that is trained already needs none."""
        self.first_step = self.ramp_steps = 0

    def steps_trained(self, steps: int) -> int:
        """How many of the first `steps` optimizer steps give it weight."""
        if not self.weight:
            return 0
        return max(0, steps - self.first_step - (1 if self.ramp_steps else 0))


def head_weights(heads: Mapping[str, HeadConfig], step: int) -> dict[str, float]:
    """The weight of each head's loss at an optimizer step.

    The weight that text heads still lack goes to the text heads that have their full weight, in proportion:
    CTC of weight 0.3 has weight 1 while a transducer of weight 0.7 waits for its first step.
    """
    weights = {name: cfg.weight_at(step) for name, cfg in heads.items()}
    text = {name: cfg for name, cfg in heads.items() if cfg.writes_text}
    lacking = sum(cfg.weight - weights[name] for name, cfg in text.items())
    full = {name: cfg.weight for name, cfg in text.items() if 0 < cfg.weight == weights[name]}
    for name, weight in full.items():
        weights[name] += lacking * (weight / sum(full.values()))
    return weights


def final_weights(heads: Mapping[str, HeadConfig], trained: tuple[str, ...]) -> dict[str, float]:
    """`head_weights` of a training that has ended, if the heads outside `trained` never begin."""
    text = {name: cfg for name, cfg in heads.items() if cfg.writes_text}
    lacking = sum(cfg.weight for name, cfg in text.items() if name not in trained)
    present = sum(cfg.weight for name, cfg in text.items() if name in trained)
    weights = {name: cfg.weight if name in trained else 0.0 for name, cfg in heads.items()}
    if present:
        for name in text:
            weights[name] += lacking * (weights[name] / present)
    return weights


@dataclass(kw_only=True, slots=True)
class LossStep:
    """The state of training that a loss may depend on.

    step: optimizer step, from 0. generator: draws what must be the same on every rank, such as TDT's omega.
    views: copies of each utterance in `encoded`, masked differently, all first copies before all second ones.
    objective: a head writes here which objective it drew, if it was not its usual one.
    """

    step: int = 0
    generator: torch.Generator | None = None
    views: int = 1
    objective: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMeans:
    """What a training can give its heads before the first step.

    texts: gives the token ids of each training text. teacher: loads the model at a path. counts: how many
    training utterances have each value of a label, "language" among the labels.
    """

    texts: Callable[[], Iterable[Sequence[int]]]
    teacher: Callable[[str], "Teacher"]
    counts: Callable[[str], Mapping[str, int]]


class Teacher(Protocol):
    """A trained model: audio (B, N) and audio_lens (B,) → its encoder's frames, without masks or gradient.

    dim: their channels. sample_rate: that of the audio.
    """

    dim: int
    sample_rate: int

    def __call__(self, audio: Tensor, audio_lens: Tensor) -> Encoded: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The class that a head gives an utterance, and its probability. A head that is `numeric` gives a number
    as text, without a probability."""

    label: str
    probability: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundEvent:
    """Something that lasts, in seconds from the audio's start. probability: the highest of its frames."""

    label: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadTrack:
    """What a head says of an utterance step by step.

    values: (n, len(columns)). seconds: from one step to the next; step i is of the time from i · seconds on.
    events: what the head makes of them, for a head that finds events.
    """

    columns: tuple[str, ...]
    seconds: float
    values: Tensor
    events: tuple[SoundEvent, ...] = ()


class HeadStream:
    """A head's side of one stream: frames in, what it says of all of them out."""

    def push(self, encoded: Encoded) -> None:
        """The next frames (1, S, D)."""
        raise NotImplementedError

    def prediction(self) -> Prediction | None:
        """What it says of the frames so far; None before the first, and for a head of tracks."""
        raise NotImplementedError

    def track(self) -> HeadTrack | None:
        """The track so far, for a head that `tracks` something."""
        return None


class Head(nn.Module):
    """The base of heads. `class Mine(Head, config=MyConfig)` registers the class for a configuration; its
    constructor takes the configuration and a `HeadContext`.

    parts: names of the losses that `losses` returns, the first of which is the head's own.
    conditioned: it reads frames with the language embedding added, where the model has one.
    predicts: the label that `predict` tells, "language" or a name in `Batch.labels`; "" for none.
    numeric: whether this label is a number and no class.
    tracks: the name of what `track` tells; "" for a head without tracks.
    ctc_over: "tokens" of the text or "units" of a label, where `forward` gives log-probabilities of CTC.
    """

    def __init_subclass__(cls, *, config: type | None = None) -> None:
        super().__init_subclass__()
        if config is not None:
            register_builder(config, cls)

    cfg: Any
    parts: tuple[str, ...] = ("loss",)
    conditioned: bool = True
    predicts: str = ""
    numeric: bool = False
    tracks: str = ""
    ctc_over: str = ""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Layers of the encoder whose hidden states it reads from `Encoded.hidden`."""
        return ()

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        """The losses of each utterance by part, (B,) fp32 and not reduced. An utterance that is too short for
        its text has an infinite loss and no gradient."""
        raise NotImplementedError(f"{type(self).__name__}.losses")

    def begin_training(self, means: TrainingMeans) -> None:
        """Called before training, once on each rank, and before a checkpoint is read."""

    def part_weights(self, step: int) -> dict[str, float]:
        """The weight of each part in the head's loss at an optimizer step; 1 for those not named."""
        return {}

    def predict(self, encoded: Encoded) -> list[Prediction]:
        """The class of each utterance, for a head that `predicts` a label."""
        raise NotImplementedError(f"{type(self).__name__}.predict")

    def track(self, encoded: Encoded) -> list[HeadTrack]:
        """The track of each utterance, for a head that `tracks` something."""
        raise NotImplementedError(f"{type(self).__name__}.track")

    def stream(self) -> HeadStream:
        """The head's side of a stream before its first frame. Raises MayaError for a head that cannot."""
        raise MayaError(f"a head of kind {self.cfg.kind!r} reads whole utterances and cannot stream")

    def total(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        """The head's loss from its parts, (B,)."""
        weights = self.part_weights(step)
        total: Tensor | None = None
        for name, loss in losses.items():
            total = add_weighted(total, loss, weights.get(name, 1.0))
        assert total is not None, f"{type(self).__name__}.losses returned nothing"
        return total


def loss_inputs(encoded: Encoded, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B, U), frames (B,) and token lengths (B,) for a loss that checks them, on the CPU where they
    are known there: such a loss does not wait for the device."""
    return batch.on_host("tokens"), encoded.lens_on_host, batch.on_host("token_lens")


def add_weighted(total: Tensor | None, loss: Tensor, weight: float) -> Tensor:
    """total + weight · loss, each (B,). A weight of 0 keeps an infinite loss out, and gives DDP its zero
    gradients."""
    term = weight * loss if weight else 0.0 * loss.masked_fill(loss.isinf(), 0.0)
    return term if total is None else total + term


def zero_gradients(module: nn.Module) -> Tensor:
    """() zero that depends on every parameter: DDP waits for a gradient from each of them."""
    corners = [p.reshape(-1)[:1].sum() for p in module.parameters() if p.requires_grad]
    return 0.0 * torch.stack(corners).sum() if corners else torch.zeros(())


def ramp(step: int, steps: int) -> float:
    """0 at the first step, 1 from step `steps` on, linear between."""
    return min(1.0, step / steps) if steps else 1.0
