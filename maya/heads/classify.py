"""Heads that say one thing of an utterance: a class such as an emotion or a language, or a number."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, HeadStream, LossStep, Prediction, TrainingMeans
from maya.heads.pooling import (
    AttentivePooling,
    EcapaPooling,
    LayerSum,
    MeanPooling,
    StatisticsPooling,
    Sums,
    UnbiasedStatistics,
)
from maya.kernels.host import numbers_on
from maya.ranges import BelowOne, Count, Distinct, NonNegFloat, PosInt

LANGUAGE = "language"  # the label that `Batch.langs` holds


@config
class UtteranceConfig(HeadConfig):
    """What heads of whole utterances share.

    layers: the encoder's output, or a learnt weighted sum of all hidden states. pooling: the mean over
    time, mean and standard deviation, or attentive statistics with `attention_dim` channels. With `hidden`
    channels behind one of the first two, over a frozen encoder, the head is the usual baseline: a multi-layer
    perceptron. global_context: see `AttentivePooling`; without it the head can stream. hidden: channels of a
    layer between pooling and output, 0 for none. dropout: before the output layer. crop_seconds: training
    pools a random part of an utterance, so long or longer, so that the head learns short ones too; 0: all of
    it.
    """

    layers: Literal["last", "all"] = "last"
    pooling: Literal["mean", "statistics", "attentive"] = "statistics"
    attention_dim: PosInt = 128
    global_context: bool = False
    hidden: Count = 0
    dropout: BelowOne = 0.0
    crop_seconds: NonNegFloat = 0.0


@config
class ClassConfig(UtteranceConfig):
    """What classifiers share.

    class_weights: "balanced" weighs an utterance by N / (C · n) with n of N training utterances in its class
    of C. focal: γ of (1 − p)^γ · −log p, which turns to what is not learnt yet (Lin et al. 2017).
    """

    class_weights: Literal["none", "balanced"] = "none"
    focal: NonNegFloat = 0.0


@config
class ClassifyConfig(ClassConfig):
    """A classifier of the label `label`, one of `classes`. An utterance without the label, or with another
    value, has no loss."""

    kind: Literal["classify"] = "classify"
    label: str = ""
    classes: Annotated[tuple[str, ...], Distinct()] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,)

    def build(self, context: HeadContext) -> "Classifier":
        if not self.label or len(self.classes) < 2:
            raise MayaError("a classify head needs the name of a label and at least two classes of it")
        if self.label == LANGUAGE:
            raise MayaError("a classify head cannot identify languages; take a head of kind 'language'")
        return Classifier(self, context, self.label, self.classes)


@config
class LanguageConfig(ClassConfig):
    """A classifier of the language, one of the model's."""

    kind: Literal["language"] = "language"

    def build(self, context: HeadContext) -> "Classifier":
        if not context.languages:
            raise MayaError("a language head needs model.languages")
        return Classifier(self, context, LANGUAGE, context.languages)


@config
class RegressConfig(UtteranceConfig):
    """A number of an utterance, such as its arousal: the value of the label `label`."""

    kind: Literal["regress"] = "regress"
    label: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,)

    def build(self, context: HeadContext) -> "Regressor":
        if not self.label:
            raise MayaError("a regress head needs the name of a label")
        return Regressor(self, context)


class UtteranceHead(Head):
    """Frames → pooling → linear, and a layer between where `hidden` asks for one."""

    conditioned = False  # with the language embedding a language head would read its own answer
    cfg: UtteranceConfig
    layers: LayerSum | None

    def __init__(self, cfg: UtteranceConfig, context: HeadContext, outputs: int) -> None:
        super().__init__()
        self.cfg, dim = cfg, context.dim
        self.layers = LayerSum(context.hidden_dims, dim) if cfg.layers == "all" else None
        self.pool: StatisticsPooling | AttentivePooling | EcapaPooling | UnbiasedStatistics
        self.pool = StatisticsPooling()
        if cfg.pooling == "mean":
            self.pool = MeanPooling()
        width = dim if cfg.pooling == "mean" else 2 * dim
        if cfg.pooling == "attentive":
            self.pool = AttentivePooling(dim, cfg.attention_dim, cfg.global_context)
        self.inner = nn.Identity() if not cfg.hidden else nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, cfg.hidden), nn.GELU()
        )  # fmt: skip
        self.dropout = nn.Dropout(cfg.dropout)
        self.out = nn.Linear(cfg.hidden or width, outputs)
        self.crop_frames = cfg.crop_seconds / (context.frame_seconds or 1.0)

    @property
    def hidden(self) -> tuple[int, ...]:
        return () if self.layers is None else tuple(range(len(self.layers.weight)))

    def outputs(self, encoded: Encoded) -> Tensor:
        """(B, outputs), fp32 at least."""
        if self.layers is not None:
            encoded = self.layers(encoded)
        frames, lens = encoded.frames, encoded.lens
        if self.training and self.crop_frames:
            frames, lens = random_part(frames, lens, self.crop_frames)
        return self.of_pooled(self.pool(frames, lens))

    def of_pooled(self, pooled: Tensor) -> Tensor:
        """The outputs of what was pooled, (B, 2D), or (B, D) of means."""
        inner = self.dropout(self.inner(pooled.to(self.out.weight.dtype)))  # half where the model is
        return self.out(inner).to(pooled.dtype)

    def said(self, outputs: Tensor) -> list[Prediction]:
        """The prediction of each row of outputs (B, outputs)."""
        raise NotImplementedError

    def predict(self, encoded: Encoded) -> list[Prediction]:
        return self.said(self.outputs(encoded))

    def stream(self) -> "UtteranceStream":
        if self.layers is not None:
            raise MayaError("a stream gives no hidden states; set the head's layers=last")
        if not self.pool.streams:
            raise MayaError("attentive pooling with global_context reads whole utterances and cannot stream")
        return UtteranceStream(self)


class UtteranceStream(HeadStream):
    """Running sums of one stream."""

    def __init__(self, head: UtteranceHead) -> None:
        self.head = head
        self.sums: Sums | None = None

    def push(self, encoded: Encoded) -> None:
        if encoded.frames.shape[1]:
            assert isinstance(self.head.pool, StatisticsPooling | AttentivePooling)
            sums = self.head.pool.sums(encoded.frames, encoded.lens)
            self.sums = sums if self.sums is None else self.sums + sums

    def prediction(self) -> Prediction | None:
        if self.sums is None:
            return None
        assert isinstance(self.head.pool, StatisticsPooling | AttentivePooling)
        return self.head.said(self.head.of_pooled(self.head.pool.of_sums(self.sums)))[0]


class Classifier(UtteranceHead):
    """An utterance's class."""

    class_weights: Tensor
    cfg: ClassConfig

    def __init__(self, cfg: ClassConfig, context: HeadContext, label: str, classes: tuple[str, ...]) -> None:
        super().__init__(cfg, context, len(classes))
        self.predicts, self.classes = label, classes
        if cfg.class_weights == "balanced":
            self.register_buffer("class_weights", torch.ones(len(classes)))

    def begin_training(self, means: TrainingMeans) -> None:
        if self.cfg.class_weights == "balanced":
            counts = means.counts(self.predicts)
            self.class_weights.copy_(balanced_weights(counts, self.classes, self.predicts))

    def forward(self, encoded: Encoded) -> Tensor:
        """Log-probabilities (B, classes), fp32 at least."""
        return self.outputs(encoded).log_softmax(-1)

    def targets(self, batch: Batch) -> Tensor:
        """(B,) int64 class numbers, -1 where the label is missing or is none of the classes."""
        if self.predicts == LANGUAGE:
            return batch.langs
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(self.classes)}
        values = batch.labels.get(self.predicts, [None] * batch.size)
        return numbers_on(batch.langs.device, [numbers.get(value or "", -1) for value in values])

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        scores, targets = self(encoded), self.targets(batch)
        weight = self.class_weights.to(scores.dtype) if self.cfg.class_weights == "balanced" else None
        options: dict[str, Any] = {"weight": weight, "ignore_index": -1, "reduction": "none"}
        loss: Tensor = nn.functional.nll_loss(scores, targets, **options)
        if self.cfg.focal:
            right = scores.exp().gather(1, targets.clamp(min=0)[:, None])[:, 0]
            loss = loss * (1 - right).clamp(min=1e-6) ** self.cfg.focal  # the root of 0 has no slope
        return {"loss": loss}

    def said(self, outputs: Tensor) -> list[Prediction]:
        probabilities, numbers = outputs.log_softmax(-1).exp().max(-1)
        rows = zip(numbers.tolist(), probabilities.tolist(), strict=True)
        return [Prediction(label=self.classes[number], probability=p) for number, p in rows]


class Regressor(UtteranceHead):
    """A number of an utterance. The loss of a batch is 1 − CCC, the same for each of its labelled rows: it is
    of the batch as a whole, and a good estimate from about 32 rows on (Atmaja & Akagi 2020, 2003.10724)."""

    numeric = True
    cfg: RegressConfig

    def __init__(self, cfg: RegressConfig, context: HeadContext) -> None:
        super().__init__(cfg, context, 1)
        self.predicts = cfg.label

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        values = [number_in(v) for v in batch.labels.get(self.predicts, [None] * batch.size)]
        outputs = self.outputs(encoded)[:, 0]
        has = torch.tensor([v is not None for v in values], device=outputs.device)
        target = torch.tensor([v or 0.0 for v in values], dtype=outputs.dtype, device=outputs.device)
        if int(has.sum()) < 2:  # no spread to agree with
            return {"loss": outputs * 0.0}
        return {"loss": (1.0 - concordance(outputs[has], target[has])) * has.to(outputs.dtype)}

    def said(self, outputs: Tensor) -> list[Prediction]:
        return [Prediction(label=f"{value:.4f}") for value in outputs[:, 0].tolist()]


def random_part(frames: Tensor, lens: Tensor, shortest: float) -> tuple[Tensor, Tensor]:
    """A random stretch of each row of frames (B, S, D), lens (B,): `shortest` frames or more, where the row
    has so many."""
    size, place = torch.rand(2, len(lens), device=frames.device)
    kept = (shortest + size * (lens - shortest).clamp(min=0)).round().long().clamp(min=1).minimum(lens)
    start = (place * (lens - kept + 1)).long()
    steps = torch.arange(frames.shape[1], device=frames.device)
    index = (start[:, None] + steps).clamp(max=max(frames.shape[1] - 1, 0))
    part = frames.gather(1, index[..., None].expand_as(frames))
    return part * (steps < kept[:, None])[..., None], kept


def balanced_weights(counts: Mapping[str, int], classes: tuple[str, ...], label: str) -> Tensor:
    """(C,) N / (C · n) of each class. counts: of training utterances, 0 for a class that does not occur.
    Raises MayaError for such a class."""
    absent = [name for name in classes if not counts[name]]
    if absent:
        raise MayaError(
            f"no training utterance has {label}={absent[0]}, so balanced weights cannot be computed: remove "
            "the class, or set the head's class_weights=none"
        )
    n = torch.tensor([float(counts[name]) for name in classes])
    return n.sum() / (len(classes) * n)


def concordance(x: Tensor, y: Tensor) -> Tensor:
    """Lin's concordance of x (n,) and y (n,): 2·cov / (var x + var y + (mean x − mean y)²); 1 where equal."""
    dx, dy = x - x.mean(), y - y.mean()
    spread = dx.square().mean() + dy.square().mean() + (x.mean() - y.mean()).square()
    return 2 * (dx * dy).mean() / spread.clamp(min=1e-8)


def number_in(value: str | None) -> float | None:
    """The number that a label's value is; None where it is none."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
