"""Finals of a session carry what the heads say of their segment, whatever the pieces of the audio."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import ClassifyConfig, PitchConfig, PunctuationConfig, PunctuationHead
from maya.models.speech_model import SpeechModel
from maya.serve.config import EndpointConfig, SessionConfig
from maya.serve.events import Final, Partial
from maya.serve.session import LiveModel
from maya.serve.votes import combined, shifted
from maya.text.punctuation import UPPER
from tests.decode import test_streaming
from tests.decode.test_punctuation import numbered, opinionated
from tests.decode.test_stream_rows import RECOGNIZERS, noise
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
        "punctuation": PunctuationConfig(),
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


def writing(live: LiveModel, **options: Any) -> SessionConfig:
    return dataclasses.replace(QUIET, heads=False, **options)


def test_finals_are_punctuated(live: LiveModel) -> None:
    """The head's weights make it say the same of every word: a question in capitals."""
    head = live.recognizer.model.head("punctuation")
    assert isinstance(head, PunctuationHead)
    for layer, number in ((head.marks, 1 + head.cfg.marks.index("?")), (head.case, UPPER)):
        layer.weight.data.zero_()
        layer.bias.data.copy_(torch.eye(len(layer.bias))[number])
    audio = recording(0)
    plain = [e.text for e in finals(whole(live, audio))]
    session = live.open(cfg=writing(live, punctuate=True))
    events = finals(session.feed(audio, RATE) + session.finish())
    assert [e.text for e in events] == ["? ".join(text.upper().split()) + "?" for text in plain]
    assert [w.text for e in events for w in e.words] == " ".join(e.text for e in events).split()
    assert not any(e.labels for e in events)


def test_partials_are_punctuated(live: LiveModel) -> None:
    """What a partial calls stable stays, and partials do not change the final."""
    live = LiveModel(numbered(live.recognizer), method="ctc")
    opinionated(live.recognizer.model)
    audio, kept, texts = recording(1), 0, list[str]()
    events = whole(live, audio, writing(live, punctuate=True))
    silent = whole(live, audio, writing(live, punctuate=True, partials=False))
    assert finals(events) == finals(silent) and finals(events)
    before = ""
    for event in events:
        if isinstance(event, Partial):
            assert event.text.startswith(before)
            before, kept = event.text[: event.stable], max(kept, event.stable)
            texts.append(event.text)
        elif isinstance(event, Final):
            cut = event.reason == "length" and before.startswith(event.text)
            assert event.text.startswith(before) or cut
            before = ""
    assert kept and any(mark in text for text in texts for mark in ",.?!")


class Witness:
    """A model that is sure of its words, whose calls are recorded, and which may fail."""

    def __init__(self, recognizer: Recognizer, error: Exception | None = None) -> None:
        self.recognizer, self.error, self.sample_rate = recognizer, error, recognizer.sample_rate
        self.calls: list[tuple[torch.Tensor, list[Word]]] = []

    def transcribe(self, audio: torch.Tensor, language: str | None) -> list[Hypothesis]:
        if self.error is not None:
            raise self.error
        (hyp,) = self.recognizer.transcribe(audio, language)
        words = [dataclasses.replace(word, confidence=1.0) for word in hyp.words]
        self.calls.append((audio, words))
        return [Hypothesis(words=[dataclasses.replace(word) for word in words])]


def test_another_model_votes_on_finals() -> None:
    """Of each segment it gets the audio, and half a second around it."""
    witness: Any = Witness(numbered(RECOGNIZERS["zipformer"]()))
    plain = LiveModel(numbered(RECOGNIZERS["fastconformer"]()), method="ctc")
    voting = LiveModel(plain.recognizer, method="ctc", others={"other": witness})
    audio, cfg = recording(1), dataclasses.replace(QUIET, heads=False, vote="maxconf")
    alone, events = finals(whole(plain, audio, cfg)), whole(voting, audio, cfg)
    own = finals(events)
    assert len(own) == len(alone) == len(witness.calls) >= 2
    sent = torch.from_numpy(audio.clip(-1, 1))
    for before, after, (samples, words) in zip(alone, own, witness.calls, strict=True):
        first = int(max(0.0, before.start - 0.5) * RATE)
        assert before.end * RATE - 1 <= first + len(samples) <= (before.end + 0.5) * RATE + 1
        torch.testing.assert_close(samples, sent[first : first + len(samples)])
        other = shifted(Hypothesis(words=words), first / RATE)
        voted = combined([Hypothesis(words=list(before.words)), other], "maxconf")
        assert after.text == voted.text and not after.warnings
        assert (after.segment, after.start, after.end) == (before.segment, before.start, before.end)
    assert any(a.text != b.text for a, b in zip(alone, own, strict=True))
    assert all(e.stable == 0 for e in events if isinstance(e, Partial))


def test_a_model_that_fails_has_no_vote() -> None:
    plain = LiveModel(RECOGNIZERS["fastconformer"](), method="ctc")
    failing: Any = {
        "broken": Witness(plain.recognizer, RuntimeError("no memory")),
        "foreign": Witness(plain.recognizer, MayaError("this model does not know the language 'hi'")),
    }
    voting = LiveModel(plain.recognizer, method="ctc", others=failing)
    audio, cfg = recording(0), dataclasses.replace(QUIET, heads=False)
    own = finals(whole(voting, audio, cfg))
    assert own and [e.text for e in own] == [e.text for e in finals(whole(plain, audio, cfg))]
    for event in own:
        broken, foreign = event.as_dict()["warnings"]
        assert broken.startswith("broken has no vote: it failed") and "know the language" in foreign


@pytest.mark.parametrize("pieces", [1, 4])
def test_finals_of_equal_voters_are_those_of_one(live: LiveModel, pieces: int) -> None:
    audio = recording(1)
    session, events = live.open(cfg=writing(live, rover=("ctc", "ctc"))), list[Any]()
    for piece in in_pieces(audio, pieces):
        events += session.feed(piece, RATE)
    own, plain = finals(events + session.finish()), finals(whole(live, audio))
    assert [e.text for e in own] == [e.text for e in plain]
    for a, b in zip(own, plain, strict=True):
        times = [(w.start, w.end) for w in a.words], [(w.start, w.end) for w in b.words]
        np.testing.assert_allclose(*times, atol=0.35)


def test_votes() -> None:
    def hyp(*words: tuple[str, float | None]) -> Hypothesis:
        return Hypothesis(words=[Word(text=t, confidence=c) for t, c in words], text="as it was")

    sure, unsure = hyp(("one", 0.9), ("two", 0.9)), hyp(("one", 0.5), ("too", 0.2))
    assert combined([unsure, sure], "avgconf").text == "one two"
    assert combined([hyp(("a", None)), hyp(("b", None)), hyp(("b", None))], "avgconf").text == "b"
    assert combined([hyp(("a", 0.1)), hyp()], "avgconf").text == "as it was"  # the vote leaves nothing


def test_a_session_that_the_model_cannot_serve_is_refused() -> None:
    bare = LiveModel(test_streaming.recognizer(), method="ctc")
    for options, reason in (({"punctuate": True}, "no head for punctuation"), ({"rover": ("none",)}, "none")):
        with pytest.raises(MayaError, match=reason):
            bare.open(cfg=writing(bare, **options))
