"""The masked loop as a CUDA graph: on a GPU against the packed loop; elsewhere with a fake graph."""

import random
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from maya.decode.label_looping import cuda_graph
from maya.decode.label_looping.loops import MaskedLoop, make_loop
from maya.decode.transducer.greedy import TransducerDecoder
from tests.decode.test_greedy import DIM, decoded, rules_of, same


@pytest.mark.gpu
@pytest.mark.parametrize("durations", [None, (0, 1, 2, 3, 4)], ids=str)
def test_graph_equals_the_packed_loop(durations):
    rules = rules_of(random.Random(3), durations)
    pieces = [(2 * torch.randn(4, frames, DIM), torch.tensor([frames, 7, 0, 1])) for frames in (20, 50, 90)]
    expected = [decoded(rules, *piece) for piece in pieces]
    rules.predictor.cuda()
    rules.joint.cuda()
    loop = make_loop(rules)
    for (enc, lens), hyps in zip(pieces, expected, strict=True):
        decoder = TransducerDecoder(loop, 4)
        decoder.push(enc.cuda(), lens.cuda(), final=True)
        same(decoder.hyps, hyps)
    assert loop.graphed and loop.steps is not None


@pytest.mark.parametrize("conditional", [True, False])
def test_replays_stop_after_the_last_label(conditional):
    """What the host does around the graph. The fake runs the steps of a replay at once."""
    rules = rules_of(random.Random(3), (0, 1, 2))
    enc, lens = 2 * torch.randn(2, 40, DIM), torch.tensor([40, 11])
    loop, replays = MaskedLoop(rules, graphed=True), []

    def replay():
        replays.append(1)
        if loop.search.active or not conditional:
            for _ in range(cuda_graph.STEPS):
                loop.search.step()

    graph = SimpleNamespace(replay=replay)
    if conditional:
        graph.begin_capture_to_if_node = lambda active: None
        graph.end_capture_to_conditional_node = lambda: None
    stream = SimpleNamespace(wait_stream=lambda other: None)
    event = SimpleNamespace(record=lambda: None, query=lambda: True, synchronize=lambda: None)
    fakes = {
        "Stream": lambda: stream, "current_stream": lambda: stream, "stream": lambda s: nullcontext(),
        "CUDAGraph": lambda: graph, "graph": lambda g: nullcontext(), "Event": lambda: event,
    }  # fmt: skip
    ones = torch.ones
    with (
        patch.multiple(torch.cuda, **fakes),
        patch.object(torch, "ones", lambda *a, pin_memory, **k: ones(*a, **k)),
    ):
        decoder = TransducerDecoder(loop, 2)
        loop.search = None
        decoder.push(enc, lens, final=True)
    same(decoder.hyps, decoded(rules, enc, lens))
    most = -(-loop.search.most_steps // cuda_graph.STEPS)
    assert cuda_graph.AHEAD <= len(replays) < most
