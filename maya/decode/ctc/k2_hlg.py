"""Decoding of CTC through k2 with a graph of lexicon and grammar, icefall's HLG.pt. k2 is optional.

k2 is built for one version of torch and of Python each. The package index had none for the versions that Maya
supports when this was written (its newest, 1.23.4, is for Python 3.9 and torch 1.13).
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.ctc.greedy import collapse_ctc
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import CTCConfig, HeadConfig
from maya.ranges import PosFloat, PosInt


@config
class K2HLGConfig(MethodConfig):
    """graph: an HLG.pt as icefall's compile_hlg.py writes it. It is a pickle: load only files that you trust.
    Label 0 of the graph is blank. If blank is the last output of the model, token i is label i + 1.
    search_beam, output_beam, min_active, max_active: as in k2.intersect_dense_pruned, icefall's defaults.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (CTCConfig,)

    kind: Literal["k2_hlg"] = "k2_hlg"
    graph: str = ""
    search_beam: PosFloat = 20.0
    output_beam: PosFloat = 8.0
    min_active: PosInt = 30
    max_active: PosInt = 10000

    def objection(self, heads: Sequence[HeadConfig]) -> str:
        try:
            load_k2()
        except MayaError as error:
            return str(error)
        return ""


def load_k2() -> Any:
    """The module k2. Raises MayaError where it is missing or was built for another torch or Python."""
    try:
        return importlib.import_module("k2")
    except ImportError as error:
        raise MayaError(
            f"it needs k2, which cannot be imported here ({error}): install a build of k2 for torch "
            f"{torch.__version__}, or decode with ctc_beam, which also takes language models"
        ) from None


class K2HLG(Method, config=K2HLGConfig):
    """The best path through the graph. Its tokens are given; the words of the graph are not read."""

    def __init__(self, cfg: Any, context: MethodContext) -> None:
        super().__init__(cfg, context)
        self._k2 = load_k2()
        if not cfg.graph:
            raise MayaError(
                "k2_hlg needs a graph: set decode.methods.k2_hlg.graph to the HLG.pt of your lexicon"
            )
        if not Path(cfg.graph).is_file():
            raise MayaError(f"{cfg.graph} does not exist: set decode.methods.k2_hlg.graph to an HLG.pt")
        device = next(self.model.parameters()).device
        values = torch.load(cfg.graph, map_location=device, weights_only=False)
        self._graph = self._k2.Fsa.from_dict(values).to(device)

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        (head,) = self.heads
        log_probs, lens = head(encoded.frames), encoded.lens.cpu()
        order = [row for row in lens.argsort(descending=True, stable=True).tolist() if lens[row] > 0]
        hyps = [Hypothesis() for _ in lens]
        if not order:
            return hyps
        segments = torch.tensor([[row, 0, int(lens[row])] for row in order], dtype=torch.int32)
        dense = self._k2.DenseFsaVec(_blank_first(log_probs, head.blank), segments)
        lattice = self._k2.intersect_dense_pruned(
            self._graph, dense, search_beam=self.cfg.search_beam, output_beam=self.cfg.output_beam,
            min_active_states=self.cfg.min_active, max_active_states=self.cfg.max_active,
        )  # fmt: skip
        best = self._k2.shortest_path(lattice, use_double_scores=True)
        for place, row in enumerate(order):
            labels = best[place].labels[:-1].to(log_probs.device).long()  # the last is -1, the end
            path = _own_ids(labels, head.blank)  # empty where the graph has no path for the utterance
            scores = log_probs[row, : len(path)].gather(1, path[:, None])[:, 0]
            hyps[row] = collapse_ctc(path.tolist(), scores.tolist(), blank=head.blank)
        return hyps


def _blank_first(log_probs: Tensor, blank: int) -> Tensor:
    """log_probs (B, S, V) with the blank's column before the others."""
    if blank == 0:
        return log_probs
    return torch.cat([log_probs[..., blank, None], log_probs[..., :blank], log_probs[..., blank + 1 :]], -1)


def _own_ids(labels: Tensor, blank: int) -> Tensor:
    """The token ids of k2's labels."""
    if blank == 0:
        return labels
    tokens = labels - (labels <= blank).long()
    return torch.where(labels == 0, blank, tokens)
