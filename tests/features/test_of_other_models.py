"""Waveforms, Whisper's log-mel, SeamlessM4T's and AST's filter banks: transformers' extractors, small
numbers, and independence of the batch."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maya.errors import MayaError
from maya.features import (
    ASTFbankConfig,
    FeaturesConfig,
    SeamlessFbankConfig,
    WaveformConfig,
    WhisperMelConfig,
)

LENS = torch.tensor([32000, 20001, 7321])
CONFIGS = [
    WaveformConfig(), WaveformConfig(normalize=False), WhisperMelConfig(),
    WhisperMelConfig(seconds=0, num_mels=128), SeamlessFbankConfig(), ASTFbankConfig(),
]  # fmt: skip


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed")


def audio() -> Tensor:
    """Tones that rise, in a little noise, with a DC offset, at three levels."""
    torch.manual_seed(0)
    time = torch.arange(32000) / 16000
    x = 0.3 * torch.sin(2 * torch.pi * (300 * time + 400 * time**2)) + 0.003 * torch.randn(3, 32000) + 0.02
    return x * torch.tensor([1.0, 0.1, 0.01])[:, None] * (torch.arange(32000) < LENS[:, None])


def rows() -> list[np.ndarray[Any, Any]]:
    return [row[:n].numpy() for row, n in zip(audio(), LENS.tolist(), strict=True)]


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: c.kind)
def test_a_row_alone_equals_the_row_in_a_batch(cfg: FeaturesConfig) -> None:
    features = cfg.build()
    feats, lens = features(audio(), LENS)
    assert lens.tolist() == [cfg.frames(n) for n in LENS.tolist()]
    for i, n in enumerate(LENS.tolist()):
        own, own_lens = features(audio()[i : i + 1, :n], LENS[i : i + 1])
        assert own_lens.tolist() == [lens[i]]
        assert own.shape[2] == cfg.num_mels
        assert (own[0, : lens[i]] - feats[i, : lens[i]]).abs().max() < 2e-5
    with pytest.raises(MayaError, match="cannot stream"):
        features.stream()


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: c.kind)
def test_silence_and_audio_too_short_give_finite_features(cfg: FeaturesConfig) -> None:
    for samples in (1, 160, 400, 559):
        feats, lens = cfg.build()(torch.zeros(2, samples), torch.tensor([samples, 0]))
        assert feats.isfinite().all()
        assert lens[1] == 0


@pytest.mark.parametrize("normalize", [True, False])
def test_waveforms_equal_transformers(transformers: Any, normalize: bool) -> None:
    stock = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    feats, _ = WaveformConfig(normalize=normalize).build()(audio(), LENS)
    original = stock(rows(), sampling_rate=16000, padding=True, return_tensors="pt").input_values
    assert (feats[:, :, 0] - original).abs().max() < 1e-5


@pytest.mark.parametrize("mels", [80, 128])
def test_whisper_equals_transformers_filled_up_and_alone(transformers: Any, mels: int) -> None:
    stock = transformers.WhisperFeatureExtractor(feature_size=mels)
    feats, lens = WhisperMelConfig(num_mels=mels).build()(audio(), LENS)
    original = stock(rows(), sampling_rate=16000, return_tensors="pt").input_features
    assert feats.shape == (3, 3000, mels)
    assert lens.tolist() == [200, 125, 45]
    assert (feats.mT - original).abs().max() < 1e-4
    feats, _ = WhisperMelConfig(num_mels=mels, seconds=0).build()(audio(), LENS)
    for row, own, n in zip(rows(), feats, lens.tolist(), strict=True):
        original = stock(row, sampling_rate=16000, padding=False, return_tensors="pt").input_features
        assert (own[:n].T - original[0, :, :n]).abs().max() < 1e-4


def test_seamless_equals_transformers(transformers: Any) -> None:
    stock = transformers.SeamlessM4TFeatureExtractor()
    feats, lens = SeamlessFbankConfig().build()(audio(), LENS)
    original = stock(rows(), sampling_rate=16000, return_tensors="pt")
    assert torch.equal(original.attention_mask.sum(1), lens)
    for own, other, n in zip(feats, original.input_features, lens.tolist(), strict=True):
        assert (own[:n] - other[:n]).abs().max() < 2e-3  # theirs are computed in fp64


def test_ast_equals_transformers(transformers: Any) -> None:
    feats, _ = ASTFbankConfig().build()(audio(), LENS)
    original = transformers.ASTFeatureExtractor()(
        rows(), sampling_rate=16000, return_tensors="pt"
    ).input_values
    assert feats.shape == original.shape == (3, 1024, 128)
    assert (feats - original).abs().max() < 5e-4  # theirs are computed in fp64


def test_small_numbers() -> None:
    """Without transformers: what the definitions give."""
    feats, lens = WaveformConfig().build()(torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([3]))
    assert feats[0, :, 0].tolist() == pytest.approx([-1.2247448, 0.0, 1.2247448, 0.0], abs=1e-6)
    assert lens.tolist() == [3]
    assert WaveformConfig().hop_samples == 1
    whisper, lens = WhisperMelConfig().build()(torch.zeros(1, 1600), torch.tensor([1600]))
    assert torch.equal(whisper, torch.full((1, 3000, 80), (-10 + 4) / 4))
    counts = {399: 0, 400: 0, 559: 0, 560: 1, 719: 1, 880: 2, 16000: 49}
    assert {n: SeamlessFbankConfig().frames(n) for n in counts} == counts
    seamless, lens = SeamlessFbankConfig().build()(audio()[:1], LENS[:1])
    frames = seamless.reshape(-1, 80)[: 2 * int(lens)]
    assert frames.mean(0).abs().max() < 1e-5
    assert (frames.var(0) - 1).abs().max() < 1e-3
    ast, lens = ASTFbankConfig().build()(torch.zeros(1, 16000), torch.tensor([16000]))
    assert lens.tolist() == [98]
    floor = (np.log(np.finfo(np.float32).eps) + 4.2677393) / (2 * 4.5689974)
    assert ast[0, 0, 0] == pytest.approx(floor, abs=1e-5)
    assert ast[0, 98, 0] == pytest.approx(4.2677393 / (2 * 4.5689974), abs=1e-6)


def test_recordings_that_are_too_long_are_refused() -> None:
    for cfg, seconds in ((WhisperMelConfig(seconds=1.0), 1), (ASTFbankConfig(length=100), 1)):
        module = cfg.build()
        module(torch.zeros(1, 17000), torch.tensor([16000]))  # padding may reach further
        with pytest.raises(MayaError, match=rf"audio of 2\.0 s does not fit into the {seconds} s"):
            module(torch.zeros(1, 32240), torch.tensor([32240]))


def test_features_are_of_modules_that_need_no_transformers() -> None:
    for name in ("waveform", "whisper_mel", "whole_frames"):
        assert "transformers" not in vars(importlib.import_module(f"maya.features.{name}"))
