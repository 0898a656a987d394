"""Masked prediction: targets, the frames that count, and that a model hides spans in training alone."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.encoders import Encoded
from maya.errors import MayaError
from maya.features.span_mask import MaskedFeatures, SpanMaskConfig
from maya.heads import CTCConfig, HeadContext, LossStep, MaskedPredictionConfig
from maya.heads.masked_prediction import RandomCodes, clusters_in
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import build_model
from maya.text.tokenizer import TokenizerConfig, train_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint, start_from
from tests.heads.test_classify import ENCODERS, batch_of, model_of

CONTEXT = HeadContext(dim=4, labels=3, blank=3, frame_seconds=0.04, feature_dim=5, subsampling=4)


def best_rq(**options: Any) -> MaskedPredictionConfig:
    return MaskedPredictionConfig(**{"codes": 32, "code_dim": 6, **options})


def test_codes_are_the_nearest_of_a_random_codebook() -> None:
    codes = RandomCodes(best_rq(codebooks=2, seed=3), 20)
    x = torch.randn(2, 7, 20)
    for number in range(2):
        rows = torch.nn.functional.normalize(x @ codes.projection[number], dim=-1)
        distances = torch.cdist(rows.flatten(0, 1), codes.codebook[number])
        assert torch.equal(codes(x)[..., number].flatten(), distances.argmin(-1))
    torch.testing.assert_close(codes.codebook.norm(dim=-1), torch.ones(2, 32))
    assert codes.projection.abs().max() <= (6 / 26) ** 0.5


def test_nothing_of_the_codes_is_learnt_and_the_seed_makes_them() -> None:
    codes, again = RandomCodes(best_rq(), 20), RandomCodes(best_rq(), 20)
    assert not list(codes.parameters()) and set(codes.state_dict()) == {"projection", "codebook"}
    assert torch.equal(codes.projection, again.projection) and torch.equal(codes.codebook, again.codebook)
    assert not torch.equal(codes.codebook, RandomCodes(best_rq(seed=1), 20).codebook)


def test_the_loss_is_the_cross_entropy_of_hidden_steps() -> None:
    """Against sums by hand, with two steps of two feature frames in an encoder frame. A step of which one
    frame is visible does not count; frames beyond the end do not make a step visible."""
    head = best_rq(upsampling=2, codebooks=2).build(CONTEXT)
    feats, lens = torch.randn(2, 24, 5), torch.tensor([24, 19])
    hidden = torch.zeros(2, 24, dtype=torch.bool)
    hidden[0, 3:9] = True  # frames 4 to 7: steps 2 and 3; step 4 has the visible frame 9
    hidden[1, 18] = True  # the last frame: all of step 9
    encoded = Encoded(torch.randn(2, 6, 4), torch.tensor([6, 5]), masked=MaskedFeatures(feats, lens, hidden))
    batch = batch_of([0.24, 0.19])
    (loss,) = head.losses(encoded, batch, LossStep()).values()
    scores = head(encoded).view(2, 12, 2, 32).log_softmax(-1)
    targets, _ = head.targets(encoded, batch, 12)
    nats = -scores.gather(-1, targets[..., None])[..., 0].mean(-1)
    torch.testing.assert_close(loss, torch.stack([nats[0, 2:4].mean(), nats[1, 9]]))
    head.cfg.unmasked_weight = 0.5
    (loss,) = head.losses(encoded, batch, LossStep()).values()
    torch.testing.assert_close(loss[0], (0.5 * nats[0].sum() + 0.5 * nats[0, 2:4].sum()) / 7)
    encoded.masked = MaskedFeatures(feats, lens)  # evaluation
    (loss,) = head.losses(encoded, batch, LossStep()).values()
    torch.testing.assert_close(loss, torch.stack([nats[0].mean(), nats[1, :10].mean()]))


def test_codes_do_not_depend_on_padding_nor_on_loudness() -> None:
    head = best_rq(upsampling=2).build(CONTEXT)
    feats, batch = torch.randn(2, 24, 5), batch_of([0.24, 0.16])
    lens = torch.tensor([24, 16])
    both = Encoded(torch.zeros(2, 6, 4), lens // 4, masked=MaskedFeatures(feats, lens))
    louder = MaskedFeatures(3.0 + 2.0 * feats[1:, :16], lens[1:])
    alone = Encoded(torch.zeros(1, 4, 4), lens[1:] // 4, masked=louder)
    targets, _ = head.targets(both, batch, 12)
    assert torch.equal(targets[1, :8], head.targets(alone, batch, 8)[0][0])


def test_clusters_at_any_frame_rate_and_speed() -> None:
    label = "0.02 " + " ".join(map(str, range(12)))
    batch = batch_of([0.24, 0.24], {"clusters": [label, None]})
    for upsampling, expected in ((1, [1, 3, 5, 7, 9, 11]), (2, list(range(12)))):
        head = best_rq(label="clusters", upsampling=upsampling).build(CONTEXT)
        numbers, has = head.clusters(batch, len(expected))
        assert numbers[0].tolist() == expected and has.tolist() == [True, False]
    batch.speeds = [2.0, 1.0]
    assert head.clusters(batch, 7)[0][0].tolist() == [1, 3, 5, 7, 9, 11, 11]


def test_labels_that_are_none() -> None:
    assert clusters_in("0.02 3 4", 5)[1].tolist() == [3, 4]
    for wrong in ("", "0.02", "0 3", "a 3", "0.02 3 x"):
        with pytest.raises(MayaError, match="no list of clusters such as"):
            clusters_in(wrong, 5)
    with pytest.raises(MayaError, match="has cluster 5, and .* has 5 from 0 on"):
        clusters_in("0.02 5", 5)


def test_settings_that_contradict_one_another() -> None:
    with pytest.raises(MayaError, match="codebooks=1"):
        best_rq(label="clusters", codebooks=2).build(CONTEXT)
    with pytest.raises(MayaError, match="change upsampling"):
        best_rq(upsampling=3).build(CONTEXT)
    with pytest.raises(MayaError, match="the features"):
        encoded = Encoded(torch.zeros(1, 6, 4), torch.tensor([6]))
        best_rq().build(CONTEXT).losses(encoded, batch_of([0.24]), LossStep())
    with pytest.raises(MayaError, match="the same `mask`"):
        model_of("fastconformer", a=best_rq(), b=best_rq(mask=SpanMaskConfig(seconds=0.2)))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_spans_are_hidden_from_any_encoder_in_training_alone(encoder: str) -> None:
    model = model_of(encoder, own=best_rq(mask=SpanMaskConfig(noise=0.0)))
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = batch_of([1.6, 1.2])
    masked = model.encode_audio(batch.audio, batch.audio_lens).masked
    assert masked is not None and masked.hidden is None and torch.equal(seen[0], masked.feats)
    assert model(batch).total.isfinite().all()
    encoded = model.train().encode_audio(batch.audio, batch.audio_lens)
    assert encoded.masked is not None and encoded.masked.hidden is not None
    hidden = encoded.masked.hidden
    assert (
        hidden.any(1).all()
        and not hidden.all()
        and torch.equal(seen[-1][~hidden], encoded.masked.feats[~hidden])
    )
    noise = seen[-1][0][hidden[0]]  # of deviation 0: the mean of each bin, alike in all hidden frames
    assert (noise - noise[0]).abs().max() < 1e-4
    model.losses(encoded, batch).total.sum().backward()
    grads = [p.grad for p in model.encoder.parameters() if p.grad is not None]
    assert grads and any(grad.abs().sum() > 0 for grad in grads)


def test_a_head_without_weight_hides_nothing() -> None:
    plain = SpeechModelConfig(heads={"ctc": CTCConfig(), "own": best_rq(weight=0.0)}, vocab_size=5)
    assert plain.span_mask is None
    plain.heads["own"].weight = 0.5
    assert plain.span_mask == SpanMaskConfig()


@pytest.mark.slow
def test_it_learns_to_predict_what_it_does_not_see() -> None:
    """One batch by heart: from 2.1 nats, those of chance, to three quarters of them and less."""
    torch.manual_seed(2)
    model = model_of("fastconformer", own=best_rq(codes=8)).train()
    batch = batch_of([0.8, 0.8])
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    losses = []
    for _ in range(50):
        loss = model(batch).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:5]) / 5 > 1.7 and sum(losses[-10:]) / 10 < 1.5


def test_a_recogniser_starts_from_the_encoder(tmp_path: Path) -> None:
    """The head of pre-training stays behind, and the checkpoint opens."""
    model = model_of("fastconformer", pretrain=best_rq())
    tokenizer = train_tokenizer({"en": ["ab ba abba", "a b"]}, TokenizerConfig(vocab_size=8))
    made = Checkpoint(
        model_config=model.cfg, weights=model.state_dict(), tokenizer=tokenizer, step=7, notes={}
    )
    save_checkpoint(tmp_path / "best.pt", made)
    fresh = build_model(dataclasses.replace(model.cfg, heads={"ctc": CTCConfig()}))
    taken = start_from(fresh, tmp_path, ["encoder"])
    assert taken == sum(x.numel() for x in model.encoder.state_dict().values())
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(fresh.encoder.state_dict()[name], tensor)
    batch = batch_of([0.5])
    torch.testing.assert_close(
        fresh.eval().encode(batch.audio, batch.audio_lens).frames,
        model.eval().encode(batch.audio, batch.audio_lens).frames,
    )
