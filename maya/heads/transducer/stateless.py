"""A prediction network without recurrence: it sees the last few labels only (Ghodsi et al. 2020), with a
grouped convolution over their embeddings, as icefall builds it.

Parameter names are icefall's under `decoder.` (`embedding`, `conv`), so its weights load with no renaming.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.config import config
from maya.encoders.zipformer.regularizers import Balancer, Controls, Regulated
from maya.errors import MayaError
from maya.ranges import PosInt

GROUP = 4  # channels that the convolution mixes


@config
class StatelessConfig:
    """Width of the embedding and of the output, and how many labels are seen."""

    kind: Literal["stateless"] = "stateless"
    hidden: PosInt = 512
    context: PosInt = 2


@dataclass(frozen=True, slots=True)
class StatelessState:
    """The labels before the next one of B hypotheses: (B, context - 1) int64, -1 where there is none."""

    labels: Tensor

    def select(self, rows: Tensor) -> "StatelessState":
        """The states of `rows` (B',) int64; a row may be taken more than once (beam search)."""
        return StatelessState(self.labels.index_select(0, rows))

    @staticmethod
    def join(states: "Sequence[StatelessState]") -> "StatelessState":
        """The states of several batches as one batch."""
        return StatelessState(torch.cat([s.labels for s in states]))

    def where(self, mask: Tensor, other: "StatelessState") -> "StatelessState":
        """This state where `mask` (B,) bool is true, `other` elsewhere."""
        return StatelessState(torch.where(mask[:, None], self.labels, other.labels))

    def put(self, rows: Tensor, other: "StatelessState") -> None:
        """Write the states `other` of R rows to `rows` (R,) int64 of this one, in place."""
        self.labels.index_copy_(0, rows, other.labels)


class StatelessPredictor(Regulated):
    """Labels (B, U) to one vector per label history (B, U+1, H); used as `Predictor` is.

    `vocab_size` does not count blank. Blank, which also stands before the first label, has id `blank`:
    `vocab_size` by default, 0 in icefall's models (whose labels are then 1 .. vocab_size).
    """

    def __init__(self, cfg: StatelessConfig, vocab_size: int, blank: int | None = None) -> None:
        super().__init__()
        if cfg.hidden % GROUP or vocab_size < 1:
            raise MayaError(
                f"the stateless predictor needs a hidden width that is a multiple of {GROUP} and a "
                f"vocabulary of at least 1, not {cfg.hidden} and {vocab_size}"
            )
        self.cfg = cfg
        self.blank = vocab_size if blank is None else blank
        self.embedding = nn.Embedding(vocab_size + 1, cfg.hidden)
        # Averaged parameters need embeddings whose size does not drift.
        self.balancer = Balancer(0.0, 1.0, 0.5, 1.0, prob=0.05)
        if cfg.context > 1:
            groups = cfg.hidden // GROUP
            self.conv = nn.Conv1d(cfg.hidden, cfg.hidden, cfg.context, groups=groups, bias=False)
            self.balancer2 = Balancer(0.0, 1.0, 0.5, 1.0, prob=0.05)
        self.controls = Controls(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, U) int64 -> (B, U+1, H); output u has read tokens[:, :u].

        Padding may hold any id of the vocabulary: an output depends only on what stands before it.
        """
        if self.training and not torch.compiler.is_compiling():
            self.draw()
        embedded = self.balancer(self.embedding(F.pad(tokens, (1, 0), value=self.blank)))
        if self.cfg.context == 1:
            return embedded
        return self.balancer2(self._convolve(F.pad(embedded, (0, 0, self.cfg.context - 1, 0))))

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> StatelessState:
        """The state of `batch` rows before any label; `device` defaults to the parameters'."""
        device = self.embedding.weight.device if device is None else device
        return StatelessState(torch.full((batch, self.cfg.context - 1), -1, device=device))

    def step(self, tokens: Tensor, state: StatelessState) -> tuple[Tensor, StatelessState]:
        """Read one label per row, (B,) int64, blank standing for "no label yet" -> (g (B, H), new state)."""
        labels = torch.cat([state.labels, tokens[:, None]], 1)
        embedded = self.embedding(labels.clamp(min=0)) * (labels >= 0)[..., None]
        out = embedded if self.cfg.context == 1 else self._convolve(embedded)
        return out[:, -1], StatelessState(labels[:, 1:])

    def _convolve(self, embedded: Tensor) -> Tensor:
        """(B, N + context - 1, H) -> (B, N, H), rectified."""
        return self.conv(embedded.mT).mT.relu()
