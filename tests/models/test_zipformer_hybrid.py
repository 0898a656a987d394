"""icefall's kind of model: what its losses are made of, in which shares, and what each step changes."""

import pytest
import torch

from maya.data.loading.batch import Batch, make_batch
from maya.errors import MayaError
from maya.heads.attention import AttentionDecoderConfig
from maya.heads.transducer import PredictorConfig
from maya.losses import fused_pruned_rnnt_loss, prune_ranges, simple_rnnt_loss
from maya.models.speech_model import SpeechModel
from tests import tiny_zipformer

DECODER = AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=32, dropout=0.0)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    audio = [torch.randn(n, generator=generator) * 0.1 for n in (16000, 9000, 12000)]
    return make_batch(audio, [[3, 7, 7, 1], [5], [2, 9]], [0, 0, 0], ["a", "b", "c"], sample_rate=16000)


def model(**options) -> SpeechModel:
    torch.manual_seed(0)
    return SpeechModel(tiny_zipformer.config(**options))


def test_pruned_total_is_a_sum_whose_weights_move_with_the_steps():
    made, data = model(ctc_weight=0.0, loss_warmup=100).eval(), batch()
    totals = []
    for step, simple, pruned in ((0, 1.0, 0.1), (50, 0.75, 0.55), (100, 0.5, 1.0), (999, 0.5, 1.0)):
        made.begin_step(step, 0.0)
        out = made(data)
        torch.testing.assert_close(
            out.total, simple * out.parts["transducer_simple"] + pruned * out.parts["transducer"]
        )
        totals.append(out)
    assert torch.equal(totals[0].parts["transducer"], totals[-1].parts["transducer"])  # only weights changed


def test_pruned_parts_are_the_losses_of_the_heads():
    made, data = model(ctc_weight=0.0).eval(), batch()
    out = made(data)
    enc, lens = made.encode(data.audio, data.audio_lens)
    head = made.head("transducer")
    pred = head.decoder(data.tokens)
    am, lm = head.simple_joint(enc, pred)
    pair = (lens, data.token_lens)
    simple, px, py = simple_rnnt_loss(am, lm, data.tokens, *pair, blank=0, lm_only_scale=0.25)
    ranges = prune_ranges(px, py, *pair, s_range=5)
    weight, bias, _, _ = head.joint.output_layer()
    f, g = head.joint.project_encoder(enc), head.joint.project_predictor(pred)
    pruned = fused_pruned_rnnt_loss(
        f, g, weight, bias, data.tokens, ranges, *pair, blank=0, activation="tanh", eps=head.cfg.loss_eps
    )
    torch.testing.assert_close(out.parts["transducer_simple"], simple)
    torch.testing.assert_close(out.parts["transducer"], pruned)


def test_shares_of_ctc_and_the_attention_decoder():
    made = model(ctc_weight=0.3, attention_weight=0.25, attention_decoder=DECODER, loss_warmup=0).eval()
    assert made.parts == ("transducer", "transducer_simple", "ctc", "attention")
    out = made(batch())
    parts = out.parts
    transducer = parts["transducer"] + 0.5 * parts["transducer_simple"]
    expected = 0.75 * (0.7 * transducer + 0.3 * parts["ctc"]) + 0.25 * parts["attention"]
    torch.testing.assert_close(out.total, expected)


def test_every_parameter_that_learns_gets_a_gradient_also_with_ctc_alone():
    made = model(ctc_weight=0.3, cr_ctc_weight=0.1, attention_weight=0.2, attention_decoder=DECODER)
    for first_step in (0, 1):
        made.cfg.heads["transducer"].first_step = first_step
        made.zero_grad()
        for switch in made.encoder.controls.switches:
            switch.probability = 0.0
        made(batch()).total.sum().backward()
        missing = [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []


def test_freezing_leaves_what_never_learns_as_it_is():
    made = model()
    before = {n: p.requires_grad for n, p in made.named_parameters()}
    assert not all(before.values())  # icefall's unused scales
    made.freeze(("encoder",))
    assert not any(p.requires_grad for p in made.encoder.parameters())
    made.freeze(())
    assert {n: p.requires_grad for n, p in made.named_parameters()} == before


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(MayaError, match="needs a CTC head"):
        model(ctc_weight=0.0, cr_ctc_weight=0.2)
    with pytest.raises(MayaError, match="blank after the labels"):
        model(predictor=PredictorConfig(hidden=32))
    cfg = tiny_zipformer.config()
    cfg.features.num_mels = 40
    with pytest.raises(MayaError, match="40 mel bins do not fit an encoder that takes 80"):
        SpeechModel(cfg)
