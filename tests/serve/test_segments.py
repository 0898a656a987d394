"""Finals of a session carry what the heads say of their segment, whatever the pieces of the audio."""

import json
from typing import Any

import pytest
import torch

from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.heads import ClassifyConfig, PitchConfig
from maya.models.speech_model import SpeechModel
from maya.serve.config import EndpointConfig, SessionConfig
from maya.serve.session import LiveModel
from tests.decode import test_streaming
from tests.decode.test_stream_rows import noise
from tests.serve.test_session import QUIET, RATE, finals, in_pieces, recording, whole


@pytest.fixture(scope="module")
def live() -> LiveModel:
    torch.manual_seed(1)
    old = test_streaming.recognizer()
    cfg = old.model.cfg
    moods = ("glad", "sad")
    cfg.heads |= {
        "mood": ClassifyConfig(label="mood", classes=moods),
        "deep": ClassifyConfig(label="deep", classes=moods, layers="all"),
        "pitch": PitchConfig(upsampling=2),
    }
    model = SpeechModel(cfg).eval()
    model.load_state_dict(old.model.state_dict(), strict=False)
    return LiveModel(Recognizer(model=model, tokenizer=old.tokenizer, device=old.device), method="ctc")


def test_finals_hold_labels_tracks_and_a_verdict(live: LiveModel) -> None:
    events = finals(whole(live, recording(0)))
    assert len(events) >= 2
    for event in events:
        json.dumps(event.as_dict())
        assert set(event.labels) == {"mood"}  # the other one reads hidden states
        assert 0.5 <= event.labels["mood"]["probability"] <= 1
        track = event.tracks["f0"]
        assert track["columns"] == ("hertz", "voicing") and track["seconds"] == live.frame_seconds / 2
        last = track["start"] + len(track["values"]) * track["seconds"]
        assert event.start - 0.6 <= track["start"] <= event.start + 1e-6 and last >= event.end - 0.1
        assert event.check is not None and event.check["nats"] < 1 and 0 <= event.check["speech"] <= 1


def test_any_division_gives_the_same_facts(live: LiveModel) -> None:
    audio, events = recording(1), []
    session = live.open(cfg=QUIET)
    for piece in in_pieces(audio, 3):
        events += session.feed(piece, RATE)
    assert finals(events + session.finish()) == finals(whole(live, audio))


def test_a_label_is_that_of_the_segment_alone(live: LiveModel) -> None:
    """Of a session with one segment from its first frame on: as of the whole audio's frames."""
    audio = noise(RATE * 2, 3).clip(-1, 1)
    cfg = SessionConfig(endpoint=EndpointConfig(trailing_seconds=1e3), vad=None)
    (final,) = finals(whole(live, audio.numpy(), cfg))
    model: Any = live.recognizer.model
    row = live.rows.open(keep=True)
    live.rows.push([row], [audio], [True])
    frames = row.kept_frames()
    start = round(final.tracks["f0"]["start"] / live.frame_seconds)
    part = frames[:, start:]
    (said,) = model.head("mood").predict(Encoded(part, torch.tensor([part.shape[1]])))
    assert said.label == final.labels["mood"]["label"]
    assert said.probability == pytest.approx(final.labels["mood"]["probability"], abs=1e-3)


def test_frames_before_speech_are_forgotten(live: LiveModel) -> None:
    session = live.open(cfg=QUIET)
    session.feed(torch.zeros(RATE * 10), RATE)
    assert session.row.kept_frames().shape[1] <= live.heads.before + 1
    without = live.open(cfg=SessionConfig(heads=False, vad=None))
    (final, *_) = finals(without.feed(recording(0), RATE) + without.finish())
    assert without.row.kept is None and final.check is None and not final.labels
