"""LaCT: shapes, padding, gradients, learning of fast weights, and fast weights in other encoders."""

import copy

import pytest
import torch
import torch.nn.functional as F

from maya.config import from_dict, override, to_dict
from maya.encoders import FastConformer, FastConformerConfig, LaCT, LaCTConfig, Zipformer, ZipformerConfig
from maya.encoders.conformer.attention import AttentionSpan as Span
from maya.encoders.conformer.attention import Frames
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.encoders.conformer.packed_rows import Rows
from maya.encoders.lact.config import streaming
from maya.encoders.lact.fast_weights import FastWeightBranch, FastWeightConfig, plan, rotate
from maya.encoders.lact.mixer import FastWeightMixer, WindowAttention
from maya.encoders.lact.zipformer import FastWeightZipformerLayer
from maya.encoders.zipformer.config import Chunking
from maya.errors import MayaError
from tests.encoders.test_zipformer import SMALLER

SMALL = {"feat_in": 20, "d_model": 32, "n_layers": 2, "n_heads": 4, "ff_dim": 48, "fast_heads": 2}
SMALL |= {"subsampling_channels": 8, "conv_kernel": 5, "window": (3, 2)}
NO_DROPOUT = {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0}
FORMS = [
    {},
    {"order": "passes", "chunk": 5, "passes": 2, "momentum": True},
    {"order": "chunk_causal", "chunk": 4, "window": (3, -1), "orthogonalize": True},
    {"order": "causal", "chunk": 4, "window": (3, 0), "momentum": True, "update_weights": "w1"},
    {"fast_rotary": True, "qk_norm": True, "rotary": False, "normalize": False, "base_rate": 0.1},
    {"conv_norm": "layer_norm", "use_bias": False, "subsampling_factor": 4, "activation_checkpointing": True},
]


def tiny(**options):
    return LaCT(LaCTConfig(**(SMALL | NO_DROPOUT | options)))


def perturb(model, size=0.1):
    """Random weights for gates and scales, so that a missing one changes the output."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn_like(p))
    return model


def open_gates(model):
    for part in model.modules():
        if isinstance(part, FastWeightBranch):
            torch.nn.init.ones_(part.gate.bias)
    return model


@pytest.mark.parametrize("options", FORMS)
def test_row_alone_equals_row_in_batch(options):
    model = perturb(tiny(**options)).double().eval()
    lens = torch.tensor([203, 150, 64, 9, 1, 0])
    x = torch.randn(6, 203, 20, dtype=torch.float64)
    with torch.no_grad():
        enc, enc_lens = model(x, lens)
        assert enc.shape == (6, int(model.subsampled_lens(lens[0])), 32)
        assert torch.equal(enc_lens, model.subsampled_lens(lens)) and enc.isfinite().all()
        for row, n in enumerate(lens.tolist()):
            size = int(enc_lens[row])
            assert not enc[row, size:].any()
            if n:
                alone, _ = model(x[row : row + 1, :n], lens[row : row + 1])
                torch.testing.assert_close(alone[0], enc[row, :size], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("options", FORMS)
def test_padding_changes_nothing_in_training(options):
    """Padding and its content change neither outputs, gradients nor statistics, apart from rounding."""
    lens = torch.tensor([120, 75])
    x = torch.randn(2, 120, 20)
    padded = torch.cat([x, torch.zeros(2, 77, 20)], 1)
    padded[1, 75:] = 100.0
    model = perturb(tiny(**options)).double().train()
    results = []
    for batch in (x, padded):
        single = copy.deepcopy(model)
        enc, enc_lens = single(batch.double(), lens)
        enc.sin().sum().backward()
        assert all(p.grad is not None for p in single.parameters())
        results.append(
            [enc[:, : int(enc_lens[0])], *[p.grad for p in single.parameters()], *single.buffers()]
        )
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", FORMS)
def test_every_parameter_gets_a_gradient(options):
    model = perturb(tiny(**options)).train()
    enc, _ = model(torch.randn(3, 90, 20), torch.tensor([90, 60, 0]))
    enc.cos().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


def test_a_new_layer_outputs_zero_and_its_gate_gets_a_gradient():
    fast = tiny().train().layers[0].mixer.fast
    x = torch.randn(1, 9, 32)
    y, _ = fast(x, x, x, x, torch.ones(1, 9, dtype=torch.bool))
    assert not y.any()
    y.sum().backward()
    assert fast.gate.weight.grad.any() and not fast.w1.grad.any()


@torch.no_grad()
def test_fast_weights_recall_values_at_their_keys():
    """After learning from (k, v), reading at k points more towards v than before, and than at other keys."""
    torch.manual_seed(3)
    fast = open_gates(FastWeightBranch(64, FastWeightConfig(fast_heads=1, base_rate=20.0))).eval()
    k, v = torch.randn(2, 1, 8, 64)
    valid = torch.ones(1, 8, dtype=torch.bool)
    values = F.silu(v)

    def agreement(queries):
        y, _ = fast(torch.zeros(1, 8, 64), queries, k, v, valid)
        return F.cosine_similarity(y, values, dim=-1).mean()

    learnt, others = agreement(k), agreement(torch.randn(1, 8, 64))
    fast.cfg.update_at_test = False
    assert learnt > others + 0.1 and learnt > agreement(k) + 0.3


@torch.no_grad()
def test_without_updates_at_test_weights_do_not_change():
    """Frames far apart have to do with each other through the fast weights alone."""
    model = open_gates(tiny(window=(1, 1), conv_kernel=3)).eval()
    x = torch.randn(1, 640, 20)
    other = x.clone()
    other[:, 400:] = torch.randn(1, 240, 20)
    lens = torch.tensor([640])
    for updates in (True, False):
        if not updates:
            assert model.stop_updates()
        first, second = (model(y, lens).frames[:, :40] for y in (x, other))
        assert torch.equal(first, second) != updates
    before = model.adapt(x, lens)[1][0]
    assert torch.equal(before.w1, model.layers[0].mixer.fast.initial(1).w1)
    plain = FastConformer(FastConformerConfig(d_model=16, n_layers=1, n_heads=2, feat_in=20))
    assert not plain.stop_updates()


@torch.no_grad()
def test_look_ahead_of_the_causal_orders():
    x, lens = torch.randn(1, 256, 20), torch.tensor([256])
    changed = x.clone()
    changed[:, 160:] = 0.0  # from encoder frame 20 on: the third frame of a chunk of 6
    for order, first in (("chunk_causal", 18), ("causal", 20)):
        cfg = streaming(LaCTConfig(**(SMALL | NO_DROPOUT)), chunk=6, order=order)
        model = perturb(LaCT(cfg)).eval()
        a, b = model(x, lens).frames, model(changed, lens).frames
        torch.testing.assert_close(a[:, :first], b[:, :first], rtol=0, atol=1e-6)
        assert not torch.allclose(a[:, first : first + 1], b[:, first : first + 1]), order


@torch.no_grad()
def test_adapt_continues_from_the_previous_utterance():
    model = perturb(open_gates(tiny())).eval()
    x, lens = torch.randn(2, 160, 20), torch.tensor([160, 100])
    plain, plain_lens = model(x, lens)
    (first, first_lens), learnt = model.adapt(x, lens)
    torch.testing.assert_close(first, plain)
    assert torch.equal(first_lens, plain_lens) and len(learnt) == 2
    (again, _), learnt_again = model.adapt(x, lens, learnt)
    assert not torch.allclose(again, plain, atol=1e-3) and not torch.equal(learnt_again[0].w1, learnt[0].w1)
    # A row is a speaker: the second one alone gives the same.
    row = [type(w)(*(None if t is None else t[1:] for t in w)) for w in learnt]
    (alone, _), _ = model.adapt(x[1:, :100], lens[1:], row)
    torch.testing.assert_close(alone[0], again[1, : alone.shape[1]], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("span", [Span(5, 3), Span(40, 0), Span(0, 0), Span(7, 3, chunk=4)])
@pytest.mark.parametrize("size", [130, 9])
def test_window_attention_equals_its_definition(span, size):
    attention = WindowAttention(2, rotary=False, dropout=0.0)
    q, k, v = torch.randn(3, 2, size, 16, dtype=torch.float64)
    valid = torch.arange(size) < torch.tensor([[size], [size - 4]])
    y = attention(q, k, v, span, valid)
    places = torch.arange(size)
    seen = span.visible(places, places) & valid[:, None]
    scores = torch.einsum("bihk,bjhk->bhij", *(x.unflatten(-1, (2, -1)) for x in (q, k))) / 8**0.5
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    expected = torch.einsum("bhij,bjhk->bihk", weights, v.unflatten(-1, (2, -1))).flatten(2)
    torch.testing.assert_close(y[valid], expected[valid])
    assert y.isfinite().all()


def test_rotary_positions_make_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    scores = [
        (rotate(q, torch.tensor([place + 3])) * rotate(k, torch.tensor([place]))).sum()
        for place in (0, 5, 70)
    ]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores[0], scores[2], rtol=1e-5, atol=1e-6)
    near = (rotate(q, torch.tensor([1])) * rotate(k, torch.tensor([0]))).sum()
    assert not torch.isclose(near, scores[0])
    x = torch.randn(2, 5, 3, 8)
    torch.testing.assert_close(rotate(x, torch.arange(5)).norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotate(x, torch.arange(5).expand(2, 5)), rotate(x, torch.arange(5)))


@pytest.mark.parametrize("name", ["rotary", "fast_rotary", "qk_norm", "orthogonalize"])
def test_options_change_the_output(name):
    x, lens = torch.randn(1, 200, 20), torch.tensor([200])
    results = []
    for value in (True, False):
        torch.manual_seed(5)
        model = open_gates(tiny(**{name: value})).eval()
        with torch.no_grad():
            results.append(model(x, lens).frames)
    assert not torch.allclose(*results, atol=1e-3)


def test_plans_cover_every_frame_once():
    for order in ("whole", "passes", "chunk_causal", "causal"):
        cfg = FastWeightConfig(order=order, chunk=4, passes=2)
        for update in (True, False):
            spans = plan(cfg, 10, update=update)
            read = [i for s in spans if s.apply for i in range(s.start, s.end)]
            learnt = [i for s in spans if s.update for i in range(s.start, s.end)]
            assert sorted(read) == list(range(10))
            assert sorted(set(learnt)) == (list(range(10)) if update else [])
        assert plan(cfg, 0) == []


def test_configuration_round_trips_and_takes_overrides():
    cfg = streaming(LaCTConfig(**SMALL), chunk=16, base_rate=2.0)
    assert from_dict(LaCTConfig, to_dict(cfg)) == cfg
    assert cfg.kind == "lact" and cfg.window == (16, -1) and cfg.momentum
    override(cfg, "update_at_test=false")
    assert cfg.update_at_test is False
    with pytest.raises(TypeError, match="order"):
        cfg.order = "backwards"
    with_fast = FastConformerConfig(fast_weights=FastWeightConfig(chunk=9))
    assert from_dict(FastConformerConfig, to_dict(with_fast)) == with_fast


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"fast_heads": 5}, "fast_heads"),
        ({"n_heads": 5}, "n_heads"),
        ({"conv_kernel": 4}, "conv_kernel"),
        ({"momentum": True}, "order=whole"),
        ({"chunk": 0}, "chunk"),
        ({"base_rate": 0.0}, "base_rate"),
        ({"window": (-1, -1)}, "window"),
        ({"window": (4, -1)}, "window"),
        ({"order": "causal", "window": (4, 1)}, "window"),
        ({"order": "chunk_causal", "window": (4, 3)}, "window"),
        ({"subsampling_factor": 3}, "subsampling_factor"),
    ],
)
def test_invalid_configurations_are_refused(options, named):
    with pytest.raises(MayaError, match=named):
        tiny(**options)


def test_meta_device_and_materialisation():
    with torch.device("meta"):
        model = LaCT(LaCTConfig(**SMALL))
    model = model.to_empty(device="cpu")
    for p in model.parameters():
        torch.nn.init.constant_(p, torch.nan)
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(
        b.isfinite().all() for m in model.modules() if isinstance(m, MaskedBatchNorm) for b in m.buffers()
    )
    assert not any(layer.mixer.fast.gate.weight.any() for layer in model.layers)


class TestDropIn:
    """Fast weights instead of attention in other encoders."""

    @staticmethod
    def fastconformer(**options):
        sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "subsampling_channels": 8, "feat_in": 20}
        zero = dict.fromkeys(("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att"), 0.0)
        fast = FastWeightConfig(fast_heads=2, order="passes", chunk=6)
        return FastConformer(FastConformerConfig(**(sizes | zero | {"fast_weights": fast} | options)))

    @staticmethod
    def zipformer():
        return Zipformer(ZipformerConfig(**SMALLER, fast_weights=FastWeightConfig(fast_heads=2), dropout=0.0))

    def test_fastconformer_does_not_depend_on_the_batch_packed_or_not(self, monkeypatch):
        model = perturb(self.fastconformer()).eval()
        lens, x = torch.tensor([203, 64, 9, 0]), torch.randn(4, 203, 20)
        with torch.no_grad():
            enc, enc_lens = model(x, lens)  # so ragged a batch is packed
            monkeypatch.setattr("maya.encoders.conformer.packed_rows.PACK_ABOVE_IN_INFERENCE", 1.0)
            padded, _ = model(x, lens)
            torch.testing.assert_close(enc, padded, rtol=1e-4, atol=2e-5)
            for row in range(3):
                alone, _ = model(x[row : row + 1, : lens[row]], lens[row : row + 1])
                torch.testing.assert_close(alone[0], enc[row, : enc_lens[row]], rtol=1e-4, atol=2e-5)

    def test_fastconformer_learns_and_has_no_attention(self):
        model = perturb(self.fastconformer()).train()
        assert not any("linear_pos" in name for name in model.state_dict())
        enc, _ = model(torch.randn(2, 90, 20), torch.tensor([90, 60]))
        enc.cos().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        assert not self.fastconformer().layers[0].self_attn.fast.gate.weight.any()
        open_gates(model.eval())
        x, outputs = torch.randn(1, 400, 20), []
        with torch.no_grad():
            for updates in (True, False):
                model.cfg.fast_weights.update_at_test = updates
                outputs.append(model(x, torch.tensor([400])).frames)
        assert not torch.allclose(*outputs, atol=1e-3)

    def test_fastconformer_refuses_unsupported_options(self):
        with pytest.raises(MayaError, match="untie_biases"):
            self.fastconformer(untie_biases=False)
        with pytest.raises(MayaError, match="fast_heads"):
            self.fastconformer(fast_weights=FastWeightConfig(fast_heads=3))
        causal = self.fastconformer(
            causal_downsampling=True, conv_context="causal", att_context_size=((4, 0),)
        )
        with pytest.raises(MayaError, match="LaCT"):
            causal.initial_state(1)

    def test_zipformer(self):
        model = open_gates(perturb(self.zipformer(), 0.02)).eval()
        assert all(
            isinstance(layer, FastWeightZipformerLayer)
            for stack in model.encoders
            for layer in getattr(stack, "encoder", stack).layers
        )
        assert not any("attn" in name or "attention" in name for name in model.state_dict())
        lens, x = torch.tensor([203, 90]), torch.randn(2, 203, 80)
        with torch.no_grad():
            enc, enc_lens = model(x, lens)
            for row in range(2):
                alone, _ = model(x[row : row + 1, : lens[row]], lens[row : row + 1])
                torch.testing.assert_close(alone[0], enc[row, : enc_lens[row]], rtol=1e-4, atol=2e-5)
            model.cfg.fast_weights.update_at_test = False
            assert not torch.allclose(model(x, lens).frames, enc, atol=1e-3)
        model.set_batch_count(1e6)  # so that training skips next to nothing
        model.train()(x, lens).frames.cos().sum().backward()
        fast = [p for m in model.modules() if isinstance(m, FastWeightMixer) for p in m.parameters()]
        assert all(p.grad is not None and p.grad.any() for p in fast)

    def test_zipformer_refuses_unsupported_options(self):
        with pytest.raises(MayaError, match="causal"):
            Zipformer(ZipformerConfig(**SMALLER, fast_weights=FastWeightConfig(fast_heads=2), causal=True))
        with pytest.raises(MayaError, match="causal"):
            self.zipformer()(torch.zeros(1, 50, 80), torch.tensor([50]), chunking=Chunking(16))

    @torch.no_grad()
    def test_packed_rows_are_independent(self):
        mixer = perturb(FastWeightMixer(16, FastWeightConfig(fast_heads=2))).eval()
        rows = Rows(lens=(9, 4), gap=2)
        x = torch.randn(2, 9, 16)
        packed = rows.pack(x)
        frames = Frames(valid=rows.valid(x.device), positions=x.new_empty(0), rows=rows)
        actual = rows.unpack(mixer(packed, frames), 9)
        valid = torch.arange(9) < torch.tensor([[9], [4]])
        expected = mixer(x, Frames(valid=valid, positions=x.new_empty(0)))
        torch.testing.assert_close(actual[valid], expected[valid])
