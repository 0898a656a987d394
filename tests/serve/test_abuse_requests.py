"""Forms and bodies of garbage to every route that takes one: each is answered, and harms nobody else."""

import importlib.util
import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
import httpx  # noqa: E402
import soundfile  # noqa: E402

from maya.serve.speech.config import SpeechConfig  # noqa: E402
from tests.serve.test_abuse import TEXTS, honest  # noqa: E402
from tests.serve.test_server import Running, config, expected_texts, int16  # noqa: E402
from tests.serve.test_session import RATE, recording, wait_until  # noqa: E402

SPEAKS = importlib.util.find_spec("espeakng_loader") is not None
ROUTES = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/listen", "/v1/audio/speech")
FIELDS = (
    "model", "language", "response_format", "timestamp_granularities[]", "temperature", "stream", "prompt",
    "to", "include[]", "chunking_strategy", "known_speaker_names[]", "x" * 300, "\x00", "file",
)  # fmt: skip
VALUES = (
    *TEXTS[:8], "small", "../../etc/passwd", "http://127.0.0.1:1/", "json", "verbose_json", "srt", "vtt",
    "text", "diarized_json", "word", "segment", "true", "-1", "1e400", "NaN", "en", "hi", "auto", "\ud83d",
    "\u202e", "a" * 5000,
)  # fmt: skip
SPEECH = ("input", "voice", "model", "response_format", "speed", "stream_format", "instructions")
JSON_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e300, 10**400, float("nan"), [], {}, {"id": 5}, {"id": "../x"}, "mp3", "wav", "sse",
    "Hello.", "\x00", "", "espeak", "en", "x" * 3000, "\ud800",
)  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    speech = SpeechConfig(engines=("espeak",), waiting=2) if SPEAKS else SpeechConfig()
    server = Running(config(idle_seconds=5.0, upload_mb=2.0, speech=speech))
    yield server
    server.close()


def wav(draw: random.Random) -> bytes:
    """A recording, or one that was cut off or damaged."""
    file = io.BytesIO()
    soundfile.write(
        file, int16(recording(draw.randrange(3)))[: RATE * draw.randrange(1, 3)], RATE, format="WAV"
    )
    data = bytearray(file.getvalue())
    for _ in range(draw.choice([0, 0, 1, 20])):
        data[draw.randrange(60)] = draw.randrange(256)
    return bytes(data[: draw.choice([len(data), len(data), 44, 20, 0, draw.randrange(len(data))])])


def content(draw: random.Random) -> bytes:
    return wav(draw) if draw.random() < 0.5 else draw.randbytes(draw.choice([0, 1, 44, 3000, 40_000]))


def options_of(draw: random.Random, names: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    return {draw.choice(names): draw.choice(values) for _ in range(draw.randrange(5))}


def request_of(draw: random.Random, route: str) -> dict[str, Any]:
    """Arguments of httpx for one request."""
    if draw.random() < 0.15:  # not even a form or an object
        kinds = (
            "multipart/form-data",
            "multipart/form-data; boundary=a",
            "application/json",
            "audio/wav",
            "",
        )
        body = draw.choice([draw.randbytes(200), draw.choice(TEXTS).encode(), b"--a\r\n\r\n--a--\r\n"])
        return {"content": body, "headers": {"content-type": draw.choice(kinds)}}
    if route == "/v1/audio/speech":
        body = {"input": "Hello."} | options_of(draw, SPEECH, JSON_VALUES)
        return {"content": json.dumps(body).encode()}
    if route == "/v1/listen":
        query = {"model": "small"} | options_of(
            draw, ("model", "language", "encoding", "sample_rate", "x"), VALUES
        )
        if draw.random() < 0.2:
            return {
                "json": {"url": draw.choice(["http://127.0.0.1:1/", "file:///etc/passwd", 5])},
                "params": _sent(query),
            }
        return {"content": content(draw), "params": _sent(query)}
    own = {"file": (draw.choice(["a.wav", "../../x", "\u202e", ""]), content(draw))}
    fields = {"language": draw.choice(["en", "hi"])} | options_of(draw, FIELDS, VALUES)
    return {"data": _sent(fields), "files": own if draw.random() < 0.9 else {"x": b""}}


def _sent(fields: dict[str, Any]) -> dict[str, Any]:
    """What httpx can encode."""
    return {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()}


def fuzz(running: Running, route: str, seconds: float, seed: int) -> Counter[int]:
    """Requests one after another; the number of answers by status."""
    draw, end, statuses = random.Random(seed), time.monotonic() + seconds, Counter[int]()
    with httpx.Client(timeout=60) as client:
        while time.monotonic() < end or statuses.total() < 6:  # a busy machine answers few
            asked = request_of(draw, route)
            answer = client.post(running.url(route, "http"), **asked)
            statuses[answer.status_code] += 1
            assert answer.status_code in (200, 400, 404, 413, 415, 429), (route, asked, answer.text[:500])
            if answer.status_code != 200:
                assert answer.json(), (route, answer.text)
            assert "root:" not in answer.text
    return statuses


def survives(running: Running, seconds: float) -> None:
    samples, messages = int16(recording(0)), []
    expected = expected_texts(running, samples)
    victim = threading.Thread(target=honest, args=(running, messages, samples))
    victim.start()
    for number, route in enumerate(ROUTES):
        statuses = fuzz(running, route, seconds, number)
        print(route, dict(statuses))
        assert seconds < 30 or 200 in statuses, (route, statuses)
    victim.join(60)
    assert [m["text"] for m in messages if m["type"] == "final"] == expected
    wait_until(lambda: not running.server.connections and not running.server.uploads)
    assert not running.server.speech.requests


def test_garbage(running: Running) -> None:
    survives(running, 1.5)


@pytest.mark.slow
def test_garbage_for_a_minute_each(running: Running) -> None:
    survives(running, 60.0)
