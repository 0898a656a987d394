"""The speaker head: embeddings, classes, margins and what training has to know."""

import math
from typing import Any

import pytest
import torch

from maya.encoders import EcapaConfig
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.heads import SpeakerConfig, SpeakerHead
from maya.heads.base import TrainingMeans
from maya.losses.angular_margin import class_cosines, margin_logits, scheduled_margin
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel, build_model
from tests.heads.test_classify import ENCODERS, batch_of

ECAPA = EcapaConfig(channels=16, d_model=24, se_channels=8)
HEADS: dict[str, dict[str, Any]] = {
    "speechbrain": {},
    "wespeaker": {"variant": "wespeaker", "global_context": False, "embedding_norm": True},
    "statistics": {"pooling": "statistics", "layers": "all"},
}


def model_of(encoder: Any = ECAPA, features: Any = None, **options: Any) -> tuple[SpeechModel, SpeakerHead]:
    torch.manual_seed(0)
    head = SpeakerConfig(**{"speakers": 5, "embedding": 12, "attention_dim": 8, **options})
    cfg = SpeechModelConfig(
        features=features or LogMelConfig(normalize="none", dither=0.0), encoder=encoder,
        heads={"voice": head},
    )  # fmt: skip
    cfg.specaugment.freq_masks = cfg.specaugment.time_masks = 0
    model = build_model(cfg).eval()
    built = model.head("voice")
    assert isinstance(built, SpeakerHead)
    return model, built


def begin(head: SpeakerHead, counts: dict[str, int] | None = None) -> None:
    names = counts if counts is not None else {"b": 2, "a": 1, "": 4, "ऋषि": 1}
    head.begin_training(TrainingMeans(texts=list, teacher=lambda path: None, counts=lambda label: names))  # type: ignore


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("kind", ["ecapa", *ENCODERS])
def test_padded_equals_alone(kind: str, options: dict[str, Any]) -> None:
    encoder, features = ENCODERS.get(kind, (ECAPA, None))
    model, head = model_of(encoder, features, **options)
    batch = batch_of([1.1, 0.6, 0.3])
    with torch.inference_mode():
        together = head.embed(model.encode_audio(batch.audio, batch.audio_lens, hidden=model.hidden))
        for row, size in enumerate(batch.audio_lens.tolist()):
            audio, lens = batch.audio[row : row + 1, :size], batch.audio_lens[row : row + 1]
            alone = head.embed(model.encode_audio(audio, lens, hidden=model.hidden))
            torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)


def test_classes_are_speakers_times_speeds() -> None:
    model, head = model_of(new_speakers=(0.9, 1.1), centres=2)
    assert head.centres.shape == (5 * 3 * 2, 12)
    begin(head)
    assert head.known == ("a", "b", "ऋषि")
    batch = batch_of([0.5] * 5, {"speaker": ["a", "ऋषि", "b", None, "nobody"]})
    assert head.targets(batch).tolist() == [0, 2, 1, -1, -1]
    batch.speeds = [1.0, 0.9, 1.1, 0.9, 1.1]
    assert head.targets(batch).tolist() == [0, 5, 7, -1, -1]
    losses = model(batch).parts["voice"]
    assert losses[3:].tolist() == [0, 0] and (losses[:3] > 0).all()
    batch.speeds = [0.95] * 5
    with pytest.raises(MayaError, match=r"0.95 times as fast.*new_speakers"):
        head.targets(batch)
    other, loaded = model_of(new_speakers=(0.9, 1.1), centres=2)
    other.load_state_dict(model.state_dict())  # the names come with the weights
    assert loaded.known == head.known
    said = loaded.predict(other.encode_audio(batch.audio, batch.audio_lens))
    assert {p.label for p in said} <= set(head.known) and all(p.probability for p in said)


def test_what_training_has_to_know() -> None:
    head = model_of()[1]
    with pytest.raises(MayaError, match="have 7 speakers: set the field speakers=7"):
        begin(head, {f"s{n}": 1 for n in range(7)})
    with pytest.raises(MayaError, match="at least two speakers"):
        begin(head, {"": 9, "a": 1})
    with pytest.raises(MayaError, match="longer than 64 bytes"):
        begin(head, {"a": 1, "b" * 65: 1})
    with pytest.raises(MayaError, match="knows no speakers"):
        head.said(torch.zeros(1, 12))


def test_learns_to_tell_three_voices_apart() -> None:
    model, head = model_of(margin_start=5, margin_ramp=10, centres=2, hardest=1)
    begin(head)
    model.train()
    batch = batch_of([0.4] * 6, {"speaker": ["a", "b", "ऋषि"] * 2})
    time = torch.arange(batch.audio.shape[1]) / 16000
    batch.audio += torch.stack([(2 * math.pi * f * time).sin() for f in (200, 500, 1200)] * 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(40):
        model.begin_step(step, 0.0)
        loss = model(batch).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    said = head.predict(model.encode_audio(batch.audio, batch.audio_lens))
    assert [p.label for p in said] == ["a", "b", "ऋषि"] * 2


def test_margin() -> None:
    cosines = torch.tensor([[0.5, 0.2, 0.1], [-0.99, 0.9, 0.95]], dtype=torch.float64)
    targets = torch.tensor([0, 0])
    plain = margin_logits(cosines, targets, margin=0.0, scale=30.0)
    torch.testing.assert_close(plain, 30 * cosines)
    for beyond, far in (("linear", -0.99 - 0.2 * math.sin(0.2)), ("shifted", -0.99 - 1 + math.cos(0.2))):
        logits = margin_logits(cosines, targets, margin=0.2, scale=1.0, beyond=beyond)  # type: ignore[arg-type]
        expected = [[math.cos(math.acos(0.5) + 0.2), 0.2, 0.1], [far, 0.9, 0.95]]
        torch.testing.assert_close(logits, torch.tensor(expected, dtype=torch.float64))
    hard = margin_logits(cosines, targets, margin=0.0, scale=1.0, hardest=1, penalty=0.06)
    assert hard[0, 1] == pytest.approx(math.cos(math.acos(0.2) - 0.06)) and hard[0, 2] == 0.1
    assert hard[1, 2] == pytest.approx(math.cos(math.acos(0.95) - 0.06)) and hard[1, 1] == 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_embedding_and_centre_agree(dtype: torch.dtype) -> None:
    x = torch.eye(3, dtype=dtype, requires_grad=True)
    cosines = class_cosines(x, torch.cat([torch.eye(3), -torch.eye(3)]).to(dtype), 1)
    margin_logits(
        cosines, torch.tensor([0, 1, 5]), margin=0.2, scale=30, hardest=2, penalty=0.06
    ).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_schedule_of_the_margin() -> None:
    values = [scheduled_margin(0.2, step, 10, 20) for step in range(40)]
    assert values[:11] == [0.0] * 11 and values[30:] == [0.2] * 10
    assert values[20] == pytest.approx(0.2 * (1 - 1e-3**0.5)) and values == sorted(values)
