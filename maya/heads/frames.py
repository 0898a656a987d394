"""Heads that say something step by step: events such as laughter, speech or single words, and pitch.

A label holds what is true of an utterance at each time, as text, so that it lies in the table like any other:

- events: "0.32-0.51 laugh; 1.2-1.9 cough", times in seconds. A class without a time holds all along; "none"
  says that there is no event.
- pitch: the seconds between two values, then the values in Hz, 0 where nothing is voiced: "0.01 0 121.3 122".
  Value i is of the time i · seconds. A teacher writes them before training, from audio that is not augmented.

Where training changes the speed of an utterance, times and frequencies are moved with it.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maya.config import config
from maya.data.loading.batch import Batch
from maya.data.table.spans import events_in
from maya.encoders import frame_mask
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import (
    Head,
    HeadConfig,
    HeadContext,
    HeadStream,
    HeadTrack,
    LossStep,
    Prediction,
    SoundEvent,
)
from maya.heads.pooling import LayerSum
from maya.ranges import BelowOne, Count, Distinct, NonNegFloat, PosFloat, PosInt, Share

BINS = 360  # of pitch, as in CREPE (Kim et al. 2018)
BIN_CENTS = 20.0
FIRST_CENTS = 1997.3794084376191  # of bin 0: 31.7 Hz; cents count from 10 Hz
_SPREAD_CENTS = 25.0  # standard deviation of a pitch target
_NEAR_BINS = 4  # beside the highest one that a pitch is averaged over


@config
class FrameConfig(HeadConfig):
    """What heads of single frames share.

    label: that holds what is true, see the module. layers: as in `UtteranceConfig`. upsampling: steps of the
    head to an encoder frame. hidden: channels of a layer before the output, 0 for none. dropout: before the
    output layer.
    """

    label: str = ""
    layers: Literal["last", "all"] = "last"
    upsampling: PosInt = 1
    hidden: Count = 0
    dropout: BelowOne = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,)


@config
class SpanConfig(FrameConfig):
    """How probabilities become events: one begins at a step of probability `on` and lasts while it is above
    `off`; gaps below gap_seconds are closed, and what is shorter than min_seconds is dropped."""

    on: Share = 0.5
    off: Share = 0.3
    min_seconds: NonNegFloat = 0.1
    gap_seconds: NonNegFloat = 0.2


@config
class EventConfig(SpanConfig):
    """Events of `classes`, which may overlap. positive_weight: of a step within an event, because most are
    not."""

    kind: Literal["events"] = "events"
    classes: Annotated[tuple[str, ...], Distinct()] = ()
    positive_weight: PosFloat = 1.0

    def build(self, context: HeadContext) -> "EventHead":
        if not self.label or not self.classes:
            raise MayaError("an events head needs the name of a label and at least one class of it")
        return EventHead(self, context)


@config
class PitchConfig(FrameConfig):
    """Fundamental frequency, and the probability of voicing."""

    kind: Literal["pitch"] = "pitch"
    label: str = "f0"

    def build(self, context: HeadContext) -> "PitchHead":
        return PitchHead(self, context)


class FrameHead(Head):
    """Layer norm, linear layers and nothing across time: a frame's output depends on that frame alone, so a
    stream gives what the whole gives."""

    conditioned = False
    cfg: FrameConfig

    def __init__(self, cfg: FrameConfig, context: HeadContext, outputs: int) -> None:
        super().__init__()
        self.cfg, dim, self.count = cfg, context.dim, outputs
        self.seconds = context.frame_seconds / cfg.upsampling
        self.layers = LayerSum(context.hidden_dims, dim) if cfg.layers == "all" else None
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Sequential(nn.Linear(dim, cfg.hidden), nn.GELU()) if cfg.hidden else nn.Identity()
        self.dropout = nn.Dropout(cfg.dropout)
        self.out = nn.Linear(cfg.hidden or dim, cfg.upsampling * outputs)
        self.tracks = cfg.label

    @property
    def hidden(self) -> tuple[int, ...]:
        return () if self.layers is None else tuple(range(len(self.layers.weight)))

    def forward(self, encoded: Encoded) -> Tensor:
        """(B, S · upsampling, outputs), fp32 at least."""
        frames = encoded.frames if self.layers is None else self.layers(encoded).frames
        x = self.across(self.inner(self.norm(frames.to(self.out.weight.dtype))), encoded.lens)
        x = self.out(self.dropout(x))
        x = x if x.dtype == torch.float64 else x.float()
        return x.reshape(len(x), -1, self.count)

    def across(self, x: Tensor, lens: Tensor) -> Tensor:
        """Layers across time, (B, S, channels) -> the same, for a head that has them."""
        return x

    def times(self, steps: int, speed: float) -> np.ndarray:
        """(steps,) the middle of each step in seconds of the audio before its speed was changed."""
        return (np.arange(steps) + 0.5) * self.seconds * speed

    def made(self, outputs: Tensor) -> HeadTrack:
        """The track of one utterance from its outputs (n, outputs)."""
        raise NotImplementedError

    def track(self, encoded: Encoded) -> list[HeadTrack]:
        lens = (encoded.lens_on_host * self.cfg.upsampling).tolist()
        return [self.made(own[:size]) for own, size in zip(self(encoded), lens, strict=True)]

    def stream(self) -> "FrameStream":
        if self.layers is not None:
            raise MayaError("a stream gives no hidden states; set the head's layers=last")
        return FrameStream(self)

    def given(self, batch: Batch) -> tuple[list[str | None], list[float]]:
        """The label and the speed of each utterance."""
        speeds = [1.0] * batch.size if batch.speeds is None else batch.speeds
        return batch.labels.get(self.cfg.label, [None] * batch.size), list(speeds)

    def mean(self, losses: Tensor, used: Tensor) -> Tensor:
        """(B,) the mean of losses (B, n) over the steps where used (B, n) is 1; 0 where there are none."""
        return (losses * used).sum(1) / used.sum(1).clamp(min=1)


class FrameStream(HeadStream):
    """What a frame head said of one stream so far."""

    def __init__(self, head: FrameHead) -> None:
        self.head = head
        self.outputs: list[Tensor] = []

    def push(self, encoded: Encoded) -> None:
        self.outputs.append(self.head(encoded)[0])

    def prediction(self) -> Prediction | None:
        return None

    def track(self) -> HeadTrack:
        empty = self.head.out.weight.new_zeros(0, self.head.count)
        return self.head.made(torch.cat([empty, *self.outputs]))


class EventHead(FrameHead):
    """The probability of each class at each step, by itself: events may overlap."""

    cfg: EventConfig

    def __init__(self, cfg: EventConfig, context: HeadContext) -> None:
        super().__init__(cfg, context, len(cfg.classes))

    def targets(self, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
        """((B, steps, classes) 1 where an event is, (B,) whether the utterance has the label)."""
        values, speeds = self.given(batch)
        out = np.zeros((batch.size, steps, len(self.cfg.classes)), np.float32)
        for row, value, speed in zip(out, values, speeds, strict=True):
            times = self.times(steps, speed)
            for name, start, end in events_in(value):
                if name in self.cfg.classes:
                    row[(times >= start) & (times < end), self.cfg.classes.index(name)] = 1.0
        return torch.from_numpy(out), torch.tensor([value is not None for value in values])

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        outputs = self(encoded)
        targets, has = (x.to(outputs.device) for x in self.targets(batch, outputs.shape[1]))
        weight = outputs.new_tensor(self.cfg.positive_weight)
        options = {"pos_weight": weight, "reduction": "none"}
        losses = functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), **options)
        used = frame_mask(encoded.lens * self.cfg.upsampling, outputs.shape[1]) & has[:, None]
        return {"loss": self.mean(losses.sum(-1), used.to(outputs.dtype))}

    def made(self, outputs: Tensor) -> HeadTrack:
        return track_of(outputs.sigmoid(), self.cfg.classes, self.seconds, self.cfg)


class PitchHead(FrameHead):
    """Logits of CREPE's 360 bins of 20 cents, and of voicing. Cross entropy with a Gaussian around the true
    pitch on voiced steps (as in PENN, Morrison et al. 2023), binary cross entropy of voicing on all."""

    cfg: PitchConfig
    parts = ("loss", "voicing")

    def __init__(self, cfg: PitchConfig, context: HeadContext) -> None:
        super().__init__(cfg, context, BINS + 1)

    def targets(self, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
        """((B, steps) Hz, 0 where unvoiced, (B,) whether the utterance has the label)."""
        values, speeds = self.given(batch)
        out = np.zeros((batch.size, steps), np.float32)
        for row, value, speed in zip(out, values, speeds, strict=True):
            if value is not None:
                seconds, hertz = pitch_in(value)
                place = np.floor(self.times(steps, speed) / seconds + 0.499).astype(int)
                row[:] = np.where(place < len(hertz), hertz[place.clip(max=len(hertz) - 1)] * speed, 0.0)
        return torch.from_numpy(out), torch.tensor([value is not None for value in values])

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        outputs = self(encoded)
        hertz, has = (x.to(outputs.device) for x in self.targets(batch, outputs.shape[1]))
        is_voiced = (hertz > 0).to(outputs.dtype)
        used = (frame_mask(encoded.lens * self.cfg.upsampling, outputs.shape[1]) & has[:, None]).to(is_voiced)
        centers = torch.arange(BINS, device=outputs.device) - bins_of(hertz.clamp(min=1.0))[..., None]
        goal = (-0.5 * (centers * (BIN_CENTS / _SPREAD_CENTS)).square()).softmax(-1).to(outputs.dtype)
        pitch = -(goal * outputs[..., :BINS].log_softmax(-1)).sum(-1)
        voicing = functional.binary_cross_entropy_with_logits(outputs[..., BINS], is_voiced, reduction="none")
        return {"loss": self.mean(pitch, used * is_voiced), "voicing": self.mean(voicing, used)}

    def made(self, outputs: Tensor) -> HeadTrack:
        voicing = outputs[:, BINS].sigmoid()
        values = torch.stack([hertz_of(outputs[:, :BINS].softmax(-1)), voicing], 1)
        return HeadTrack(columns=("hertz", "voicing"), seconds=self.seconds, values=values)


def track_of(values: Tensor, names: tuple[str, ...], seconds: float, cfg: SpanConfig) -> HeadTrack:
    """The track of probabilities (n, names), with its events in the order of time."""
    events = [event for i, name in enumerate(names) for event in events_of(name, values[:, i], seconds, cfg)]
    events.sort(key=lambda event: (event.start, event.label))
    return HeadTrack(columns=names, seconds=seconds, values=values, events=tuple(events))


def events_of(name: str, values: Tensor, seconds: float, cfg: SpanConfig) -> list[SoundEvent]:
    """The events of one class from its probabilities (n,), by the rules of `SpanConfig`."""
    runs: list[list[int]] = []
    probabilities, inside = values.tolist(), False
    for i, p in enumerate(probabilities):
        if inside and p >= cfg.off:
            runs[-1][1] = i + 1
        elif p >= cfg.on:
            if runs and (i - runs[-1][1]) * seconds < cfg.gap_seconds:
                runs[-1][1] = i + 1
            else:
                runs.append([i, i + 1])
            inside = True
        else:
            inside = False
    long = [run for run in runs if (run[1] - run[0]) * seconds >= cfg.min_seconds - 1e-9]
    return [
        SoundEvent(label=name, start=a * seconds, end=b * seconds, probability=max(probabilities[a:b]))
        for a, b in long
    ]


def bins_of(hertz: Tensor) -> Tensor:
    """The bins, with fractions, of frequencies above 0."""
    return (1200.0 * torch.log2(hertz / 10.0) - FIRST_CENTS) / BIN_CENTS


def hertz_of(probabilities: Tensor) -> Tensor:
    """(n,) frequencies from (n, BINS): the mean of the bins around the highest, as CREPE decodes."""
    place = torch.arange(BINS, device=probabilities.device)
    near = (place - probabilities.argmax(-1, keepdim=True)).abs() <= _NEAR_BINS
    weights = probabilities * near
    bins = (weights * place).sum(-1) / weights.sum(-1).clamp(min=1e-12)
    return 10.0 * 2.0 ** ((FIRST_CENTS + BIN_CENTS * bins) / 1200.0)


def pitch_in(value: str) -> tuple[float, np.ndarray]:
    """(seconds between two values, (n,) Hz) of a label. Raises MayaError for text that is none."""
    try:
        seconds, *hertz = map(float, value.split())
    except ValueError:
        seconds, hertz = 0.0, []
    if seconds <= 0 or not hertz:
        raise MayaError(f"the label {value[:40]!r} is no pitch such as '0.01 0 121.3 122'")
    return seconds, np.array(hertz, np.float32)
