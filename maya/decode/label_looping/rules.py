"""What every loop of greedy transducer decoding shares: the network with its rules, the state of the rows
between two pieces, and the labels that come out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maya.decode.confidence import ConfidenceConfig
from maya.decode.fusion import Fusion, State, join, select
from maya.errors import MayaError
from maya.heads.transducer import AnyPredictor, Joint

_TENSORS = ("g", "next_frame", "last_frame", "on_frame")  # of RowStates, rows first


@dataclass(frozen=True, kw_only=True, slots=True)
class TransducerRules:
    """The network of a greedy search and its rules.

    durations: of a TDT, None for an RNN-T. max_symbols: labels on one frame, after which the row moves on.
    fusion: None, or language models and hot words.
    """

    predictor: AnyPredictor
    joint: Joint
    blank: int
    durations: tuple[int, ...] | None = None
    max_symbols: int = 10
    fusion: Fusion | None = None
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)

    def __post_init__(self) -> None:
        durations, outputs = self.durations, self.joint.num_durations
        if durations is not None and outputs != len(durations):
            raise MayaError(f"{len(durations)} durations do not fit a joint network that scores {outputs}")
        if self.max_symbols < 1:
            raise MayaError(f"max_symbols must be at least 1, not {self.max_symbols}")


@dataclass(kw_only=True, slots=True)
class RowStates:
    """The state of B rows between two pieces of the audio. Loops write into its tensors.

    predictor: its state after the last label. g (B, J): what the predictor projects then. The others are
    (B,) int64. next_frame: to look at, from the start of the next piece. last_frame: of the last label, from
    there too. on_frame: labels on that frame. fusion: its state after the last label.
    """

    predictor: Any
    g: Tensor
    next_frame: Tensor
    last_frame: Tensor
    on_frame: Tensor
    fusion: State = None

    @classmethod
    @torch.no_grad()
    def start(cls, rules: TransducerRules, batch: int, fusion: State = None) -> "RowStates":
        """The state of `batch` rows before their first frame. fusion: of those rows, where the rules have
        any."""
        device = rules.joint.enc.weight.device
        blank = torch.full((1,), rules.blank, device=device)
        initial: Any = rules.predictor.initial_state(1, device)
        pred, state = rules.predictor.step(blank, initial)
        all_rows = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls(
            predictor=state.select(all_rows),
            g=rules.joint.project_predictor(pred).index_select(0, all_rows),
            next_frame=all_rows,
            last_frame=torch.full_like(all_rows, -1),
            on_frame=torch.zeros_like(all_rows),
            fusion=fusion,
        )

    @classmethod
    def join(cls, states: "Sequence[RowStates]") -> "RowStates":
        """The rows of several batches as one batch."""
        joined = {name: torch.cat([getattr(s, name) for s in states]) for name in _TENSORS}
        fusions = [s.fusion for s in states]
        fusion = None if fusions[0] is None else join(fusions)
        predictors = [s.predictor for s in states]
        return cls(predictor=type(predictors[0]).join(predictors), fusion=fusion, **joined)

    def row(self, index: int) -> "RowStates":
        """One row as a batch of its own."""
        rows = torch.tensor([index], device=self.g.device)
        fusion = None if self.fusion is None else select(self.fusion, rows)
        tensors = {name: getattr(self, name).index_select(0, rows) for name in _TENSORS}
        return RowStates(predictor=self.predictor.select(rows), fusion=fusion, **tensors)

    def move_on(self, lens: Tensor) -> None:
        """Count frames from the start of the next piece, lens (B,) frames later."""
        self.next_frame -= lens
        self.last_frame -= lens


@dataclass(kw_only=True, slots=True)
class RowLabels:
    """The labels of one row in one piece. Frames count from the start of the piece. confidences: empty if
    none are computed."""

    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
