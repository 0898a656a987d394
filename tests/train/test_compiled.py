"""`train.compile`: the same losses and gradients as without it, in as few graphs as the blocks allow."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from maya.encoders import LaCTConfig
from maya.models.speech_model import build_model
from maya.train.compiled import compile_blocks
from maya.train.config import TrainConfig
from tests import tiny
from tests.train.test_two_processes import _batch

BLOCKS = 2
FASTCONFORMER = tiny.experiment().model.encoder
LACT = LaCTConfig(
    d_model=32, n_layers=BLOCKS, n_heads=2, ff_dim=32, subsampling_factor=4, subsampling_channels=8,
    dropout=0.0, dropout_att=0.0, dropout_pre_encoder=0.0,
)  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("encoder", "graphs", "place"),
    [
        (FASTCONFORMER, 3, ""),  # the first block takes one more, because its sizes are fixed at first
        # A break at the operator of the fast weights; and its parts are compiled anew for some sizes.
        pytest.param(LACT, 15, "<function lact ", marks=pytest.mark.slow),
    ],
)
def test_compiled_blocks(encoder: Any, graphs: int, place: str, checkpointing: bool) -> None:
    cfg = replace(tiny.hybrid(), encoder=replace(encoder, activation_checkpointing=checkpointing))
    eager, compiled = build_model(cfg), build_model(cfg)
    compiled.load_state_dict(eager.state_dict())
    torch._dynamo.reset()
    counters.clear()
    counter = CompileCounterWithBackend("aot_eager")
    compile_blocks(compiled, TrainConfig(compile=True), counter)
    for step, rows in enumerate(([0, 1, 2], [2, 4], [0, 3, 4])):
        results = []
        for model in (eager, compiled):
            model.zero_grad()
            model.begin_step(step, 0.0)
            losses = model(_batch(rows)).total
            losses.sum().backward()
            results.append((losses.detach(), [p.grad for p in model.parameters()]))
        (losses, gradients), (others, other_gradients) = results
        torch.testing.assert_close(others, losses, rtol=1e-5, atol=1e-5)
        # Some gradients are sums that cancel: what is left of them is rounding of the others.
        largest = max(float(a.abs().max()) for a in gradients)
        for a, b in zip(gradients, other_gradients, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6 * largest + 1e-4 * float(a.abs().max()))
    # A block is the same code as the others, but dynamo compiles each for itself.
    assert counter.frame_count == graphs + BLOCKS * checkpointing, counter.frame_count
    breaks = list(counters["graph_break"])
    assert bool(breaks) == bool(place) and all(place in reason for reason in breaks), breaks
    compiled.eval()
    before = counter.frame_count
    with torch.no_grad():
        torch.testing.assert_close(
            compiled.encode(_batch([0, 3]).audio, _batch([0, 3]).audio_lens).frames,
            eager.eval().encode(_batch([0, 3]).audio, _batch([0, 3]).audio_lens).frames,
        )
    assert counter.frame_count == before  # validation is eager
