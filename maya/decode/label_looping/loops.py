"""The three forms of label looping and the switch between them."""

import logging
from typing import Literal

from torch import Tensor

from maya.decode.label_looping.cuda_graph import GraphedSteps
from maya.decode.label_looping.lstm import PackedPredictor
from maya.decode.label_looping.masked import MaskedSearch, masked_labels, run_steps
from maya.decode.label_looping.packed import packed_labels
from maya.decode.label_looping.rules import RowLabels, RowStates, TransducerRules

LoopName = Literal["auto", "packed", "masked", "graph"]
ROUNDING = 64  # frames; a graph serves pieces of any length up to its own


class PackedLoop:
    """Rows that look for a label are packed; see `packed.py`. For the CPU."""

    def __init__(self, rules: TransducerRules) -> None:
        self.rules, self.predictor = rules, PackedPredictor(rules.predictor)

    def __call__(self, states: RowStates, f: Tensor, lens: Tensor, final: bool) -> list[RowLabels]:
        """The labels of one piece: f (B, S, J), lens (B,). `states` moves on."""
        self.predictor.refresh()
        return packed_labels(self.rules, states, f, lens, final, self.predictor)


class MaskedLoop:
    """All rows in tensors of fixed shape; see `masked.py`. With `graphed` the steps are replays of a CUDA
    graph, which is captured anew for a piece with more rows or frames than all before."""

    def __init__(self, rules: TransducerRules, graphed: bool) -> None:
        self.rules, self.graphed = rules, graphed
        self.search: MaskedSearch | None = None
        self.steps: GraphedSteps | None = None

    def __call__(self, states: RowStates, f: Tensor, lens: Tensor, final: bool) -> list[RowLabels]:
        """The labels of one piece: f (B, S, J), lens (B,). `states` moves on."""
        rows, frames = f.shape[:2]
        old = self.search
        if old is None or old.batch < rows or old.frames < frames:
            rows, frames = max(rows, old.batch if old else 0), max(frames, old.frames if old else 0)
            self.search = MaskedSearch(self.rules, rows, -(-frames // ROUNDING) * ROUNDING)
            self.steps = None
        assert self.search is not None
        return masked_labels(self.search, states, f, lens, self._run)

    def _run(self, search: MaskedSearch) -> None:
        if self.graphed and self.steps is None:
            try:
                self.steps = GraphedSteps(search)
            except RuntimeError as error:
                self.graphed = False
                logging.getLogger(__name__).warning(
                    "greedy decoding runs without a CUDA graph, which this machine cannot capture: %s", error
                )
        if self.steps is not None:
            self.steps.run(search)
        else:
            run_steps(search)


LabelLoop = PackedLoop | MaskedLoop


def make_loop(rules: TransducerRules, name: LoopName = "auto") -> LabelLoop:
    """The loop of a name. "auto": packed on a CPU, a graph on a CUDA device, else masked."""
    device = rules.joint.enc.weight.device.type
    if name == "auto":
        name = {"cpu": "packed", "cuda": "graph"}.get(device, "masked")  # type: ignore[assignment]
    if name == "packed":
        return PackedLoop(rules)
    return MaskedLoop(rules, graphed=name == "graph" and device == "cuda")
