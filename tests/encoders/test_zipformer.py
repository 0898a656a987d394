"""Zipformer against icefall's recorded tensors and counts, and its own guarantees."""

import copy

import pytest
import torch

from maya.config import from_dict, to_dict
from maya.convert.icefall.names import from_icefall_name, to_icefall_name
from maya.encoders import Zipformer, ZipformerConfig
from maya.encoders.zipformer.attention import AttentionWeights, _Penalise
from maya.encoders.zipformer.config import Chunking, small
from maya.encoders.zipformer.streaming import ZipformerState
from maya.errors import MayaError
from maya.heads import AttentionDecoderConfig, CTCConfig
from maya.heads.transducer import Joint, JointConfig, SimpleJoint, StatelessConfig, StatelessPredictor
from maya.models.speech_model import build_model, count_parameters
from maya.recipes import presets

TINY = dict(
    layers=(1, 1, 2, 1, 1, 1),
    dims=(32, 48, 64, 96, 64, 48),
    unmasked_dims=(24, 32, 48, 64, 48, 32),
    ff_dims=(64, 96, 128, 160, 128, 96),
    heads=(2, 2, 2, 4, 2, 2),
    query_head_dim=8,
    value_head_dim=6,
    pos_dim=16,
)
SMALLER = dict(
    downsampling=(1, 2, 4),
    layers=(1, 2, 1),
    dims=(16, 32, 24),
    unmasked_dims=(12, 24, 24),
    ff_dims=(32, 32, 32),
    heads=(2, 2, 2),
    conv_kernels=(7, 7, 5),
    query_head_dim=8,
    value_head_dim=4,
    pos_dim=16,
)


def tiny(sizes=TINY, **options):
    return Zipformer(ZipformerConfig(**(sizes | options)))


def perturb(model, size=0.1):
    """Random weights for biases, norms and scales, so that a missing one changes the output."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn_like(p))
    return model


@pytest.fixture(scope="module")
def golden(shared):
    return torch.load(shared / "golden/icefall/zipformer_tiny.pt", weights_only=True)


@pytest.fixture(scope="module")
def icefall_weights(golden):
    """The recorded tensors under Maya's names."""
    named = {from_icefall_name(name): tensor for name, tensor in golden["state_dict"].items()}
    assert {to_icefall_name(n) for n in named if n} <= set(golden["state_dict"])
    return {name: tensor for name, tensor in named.items() if name}


def part(weights, name):
    return {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}


@pytest.mark.parametrize("padding", ["invariant", "icefall"])
@torch.no_grad()
def test_equals_icefall(golden, icefall_weights, padding):
    model = tiny(padding=padding).eval()
    model.load_state_dict(part(icefall_weights, "encoder."), strict=True)
    embed, lens, _ = model.encoder_embed(golden["x"], golden["x_lens"])
    torch.testing.assert_close(embed, golden["embed"], rtol=0, atol=2e-5)
    assert torch.equal(lens, golden["embed_lens"])
    enc, lens = model(golden["x"], golden["x_lens"])
    torch.testing.assert_close(enc, golden["encoder_out"], rtol=0, atol=2e-5)
    assert torch.equal(lens, golden["encoder_out_lens"])


@torch.no_grad()
def test_heads_equal_icefall(golden, icefall_weights):
    cfg, state = golden["config"], golden["state_dict"]
    vocab = cfg["vocab_size"] - 1
    predictor = StatelessPredictor(StatelessConfig(hidden=cfg["decoder_dim"]), vocab, blank=0).eval()
    predictor.load_state_dict(part(icefall_weights, "heads.transducer.decoder."), strict=True)
    pred = predictor(golden["y"])
    torch.testing.assert_close(pred, golden["decoder_out"], rtol=0, atol=2e-5)
    joint = Joint(JointConfig(hidden=cfg["joiner_dim"], activation="tanh"), 96, 64, vocab, blank=0).eval()
    joint.load_state_dict(part(icefall_weights, "heads.transducer.joint."), strict=True)
    logits = joint(golden["encoder_out"][:, :4], pred[:, :3])
    torch.testing.assert_close(logits, golden["joiner_out_first4x3"], rtol=0, atol=2e-5)
    simple = SimpleJoint(96, 64, vocab)
    simple.load_state_dict(part(icefall_weights, "heads.transducer.simple_joint."), strict=True)
    am, lm = simple(golden["encoder_out"], pred)
    torch.testing.assert_close(am, golden["simple_am"], rtol=0, atol=2e-5)
    torch.testing.assert_close(lm, golden["simple_lm"], rtol=0, atol=2e-5)
    ctc = torch.nn.functional.linear(golden["encoder_out"], state["ctc_output.1.weight"])
    ctc = (ctc + state["ctc_output.1.bias"]).log_softmax(-1)
    torch.testing.assert_close(ctc, golden["ctc_log_probs"], rtol=0, atol=2e-5)


def counts(preset):
    """Parameter counts of icefall's five models of one size, built from the presets."""

    def count(*heads, causal=False):
        cfg = preset()
        cfg.encoder.causal = causal
        cfg.vocab_size, cfg.blank_first = 500, True
        choices = cfg.heads | {"ctc": CTCConfig(), "attention": AttentionDecoderConfig()}
        cfg.heads = {name: choices[name] for name in heads}
        with torch.device("meta"):
            return count_parameters(build_model(cfg))

    return (
        count("transducer"),
        count("transducer", causal=True),
        count("transducer", "ctc"),
        count("ctc"),
        count("ctc", "attention"),
    )


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        (presets.zipformer_small, (23_285_615, 23_627_887, 23_414_115, 22_118_279, 46_282_107)),
        (presets.zipformer_medium, (65_549_011, 66_110_931, 65_805_511, 64_250_603, 89_987_295)),
        (presets.zipformer_large, (148_439_574, 149_281_046, 148_824_074, 147_010_094, 174_319_650)),
    ],
)
def test_parameter_counts_equal_icefall(preset, published):
    """The models are RNN-T, causal RNN-T, RNN-T + CTC, CTC, and CTC + attention decoder."""
    assert counts(preset) == published


def test_configuration_round_trips_through_json():
    cfg = small(causal=True, chunk_frames=(32, -1))
    assert from_dict(ZipformerConfig, to_dict(cfg)) == cfg
    assert cfg.d_model == 256 and cfg.subsampling_factor == 4


CAUSAL = dict(causal=True, chunk_frames=(8, -1), left_context_frames=(24, -1))


@pytest.mark.parametrize(
    ("options", "chunking"),
    [({}, None), (CAUSAL, None), (CAUSAL, Chunking(8, 24)), (CAUSAL, Chunking(16, -1))],
)
@torch.no_grad()
def test_row_alone_equals_row_in_batch(options, chunking):
    model = perturb(tiny(SMALLER, **options)).eval()
    lens = torch.tensor([203, 150, 65, 9, 4, 0])
    x = torch.randn(6, 203, 80)
    enc, enc_lens = model(x, lens, chunking=chunking)
    assert torch.equal(enc_lens, model.subsampled_lens(lens)) and enc_lens.tolist() == [49, 36, 15, 1, 0, 0]
    for row, n in enumerate(lens.tolist()):
        alone, alone_lens = model(x[row : row + 1, :n], lens[row : row + 1], chunking=chunking)
        size = int(alone_lens)
        assert size == int(enc_lens[row]) and not enc[row, size:].any() and enc.isfinite().all()
        torch.testing.assert_close(alone[0, :size], enc[row, :size], rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_padding_that_is_not_a_number_does_not_matter():
    model, lens = perturb(tiny(SMALLER)).eval(), torch.tensor([90, 40])
    x = torch.randn(2, 90, 80)
    clean, _ = model(x, lens)
    x[1, 40:] = float("nan")
    assert torch.equal(model(x, lens).frames, clean)


@torch.no_grad()
def test_icefall_padding_depends_on_the_batch():
    """Where 8 divides the frames nothing leaks out of the stacks, only the front end sees padding."""
    model = perturb(tiny(padding="icefall")).eval()
    x = torch.randn(2, 7 + 2 * 152, 80)
    lens = torch.tensor([x.shape[1], 7 + 2 * 83])
    batch, batch_lens = model(x, lens)
    alone, _ = model(x[1:, : lens[1]], lens[1:])
    size = int(batch_lens[1])
    assert not torch.allclose(batch[1, :size], alone[0], atol=1e-3)
    model.encoder_embed.mask_padding, model.cfg.padding = True, "invariant"
    batch, _ = model(x, lens)
    torch.testing.assert_close(
        batch[1, :size], model(x[1:, : lens[1]], lens[1:]).frames[0], rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize(("batch", "out"), [(1, 2), (4, 2), (2, 4)])
@torch.no_grad()
def test_streaming_equals_the_chunk_masked_forward(batch, out):
    """Uses 14 chunks. Sequences start three chunks apart and leave the batch when they end."""
    chunk, left_frames, chunks, apart = 16, 64, 14, 3
    model = perturb(
        tiny(causal=True, chunk_frames=(16,), left_context_frames=(64,), output_downsampling=out), 0.05
    ).eval()
    x = torch.randn(batch, 2 * chunk * chunks + 13, 80)
    whole, _ = model(x, torch.full((batch,), x.shape[1]), chunking=Chunking(chunk, left_frames))
    pieces = [[] for _ in range(batch)]
    state, rows = model.initial_state(0, left_frames), []
    for step in range(chunks + apart * batch):
        if step % apart == 0 and step // apart < batch:
            state = ZipformerState.join([state, model.initial_state(1, left_frames)])
            rows.append(step // apart)
        begin = [2 * chunk * len(pieces[row]) for row in rows]
        inputs = [x[row, b : b + 2 * chunk + 13] for row, b in zip(rows, begin, strict=True)]
        enc, state = model.stream_step(torch.stack(inputs), state)
        for row, piece in zip(rows, enc, strict=True):
            pieces[row].append(piece)
        alive = [i for i, row in enumerate(rows) if len(pieces[row]) < chunks]
        state, rows = state.select(torch.tensor(alive, dtype=torch.long)), [rows[i] for i in alive]
        if not rows:
            break
    for row in range(batch):
        streamed = torch.cat(pieces[row])
        assert len(streamed) == chunks * chunk // out
        torch.testing.assert_close(streamed, whole[row, : len(streamed)], rtol=0, atol=1e-5)


@pytest.mark.parametrize("out", [2, 4])
@torch.no_grad()
def test_number_of_output_frames(out):
    model = tiny(SMALLER, output_downsampling=out).eval()
    assert model.cfg.subsampling_factor == 2 * out
    for frames in range(9, 40):
        enc, lens = model(torch.randn(1, frames, 80), torch.tensor([frames]))
        assert enc.shape[1] == lens[0] == model.subsampled_lens(torch.tensor(frames))


@pytest.mark.parametrize("options", [{}, CAUSAL, {"activation_checkpointing": True}, {"padding": "icefall"}])
def test_every_parameter_gets_a_gradient(options):
    model = perturb(tiny(SMALLER, **options)).train()
    for switch in model.controls.switches:
        switch.probability = 1.0  # all that can happen happens, positions left out among it
    enc, lens = model(torch.randn(3, 90, 80), torch.tensor([90, 60, 0]))
    assert enc.shape == (3, 21, 32) and lens.tolist() == [21, 13, 0]
    enc.cos().sum().backward()
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    left_out = {n for n, p in learning.items() if not p.grad.any()}
    assert all(p.grad.isfinite().all() for p in learning.values())
    assert {n.rpartition(".")[0].rpartition(".")[2] for n in left_out} <= {"linear_pos"}


def test_same_draws_give_the_same_step():
    model = perturb(tiny(SMALLER, **CAUSAL)).train()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        single = copy.deepcopy(model)
        enc, _ = single(torch.randn(2, 80, 80), torch.tensor([80, 60]))
        enc.square().sum().backward()
        results.append([enc, *(p.grad for p in single.parameters() if p.requires_grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_chunk_sizes_are_drawn_from_the_configuration():
    model = tiny(SMALLER, **CAUSAL)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        model.draw(generator)
        seen.add((model._drawn.chunk, model._drawn.left_frames))
    assert seen == {(8, 24), (8, -1), (-1, -1)}


def test_meta_device_and_initial_values():
    with torch.device("meta"):
        model = tiny(SMALLER, **CAUSAL)
    model.to_empty(device="cpu").init_weights()
    layer = model.encoders[0].layers[0]
    assert (layer.bypass.bypass_scale == 0.5).all() and layer.norm.log_scale == 1
    assert layer.norm.bias.abs().max() < 1e-3 and not model.downsample_output.bias.any()
    bound = 16**-0.5
    assert 0.8 * bound < layer.feed_forward1.in_proj.weight.abs().max() <= bound
    assert 0.08 * 24**-0.5 < layer.feed_forward1.out_proj.weight.abs().max() <= 0.1 * 24**-0.5
    assert 0.04 * 8**-0.5 < layer.self_attn1.out_proj.weight.abs().max() <= 0.05 * 8**-0.5
    enc, _ = model.eval()(torch.randn(1, 50, 80), torch.tensor([50]))
    assert enc.isfinite().all()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"layers": (1, 1)}, "encoder.layers"),
        ({"unmasked_dims": (17, 24, 24)}, "unmasked_dims"),
        ({"conv_kernels": (7, 6, 5)}, "odd"),
        ({"feat_in": 6}, "feat_in"),
        (CAUSAL | {"chunk_frames": (10,)}, "multiple"),
        (CAUSAL | {"left_context_frames": (0,), "chunk_frames": (4,)}, "reach"),
        (CAUSAL | {"chunk_frames": ()}, "chunk_frames"),
    ],
)
def test_invalid_configurations_are_refused(options, complaint):
    with pytest.raises(MayaError, match=complaint):
        tiny(SMALLER, **options)


def test_invalid_streaming_is_refused():
    model = tiny(SMALLER, **CAUSAL).eval()
    state = model.initial_state(1, 24)
    with pytest.raises(MayaError, match="multiple of 4"):
        model.stream_step(torch.randn(1, 2 * 6 + 13, 80), state)
    with pytest.raises(MayaError, match="left context"):
        model.initial_state(1, 10)
    with pytest.raises(MayaError, match="not causal"):
        tiny(SMALLER)(torch.randn(1, 50, 80), torch.tensor([50]), chunking=Chunking(8, 24))


def test_large_scores_of_masked_keys_are_not_penalised():
    """Keys of padding have a score of -1000, which no weight can change."""
    model = perturb(tiny(SMALLER), 0.02).train()
    x, lens = torch.randn(3, 90, 80), torch.tensor([90, 60, 30])
    actual = []
    for probability in (0.0, 1.0):
        for switch in model.controls.switches:
            switch.probability = 0.0
        for module in model.modules():
            if isinstance(module, AttentionWeights):
                module.penalise.probability = probability
        torch.manual_seed(0)
        model.zero_grad()
        enc, _ = model(x, lens)
        (enc.square().sum() * 1e-3).backward()
        actual.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, grad in actual[0].items():
        torch.testing.assert_close(
            grad, actual[1][name], rtol=1e-4, atol=1e-5 * float(grad.abs().max() + 1e-3)
        )


def test_score_penalty_scales_with_the_loss():
    scores = torch.tensor([30.0, -30.0, 20.0, -1000.0], requires_grad=True)
    weights = AttentionWeights(16, 2, 8, 2, 16).train()
    weights.penalise.decide(0.0)
    weights.loss_scale.set(0.5)
    _Penalise.apply(scores, weights._penalty()).sum().backward()
    torch.testing.assert_close(scores.grad, 1 + torch.tensor([0.5e-4, -0.5e-4, 0.0, 0.0]))
