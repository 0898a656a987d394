"""Every form of attention against its definition, and the forms against each other."""

import math

import pytest
import torch

from maya.encoders import FastConformer, FastConformerConfig
from maya.encoders.conformer import attention, packed_rows, row_attention
from maya.encoders.conformer.attention import (
    AttentionSpan as Span,
)
from maya.encoders.conformer.attention import (
    Frames,
    RelPositionAttention,
    positions_needed,
    relative_sinusoids,
    span_of,
)
from maya.encoders.conformer.global_tokens import GlobalTokenAttention
from maya.encoders.conformer.packed_rows import Rows
from maya.errors import MayaError

HEADS, WIDTH = 2, 16
SPANS = [
    Span(),
    Span(7, 3),
    Span(40, 0),
    Span(0, 0),
    Span(None, 2),
    Span(5, None),
    Span(6, 2, chunk=3),
    Span(0, 4, chunk=5),
    Span(None, 1, chunk=2),
    Span(0, 0, chunk=1),
]


def module(bias=True):
    att = RelPositionAttention(WIDTH, HEADS, bias=bias, dropout=0.0).double()
    torch.nn.init.normal_(att.pos_bias_u)
    torch.nn.init.normal_(att.pos_bias_v)
    return att


def frames(span, lens, size, rows=None):
    longest = max(lens) if rows else size
    positions = relative_sinusoids(positions_needed(span, longest), WIDTH, torch.device("cpu")).double()
    valid = rows.valid(positions.device) if rows else torch.arange(size) < torch.tensor(lens)[:, None]
    return Frames(valid=valid, positions=positions, span=span, rows=rows)


def sees(span, i, j):
    """The visible frames of each frame, by NeMo's definition."""
    if span.chunk:
        chunks = i // span.chunk - j // span.chunk
        return chunks >= 0 and (span.left_frames is None or chunks <= span.left_frames // span.chunk)
    within = span.left_frames is None or i - j <= span.left_frames
    return within and (span.right is None or j - i <= span.right)


def defined(att, x, span):
    """Attention of one utterance (n, D), computed score by score."""
    n = len(x)
    q, k, v = (f(x).view(n, HEADS, -1) for f in (att.linear_q, att.linear_k, att.linear_v))
    table = relative_sinusoids(n, WIDTH, x.device).double()
    p = att.linear_pos(table).view(2 * n + 1, HEADS, -1)
    place = torch.arange(n)[:, None] - torch.arange(n)
    scores = torch.einsum("ihk,jhk->hij", q + att.pos_bias_u, k)
    scores = scores + torch.einsum("ihk,ijhk->hij", q + att.pos_bias_v, p[n - place])
    hidden = torch.tensor([[not sees(span, i, j) for j in range(n)] for i in range(n)])
    weights = (scores / math.sqrt(WIDTH // HEADS)).masked_fill(hidden, -math.inf).softmax(-1)
    return att.linear_out(torch.einsum("hij,jhk->ihk", weights, v).reshape(n, WIDTH))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("span", SPANS)
def test_every_form_equals_the_definition(span, bias, monkeypatch):
    """Compares outputs and gradients: whole, in blocks of queries, in local windows, packed and padded."""
    att = module(bias)
    lens, size = [70, 45, 1], 70
    x = torch.randn(3, size, WIDTH, dtype=torch.float64)
    expected = [defined(att, x[b, :n], span) for b, n in enumerate(lens)]
    expected_grads = torch.autograd.grad(sum(y.sin().sum() for y in expected), list(att.parameters()))
    rows = Rows(lens=tuple(lens), gap=2)
    # Blocks of 32 queries, so that a narrow span is local; with the second limit of 5 queries at most.
    for limit in (2**26, 3 * HEADS * size * 5):
        monkeypatch.setattr(attention, "MAX_BIAS", limit)
        padded = att(x, frames(span, lens, size))
        packed = rows.unpack(att(rows.pack(x), frames(span, lens, size, rows)), size)
        for y in (padded, packed):
            actual = [y[b, :n] for b, n in enumerate(lens)]
            for got, want in zip(actual, expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # the table is fp32
            grads = torch.autograd.grad(sum(y.sin().sum() for y in actual), list(att.parameters()))
            torch.testing.assert_close(grads, expected_grads, rtol=1e-5, atol=1e-5)


def test_local_form_is_used_for_narrow_spans(monkeypatch):
    span = Span(7, 3)
    calls = []
    for name in ("attend_local", "attend_blocks"):
        plain = getattr(RelPositionAttention, name)
        monkeypatch.setattr(
            RelPositionAttention, name, lambda *a, _n=name, _f=plain, **k: calls.append(_n) or _f(*a, **k)
        )
    att = module()
    for size in (span.window, span.window + 1):
        att(torch.randn(1, size, WIDTH).double(), frames(span, [size], size))
    assert calls == ["attend_blocks", "attend_local"]
    assert positions_needed(span, 100_000) == span.window - 1 and positions_needed(Span(), 100) == 99


def test_blocks_never_hold_the_bias_of_all_queries(monkeypatch):
    sizes = []
    plain = RelPositionAttention._fused
    monkeypatch.setattr(
        RelPositionAttention,
        "_fused",
        lambda s, q, k, v, bias: sizes.append(bias.numel()) or plain(s, q, k, v, bias),
    )
    monkeypatch.setattr(attention, "MAX_BIAS", 1000)
    for span in (Span(), Span(3, 0)):
        att = module()
        att(torch.randn(1, 200, WIDTH).double(), frames(span, [200], 200))
    blocks = [n for n in sizes if n <= 1000]
    assert len(blocks) == 100  # two queries at a time against 200 keys
    assert max(sizes) <= HEADS * Span(3, 0).block * Span(3, 0).window  # one local block at least


@pytest.mark.parametrize("options", [{}, {"use_bias": False, "conv_norm": "layer_norm"}])
def test_local_equals_full_when_the_window_covers_the_utterance(options):
    cfg = FastConformerConfig(d_model=32, n_layers=2, n_heads=4, subsampling_channels=8, **options)
    model = FastConformer(cfg).eval()
    x, lens = torch.randn(2, 800, 80), torch.tensor([800, 333])
    with torch.no_grad():
        full, _ = model(x, lens)
        local, _ = model(x, lens, context=(100, 100))
        narrow, _ = model(x, lens, context=(20, 20))
        torch.testing.assert_close(local, full, rtol=0, atol=2e-6)
        assert not torch.allclose(narrow, full, atol=1e-3)
        model.context = (20, 20)
        torch.testing.assert_close(model(x, lens).frames, narrow)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("size", [9, 60])
def test_global_tokens_attend_to_all_frames_and_all_frames_to_them(separate, size):
    """Against NeMo's words, score by score: global keys stand before the local ones, without positions."""
    span, spacing = Span(5, 3), 4
    options = dict(tokens=3, spacing=spacing, separate=separate)
    att = GlobalTokenAttention(WIDTH, HEADS, bias=True, dropout=0.0, **options).double()
    torch.nn.init.normal_(att.pos_bias_u)
    torch.nn.init.normal_(att.pos_bias_v)
    lens = [size, size - 4]
    x = torch.randn(2, size, WIDTH, dtype=torch.float64)
    table = relative_sinusoids(max(span.reach), WIDTH, x.device).double()
    valid = torch.arange(size) < torch.tensor(lens)[:, None]
    actual = att(x, Frames(valid=valid, positions=table, span=span))
    p = att.linear_pos(table).view(-1, HEADS, WIDTH // HEADS)
    for b, n in enumerate(lens):
        heads = [f(x[b, :n]).view(n, HEADS, -1) for f in (att.linear_q, att.linear_k, att.linear_v)]
        wide = (
            [f(x[b, :n]).view(n, HEADS, -1) for f in (att.global_q, att.global_k, att.global_v)]
            if separate
            else heads
        )
        (q, k, v), (all_q, all_k, all_v) = heads, wide
        places = [g for g in (0, 4, 8) if g < n]
        rows = []
        for i in range(n):
            near = [j for j in range(n) if sees(span, i, j)]
            local = [
                ((q[i] + att.pos_bias_u) * k[j] + (q[i] + att.pos_bias_v) * p[5 - (i - j)]).sum(-1)
                for j in near
            ]
            scores = torch.stack([(all_q[i] * all_k[g]).sum(-1) for g in places] + local)
            values = torch.cat([v[places], v[near]])
            if i in places:
                scores, values = torch.einsum("hk,jhk->jh", all_q[i], all_k), all_v
            weights = (scores / math.sqrt(WIDTH // HEADS)).softmax(0)
            rows.append((weights[..., None] * values).sum(0).flatten())
        torch.testing.assert_close(actual[b, :n], att.linear_out(torch.stack(rows)), rtol=1e-6, atol=1e-7)


def test_model_with_global_tokens():
    options = dict(d_model=32, n_layers=2, n_heads=4, subsampling_channels=8, global_tokens=2)
    cfg = FastConformerConfig(**options, att_context_size=((6, 6),), global_attn_separate=True)
    model = FastConformer(cfg).eval()
    assert "layers.1.self_attn.global_q.weight" in model.state_dict()
    x, lens = torch.randn(2, 400, 80), torch.tensor([400, 100])
    with torch.no_grad():
        enc, enc_lens = model(x, lens)
        alone, _ = model(x[1:, :100], lens[1:])
        torch.testing.assert_close(enc[1, : int(enc_lens[1])], alone[0], rtol=1e-4, atol=1e-5)
        changed = x.clone()
        changed[0, 390:] += 1.0  # the first frame sees the last
        assert not torch.allclose(model(changed, lens).frames[0, 0], enc[0, 0], atol=1e-6)
    with pytest.raises(MayaError, match="global_tokens"):
        FastConformer(FastConformerConfig(**options))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_packing_changes_nothing(causal, training, monkeypatch):
    """Compares outputs, gradients and batch statistics of a ragged batch with an empty row."""
    options = dict(dropout=0.0, dropout_pre_encoder=0.0, dropout_att=0.0)
    if causal:
        options |= dict(causal_downsampling=True, conv_context="causal", att_context_size=((6, 1),))
        options |= dict(att_context_style="chunked_limited")
    cfg = FastConformerConfig(d_model=32, n_layers=2, n_heads=4, subsampling_channels=8, **options)
    model = FastConformer(cfg).double().train(training)
    x, lens = torch.randn(4, 160, 80).double(), torch.tensor([80, 160, 0, 33])
    results = []
    for above in (1.0, 0.0):
        monkeypatch.setattr(packed_rows, "PACK_ABOVE", above)
        model.load_state_dict(results[0][1] if results else model.state_dict())
        before = {k: v.clone() for k, v in model.state_dict().items()}
        model.zero_grad()
        enc, enc_lens = model(x, lens)
        enc.sin().sum().backward()
        grads = [p.grad.clone() for p in model.parameters()]
        results.append(((enc, enc_lens, grads, [b.clone() for b in model.buffers()]), before))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-8)


@torch.no_grad()
def test_plain_products_of_packed_rows_equal_fused_attention(monkeypatch):
    """Rows of one frame, of none, and of more than the positions of the shortest."""
    torch.manual_seed(0)
    cfg = FastConformerConfig(d_model=32, n_layers=2, n_heads=4, subsampling_channels=8)
    model = FastConformer(cfg).eval()
    lens = torch.tensor([1000, 8, 0, 33, 1, 641])
    x, taken = torch.randn(len(lens), 1000, 80), []
    takes = row_attention.takes
    monkeypatch.setattr(row_attention, "takes", lambda *args: taken.append(takes(*args)) or taken[-1])
    enc, _ = model(x, lens)
    assert taken == [True, True]
    monkeypatch.setattr(row_attention, "takes", lambda *_: False)
    torch.testing.assert_close(enc, model(x, lens).frames, rtol=1e-4, atol=1e-5)


def test_training_draws_one_of_several_contexts():
    contexts = ((6, 1), (4, 0), (-1, -1))
    cfg = FastConformerConfig(
        d_model=32,
        n_layers=1,
        n_heads=4,
        subsampling_channels=8,
        att_context_size=contexts,
        att_context_probs=(0.5, 0.5, 0.0),
        att_context_style="chunked_limited",
    )
    model = FastConformer(cfg)
    drawn = [model.train()._choose_context(None) for _ in range(200)]
    assert 60 < drawn.count((6, 1)) < 140 and drawn.count((-1, -1)) == 0
    assert {model.eval()._choose_context(None) for _ in range(20)} == {(6, 1)}
    assert model.train()._choose_context((4, 0)) == (4, 0)
    torch.manual_seed(3)
    again = [model._choose_context(None) for _ in range(10)]
    torch.manual_seed(3)
    assert again == [model._choose_context(None) for _ in range(10)]


def test_spans_of_nemo_settings_and_refusals():
    assert span_of((-1, -1), "regular") == Span() and span_of((70, 13), "regular") == Span(70, 13)
    assert span_of((70, 13), "chunked_limited") == Span(70, 13, chunk=14)
    assert span_of((70, 13), "chunked_limited").reach == (83, 13)
    assert span_of((8, -1), "chunked_limited") == Span(8, None)  # NeMo: only the left is limited
    for context, style, named in [((70, 12), "chunked_limited", "multiple"), ((-2, 0), "regular", "-2")]:
        with pytest.raises(MayaError, match=named):
            span_of(context, style)
    for options in (
        {"att_context_size": ()},
        {"att_context_probs": (0.5, 0.5)},
        {"att_context_probs": (-1.0,)},
    ):
        with pytest.raises(MayaError, match="att_context"):
            FastConformer(FastConformerConfig(d_model=32, n_layers=1, n_heads=4, **options))
