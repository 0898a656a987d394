"""Clients that send garbage, do not read, vanish or send too much harm nobody but themselves."""

import contextlib
import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
import httpx  # noqa: E402
from websockets.exceptions import WebSocketException  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from tests.serve.test_server import Running, config, expected_texts, int16, rest  # noqa: E402
from tests.serve.test_session import RATE, recording, wait_until  # noqa: E402

SOCKETS = ("/v1/stream", "/v1/realtime", "/v1/listen", "/vosk", "/sherpa", "/sherpa/offline")
TEXTS = (
    "", "{}", "[]", "null", "{", "Done", "\x00", '{"type": null}', '{"type": ["flush"]}', '{"eof": 1}',
    '{"config": 7}', '{"config": {"sample_rate": "fast"}}', '{"config": {"sample_rate": 1e400}}',
    '{"reset": 1}', '{"type": "flush", "marker": {"a": 1}}', '{"type": "session.update"}',
    '{"type": "session.update", "session": 5}', '{"type": "session.update", "session": {"audio": []}}',
    '{"type": "session.update", "session": {"audio": {"input": {"format": {"type": 3}}}}}',
    '{"type": "input_audio_buffer.append"}', '{"type": "input_audio_buffer.append", "audio": "AAA="}',
    '{"type": "input_audio_buffer.append", "audio": "AAAA"}', '{"type": "input_audio_buffer.commit"}',
    '{"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "../x"}}}}}',
    '{"type": "Finalize"}', '{"type": "CloseStream"}', '{"type": "end"}', "9" * 400, "[" * 2000,
)  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    server = Running(config(idle_seconds=5.0, upload_mb=2.0))
    yield server
    server.close()


def garbage(draw: random.Random) -> str | bytes:
    if draw.random() < 0.5:
        return draw.choice(TEXTS)
    size = draw.choice([0, 1, 2, 3, 4, 8, 100, 3200, 40_000])
    if draw.random() < 0.2:
        return struct.pack("<ii", draw.randrange(-(2**31), 2**31), draw.randrange(-(2**31), 2**31))
    return draw.randbytes(size)


def fuzz(running: Running, path: str, seconds: float, seed: int) -> int:
    """Random messages in short sessions; returns their number."""
    draw, end, count = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with (
            contextlib.suppress(WebSocketException, TimeoutError, OSError),
            connect(running.url(path)) as client,
        ):
            for _ in range(draw.randrange(1, 12)):
                client.send(garbage(draw))
                count += 1
                if draw.random() < 0.3:
                    client.recv(timeout=0.02)
            if draw.random() < 0.3:
                client.socket.shutdown(socket.SHUT_RDWR)
    return count


def honest(running: Running, messages: list[Any], samples: Any) -> None:
    with connect(running.url("/v1/stream")) as client:
        for begin in range(0, len(samples), 3200):
            client.send(samples[begin : begin + 3200].tobytes())
            time.sleep(0.01)
        client.send('{"type": "end"}')
        messages += rest(client)


def survives(running: Running, seconds: float) -> None:
    samples, messages = int16(recording(0)), []
    expected = expected_texts(running, samples)
    victim = threading.Thread(target=honest, args=(running, messages, samples))
    victim.start()
    for number, path in enumerate(SOCKETS):
        assert fuzz(running, path, seconds, number) > 5, path
    victim.join(60)
    assert [m["text"] for m in messages if m["type"] == "final"] == expected
    wait_until(lambda: not running.server.connections and not running.server.uploads)
    assert not running.server.model(None).engine.streams
    text = httpx.get(running.url("/metrics", "http")).text
    assert 'maya_errors_total{kind="session"}' not in text, "a bug was met: see the log"
    assert 'maya_sessions_active{protocol="deepgram"} 0.0' in text


def test_garbage(running: Running) -> None:
    survives(running, 0.7)


@pytest.mark.slow
def test_garbage_for_a_minute_each(running: Running) -> None:
    survives(running, 60.0)


def test_a_client_that_does_not_read_is_closed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maya.serve.protocols.connection._EVENTS", 5)
    monkeypatch.setattr("maya.serve.protocols.native.NativeDialect.write", lambda *_: ["x" * 10**6] * 20)
    with connect(running.url("/v1/stream"), max_queue=1, max_size=None) as client:
        client.socket.settimeout(2)
        with contextlib.suppress(WebSocketException, TimeoutError, OSError):
            for _ in range(50):
                client.send(int16(recording(0)).tobytes())
                time.sleep(0.05)
        wait_until(lambda: not running.server.connections)


def test_uploads_that_are_too_large(running: Running) -> None:
    post = running.url("/v1/audio/transcriptions", "http")
    header = b'--a\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n'

    def endless() -> Iterator[bytes]:
        yield header
        for _ in range(80):
            yield os.urandom(100_000)

    form = {"content-type": "multipart/form-data; boundary=a"}
    with contextlib.suppress(httpx.WriteError):  # the server may close before all is sent
        answer = httpx.post(post, content=endless(), headers=form, timeout=20)
        assert answer.status_code == 413
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n"
        )
        raw.settimeout(10)
        assert b" 413 " in raw.recv(1000).split(b"\r\n")[0]
    assert httpx.get(running.url("/health", "http")).status_code == 200


def test_no_name_from_a_client_reaches_the_file_system(running: Running) -> None:
    for name in ("/etc/passwd", "../../secret", "small/../../x", "http://127.0.0.1:1/", "file:///etc/passwd"):
        with connect(running.url(f"/v1/stream?model={name}")) as client:
            (error,) = rest(client)
        assert error["message"] == f"the model {name!r} does not exist; this server has small"
        data = {"model": name}
        answer = httpx.post(running.url("/v1/audio/transcriptions", "http"), data=data, files={"file": b"x"})
        assert answer.status_code == 404 and json.loads(answer.text)["error"]["code"] == "model_not_found"
    assert len(int16(recording(0))) > RATE
