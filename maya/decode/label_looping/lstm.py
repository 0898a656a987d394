"""The predictor's step for the CPU: on some of the rows, with the products of labels kept.

The first LSTM layer multiplies the embedding of a label with its input weights. That product is half of the
layer's work and depends on the label alone, so it is computed once a label.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.heads.transducer import AnyPredictor, Predictor, PredictorState
from maya.kernels import onednn


class PackedPredictor:
    """Steps of a predictor in evaluation mode on packed rows."""

    def __init__(self, predictor: AnyPredictor) -> None:
        self.predictor = predictor
        self.products: Tensor | None = None  # (V, 4 H), filled for the labels in `seen`
        self.seen: set[int] = set()
        self.versions: list[tuple[int, int]] = []
        self.onednn = False

    def refresh(self) -> None:
        """Forget the products if the weights were assigned or changed in place."""
        self.onednn = onednn.available()
        weights = list(self.predictor.parameters())
        versions = [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]
        if versions != self.versions:
            self.products, self.seen, self.versions = None, set(), versions

    def step(self, tokens: list[int], rows: Tensor, state: Any) -> Tensor:
        """Row rows[i] of `state`, which changes in place, reads tokens[i] → the predictor's output (R, H)."""
        if not isinstance(self.predictor, Predictor):
            out, new = self.predictor.step(torch.tensor(tokens), state.select(rows))
            state.put(rows, new)
            return out
        return self._lstm_step(self.predictor, tokens, rows, state)

    def _lstm_step(
        self, predictor: Predictor, tokens: list[int], rows: Tensor, state: PredictorState
    ) -> Tensor:
        out, linear = self._products(predictor, tokens), onednn.linear if self.onednn else F.linear
        for layer, (w_ih, w_hh, *biases) in enumerate(predictor.layer_weights):
            h, c = state.h[layer].index_select(0, rows), state.c[layer].index_select(0, rows)
            if layer:
                out = linear(out, w_ih, biases[0] + biases[1])
            out, cell = _cell(out.add_(linear(h, w_hh)), c)
            state.h[layer].index_copy_(0, rows, out)
            state.c[layer].index_copy_(0, rows, cell)
        return out

    def _products(self, predictor: Predictor, tokens: list[int]) -> Tensor:
        """(R, 4 H): embeddings times the input weights of the first layer, plus both biases."""
        w_ih, w_hh, *biases = predictor.layer_weights[0]
        if self.products is None:
            self.products = w_hh.new_empty(predictor.blank + 1, w_hh.shape[0])
        if new := sorted(set(tokens) - self.seen):
            index = torch.tensor(new)
            linear = onednn.linear if self.onednn else F.linear
            self.products[index] = linear(predictor.embed(index), w_ih, biases[0] + biases[1])
            self.seen.update(new)
        return self.products.index_select(0, torch.tensor(tokens))


def _cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The LSTM's output and cell, (R, H) each. gates (R, 4 H): i, f, g, o as torch orders them."""
    i, f, g, o = gates.chunk(4, 1)
    cell = f.sigmoid_().mul_(c).add_(i.sigmoid_().mul_(g.tanh_()))
    return o.sigmoid_() * cell.tanh(), cell
