"""The adapter of k2: its sentence where k2 is missing, and its calls, with a stand-in for the module."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.decode.base import MethodContext
from maya.decode.ctc.greedy import greedy_ctc
from maya.decode.ctc.k2_hlg import K2HLGConfig
from maya.decode.head_choice import TrainedHeads
from maya.decode.methods import choose_method, possible_methods
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import SpeechModel, build_model
from tests import tiny


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    torch.manual_seed(0)
    return build_model(with_vocabulary(tiny.experiment().model, 9, ("en",))).eval()


def test_missing_k2_is_explained(model: SpeechModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "k2", None)
    heads = TrainedHeads(heads=("ctc",), trained=("ctc",))
    with pytest.raises(
        MayaError, match="decode.method=k2_hlg cannot decode this model: it needs k2, .*ctc_beam"
    ):
        choose_method("k2_hlg", model.cfg, heads)
    assert "k2_hlg" not in possible_methods(model.cfg, heads)


def test_calls_of_k2(model: SpeechModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stand-in follows the best output of each frame, in k2's numbering with blank first."""
    calls: dict[str, Any] = {}

    class Dense:
        def __init__(self, log_probs: Tensor, segments: Tensor) -> None:
            self.log_probs, self.segments = log_probs, segments

    def intersect(graph: Any, dense: Dense, **options: Any) -> Dense:
        calls.update(options, graph=graph)
        return dense

    def shortest_path(lattice: Dense, use_double_scores: bool) -> list[Any]:
        assert lattice.segments.dtype == torch.int32
        assert (lattice.segments[:, 2].diff() <= 0).all()
        paths = [lattice.log_probs[row, :n].argmax(-1).int() for row, _, n in lattice.segments.tolist()]
        return [SimpleNamespace(labels=torch.cat([p, p.new_tensor([-1])])) for p in paths]

    fsa = SimpleNamespace(from_dict=lambda values: SimpleNamespace(to=lambda device: values))
    stub = SimpleNamespace(
        Fsa=fsa, DenseFsaVec=Dense, intersect_dense_pruned=intersect, shortest_path=shortest_path
    )
    monkeypatch.setitem(sys.modules, "k2", stub)  # type: ignore[arg-type]
    context = MethodContext(model=model, heads=("ctc",))
    with pytest.raises(MayaError, match="needs a graph"):
        K2HLGConfig().build(context)
    with pytest.raises(MayaError, match="does not exist"):
        K2HLGConfig(graph=str(tmp_path / "no.pt")).build(context)
    graph = {"arcs": torch.zeros(1)}
    torch.save(graph, tmp_path / "HLG.pt")
    method = K2HLGConfig(graph=str(tmp_path / "HLG.pt"), max_active=7).build(context)
    head = method.heads[0]
    frames = 3 * torch.randn(3, 20, head.decoder_layers[0].in_channels)
    lens = torch.tensor([7, 0, 20])
    hyps = method(Encoded(frames, lens))
    greedy = greedy_ctc(head(frames), lens, blank=head.blank)
    assert [replace(hyp, confidences=[]) for hyp in greedy] == hyps
    assert sum(len(hyp.tokens) for hyp in hyps) > 5
    assert calls["max_active_states"] == 7 and calls["graph"].keys() == graph.keys()
