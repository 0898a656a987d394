"""Rows of utterances of one speaker through an encoder that learns equal one utterance after the other."""

from dataclasses import replace

import pytest
import torch

from maya.data.loading.batch import make_batch
from maya.encoders.conformer.config import FastConformerConfig
from maya.encoders.lact.config import LaCTConfig
from maya.errors import MayaError
from maya.features import LogMelConfig, SpecAugmentConfig
from maya.heads import CTCConfig
from maya.models.config import SpeechModelConfig
from maya.models.speaker_memory import encode_rows
from maya.models.speech_model import build_model

LENS = [90, 41, 120, 64, 77, 100]
ROW_OF = [3, 3, 0, 3, 0, 7]  # rows 3 (utterances 0, 1, 3), 0 (2, 4) and 7 (5)
ROWS = [[0, 1, 3], [2, 4], [5]]


def encoder(**options):
    torch.manual_seed(1)
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "fast_heads": 2, "ff_dim": 24, "feat_in": 20}
    made = LaCTConfig(
        **(sizes | {"subsampling_channels": 4, "window": (4, 4), "base_rate": 3.0} | options)
    ).build()
    with torch.no_grad():  # gates are closed before training, which would hide what is learnt
        for layer in made.layers:
            layer.mixer.fast.gate.bias.fill_(1.0)
    return made.double().eval()


def inputs():
    x = torch.randn(len(LENS), max(LENS), 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x.requires_grad_(), torch.tensor(LENS)


def one_by_one(model, x, hidden=()):
    """The frames of each utterance: each row by itself, an utterance at a time, without padding."""
    frames, states = {}, {}
    for row in ROWS:
        state = None
        for i in row:
            encoded, state = model.adapt(
                x[i : i + 1, : LENS[i]], torch.tensor([LENS[i]]), state, hidden=hidden
            )
            frames[i], states[i] = encoded.frames[0], {n: h[0] for n, h in encoded.hidden.items()}
    return [frames[i] for i in range(len(x))], [states[i] for i in range(len(x))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "passes", "chunk": 4, "momentum": True, "window": (4, 0)},
        {"order": "chunk_causal", "chunk": 4, "momentum": True, "window": (4, -1), "fast_rotary": True},
        {"update_weights": "w1", "orthogonalize": True},
        {"activation_checkpointing": True},
    ],
)
def test_rows_equal_one_utterance_after_the_other_with_gradients(options):
    model, (x, lens) = encoder(**options), inputs()
    together = encode_rows(model, x, lens, torch.tensor(ROW_OF), hidden=(1,))
    alone, hidden = one_by_one(model, x, (1,))
    assert together.lens.tolist() == [len(y) for y in alone]
    weight = torch.Generator().manual_seed(3)
    losses = [0.0, 0.0]
    for i, y in enumerate(alone):
        torch.testing.assert_close(together.frames[i, : len(y)], y, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(together.hidden[1][i, : len(y)], hidden[i][1], rtol=1e-9, atol=1e-11)
        assert not together.frames[i, len(y) :].any()
        w = torch.randn(y.shape, generator=weight, dtype=torch.float64)
        losses[0] = losses[0] + (w * together.frames[i, : len(y)]).sum()
        losses[1] = losses[1] + (w * y).sum()
    tensors = [x, *model.parameters()]
    for ours, expected in zip(*(torch.autograd.grad(loss, tensors) for loss in losses), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)


def test_what_is_learnt_and_its_gradient_reach_the_next_utterance_unless_detached():
    for detached in (False, True):
        model, (x, lens) = encoder(detach_memory=detached), inputs()
        frames = encode_rows(model, x, lens, torch.tensor(ROW_OF)).frames
        plain = model(x, lens).frames
        changed = [not torch.allclose(a, b) for a, b in zip(frames, plain, strict=True)]
        assert changed == [False, True, False, True, True, False]  # all but the first of each row
        (grad,) = torch.autograd.grad(frames[3].sum(), x)
        assert [bool(g.any()) for g in grad] == [not detached, not detached, False, True, False, False]


def test_views_are_rows_of_their_own():
    model, (x, lens) = encoder(), inputs()
    both = torch.cat([x, 0.5 * x])
    frames = encode_rows(model, both, lens.repeat(2), torch.tensor(ROW_OF), views=2).frames
    for half, scale in ((frames[:6], 1.0), (frames[6:], 0.5)):
        expected = encode_rows(model, scale * x, lens, torch.tensor(ROW_OF)).frames
        torch.testing.assert_close(half, expected, rtol=1e-9, atol=1e-11)


def test_a_control_learns_nothing_and_has_the_same_parameters():
    model, (x, lens) = encoder(learning=False), inputs()
    assert [*model.state_dict()] == [*encoder().state_dict()]
    frames = encode_rows(model, x, lens, torch.tensor(ROW_OF)).frames
    torch.testing.assert_close(frames, model(x, lens).frames)
    model.train()
    model(x, lens).frames.sum().backward()
    assert all(p.grad is not None for p in model.parameters())  # DDP waits for each


def speech_model(encoder_config):
    return build_model(
        SpeechModelConfig(
            features=LogMelConfig(num_mels=20, dither=0.0), encoder=encoder_config, vocab_size=8,
            specaugment=SpecAugmentConfig(freq_masks=0, time_masks=0), heads={"ctc": CTCConfig()},
        )
    )  # fmt: skip


def batch():
    g = torch.Generator().manual_seed(4)
    audio = [0.1 * torch.randn(160 * n, generator=g) for n in LENS]
    return make_batch(audio, [[1, 2]] * 6, [0] * 6, [str(i) for i in range(6)], sample_rate=16000)


def test_the_model_trains_on_rows_and_other_encoders_refuse_them():
    model = speech_model(encoder().cfg).eval()
    for layer in model.encoder.layers:
        layer.mixer.fast.gate.bias.data.fill_(1.0)
    rows = replace(batch(), row_of=torch.tensor(ROW_OF))
    plain, together = model(batch()).total, model(rows).total
    differs = (plain - together).abs() > 1e-4 * plain
    assert differs.tolist() == [False, True, False, True, True, False]
    other = speech_model(
        FastConformerConfig(feat_in=20, d_model=16, n_layers=1, n_heads=2, subsampling_channels=4)
    )
    with pytest.raises(
        MayaError, match="'fastconformer' remembers nothing of an utterance; set data.plan.same"
    ):
        other(rows)
