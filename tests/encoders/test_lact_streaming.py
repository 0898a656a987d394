"""Streaming of a LaCT encoder equals the whole utterance. Its state can be saved, joined and kept."""

import io
import random

import pytest
import torch

from maya.encoders import LaCT
from maya.encoders.lact.config import streaming
from maya.encoders.lact.streaming import LaCTState, changing
from maya.errors import MayaError
from tests.encoders.test_lact import NO_DROPOUT, SMALL, LaCTConfig, open_gates, perturb

FORMS = [
    {"chunk": 5},
    {"chunk": 3, "order": "causal"},
    {"chunk": 8, "orthogonalize": True, "update_weights": "w1"},
    {"chunk": 4, "momentum": False, "fast_rotary": True, "qk_norm": True, "window": (9, 0)},
    {"chunk": 6, "update_at_test": False, "window": (0, -1), "conv_norm": "batch_norm"},
]
LENS = [300, 17, 136, 1, 0, 215]


def causal(**options):
    cfg = streaming(LaCTConfig(**(SMALL | NO_DROPOUT)), **({"chunk": 5} | options))
    return perturb(open_gates(LaCT(cfg))).eval()


@torch.no_grad()
def streamed(model, x, lens, starts, piece, state=None, keep=False):
    """Encode `x` in pieces of piece() features, row b from call starts[b] on. Returns a list of (S, D)."""
    state = model.initial_state(len(x)) if state is None else state
    at, actual, ended = [0] * len(x), [[] for _ in x], [False] * len(x)
    call = 0
    while not all(ended):
        sizes = [0 if call < starts[b] or ended[b] else min(piece(), lens[b] - at[b]) for b in range(len(x))]
        final = [call >= starts[b] and not ended[b] and at[b] + n == lens[b] for b, n in enumerate(sizes)]
        chunk = torch.full((len(x), max(sizes), x.shape[2]), 7.0)  # rubbish beyond each row's piece
        for b, n in enumerate(sizes):
            chunk[b, :n] = x[b, at[b] : at[b] + n]
            at[b] += n
            ended[b] |= final[b]
        enc, enc_lens, state = model.stream_step(
            chunk, torch.tensor(sizes), state, final=torch.tensor(final), keep=keep
        )
        for b, n in enumerate(enc_lens.tolist()):
            actual[b].append(enc[b, :n])
            assert not enc[b, n:].any()
        call += 1
    return [torch.cat(pieces) for pieces in actual], state


@pytest.mark.parametrize("options", FORMS)
def test_streamed_pieces_equal_the_whole(options):
    """Rows start at different calls, come in pieces of 0 to 60 features and end at different times."""
    model, bound = causal(**options), 1e-5
    x = torch.randn(len(LENS), max(LENS), 20)
    if model.cfg.orthogonalize:  # this increases rounding errors too
        model, x, bound = model.double(), x.double(), 1e-8
    with torch.no_grad():
        whole, whole_lens = model(x, torch.tensor(LENS))
    sizes = random.Random(1)
    actual, state = streamed(model, x, LENS, [0, 3, 1, 0, 2, 5], lambda: sizes.randrange(61))
    for b, n in enumerate(whole_lens.tolist()):
        assert len(actual[b]) == n
        torch.testing.assert_close(actual[b], whole[b, :n], rtol=0, atol=bound)
    # All have ended: nothing of them is left.
    assert not state.learnt.any() and not state.fast.any() and not state.attention.any()
    assert not state.frames.any() and torch.equal(state.feature_lens, torch.full((6,), state.past))


@torch.no_grad()
def test_fast_weights_can_be_kept_for_the_next_utterance():
    model = causal(chunk=4)
    x, lens = torch.randn(2, 160, 20), [160, 97]
    (first, second), state = streamed(model, x, lens, [0, 0], lambda: 64, keep=torch.tensor([True, False]))
    assert state.learnt.tolist() == [True, False]
    assert state.fast[:, :, 0].any() and not state.fast[:, :, 1].any()
    assert not state.attention.any() and not state.convolution.any() and not state.frames.any()
    # The next utterance of the kept row begins with its weights, as `adapt` does; the other one at the start.
    (whole, _), learnt = model.adapt(x, torch.tensor(lens))
    torch.testing.assert_close(first, whole[0, : len(first)], rtol=0, atol=1e-5)
    (again, _), _ = model.adapt(x, torch.tensor(lens), learnt)
    (third, fourth), _ = streamed(model, x, lens, [0, 0], lambda: 40, state)
    torch.testing.assert_close(third, again[0, : len(third)], rtol=0, atol=1e-5)
    torch.testing.assert_close(fourth, second, rtol=0, atol=1e-5)
    assert not torch.allclose(third, first, atol=1e-3)


@torch.no_grad()
def test_state_is_saved_selected_and_joined():
    """Three streams at different positions are saved, loaded and continued in one batch."""
    model = causal(chunk=4)
    x = torch.randn(3, 240, 20)
    whole, whole_lens = model(x, torch.tensor([240, 240, 240]))
    states, before = [], []
    for row, n in enumerate((0, 71, 130)):
        enc, enc_lens, state = model.stream_step(
            x[row : row + 1, :n], torch.tensor([n]), model.initial_state(1)
        )
        file = io.BytesIO()
        torch.save(state.tensors(), file)
        file.seek(0)
        states.append(model.initial_state(1).with_tensors(torch.load(file, weights_only=True)))
        before.append(enc[0, : enc_lens[0]])
    joined = LaCTState.join(states)
    # In another order, and back.
    turned = joined.select(torch.tensor([2, 0, 1])).select(torch.tensor([1, 2, 0]))
    rest = torch.zeros(3, 240, 20)
    sizes = []
    for row, n in enumerate((0, 71, 130)):
        rest[row, : 240 - n] = x[row, n:]
        sizes.append(240 - n)
    enc, enc_lens, _ = model.stream_step(
        rest, torch.tensor(sizes), turned, final=torch.ones(3, dtype=torch.bool)
    )
    for row in range(3):
        actual = torch.cat([before[row], enc[row, : enc_lens[row]]])
        torch.testing.assert_close(actual, whole[row, : whole_lens[row]], rtol=0, atol=1e-5)
    with pytest.raises(MayaError, match="fast"):
        causal(chunk=4, update_weights="w1", fast_heads=4).initial_state(1).with_tensors(turned.tensors())
    with pytest.raises(MayaError, match="'frames' is nothing"):
        turned.with_tensors({})


@torch.no_grad()
def test_state_reports_its_size_and_does_not_grow():
    model = causal(chunk=4)
    state = model.initial_state(2)
    before = state.bytes()
    # 3 matrices and their momentum, 2 layers, 2 heads of 16 channels and expansion 2, fp32.
    assert before["fast"] == 6 * 2 * 2 * (16 * 32) * 4
    assert before["attention"] == 2 * model.cfg.window[0] * 32 * 4
    assert before["convolution"] == 2 * 4 * 32 * 4
    for _ in range(20):
        _, _, state = model.stream_step(torch.randn(2, 32, 20), torch.tensor([32, 32]), state)
    after = state.bytes()
    assert after.pop("features") <= before.pop("features") + 40 * 20 * 4 and after == before
    assert f"{6 * 2 * 2 * 512 * 4 / 1e6:.3f}" in state.describe() and " MB (" in state.describe()
    assert changing(causal(update_weights="w1").cfg) == ("w1", "m1")
    assert changing(causal(momentum=False).cfg) == ("w0", "w1", "w2")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"causal_downsampling": False}, "causal_downsampling"),
        ({"conv_context": "symmetric"}, "conv_context"),
        ({"order": "whole", "momentum": False, "window": (4, 0)}, "order=whole"),
        ({"order": "passes", "window": (4, 4)}, "order=passes"),
    ],
)
def test_unsupported_streaming_is_refused(options, named):
    with pytest.raises(MayaError, match=named):
        causal(**options).initial_state(1)


def test_streaming_needs_eval_mode_and_the_configured_context():
    model = causal()
    with pytest.raises(MayaError, match="evaluation"):
        model.train().stream_step(torch.zeros(1, 8, 20), torch.tensor([8]), model.initial_state(1))
    with pytest.raises(MayaError, match="not \\(9, 9\\)"):
        model.initial_state(1, context=(9, 9))
    assert model.initial_state(1, context=model.cfg.window).step == model.cfg.chunk
