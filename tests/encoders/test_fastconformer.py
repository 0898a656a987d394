"""FastConformer against NeMo's recorded tensors, and its own guarantees."""

import copy
import ctypes
import math
import multiprocessing

import pytest
import torch

from maya.encoders import FastConformer, FastConformerConfig
from maya.encoders.conformer import in_place, packed_rows
from maya.encoders.conformer.attention import Frames, RelPositionAttention, _skew, relative_sinusoids
from maya.encoders.conformer.conformer_layer import ConformerLayer
from maya.encoders.conformer.packed_rows import Rows
from maya.errors import MayaError
from maya.kernels.bench.peak import forget_the_peak, resident

NO_DROPOUT = dict(dropout=0.0, dropout_pre_encoder=0.0, dropout_emb=0.0, dropout_att=0.0)


def tiny(**options):
    options = dict(d_model=32, n_layers=2, n_heads=4, subsampling_channels=8) | options
    return FastConformer(FastConformerConfig(**options))


def perturb(model):
    """Random weights for all biases and norms, so that a missing one changes the output."""
    with torch.no_grad():
        for tensor in [*model.parameters()]:
            tensor.add_(0.1 * torch.randn_like(tensor))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer) * 0.3)
    return model


@pytest.fixture(scope="module")
def golden(shared):
    return torch.load(shared / "golden/nemo/tdt_ctc_tiny.pt", weights_only=True)


@pytest.fixture(scope="module")
def nemo_encoder(golden):
    model = tiny()
    state = {
        k.removeprefix("encoder."): v for k, v in golden["state_dict"].items() if k.startswith("encoder.")
    }
    model.load_state_dict(state, strict=True)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("pack_above", [0.0, 1.0])
def test_equals_nemo_layer_by_layer(golden, nemo_encoder, pack_above, monkeypatch):
    monkeypatch.setattr(packed_rows, "PACK_ABOVE_IN_INFERENCE", pack_above)
    monkeypatch.setattr(packed_rows, "FRAMES_OF_CALLS", 0)
    seen = {}
    hooks = [
        module.register_forward_hook(lambda m, a, out, name=name: seen.update({name: out}))
        for name, module in [("pre_encode", nemo_encoder.pre_encode)]
        + [(f"layer{i}", layer) for i, layer in enumerate(nemo_encoder.layers)]
    ]
    enc, lens = nemo_encoder(golden["feat"].transpose(1, 2), golden["flen"])
    for hook in hooks:
        hook.remove()
    seen["pre_encode"] = seen["pre_encode"][0]
    if pack_above == 0:
        rows = Rows(lens=tuple(lens.tolist()), gap=0)
        seen |= {name: rows.unpack(seen[name], int(lens.max())) for name in ("layer0", "layer1")}
    assert torch.equal(lens, golden["elen"])
    recorded = golden["enc"].transpose(1, 2)
    assert enc.shape == recorded.shape
    for row, n in enumerate(lens.tolist()):
        for name in ("pre_encode", "layer0", "layer1"):
            # The positions' sqrt(d) scale enters after pre_encode in NeMo as well.
            torch.testing.assert_close(seen[name][row, :n], golden["cap"][name][row, :n], rtol=0, atol=2e-5)
        torch.testing.assert_close(enc[row, :n], recorded[row, :n], rtol=0, atol=2e-5)
        assert not enc[row, n:].any()


@pytest.mark.parametrize(
    "options", [{}, {"subsampling_factor": 4}, {"conv_norm": "layer_norm", "use_bias": False}]
)
def test_row_alone_equals_row_in_batch(options):
    model = perturb(tiny(**options)).eval()
    lens = torch.tensor([203, 150, 64, 9, 1])
    x = torch.randn(5, 203, 80)
    with torch.no_grad():
        enc, enc_lens = model(x, lens)
        assert torch.equal(enc_lens, model.subsampled_lens(lens))
        for row, n in enumerate(lens.tolist()):
            alone, alone_lens = model(x[row : row + 1, :n], lens[row : row + 1])
            assert alone.shape[1] == int(alone_lens) == int(enc_lens[row])
            torch.testing.assert_close(alone[0], enc[row, : alone.shape[1]], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("masked", "same"), [(True, True), (False, False)])
def test_padding_in_training_changes_nothing_when_the_norm_is_masked(masked, same):
    """Padding and its content change neither outputs, gradients nor statistics. With NeMo's norm they do."""
    lens = torch.tensor([120, 75])
    x = torch.randn(2, 120, 80)
    padded = torch.cat([x, torch.zeros(2, 77, 80)], 1)
    padded[1, 75:] = 100.0
    model = perturb(tiny(masked_norm=masked, **NO_DROPOUT)).double().train()
    results = []
    for batch in (x, padded):
        single = copy.deepcopy(model)
        enc, enc_lens = single(batch.double(), lens)
        assert enc_lens.tolist() == [15, 10]
        enc.sin().sum().backward()
        results.append([enc[:, :15], *[p.grad for p in single.parameters()], *single.buffers()])
    close = [torch.allclose(a, b, rtol=1e-7, atol=1e-9) for a, b in zip(*results, strict=True)]
    assert all(close) == same


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"untie_biases": False},
        {"use_bias": False, "conv_norm": "layer_norm"},
        {"activation_checkpointing": True},
    ],
)
def test_every_parameter_gets_a_gradient(options):
    model = perturb(tiny(**options)).train()
    enc, _ = model(torch.randn(3, 90, 80), torch.tensor([90, 60, 0]))
    enc.cos().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


def test_empty_rows_are_finite_and_zero():
    model = tiny().train()
    x = torch.randn(2, 40, 80, requires_grad=True)
    enc, lens = model(x, torch.tensor([40, 0]))
    assert lens.tolist() == [5, 0] and enc.isfinite().all() and not enc[1].any()
    enc.square().sum().backward()
    assert x.grad.isfinite().all() and not x.grad[1].any()


def test_relative_shift_and_attention_equal_their_definition():
    size, heads, width = 7, 4, 32
    scores = torch.randn(2, heads, size, 2 * size - 1)
    shifted = _skew(scores, size)
    for i in range(size):
        for j in range(size):  # column of relative position i - j, counted down from size - 1
            assert torch.equal(shifted[..., i, j], scores[..., i, size - 1 - (i - j)])
    att = RelPositionAttention(width, heads, bias=True, dropout=0.0).double()
    torch.nn.init.normal_(att.pos_bias_u)
    torch.nn.init.normal_(att.pos_bias_v)
    x, lens = torch.randn(2, size, width, dtype=torch.float64), [7, 4]
    valid = torch.arange(size) < torch.tensor(lens)[:, None]
    y = att(x, Frames(valid=valid, positions=relative_sinusoids(size - 1, width, x.device).double()))
    for b, n in enumerate(lens):
        q, k, v = (f(x[b, :n]).view(n, heads, -1) for f in (att.linear_q, att.linear_k, att.linear_v))
        place = torch.arange(n)[:, None] - torch.arange(n)
        rate = 10000 ** (-torch.arange(0, width, 2) / width)
        angle = (place[..., None] * rate).double()
        p = att.linear_pos(torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)).view(n, n, heads, -1)
        content = torch.einsum("ihk,jhk->hij", q + att.pos_bias_u, k)
        relative = torch.einsum("ihk,ijhk->hij", q + att.pos_bias_v, p)
        weights = ((content + relative) / math.sqrt(width // heads)).softmax(-1)
        expected = att.linear_out(torch.einsum("hij,jhk->ihk", weights, v).reshape(n, width))
        torch.testing.assert_close(y[b, :n], expected, rtol=1e-5, atol=1e-6)  # the table is fp32


def test_long_input_grows_the_position_table():
    model = tiny(n_layers=1).eval()
    x, lens = torch.randn(1, 8 * 700, 80), torch.tensor([8 * 700])
    with torch.no_grad():
        short, _ = model(x[:, :160], torch.tensor([160]))
        long, _ = model(x, lens)
        assert long.shape[1] == 700 and long.isfinite().all()
        again, _ = model(x[:, :160], torch.tensor([160]))  # cut from the larger table
        torch.testing.assert_close(again, short)


def test_position_table_made_in_inference_mode_works_in_training():
    model = tiny()
    x, lens = torch.randn(1, 80, 80), torch.tensor([80])
    with torch.inference_mode():
        model.eval()(x, lens)
    model.train()(x, lens).frames.sum().backward()
    assert model.layers[0].self_attn.linear_pos.weight.grad is not None


def test_checkpointing_changes_neither_gradients_nor_statistics():
    torch.manual_seed(1)
    plain = perturb(tiny(n_layers=3)).train()
    saving = tiny(n_layers=3, activation_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    x, lens = torch.randn(2, 100, 80), torch.tensor([100, 70])
    results = []
    for model in (plain, saving):
        torch.manual_seed(2)  # the dropouts, drawn twice when recomputing, must agree
        enc, _ = model(x, lens)
        enc.sin().sum().backward()
        results.append([enc, *[p.grad for p in model.parameters()], *model.buffers()])
    torch.testing.assert_close(results[0], results[1])


def test_layer_drop_skips_work_and_keeps_every_gradient(monkeypatch):
    model = tiny(n_layers=4, layer_drop=0.5, **NO_DROPOUT).train()
    calls = []
    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    x, lens = torch.randn(1, 80, 80), torch.tensor([80])
    for _ in range(200):
        model(x, lens)
    counts = torch.tensor(calls).bincount(minlength=4)
    expected = 200 * (1 - 0.5 * torch.arange(1, 5) / 4)
    assert ((counts - expected).abs() < 35).all() and counts[0] > counts[3]
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.zeros(()))  # drop them all
    calls.clear()
    model(x, lens).frames.sum().backward()
    assert calls == [] and all(p.grad is not None for p in model.parameters())
    assert not any(p.grad.any() for p in model.layers.parameters())
    model.eval()(x, lens)
    assert calls == [0, 1, 2, 3]


def test_xscaling_multiplies_by_the_square_root_of_the_width():
    scaled, plain = tiny().eval(), tiny(xscaling=False).eval()
    plain.load_state_dict(scaled.state_dict())
    x, lens = torch.randn(1, 80, 80), torch.tensor([80])
    with torch.no_grad():
        assert not torch.allclose(scaled(x, lens).frames, plain(x, lens).frames, atol=1e-2)
        plain.pre_encode.out.weight.mul_(math.sqrt(32))
        plain.pre_encode.out.bias.mul_(math.sqrt(32))
        torch.testing.assert_close(scaled(x, lens).frames, plain(x, lens).frames, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conv_norm", ["batch_norm", "layer_norm"])
@pytest.mark.parametrize("training", [True, False])
def test_bf16_autocast_is_finite_and_near_fp32(conv_norm, training):
    model = tiny(conv_norm=conv_norm, **NO_DROPOUT).train(training)
    x, lens = torch.randn(2, 100, 80), torch.tensor([100, 60])
    exact, _ = model(x, lens)
    with torch.autocast("cpu", torch.bfloat16):
        enc, _ = model(x, lens)
    assert enc.isfinite().all() and (enc.float() - exact).abs().mean() < 0.02
    enc.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_tied_biases_are_one_parameter_under_both_names():
    model = tiny(untie_biases=False)
    assert model.pos_bias_u is model.layers[1].self_attn.pos_bias_u
    names = model.state_dict().keys()
    assert {"pos_bias_u", "pos_bias_v", "layers.0.self_attn.pos_bias_u"} <= names


def test_meta_device_size_and_materialisation():
    with torch.device("meta"):
        large = FastConformer(FastConformerConfig(d_model=1024, n_layers=42, n_heads=8))
        model = tiny()
    # parakeet-tdt-1.1b: the encoder's 1.0615e9 parameters (with its batch norms' running statistics)
    assert abs(sum(p.numel() for p in large.parameters()) / 1.0615e9 - 1) < 1e-4
    model = model.to_empty(device="cpu")
    model.init_weights()
    enc, _ = model.eval()(torch.randn(1, 80, 80), torch.tensor([80]))
    assert enc.isfinite().all() and enc.any()
    assert all(t.isfinite().all() for t in model.state_dict().values())


def test_initial_weights_are_torch_defaults():
    model = tiny()
    torch.manual_seed(3)
    model.init_weights()
    first = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    model.init_weights()
    torch.testing.assert_close(model.state_dict(), first, rtol=0, atol=0)
    layer = model.layers[0]
    assert not layer.self_attn.pos_bias_u.any() and not layer.self_attn.pos_bias_v.any()
    weight = layer.feed_forward1.linear1.weight  # uniform in +-1/sqrt(fan_in)
    assert weight.abs().max() <= 32**-0.5 and (weight.std() - (32 * 3) ** -0.5).abs() < 0.01


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_heads": 5}, "n_heads=5"),
        ({"conv_kernel": 8}, "conv_kernel must be odd and 1 or more, not 8"),
        ({"subsampling_factor": 2}, "factor=2"),
    ],
)
def test_impossible_configurations_are_refused(options, named):
    with pytest.raises(MayaError, match=named):
        tiny(**options)


@pytest.mark.parametrize("lens", [[3000], [3000, 2990], [3000, 900, 3, 0]])
@pytest.mark.parametrize(
    ("options", "context"),
    [
        ({}, (16, 9)),
        ({}, (-1, -1)),
        ({}, (20, -1)),
        ({"causal_downsampling": True, "conv_context": "causal"}, (16, 0)),
        ({"att_context_style": "chunked_limited"}, (24, 7)),
        ({"att_context_style": "chunked_limited"}, (-1, 7)),
    ],
)
def test_long_audio_in_blocks_equals_one_piece(lens, options, context, monkeypatch):
    model = perturb(tiny(**options)).eval()
    x, lens = torch.randn(len(lens), 3000, 80), torch.tensor(lens)
    with torch.inference_mode():
        whole, _ = model(x, lens, context=context)
        monkeypatch.setattr(in_place, "BLOCK_FRAMES", 50)
        monkeypatch.setattr(ConformerLayer, "forward", None)  # the other way is not taken
        blocks, _ = model(x, lens, context=context)
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-6)


def memory_beside_output(frames):
    """Bytes that the encoder takes at most beside its input and output. Call it in a process of its own.

    glibc keeps what is freed in blocks of up to 32 MB, more or less of it by chance; here it returns each.
    """
    m_mmap_threshold = -3
    assert ctypes.CDLL(None).mallopt(m_mmap_threshold, 1 << 16) == 1
    in_place.BLOCK_FRAMES = 64
    torch.set_num_threads(1)
    model = tiny(d_model=128, n_layers=1).eval()
    x = torch.randn(1, frames, 80)
    with torch.inference_mode():
        model(x[:, :4000], torch.tensor([4000]), context=(16, 16))
        forget_the_peak()
        before = resident("VmRSS")
        enc, _ = model(x, torch.tensor([frames]), context=(16, 16))
        return resident("VmHWM") - before - enc.nbytes


def test_memory_of_long_audio_does_not_grow_beside_input_and_output():
    """In one piece, twice the audio takes 100 MB more. The processes are fresh ones: a fork would inherit the
    free blocks of this process and its malloc settings, which training changes (`keep_freed_memory`)."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        short, long = (pool.apply(memory_beside_output, (frames,)) for frames in (64_000, 128_000))
    assert long < short + 1e6
