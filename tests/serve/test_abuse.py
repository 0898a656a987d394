"""Clients that send garbage, do not read, vanish or send too much harm nobody but themselves."""

import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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


def killed(running: Running) -> None:
    """Processes that die in the middle of a message of audio."""
    program = (
        "import sys, time\nfrom websockets.sync.client import connect\n"
        "client = connect(sys.argv[1]).__enter__()\nprint('open', flush=True)\n"
        "while True:\n    client.send(bytes(6400)); time.sleep(0.02)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, running.url(path)], stdout=subprocess.PIPE)
        for path in ("/v1/stream", "/v1/listen")
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == b"open\n"
    time.sleep(0.3)
    for process in processes:
        process.kill()
        process.wait()


def half_open(running: Running) -> None:
    """Peers that are silent from some moment on: before, within and after the handshake."""
    request = (
        b"GET /v1/stream HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    peers = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(30)]
    for number, peer in enumerate(peers):
        peer.sendall((b"", request[:40], request, request + b"\x82\xfe\x10\x00")[number % 4])
    wait_until(lambda: len(running.server.connections) > 10)
    wait_until(lambda: len(running.server.connections) <= 1, 30)  # idle_seconds have passed
    for peer in peers:
        peer.close()


def wrong_rates(running: Running) -> None:
    for path, code in (
        ("/v1/stream?rate=7", 1008), ("/v1/stream?rate=999999", 1008), ("/v1/stream?rate=-1", 1008),
        ("/v1/listen?sample_rate=0", 1008), ("/v1/stream?encoding=s16&rate=1e4", 1008),
    ):  # fmt: skip
        with connect(running.url(path)) as client:
            with contextlib.suppress(WebSocketException):
                client.send(bytes(3200))
            rest(client)
        assert client.close_code == code, path


def gigabyte(running: Running) -> None:
    """An upload of 1 GB whose length is not told: the server reads no more than its limit."""
    sent = 0
    with socket.create_connection(("127.0.0.1", running.port)) as raw, contextlib.suppress(OSError):
        raw.settimeout(5)
        raw.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            b"content-type: multipart/form-data; boundary=a\r\n\r\n"
        )
        begin = b'--a\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n'
        raw.sendall(b"%x\r\n%s\r\n" % (len(begin), begin))
        while sent < 10**9:
            raw.sendall(b"%x\r\n%s\r\n" % (10**6, bytes(10**6)))
            sent += 10**6
    assert sent < 60 * 10**6, f"{sent} bytes were taken"


def slow_readers(running: Running) -> None:
    """Clients that send for seconds and read nothing, with the smallest buffers."""
    clients = []
    for _ in range(3):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", running.port))
        clients.append(connect(running.url("/v1/stream"), sock=raw, max_queue=1).__enter__())
    audio = int16(recording(1)).tobytes()
    for client in clients:
        client.socket.settimeout(2)
        with contextlib.suppress(WebSocketException, OSError):
            for begin in range(0, len(audio), 6400):
                client.send(audio[begin : begin + 6400])
    for client in clients:
        client.socket.close()


@pytest.mark.parametrize("abuse", [killed, half_open, wrong_rates, gigabyte, slow_readers])
def test_an_honest_client_beside(running: Running, abuse: Callable[[Running], None]) -> None:
    samples, messages = int16(recording(0)), []
    victim = threading.Thread(target=honest, args=(running, messages, samples))
    victim.start()
    abuse(running)
    victim.join(60)
    assert [m["text"] for m in messages if m["type"] == "final"] == expected_texts(running, samples)
    wait_until(lambda: not running.server.connections and not running.server.uploads)
    assert not running.server.model(None).engine.streams
    assert httpx.get(running.url("/ready", "http")).json() == {"ready": True}


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
