"""The prediction network of a transducer: an LSTM over the labels emitted so far.

Parameter names are NeMo's under `decoder.` (`prediction.embed`, `prediction.dec_rnn.lstm`), so a NeMo state
dict loads with no renaming.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from maya.config import config
from maya.errors import MayaError
from maya.ranges import BelowOne, PosInt


@config
class PredictorConfig:
    """`hidden` is both the embedding and the LSTM width; `dropout` acts between layers and after the last."""

    kind: Literal["lstm"] = "lstm"
    hidden: PosInt = 640
    layers: PosInt = 2
    dropout: BelowOne = 0.2


@dataclass(frozen=True, slots=True)
class PredictorState:
    """LSTM state of B hypotheses: `h` and `c`, each (layers, B, H)."""

    h: Tensor
    c: Tensor

    def select(self, rows: Tensor) -> "PredictorState":
        """The states of `rows` (B',) int64; a row may be taken more than once (beam search)."""
        return PredictorState(self.h.index_select(1, rows), self.c.index_select(1, rows))

    @staticmethod
    def join(states: "Sequence[PredictorState]") -> "PredictorState":
        """The states of several batches as one batch."""
        return PredictorState(torch.cat([s.h for s in states], 1), torch.cat([s.c for s in states], 1))

    def where(self, mask: Tensor, other: "PredictorState") -> "PredictorState":
        """This state where `mask` (B,) bool is true, `other` elsewhere."""
        rows = mask[None, :, None]
        return PredictorState(torch.where(rows, self.h, other.h), torch.where(rows, self.c, other.c))

    def put(self, rows: Tensor, other: "PredictorState") -> None:
        """Write the states `other` of R rows to `rows` (R,) int64 of this one, in place."""
        self.h.index_copy_(1, rows, other.h)
        self.c.index_copy_(1, rows, other.c)


class Predictor(nn.Module):
    """Labels (B, U) to one vector per label history (B, U+1, H).

    `vocab_size` does not count blank. Blank has id `vocab_size`; its embedding is a fixed vector, zero unless
    an imported model has another. It also stands before the first label, so a decoder may start from
    `step(blank, initial_state)`.
    """

    def __init__(self, cfg: PredictorConfig, vocab_size: int) -> None:
        super().__init__()
        if vocab_size < 1:
            raise MayaError(f"the predictor needs a vocabulary of at least 1, not {vocab_size}")
        self.cfg = cfg
        self.blank = vocab_size
        lstm = nn.LSTM(
            cfg.hidden,
            cfg.hidden,
            num_layers=cfg.layers,
            dropout=cfg.dropout if cfg.layers > 1 else 0.0,  # torch warns about dropout in a one-layer LSTM
            batch_first=True,
        )
        _remember_at_first(lstm)
        self.prediction = nn.ModuleDict(
            {
                "embed": nn.Embedding(vocab_size + 1, cfg.hidden, padding_idx=vocab_size),
                "dec_rnn": nn.ModuleDict({"lstm": lstm}),
            }
        )
        self.dropout = nn.Dropout(cfg.dropout)

    @property
    def _lstm(self) -> nn.LSTM:
        return cast(nn.LSTM, cast(nn.ModuleDict, self.prediction["dec_rnn"])["lstm"])

    @property
    def _embed(self) -> nn.Embedding:
        return cast(nn.Embedding, self.prediction["embed"])

    @property
    def layer_weights(self) -> list[list[Tensor]]:
        """w_ih, w_hh, b_ih and b_hh of each layer."""
        return cast(list[list[Tensor]], self._lstm.all_weights)

    def embed(self, tokens: Tensor) -> Tensor:
        """Labels (...) int64 -> what the first layer reads (..., H)."""
        return self._embed(tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, U) int64 -> (B, U+1, H); output u has read tokens[:, :u].

        Padding may hold any id below V: an output depends only on what stands before it.
        """
        out, _ = self._lstm(self._embed(nn.functional.pad(tokens, (1, 0), value=self.blank)))
        return self.dropout(out)

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> PredictorState:
        """The zero state of `batch` rows; `device` defaults to the parameters'."""
        weight = self._embed.weight
        shape = (self.cfg.layers, batch, self.cfg.hidden)
        zeros = torch.zeros(shape, device=weight.device if device is None else device, dtype=weight.dtype)
        return PredictorState(zeros, zeros.clone())

    def step(self, tokens: Tensor, state: PredictorState) -> tuple[Tensor, PredictorState]:
        """Read one label per row, (B,) int64, blank standing for "no label yet" -> (g (B, H), new state)."""
        out = self._embed(tokens)
        h, c = [], []
        # Cell by cell: on CPU nn.LSTM repacks its weights at every call, which makes a step 3 times as slow.
        for layer, weights in enumerate(self.layer_weights):
            if layer:
                out = self.dropout(out)
            out, cell = torch.lstm_cell(out, (state.h[layer], state.c[layer]), *weights)
            h.append(out)
            c.append(cell)
        return self.dropout(out), PredictorState(torch.stack(h), torch.stack(c))


@torch.no_grad()
def _remember_at_first(lstm: nn.LSTM) -> None:
    """Forget-gate bias of 1 in all (Jozefowicz et al. 2015), as NeMo sets it: 1 in bias_ih, 0 in bias_hh."""
    forget = slice(lstm.hidden_size, 2 * lstm.hidden_size)  # torch orders the gates i, f, g, o
    for layer in range(lstm.num_layers):
        getattr(lstm, f"bias_ih_l{layer}")[forget] = 1.0
        getattr(lstm, f"bias_hh_l{layer}")[forget] = 0.0
