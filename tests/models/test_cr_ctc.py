"""CR-CTC in a model: two views of each utterance, and the losses that icefall makes of them."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from maya.data.loading.batch import Batch
from maya.encoders import Encoded
from maya.features.specaugment import SpecAugment, lhotse
from maya.heads import ClassifyConfig, LanguageConfig
from maya.models.speech_model import SpeechModel, build_model
from tests import tiny


def make(**options: Any) -> SpeechModel:
    masks = lhotse(time_mask_ratio=2.5)
    masks.fill = "zero"
    fields = {"transducer": "none", "language_embedding": False, "cr_ctc_weight": 0.2, "loss_warmup": 0}
    cfg = tiny.hybrid(**(fields | {"specaugment": masks} | options))
    cfg.encoder.dropout_pre_encoder = 0.0  # type: ignore[attr-defined]
    return build_model(cfg).train()


@pytest.fixture
def batch() -> Batch:
    lens = torch.tensor([40_000, 30_000, 25_000])
    return Batch(sample_rate=16000, 
        audio=0.1 * torch.randn(3, 40_000), audio_lens=lens, tokens=torch.randint(0, 12, (3, 5)),
        token_lens=torch.tensor([5, 4, 2]), langs=torch.full((3,), -1), ids=["a", "b", "c"],
    )  # fmt: skip


def by_icefall(model: SpeechModel, enc: torch.Tensor, lens: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Half the sums over both views: CTC, and 0.2 times the divergence from the other view's posteriors, held
    fixed. Rows are [all first views, all second views]."""
    log_probs = model.head("ctc")(enc)
    targets, target_lens = batch.tokens.repeat(2, 1), batch.token_lens.repeat(2)
    ctc = F.ctc_loss(
        log_probs.transpose(0, 1), targets, lens, target_lens, blank=model.blank, reduction="none"
    )
    other = log_probs.detach().roll(len(enc) // 2, 0)
    far = F.kl_div(log_probs, other, reduction="none", log_target=True).sum(-1)
    far = far.masked_fill(torch.arange(far.shape[1]) >= lens[:, None], 0.0).sum(1)
    return 0.5 * (ctc + 0.2 * far).view(2, -1).sum(0)


def test_losses_and_gradients_equal_icefall(batch: Batch) -> None:
    model = make()
    torch.manual_seed(1)
    losses = model(batch)
    assert losses.total.shape == (3,) and (losses.parts["ctc_consistency"] > 1e-3).all()
    grads = torch.autograd.grad(losses.total.sum(), list(model.parameters()), allow_unused=True)
    torch.manual_seed(1)
    enc, lens = model.encode_audio(batch.audio, batch.audio_lens, 2)
    expected = by_icefall(model, enc, lens, batch)
    torch.testing.assert_close(losses.total, expected, rtol=1e-5, atol=1e-4)
    icefalls = torch.autograd.grad(expected.sum(), list(model.parameters()), allow_unused=True)
    largest = max(float(g.abs().max()) for g in icefalls if g is not None)
    for grad, other in zip(grads, icefalls, strict=True):
        assert (grad is None) == (other is None)
        if grad is not None:
            torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-5 * largest)


def test_views_differ_only_in_their_masks(batch: Batch) -> None:
    model = make()
    enc, lens = model.encode_audio(batch.audio, batch.audio_lens, 2)
    assert torch.equal(lens[:3], lens[3:])
    assert ((enc[:3] - enc[3:]).abs().amax((1, 2)) > 1e-3).all()
    model.specaugment = SpecAugment(lhotse()).train()
    model.specaugment.cfg.freq_masks = model.specaugment.cfg.time_masks = 0  # warping stays
    enc, _ = model.encode_audio(batch.audio, batch.audio_lens, 2)
    torch.testing.assert_close(enc[:3], enc[3:])
    losses = model(batch)
    torch.testing.assert_close(losses.parts["ctc_consistency"], torch.zeros(3), rtol=0, atol=1e-4)


def test_consistency_weight_grows_with_steps_and_evaluation_has_one_view(batch: Batch) -> None:
    model = make(loss_warmup=100)
    model.step = 25
    losses = model(batch)
    ctc, consistency = losses.parts["ctc"], losses.parts["ctc_consistency"]
    torch.testing.assert_close(losses.total, ctc + 0.25 * 0.2 * consistency)
    plain = model.eval()(batch)
    assert plain.parts.keys() == {"ctc"} and torch.equal(plain.total, plain.parts["ctc"])


def test_every_loss_is_the_mean_of_both_views(batch: Batch) -> None:
    model = make(transducer="rnnt", attention_weight=0.5, ctc_weight=0.3)
    torch.manual_seed(1)
    losses = model(batch)
    assert losses.parts.keys() == {"transducer", "ctc", "attention", "ctc_consistency"}
    assert all(part.shape == (3,) for part in (losses.total, *losses.parts.values()))
    torch.manual_seed(1)
    enc, lens = model.encode_audio(batch.audio, batch.audio_lens, 2)
    views = zip(enc.chunk(2), lens.chunk(2), strict=True)
    halves = [model.losses(Encoded(e, n), batch).parts for e, n in views]
    for name in ("transducer", "ctc"):
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(losses.parts[name], mean, rtol=1e-4, atol=1e-4)


def test_heads_of_labels_stand_beside_it(batch: Batch) -> None:
    """Each view has the labels of its utterance."""
    cfg = make().cfg
    cfg.heads["emotion"] = ClassifyConfig(label="emotion", classes=("calm", "angry"))
    cfg.heads["language"] = LanguageConfig()
    model, batch.labels = build_model(cfg).train(), {"emotion": ["angry", None, "calm"]}
    batch.langs = torch.tensor([0, 1, -1])
    torch.manual_seed(1)
    losses = model(batch).parts
    torch.manual_seed(1)
    enc, lens = model.encode_audio(batch.audio, batch.audio_lens, 2)
    halves = [model.losses(Encoded(e, lens[:3]), batch).parts for e in enc.chunk(2)]
    for name in ("emotion", "language"):
        torch.testing.assert_close(losses[name], (halves[0][name] + halves[1][name]) / 2)
    assert losses["emotion"][1] == losses["language"][2] == 0 and losses["emotion"][0] > 0
