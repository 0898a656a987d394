"""A trained voice detector: windows of a stream equal the model's frames, in pieces and in hours."""

import argparse
from pathlib import Path

import pytest
import torch

from egs.vad.vad import experiment
from maya.audio.vad import SpeechDetector, VADConfig
from maya.audio.vad.detector import LOADERS, load_vad
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import SpeechModel, build_model, count_parameters
from maya.recipes import voice_detector
from maya.recipes.voice_detector import TrainedVAD, detector_name, detector_of


@pytest.fixture
def model() -> SpeechModel:
    torch.manual_seed(0)
    return build_model(with_vocabulary(experiment().model, 20, ("en", "gu"))).eval()


def test_size(model: SpeechModel) -> None:
    assert count_parameters(model) < 200_000


def test_pieces_equal_the_whole_and_the_model(model: SpeechModel) -> None:
    vad, audio = TrainedVAD(model), torch.randn(2, 50 * 320) * 0.1
    whole, _ = vad(audio, vad.initial_state(2))
    parts, state, place = [], vad.initial_state(2), 0
    for windows in (1, 0, 7, 2, 40):
        probabilities, state = vad(audio[:, place : place + 320 * windows], state)
        parts.append(probabilities)
        place += 320 * windows
    assert whole.shape == (2, 50) and torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    with torch.no_grad():
        encoded = model.encode_audio(audio, torch.tensor([16000, 16000]))
        expected = model.head("speech")(encoded)[..., 0].sigmoid()
    assert torch.allclose(whole[:, 1:], expected[:, 1:], atol=1e-4)  # frame 0 has no samples before it


def test_windows_do_not_see_the_future(model: SpeechModel) -> None:
    vad, audio = TrainedVAD(model), torch.randn(1, 10 * 320) * 0.1
    changed = audio.clone()
    changed[:, 5 * 320 :] = 0.5
    first, second = (vad(x, vad.initial_state(1))[0] for x in (audio, changed))
    assert torch.equal(first[:, :5], second[:, :5]) and not torch.equal(first[:, 5:], second[:, 5:])


def test_spans_of_pieces_and_bounded_memory(model: SpeechModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a detector keeps after eleven minutes is as large as after one."""
    monkeypatch.setitem(LOADERS, "trained", lambda weights: TrainedVAD(model))
    load_vad.cache_clear()
    detector = SpeechDetector(VADConfig(detector="trained", weights="x"), 16000)
    block, kept = torch.randn(16000) * 0.1, []
    for seconds in (60, 600):
        for _ in range(seconds):
            detector.push(block)
        kept.append(sum(part.numel() for part in detector._state) + len(detector._rest))
    assert kept[0] == kept[1] < 1000
    detector.finish()
    load_vad.cache_clear()


def test_refusals(model: SpeechModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MayaError, match="there is no 'silro'"):
        detector_of("silro")
    with pytest.raises(argparse.ArgumentTypeError, match="trained"):
        detector_name("trained")
    assert detector_name("off") == "off" and detector_name(str(tmp_path)) == str(tmp_path)
    assert detector_of("silero") == ("silero", "")
    assert detector_of(str(tmp_path)) == ("trained", str(tmp_path))
    model.cfg.features.normalize = "peak"
    with pytest.raises(MayaError, match="look ahead"):
        TrainedVAD(model)
    model.cfg.features.normalize = "none"
    model.heads.clear()
    with pytest.raises(MayaError, match="no recurrent encoder with an events head"):
        TrainedVAD(model)
    with pytest.raises(MayaError):
        voice_detector.load_trained(str(tmp_path))
