"""The parts of Zipformer against element-by-element definitions."""

import math

import pytest
import torch
import torch.nn.functional as F

from maya.encoders.zipformer.attention import (
    HIDDEN,
    AttentionWeights,
    NonlinAttention,
    SelfAttention,
    StackFrames,
    compact_positions,
    relative_shift,
)
from maya.encoders.zipformer.front import Conv2dSubsampling
from maya.encoders.zipformer.layer import Bypass, ChunkCausalConv, GatedConvolution
from maya.encoders.zipformer.stack import Downsample
from tests.encoders.test_zipformer import perturb


def span(size, lens, keys=None, hidden=None, chunk=-1, pos=8):
    keys = size if keys is None else keys
    valid = (torch.arange(size) < lens[:, None])[..., None]
    seen = F.pad(valid.float(), (0, 0, keys - size, 0), value=1.0)
    return StackFrames(
        valid.double(), (1 - seen) * HIDDEN, compact_positions(size, keys, pos, "cpu"), hidden, chunk, lens
    )


def test_positions_equal_their_formula():
    table = compact_positions(3, 5, 6, "cpu")
    assert table.shape == (7, 6) and (table[:, -1] == 1).all()
    for row in range(7):
        x, root = row - 4, math.sqrt(6)
        y = root * math.copysign(1, x) * (math.log(abs(x) + root) - math.log(root)) if x else 0.0
        angle = math.atan(2 * math.pi * y / 6)
        expected = [f(k * angle) for k in (1, 2, 3) for f in (math.cos, math.sin)][:-1]
        torch.testing.assert_close(table[row, :-1], torch.tensor(expected))


@pytest.mark.parametrize("keys", [4, 7])
def test_relative_shift_and_its_form_for_export(keys):
    scores = torch.randn(2, 3, 4, keys + 3)
    shifted = relative_shift(scores, keys)
    for i in range(4):
        assert torch.equal(shifted[:, :, i], scores[:, :, i, 3 - i : 3 - i + keys])
    traced = torch.jit.trace(lambda s: relative_shift(s, keys), (scores,), check_trace=False)
    assert torch.equal(traced(scores), shifted) and "gather" in str(traced.graph)


@pytest.mark.parametrize(("size", "keys"), [(1, 1), (1, 5), (4, 4), (4, 7)])
def test_relative_shift_is_traced_by_the_compiler(size, keys):
    """Storage offsets cannot be traced since torch 2.13. Values and gradients equal the plain form."""
    compiled = torch.compile(relative_shift, backend="aot_eager", fullgraph=True, dynamic=False)
    base, grad = torch.randn(2, 3, size, keys + size - 1), torch.randn(2, 3, size, keys)
    grads = []
    for form in (relative_shift, compiled):
        scores = base.clone().requires_grad_()
        form(scores, keys).backward(grad)
        grads.append(scores.grad)
    assert torch.equal(*grads) and torch.equal(compiled(base, keys), relative_shift(base, keys))


@pytest.mark.parametrize("earlier", [0, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_weights_and_their_gradient(earlier, masked):
    """Compares the memory-saving form, the plain form with autograd, and a loop over cells."""
    part = perturb(AttentionWeights(12, 2, 4, 3, 8)).double().eval()
    batch, size = 2, 5
    keys = size + earlier
    hidden = torch.rand(size, keys) < 0.3 if masked else None
    if masked:
        hidden[:, earlier] = False
    frames = span(size, torch.tensor([5, 3]), keys, hidden)
    x = torch.randn(batch, size, 12, dtype=torch.float64, requires_grad=True)
    past = torch.randn(batch, earlier, 8, dtype=torch.float64) if earlier else None
    weights, first, kept = part(x, frames, past)
    with torch.no_grad():
        plain, plain_first, _ = part(x, frames, past)
    torch.testing.assert_close(weights, plain, rtol=0, atol=1e-12)
    assert torch.equal(first, weights[:, 0]) and torch.equal(plain_first, plain[:, 0])
    assert kept.shape == (batch, keys, 8)

    q, k, p = part.in_proj(x).split([8, 8, 6], -1)
    k = k if past is None else torch.cat([past, k], 1)
    table = part.linear_pos(frames.positions.double())
    for b, h, i in ((0, 0, 0), (0, 1, 4), (1, 1, 2)):
        scores = []
        for j in range(keys):
            offset = j - earlier - i
            score = q[b, i, 4 * h : 4 * h + 4] @ k[b, j, 4 * h : 4 * h + 4]
            score = score + p[b, i, 3 * h : 3 * h + 3] @ table[offset + keys - 1, 3 * h : 3 * h + 3]
            gone = (masked and hidden[i, j]) or (j >= earlier and j - earlier >= frames.lens[b])
            scores.append(score * 0 - 1000 if gone else score)
        torch.testing.assert_close(torch.stack(scores).softmax(0), weights[b, h, i], rtol=0, atol=1e-12)

    names = dict(part.named_parameters())

    def call(x, *values):
        out = torch.func.functional_call(part, dict(zip(names, values, strict=True)), (x, frames, past))
        return out[0], out[1] * 2

    assert torch.autograd.gradcheck(call, (x, *names.values()))


def test_large_scores_are_penalised():
    part = perturb(AttentionWeights(8, 1, 4, 2, 8)).train()
    with torch.no_grad():
        part.in_proj.weight.mul_(60)
    x, frames, grads = torch.randn(1, 6, 8), span(6, torch.tensor([6])), []
    for on in (False, True):
        part.penalise.on = on
        part.zero_grad()
        (part(x, frames)[0] * 0).sum().backward()
        grads.append(part.in_proj.weight.grad.clone())
    assert not grads[0].any() and grads[1].any()


@torch.no_grad()
def test_attention_modules_apply_the_weights():
    weights = torch.rand(2, 3, 4, 4).softmax(-1)
    attention = SelfAttention(6, 3, 2).eval()
    x = torch.randn(2, 4, 6)
    y, values = attention(x, weights)
    heads = [weights[:, h] @ attention.in_proj(x)[..., 2 * h : 2 * h + 2] for h in range(3)]
    torch.testing.assert_close(y, attention.out_proj(torch.cat(heads, -1)))
    assert values.shape == (2, 4, 6)
    nonlin = NonlinAttention(8).eval()
    x = torch.randn(2, 4, 8)
    s, v, gate = nonlin.in_proj(x).chunk(3, -1)
    expected = nonlin.out_proj(weights[:, 0] @ (s.tanh() * v) * gate)
    torch.testing.assert_close(nonlin(x, weights[:, 0])[0], expected)


def scale_of(conv, chunk):
    """Chunks of (chunk, D), from left to right."""
    past, right = conv.chunkwise_conv_scale.transpose(1, 2)
    scale = torch.ones(chunk, past.shape[1])
    for t in range(min(chunk, conv.kernel)):
        scale[t] += past[t]
        scale[chunk - 1 - t] += right[conv.kernel - 1 - t]
    return scale


@pytest.mark.parametrize("chunk", [3, 4, 9, -1])
@torch.no_grad()
def test_chunk_causal_convolution_looks_ahead_only_within_its_chunk(chunk):
    size, width, kernel = 10, 3, 5
    conv = perturb(ChunkCausalConv(width, kernel))
    x = torch.randn(1, size, width)
    y = conv(F.pad(x, (0, 0, 2, 0)), span(size, torch.tensor([size]), chunk=chunk))
    width_of = size if chunk < 0 else chunk
    for t in range(size):
        begin = t // width_of * width_of
        back = torch.stack([x[0, u] if u >= 0 else torch.zeros(width) for u in range(t - 2, t + 1)], -1)
        around = [u if begin <= u < min(begin + width_of, size) else None for u in range(t - 2, t + 3)]
        seen = torch.stack([torch.zeros(width) if u is None else x[0, u] for u in around], -1)
        causal = (conv.causal_conv.weight[:, 0] * back).sum(-1) + conv.causal_conv.bias
        chunked = (conv.chunkwise_conv.weight[:, 0] * seen).sum(-1) + conv.chunkwise_conv.bias
        expected = causal + chunked * scale_of(conv, width_of)[t - begin]
        torch.testing.assert_close(y[0, t], expected)


@torch.no_grad()
def test_convolution_module_equals_its_formula():
    part = perturb(GatedConvolution(4, 3, causal=False)).double().eval()
    x, lens = torch.randn(2, 6, 4, dtype=torch.float64), torch.tensor([6, 4])
    a, b = part.in_proj(x).chunk(2, -1)
    gated = a * b.sigmoid() * (torch.arange(6) < lens[:, None])[..., None]
    y = part.depthwise_conv(gated.mT).mT
    y = torch.logaddexp(y - 1, torch.zeros_like(y)) - 0.08 * y - 0.313261687
    torch.testing.assert_close(part(x, span(6, lens))[0], part.out_proj(y))


@torch.no_grad()
def test_downsampling_repeats_the_last_frame_of_each_utterance():
    part = Downsample(4)
    part.bias.normal_()
    x, lens = torch.randn(3, 10, 2), torch.tensor([10, 6, 0])
    y = part(x, lens)
    assert y.shape == (3, 3, 2) and y.isfinite().all()
    for row, n in ((0, 10), (1, 6)):
        for s in range(-(-n // 4)):
            group = torch.stack([x[row, min(4 * s + i, n - 1)] for i in range(4)], -1)
            torch.testing.assert_close(y[row, s], (group * part.bias.softmax(0)).sum(-1))
    torch.testing.assert_close(part(x, None)[0], y[0])


def test_bypass_mixes_and_skips():
    part = Bypass(4, skip=1.0)
    source, x = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(part.eval()(source, x), (source + x) / 2)
    assert torch.equal(part.train()(source, x), source)


@torch.no_grad()
def test_front_end_in_pieces_equals_the_whole():
    part = perturb(Conv2dSubsampling(16, 8, 0.0, mask_padding=True), 0.05).eval()
    x = torch.randn(2, 2 * 8 * 3 + 13, 16)
    whole, lens, _ = part(x, torch.tensor([61, 50]))
    assert whole.shape == (2, 27, 8) and lens.tolist() == [27, 21]
    past, pieces = part.initial_left(2), []
    for step in range(3):
        piece, lens, past = part(x[:, 16 * step : 16 * step + 29], torch.tensor([29, 29]), past)
        assert lens.tolist() == [8, 8]
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1)[0], whole[0, :24], rtol=0, atol=1e-5)
