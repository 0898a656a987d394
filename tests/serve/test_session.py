"""Sessions: any division of the same audio gives the same events, and a session among others is alone."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from maya.audio.load import resample
from maya.audio.vad.config import VADConfig
from maya.errors import MayaError
from maya.serve.config import EndpointConfig, SessionConfig
from maya.serve.engine import Engine, EngineConfig, Full
from maya.serve.events import Ended, Failed, Final, Flushed, LiveEvent, Partial, SpeechEnded, SpeechStarted
from maya.serve.session import LIVE_BUFFER, LiveModel
from tests.decode.test_buffered import speech
from tests.decode.test_stream_rows import BUFFER, RECOGNIZERS, noise

RATE = 16_000
QUIET = SessionConfig(
    endpoint=EndpointConfig(silence_seconds=0.3, settle_seconds=0.1, max_seconds=3.0),
    vad=VADConfig(detector="energy"),
)


def model(name: str, method: str = "auto") -> LiveModel:
    torch.manual_seed(1)
    return LiveModel(RECOGNIZERS[name](), method=method, buffer=BUFFER if name == "buffered" else None)


def recording(seed: int, rate: int = RATE) -> np.ndarray:
    """Tones and noise that begin and end: 2 to 4 bursts of 0.5 to 5 s between pauses of 0.6 to 1.5 s."""
    draw = random.Random(seed)
    parts = []
    for _ in range(draw.randrange(2, 5)):
        parts.append(1e-4 * noise(int(draw.uniform(0.6, 1.5) * rate), seed).numpy())
        tones = resample(speech(draw.randrange(1, 11) / 2), RATE, rate)
        parts.append((tones + 0.1 * noise(len(tones), seed + 100)).numpy())
    parts.append(np.zeros(int(draw.uniform(0, 1.5) * rate), np.float32))
    return np.concatenate(parts)


def in_pieces(audio: np.ndarray, seed: int, longest: int = 20_000) -> list[np.ndarray]:
    draw, at, pieces = random.Random(seed), 0, []
    while at < len(audio):
        size = draw.choice([1, 7, 160, 320, 3200, draw.randrange(1, longest)])
        pieces.append(audio[at : at + size])
        at += size
    return pieces


def whole(
    live: LiveModel, audio: np.ndarray, cfg: SessionConfig = QUIET, rate: int = RATE
) -> list[LiveEvent]:
    session = live.open(cfg=cfg)
    return session.feed(audio, rate) + session.finish()


def finals(events: list[LiveEvent]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


@pytest.mark.parametrize(("name", "method"), [
    ("fastconformer", "transducer"), ("fastconformer", "ctc"), ("zipformer", "transducer"), ("lact", "ctc"),
    ("buffered", "transducer"),
])  # fmt: skip
def test_any_division_gives_the_same_events(name: str, method: str) -> None:
    live = model(name, method)
    for seed, rate in ((0, RATE), (1, 44_100), (2, 8000)):
        audio = recording(seed, rate)
        expected = whole(live, audio, rate=rate)
        assert len(finals(expected)) >= (1 if name == "buffered" else 2)
        for division in range(3):
            session, events = live.open(cfg=QUIET), []
            for piece in in_pieces(audio, division):
                events += session.feed(piece, rate)
            assert events + session.finish() == expected


def test_short_pauses_end_segments_of_a_buffered_model() -> None:
    """Although the buffer would read them only when the next words have begun."""
    torch.manual_seed(1)
    live = LiveModel(RECOGNIZERS["buffered"](), method="transducer", buffer=LIVE_BUFFER)
    speech_parts = [
        resample(speech(2.0), RATE, RATE).numpy() + 0.1 * noise(2 * RATE, n).numpy() for n in range(3)
    ]
    pause = 1e-4 * noise(RATE * 9 // 10, 7).numpy()
    audio = np.concatenate([part for own in speech_parts for part in (pause, own)] + [pause])
    session, finals_at = live.open(cfg=QUIET), []
    for begin in range(0, len(audio), 1280):
        events = session.feed(audio[begin : begin + 1280], RATE)
        finals_at += [(session.seconds, event) for event in finals(events)]
    assert [event.reason for _, event in finals_at] == ["pause"] * 3
    before = 0.0
    for number, (seconds, event) in enumerate(finals_at):
        end = 2.9 + 2.9 * number  # of the speech
        assert before <= event.start < event.end <= seconds < end + 0.8
        before = event.end
    assert finals(session.finish()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fastconformer", "zipformer", "lact"])
def test_200_divisions_of_20_recordings(name: str) -> None:
    live, compared = model(name), 0
    for seed in range(20):
        rate = (RATE, 8000, 44_100, 48_000)[seed % 4]
        audio = recording(seed, rate)
        expected = whole(live, audio, rate=rate)
        for division in range(10):
            session, events = live.open(cfg=QUIET), []
            for piece in in_pieces(audio, 10 * seed + division, rate * 2):
                events += session.feed(piece, rate)
            assert events + session.finish() == expected, (seed, division)
        compared += len(finals(expected))
    assert compared > 40


def test_the_order_of_events() -> None:
    events = whole(model("fastconformer"), recording(0))
    assert isinstance(events[-1], Ended) and events[-1].seconds == len(recording(0)) / RATE
    assert {type(event) for event in events} == {SpeechStarted, SpeechEnded, Partial, Final, Ended}
    numbers = [event.segment for event in events if isinstance(event, (Partial, Final))]
    assert numbers == sorted(numbers)
    assert [event.segment for event in finals(events)] == list(range(len(finals(events))))
    before = ""
    for event in events:
        if isinstance(event, Partial):
            assert event.text.startswith(before) and event.text != before
            before = event.text[: event.stable]
        elif isinstance(event, Final):
            assert event.text.startswith(before) and event.start < event.end
            assert " ".join(word.text for word in event.words) == event.text
            before = ""
    times = [word.start for event in finals(events) for word in event.words if word.start is not None]
    assert times == sorted(times) and times[-1] < events[-1].seconds


def test_segments_are_one_stream_that_was_cut() -> None:
    """A long segment is cut between words, and no token is lost or changed by it."""
    live = model("fastconformer", "transducer")
    audio = noise(RATE * 12, 3).numpy().clip(-1, 1)
    cfg = SessionConfig(endpoint=EndpointConfig(max_seconds=2.0, trailing_seconds=1e3), vad=None)
    events = finals(whole(live, audio, cfg))
    stream = live.recognizer.stream(method="transducer")
    stream.accept(audio)
    text = stream.finish().text
    assert "".join(event.text for event in events).replace(" ", "") == text.replace(" ", "")


def test_noise_without_speech_gives_no_text() -> None:
    live = model("fastconformer")
    assert finals(whole(live, noise(RATE * 4, 3).numpy(), SessionConfig(vad=None)))
    loud = np.full(RATE * 4, 1e-5, np.float32) * noise(RATE * 4, 3).numpy()
    assert finals(whole(live, loud, SessionConfig(vad=None)))  # the features have no level
    events = whole(live, loud, QUIET)
    assert [type(event) for event in events] == [Ended]


def test_a_flush_gives_what_was_said() -> None:
    live, audio = model("fastconformer"), recording(0)
    session = live.open(cfg=QUIET)
    half = len(audio) // 2
    events = session.feed(audio[:half], RATE) + session.flush("a")
    assert isinstance(events[-1], Flushed) and events[-1].marker == "a" and isinstance(events[-2], Final)
    assert events[-2].reason == "flush" and events[-1].seconds == half / RATE
    rest = session.feed(audio[half:], RATE) + session.finish()
    assert all(
        word.start >= half / RATE - 0.01 for event in finals(rest) for word in event.words if word.start
    )
    for call in (lambda: session.feed(audio, RATE), session.flush, session.finish):
        with pytest.raises(MayaError, match="the session has ended"):
            call()


def test_wrong_audio_is_refused_and_the_session_goes_on() -> None:
    live, audio = model("fastconformer"), recording(0)
    session = live.open(cfg=QUIET)
    events = session.feed(audio[:9000], RATE)
    for samples, rate in (
        (np.zeros((2, 5), np.float32), RATE), (np.array([np.nan], np.float32), RATE),
        (np.zeros(10, np.int64), RATE), (audio, 0), (audio, 10**9),
    ):  # fmt: skip
        with pytest.raises(MayaError):
            session.feed(samples, rate)
    assert events + session.feed(audio[9000:], RATE) + session.finish() == whole(live, audio)


def test_nothing_at_all() -> None:
    session = model("fastconformer").open()
    assert session.feed(np.zeros(0, np.float32), RATE) == []
    assert session.finish() == [Ended(seconds=0.0)]


def similar(events: list[LiveEvent], expected: list[LiveEvent]) -> bool:
    """Equal but for confidences, which rounding moves in another batch."""

    def rounded(event: Any) -> Any:
        if not isinstance(event, Final):
            return event
        words = [(word.text, word.start, word.end) for word in event.words]
        return event.segment, event.text, event.start, event.end, event.reason, words

    return [rounded(event) for event in events] == [rounded(event) for event in expected]


@pytest.mark.parametrize(("name", "count"), [
    ("fastconformer", 12), ("zipformer", 12), ("lact", 12), ("buffered", 12),
    *(pytest.param(name, 64, marks=pytest.mark.slow) for name in ("fastconformer", "zipformer", "lact")),
])  # fmt: skip
def test_streams_in_an_engine_equal_themselves_alone(name: str, count: int) -> None:
    """More streams than slots of a batch; they begin when others end, and one of three is given up."""
    live = model(name)
    recordings = [recording(seed) for seed in range(count)]
    expected = [whole(live, audio) for audio in recordings]
    draw, got = random.Random(4), {number: [] for number in range(count)}
    batches: list[int] = []
    with Engine(
        live, EngineConfig(batch=5, backlog_seconds=1e6), observe=lambda n, _: batches.append(n)
    ) as engine:
        open_streams: dict[int, Any] = {}
        pieces: dict[int, list[np.ndarray]] = {}
        waiting = list(range(count))
        while waiting or open_streams:
            while waiting and len(open_streams) < 2 * count // 3:
                number = waiting.pop()
                open_streams[number] = engine.open(got[number].extend, cfg=QUIET)
                pieces[number] = in_pieces(recordings[number], number, 40_000)
            number = draw.choice(list(open_streams))
            if pieces[number]:
                open_streams[number].feed(pieces[number].pop(0), RATE)
            if number % 3 == 2 and len(pieces[number]) == 1:
                open_streams.pop(number).abandon()
            elif not pieces[number]:
                open_streams.pop(number).finish()
        wait_until(lambda: not engine.streams, 600)  # all of the audio waits already
    for number, events in got.items():
        if number % 3 == 2:
            assert similar(events, expected[number][: len(events)])
        else:
            assert similar(events, expected[number]), number
    assert max(batches) == 5


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_slots_and_limits() -> None:
    live = model("fastconformer")
    with Engine(live, EngineConfig(slots=2, backlog_seconds=2.0)) as engine:
        first, second = engine.open(print), engine.open(lambda _: None)
        with pytest.raises(Full, match="all 2 slots are taken"):
            engine.open(print)
        first.abandon()
        with pytest.raises(MayaError, match="the session has ended"):
            first.feed(np.zeros(10, np.float32), RATE)
        with pytest.raises(MayaError, match="does not know the language"):
            engine.open(print, "xx")
        third = engine.open(lambda _: None)
        with pytest.raises(MayaError, match="send slower"):
            for _ in range(200):
                third.feed(np.zeros(RATE * 100, np.float32), RATE)
        second.finish()
        wait_until(lambda: second not in engine.streams)
    with pytest.raises(Full, match="shutting down"):
        engine.open(print)


def test_a_failed_step_ends_its_sessions_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    live = model("fastconformer")
    step, got = live.step, []
    with Engine(live) as engine:
        bad = engine.open(got.extend, cfg=QUIET)
        monkeypatch.setattr(live, "step", lambda sessions: 1 / 0)
        bad.feed(np.zeros(RATE, np.float32), RATE)
        wait_until(lambda: not engine.streams)
        assert len(got) == 1 and isinstance(got[0], Failed)
        monkeypatch.setattr(live, "step", step)
        good, events = engine.open(lambda new: events.extend(new), cfg=QUIET), []
        good.feed(recording(0), RATE)
        good.finish()
        wait_until(lambda: not engine.streams)
    assert similar(events, whole(live, recording(0)))
