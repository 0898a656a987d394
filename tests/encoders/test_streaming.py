"""Streams in pieces of any size equal the whole utterance under the same mask."""

import random

import pytest
import torch

from maya.encoders import FastConformer, FastConformerConfig
from maya.errors import MayaError

LOOK_AHEADS = [(12, 0), (12, 1), (12, 3), (0, 2), (-1, 1), (-1, 0)]


def causal(**options):
    options = (
        dict(
            d_model=32,
            n_layers=3,
            n_heads=4,
            subsampling_channels=8,
            conv_kernel=5,
            causal_downsampling=True,
            conv_context="causal",
            conv_norm="layer_norm",
            att_context_style="chunked_limited",
            att_context_size=tuple(LOOK_AHEADS),
        )
        | options
    )
    model = FastConformer(FastConformerConfig(**options))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@torch.no_grad()
def streamed(model, x, lens, starts, piece, context):
    """Encode `x` in pieces of piece() features, row b from call starts[b] on. Returns a list of (S, D)."""
    state = model.initial_state(len(x), context=context)
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
        enc, enc_lens, state = model.stream_step(chunk, torch.tensor(sizes), state, final=torch.tensor(final))
        for b, n in enumerate(enc_lens.tolist()):
            actual[b].append(enc[b, :n])
            assert not enc[b, n:].any()
        call += 1
    return [torch.cat(pieces) for pieces in actual]


@pytest.mark.parametrize("context", LOOK_AHEADS)
def test_streamed_pieces_equal_the_whole_for_every_look_ahead(context):
    """Rows start at different calls, come in pieces of 0 to 60 features and end at different times."""
    model = causal()
    lens = [300, 17, 136, 1, 0, 215]
    x = torch.randn(len(lens), max(lens), 80)
    with torch.no_grad():
        whole, whole_lens = model(x, torch.tensor(lens), context=context)
    sizes = random.Random(1)
    actual = streamed(model, x, lens, [0, 3, 1, 0, 2, 5], lambda: sizes.randrange(61), context)
    for b, n in enumerate(whole_lens.tolist()):
        assert len(actual[b]) == n
        torch.testing.assert_close(actual[b], whole[b, :n], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "piece"),
    [
        ({"subsampling_factor": 4, "conv_norm": "batch_norm"}, 8),
        ({"att_context_style": "regular", "att_context_size": ((9, 0),)}, 8),
        ({"use_bias": False, "xscaling": False, "untie_biases": False}, 200),
    ],
)
def test_streaming_of_other_models_and_of_a_reset_row(options, piece):
    model = causal(**options)
    lens = [120, 77]
    x = torch.randn(2, 120, 80)
    with torch.no_grad():
        whole, whole_lens = model(x, torch.tensor(lens))
    actual = streamed(model, x, lens, [0, 0], lambda: piece, None)
    for b, n in enumerate(whole_lens.tolist()):
        torch.testing.assert_close(actual[b], whole[b, :n], rtol=0, atol=1e-5)
    state = model.initial_state(2)
    with torch.no_grad():  # the first row ends and restarts while the second continues
        done = torch.tensor([True, False])
        for _ in range(2):
            enc, enc_lens, state = model.stream_step(x[:, :48], torch.tensor([48, 8]), state, final=done)
            alone, alone_lens = model(x[:1, :48], torch.tensor([48]))
            assert enc_lens[0] == alone_lens[0]
            torch.testing.assert_close(enc[0, : alone.shape[1]], alone[0], rtol=0, atol=1e-5)
        assert state.frames.tolist()[0] == 0 and state.feature_lens[0] == state.past
        assert not state.attention[:, 0].any() and state.attention_lens[0] == 0


def test_a_stream_follows_weights_that_change():
    """In inference the projected positions are kept from chunk to chunk."""
    model = causal()
    x, lens = torch.randn(1, 96, 80), torch.tensor([96])
    for _ in range(2):
        with torch.inference_mode():
            enc, enc_lens, _ = model.stream_step(x, lens, model.initial_state(1), final=torch.tensor([True]))
            whole, _ = model(x, lens)
            torch.testing.assert_close(enc[:, : int(enc_lens)], whole[:, : int(enc_lens)], rtol=0, atol=1e-5)
        with torch.no_grad():
            for layer in model.layers:
                layer.self_attn.linear_pos.weight.mul_(3.0)


def test_state_does_not_grow_and_frames_come_in_whole_chunks():
    model = causal()
    state = model.initial_state(1, context=(12, 3))
    given = []
    with torch.no_grad():
        for _ in range(40):
            _, lens, state = model.stream_step(torch.randn(1, 8, 80), torch.tensor([8]), state)
            given.append(int(lens))
    assert set(given) == {0, 4} and sum(given) == 40
    assert state.attention.shape == (3, 1, 12, 64) and state.convolution.shape == (3, 1, 32, 4)
    assert state.attention_lens.tolist() == [12] and state.features.shape[1] <= state.past + 8 * 4
    # NeMo's first piece: 1 + 8 R features complete R + 1 frames.
    state = model.initial_state(1, context=(12, 3))
    with torch.no_grad():
        assert int(model.stream_step(torch.randn(1, 24, 80), torch.tensor([24]), state)[1]) == 0
        assert int(model.stream_step(torch.randn(1, 25, 80), torch.tensor([25]), state)[1]) == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"causal_downsampling": False}, "causal_downsampling"),
        ({"conv_context": "symmetric"}, "conv_context"),
        ({"att_context_style": "regular", "att_context_size": ((4, 4),)}, "waits for frames to come"),
        ({"att_context_size": ((-1, -1), (4, 1))}, "waits for frames to come"),
    ],
)
def test_unsupported_streaming_is_refused(options, named):
    with pytest.raises(MayaError, match=named):
        causal(**options).initial_state(1)
    with pytest.raises(MayaError, match="evaluation"):
        model = causal()
        model.train().stream_step(torch.zeros(1, 8, 80), torch.tensor([8]), model.initial_state(1))
