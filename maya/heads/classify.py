"""Heads that give an utterance a class, such as an emotion or a language.

Statistics pooling as in x-vectors (Snyder et al. 2018, "Spoken Language Recognition using X-vectors").
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep, Prediction
from maya.ranges import Distinct

LANGUAGE = "language"  # the label that `Batch.langs` holds


@config
class ClassifyConfig(HeadConfig):
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
        return Classifier(self, context.dim, self.label, self.classes)


@config
class LanguageConfig(HeadConfig):
    """A classifier of the language, one of the model's."""

    kind: Literal["language"] = "language"

    def build(self, context: HeadContext) -> "Classifier":
        if not context.languages:
            raise MayaError("a language head needs model.languages")
        return Classifier(self, context.dim, LANGUAGE, context.languages)


class Classifier(Head):
    """Mean and standard deviation of the frames → linear → the classes."""

    conditioned = False  # with the language embedding a language head would read its own answer

    def __init__(self, cfg: HeadConfig, dim: int, label: str, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.cfg, self.predicts, self.classes = cfg, label, classes
        self.out = nn.Linear(2 * dim, len(classes))

    def forward(self, enc: Tensor, enc_lens: Tensor) -> Tensor:
        """enc (B, S, D) zero beyond enc_lens (B,) → log-probabilities (B, classes), fp32 at least."""
        wide = enc if enc.dtype == torch.float64 else enc.float()
        frames = enc_lens.clamp(min=1)[:, None]
        mean = wide.sum(1) / frames
        variance = (wide.square().sum(1) / frames - mean.square()).clamp(min=0)
        # The small constant keeps the root's slope finite where a channel does not vary.
        pooled = torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1)
        logits = self.out(pooled.to(self.out.weight.dtype))  # half where the model is
        return logits.to(wide.dtype).log_softmax(-1)

    def targets(self, batch: Batch) -> Tensor:
        """(B,) int64 class numbers, -1 where the label is missing or is none of the classes."""
        if self.predicts == LANGUAGE:
            return batch.langs
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(self.classes)}
        values = batch.labels.get(self.predicts, [None] * batch.size)
        return torch.tensor([numbers.get(value or "", -1) for value in values], device=batch.langs.device)

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        scores = self(encoded.frames, encoded.lens)
        targets = self.targets(batch)
        return {"loss": nn.functional.nll_loss(scores, targets, ignore_index=-1, reduction="none")}

    def predict(self, encoded: Encoded) -> list[Prediction]:
        probabilities, numbers = self(encoded.frames, encoded.lens).exp().max(-1)
        rows = zip(numbers.tolist(), probabilities.tolist(), strict=True)
        return [Prediction(label=self.classes[number], probability=p) for number, p in rows]
