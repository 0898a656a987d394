"""Lengths on the host, from the batch and the model's clock, equal those of the encoder on the device."""

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from maya.data.loading.batch import Batch, make_batch
from maya.encoders import Encoded, EncoderConfig
from maya.encoders.lact.encoder import LaCT
from maya.features import LogMelConfig
from maya.heads.base import loss_inputs
from maya.models.config import SpeechModelConfig
from maya.models.hybrid import hybrid
from maya.models.speech_model import SpeechModel, build_model
from tests.encoders.test_short_audio import ENCODERS, FEATURES
from tests.no_waiting import no_waiting

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the device is simulated on a CPU")
DEVICE = torch.device("cpu")  # an object, unlike the string "cpu", is the simulated device
# One frame more or less; speeds of 0.9 and 1.1 leave any number of samples.
SAMPLES = [0, 1, 79, 159, 160, 1279, 1281, 5999, 4363, int(5999 / 1.1)]


def batch_of(samples: list[int], rate: int = 16000) -> Batch:
    audio = [0.1 * torch.randn(n) for n in samples]
    tokens = [[1, 2][: n % 3] for n in range(len(samples))]
    langs = [n % 3 - 1 for n in range(len(samples))]
    return make_batch(audio, tokens, langs, list(map(str, samples)), sample_rate=rate)


def encoded_by(model: SpeechModel, batch: Batch, views: int = 1) -> Encoded:
    """As `SpeechModel.forward` gives it to the heads."""
    encoded = model.encode_audio(batch.audio, batch.audio_lens, views)
    return model._with_host_lens(encoded, batch.on_host("audio_lens").repeat(views))


def check(cfg: SpeechModelConfig, views: int = 1) -> None:
    model, batch = build_model(cfg).train(), batch_of(SAMPLES, cfg.features.sample_rate)
    with no_waiting(model), torch.no_grad():
        encoded = encoded_by(model, batch.to(DEVICE, non_blocking=True), views)
    assert encoded.lens_on_host is not encoded.lens and encoded.lens_on_host.dtype == torch.int64
    assert torch.equal(encoded.lens_on_host, encoded.lens)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder(encoder: str) -> None:
    check(hybrid(encoder=ENCODERS[encoder], transducer="none", ctc_weight=1.0, vocab_size=20))


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("encoder", ["FastConformer", "Zipformer", "LaCT"])
def test_every_front_end_and_two_views(encoder: str, features: str) -> None:
    options: dict[str, Any] = {"encoder": ENCODERS[encoder], "features": FEATURES[features]}
    check(hybrid(**options, transducer="none", ctc_weight=1.0, cr_ctc_weight=0.2, vocab_size=20), views=2)


def guide_encoder(repo: Path) -> SpeechModelConfig:
    """The model of docs/guides/encoder.md."""
    text = (repo / "docs/guides/encoder.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(# gru\.py\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    module: Any = ModuleType("guide_gru")
    sys.modules["guide_gru"] = module
    exec(code, vars(module))
    cfg = module.experiment().model
    cfg.vocab_size = 20
    return cfg


def test_an_encoder_of_ones_own_and_one_whose_configuration_is_wrong(
    repo: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = guide_encoder(repo)
    check(cfg)
    model, batch = build_model(cfg), batch_of([5999, 4000])
    monkeypatch.setattr(EncoderConfig, "subsampled", lambda self, frames: frames // self.subsampling_factor)
    monkeypatch.setattr(type(model.encoder), "subsampled_lens", lambda self, lens: -(-lens // 4))
    with no_waiting(model), torch.no_grad(), caplog.at_level(logging.WARNING):
        for _ in range(2):
            encoded = encoded_by(model, batch.to(DEVICE, non_blocking=True))
            assert encoded.lens_on_host is encoded.lens
    assert len(caplog.records) == 1 and "GRUConfig.subsampled" in caplog.text


def test_copies_follow_the_tensors_that_they_are_of() -> None:
    batch = batch_of([700, 300])
    assert batch.on_host("tokens") is batch.tokens and not batch.host
    with no_waiting() as waits:
        moved = batch.to(DEVICE, non_blocking=True)
        again = moved.to(DEVICE, non_blocking=True)
        assert moved.seconds == again.seconds == batch.seconds
        for name in ("audio_lens", "tokens", "token_lens", "langs"):
            assert torch.equal(moved.on_host(name), getattr(batch, name))
            assert moved.on_host(name) is again.on_host(name) is getattr(batch, name)
    assert waits == []
    other = replace(moved, tokens=moved.tokens + 1)
    assert other.on_host("tokens") is other.tokens and other.on_host("token_lens") is batch.token_lens
    meta = batch.to("meta")
    assert meta.on_host("tokens") is batch.tokens and meta.tokens.is_meta


def test_frames_of_other_lengths_lose_the_copy() -> None:
    model = build_model(hybrid(encoder=ENCODERS["LaCT"], transducer="none", ctc_weight=1.0, vocab_size=20))
    assert isinstance(model.encoder, LaCT) and isinstance(model.cfg.features, LogMelConfig)
    batch = batch_of([5999, 4000])
    with no_waiting(model), torch.no_grad():
        moved = batch.to(DEVICE, non_blocking=True)
        encoded = encoded_by(model, moved)
        assert replace(encoded, frames=2 * encoded.frames).lens_on_host is encoded.lens_on_host
        fewer = replace(encoded, frames=encoded.frames[:, :-1], lens=encoded.lens - 1)
        tokens, lens, token_lens = loss_inputs(encoded, moved)
    assert fewer.lens_on_host is fewer.lens
    assert tokens is batch.tokens and token_lens is batch.token_lens and lens is encoded.lens_on_host
