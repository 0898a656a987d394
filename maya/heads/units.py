"""CTC over units of a label, such as the phonemes of an utterance, beside the tokens of its text.

The label is the units with a space between them: {"phonemes": "h ə l oʊ"}. An encoder at 80 ms has too few
frames for fast speech, which has 15 to 20 phonemes a second: raise `upsampling`. A label may be narrower
than the units: see `UnitCTC.ids`.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep
from maya.heads.pooling import LayerSum
from maya.losses import ctc_loss
from maya.ranges import BelowOne, Distinct, PosInt
from maya.text.phonemes import broad


@config
class UnitCTCConfig(HeadConfig):
    """CTC over `units`, the values of the label `label`. upsampling: steps of the head to an encoder frame.
    layers: the encoder's output, or a learnt weighted sum of all hidden states. An utterance without the
    label has no loss; one with a unit that is not among them is refused."""

    kind: Literal["unit_ctc"] = "unit_ctc"
    label: str = "phonemes"
    units: Annotated[tuple[str, ...], Distinct()] = ()
    upsampling: PosInt = 1
    layers: Literal["last", "all"] = "last"
    dropout: BelowOne = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,)

    def build(self, context: HeadContext) -> "UnitCTC":
        if not self.label or not self.units:
            raise MayaError("a unit_ctc head needs the name of a label and its units, such as all phonemes")
        return UnitCTC(self, context)


class UnitCTC(Head):
    """A linear layer to the units and blank, which comes last."""

    conditioned = False
    ctc_over = "units"
    cfg: UnitCTCConfig

    def __init__(self, cfg: UnitCTCConfig, context: HeadContext) -> None:
        super().__init__()
        self.cfg, self.blank, dim = cfg, len(cfg.units), context.dim
        self.layers = LayerSum(context.hidden_dims, dim) if cfg.layers == "all" else None
        if self.layers is not None:
            self.ctc_over = ""  # the encoder's output alone is not enough
        self.numbers = {unit: number for number, unit in enumerate(cfg.units)}
        self.dropout = nn.Dropout(cfg.dropout)
        self.out = nn.Linear(dim, cfg.upsampling * (self.blank + 1))

    @property
    def hidden(self) -> tuple[int, ...]:
        return () if self.layers is None else tuple(range(len(self.layers.weight)))

    def log_probs(self, encoded: Encoded) -> Tensor:
        """`forward` of the frames that it reads: those of the output, or the sum of the layers."""
        return self((encoded if self.layers is None else self.layers(encoded)).frames)

    def forward(self, enc: Tensor) -> Tensor:
        """enc (B, S, D) → log-probabilities (B, S · upsampling, units + 1), fp32 at least."""
        x = self.out(self.dropout(enc))
        x = (x if x.dtype == torch.float64 else x.float()).reshape(len(x), -1, self.blank + 1)
        return x.log_softmax(-1)

    def ids(self, value: str) -> list[int]:
        """The numbers of a label's units. One that the head does not have counts as its `broad` form, or else
        as the units that this is made of ("əl" as "ə l"). Raises MayaError for one that has neither."""
        return [number for unit in value.split() for number in self._numbers_of(unit)]

    def _numbers_of(self, unit: str) -> list[int]:
        if unit in self.numbers:
            return [self.numbers[unit]]
        plain = broad(unit)
        parts = [plain] if plain in self.numbers else [part for part in plain if part in self.numbers]
        if plain and not parts:
            raise MayaError(f"the label {self.cfg.label} has the unit {unit!r}; add it to the head's units")
        return [self.numbers[part] for part in parts]

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        values = batch.labels.get(self.cfg.label, [None] * batch.size)
        rows = [self.ids(value or "") for value in values]
        targets = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.int64)
        for row, ids in zip(targets, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        lens = torch.tensor([len(ids) for ids in rows])
        frames = encoded.lens_on_host * self.cfg.upsampling
        loss = ctc_loss(self.log_probs(encoded), targets, frames, lens, blank=self.blank)
        has = torch.tensor([value is not None for value in values], device=loss.device)
        return {"loss": torch.where(has, loss, loss.new_zeros(()))}

    def decode(self, encoded: Encoded) -> list[list[str]]:
        """The units of each utterance by its best path."""
        lens = (encoded.lens_on_host * self.cfg.upsampling).tolist()
        best = self.log_probs(encoded).argmax(-1).tolist()
        return [self.units_of(row[:size]) for row, size in zip(best, lens, strict=True)]

    def units_of(self, path: Sequence[int]) -> list[str]:
        """The units of a path, the number of a unit or of blank in each step."""
        runs = [a for a, before in zip(path, [-1, *path[:-1]], strict=True) if a != before]
        return [self.cfg.units[a] for a in runs if a != self.blank]
