"""The server over real sockets: its protocols, keys, limits and shutdown."""

import asyncio
import base64
import contextlib
import io
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.serve.test_session import QUIET, RATE, finals, model, recording, wait_until

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx")
import uvicorn  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from maya.audio.vad.config import VADConfig  # noqa: E402
from maya.decode.long.long_audio import LongAudioConfig  # noqa: E402
from maya.decode.transcription import TranscriptionConfig  # noqa: E402
from maya.serve.access import Access  # noqa: E402
from maya.serve.app import make_app  # noqa: E402
from maya.serve.config import EngineConfig  # noqa: E402
from maya.serve.journal import Journal  # noqa: E402
from maya.serve.server import Server, ServerConfig  # noqa: E402

KEY = "a-key-of-the-tests"


class Running:
    """A server on a free port of the loopback, in a thread."""

    def __init__(self, cfg: ServerConfig, access: Access | None = None, port: int = 0) -> None:
        self.live, self.journal = model("fastconformer"), io.StringIO()
        self.server = Server(
            {"small": self.live.recognizer}, cfg, access=access, journal=Journal(stream=self.journal)
        )
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(make_app(self.server), log_level="error", lifespan="off", ws_max_size=1 << 20)
        self.web = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.web.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        wait_until(lambda: self.web.started)

    def url(self, path: str, scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.web.should_exit = True
        self.thread.join()
        self.server.close()


def rest(client: Any) -> list[Any]:
    """All messages up to the close frame."""
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(json.loads(client.recv(timeout=20)))
    return messages


def config(**options: Any) -> ServerConfig:
    files = TranscriptionConfig(long_audio=LongAudioConfig(vad=VADConfig(detector="energy")))
    return ServerConfig(method="transducer", session=QUIET, transcription=files, **options)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    server = Running(config(idle_seconds=3.0, upload_mb=2.0))
    yield server
    server.close()


def int16(audio: np.ndarray) -> np.ndarray:
    return (audio.clip(-1, 1) * 32767).astype("<i2")


def texts(events: list[Any]) -> list[str]:
    return [event.text for event in finals(events)]


def expected_texts(running: Running, samples: np.ndarray, rate: int = RATE) -> list[str]:
    live = model("fastconformer", "transducer")
    session = live.open(cfg=QUIET)
    return texts(session.feed(samples, rate) + session.finish())


@pytest.mark.parametrize(("encoding", "rate"), [("s16", RATE), ("f32", 8000)])
def test_the_native_protocol(running: Running, encoding: str, rate: int) -> None:
    samples = int16(recording(0, rate))
    data = samples.tobytes() if encoding == "s16" else (samples / np.float32(32768)).astype("<f4").tobytes()
    messages = []
    with connect(running.url(f"/v1/stream?rate={rate}&encoding={encoding}&model=small")) as client:
        assert json.loads(client.recv())["type"] == "ready"
        for begin in range(0, len(data), 6400):
            client.send(data[begin : begin + 6400])
        client.send(json.dumps({"type": "flush", "marker": "m"}))
        client.send(json.dumps({"type": "end"}))
        messages = rest(client)
    assert client.close_code == 1000
    assert [m["text"] for m in messages if m["type"] == "final"] == expected_texts(running, samples, rate)
    kinds = [m["type"] for m in messages]
    assert kinds[-1] == "ended" and "flushed" in kinds and "partial" in kinds and "speech_started" in kinds
    assert messages[-1]["seconds"] == pytest.approx(len(samples) / rate, abs=0.01)


@pytest.mark.parametrize(("query", "sent", "code", "text"), [
    ("?encoding=mp3", None, 1008, "unknown encoding"), ("?rate=fast", None, 1008, "rate must be"),
    ("?model=other", None, 1008, "has small"), ("?language=xx", None, 1008, "does not know the language"),
    ("", b"odd", 1007, "ends within a sample"), ("", "{", 1007, "not JSON"),
    ("", "[1]", 1007, "not a JSON object"),
    ("", "[" * 60_000, 1007, "not JSON"), ("", '{"type": "dance"}', 1008, "unknown type"),
    ("", "x" * 70_000, 1009, "more than 65536"), ("?rate=1", b"\0\0", 1008, "out of range"),
    ("?encoding=f32", np.array([np.nan], "<f4").tobytes(), 1007, "not finite"),
    ("", None, 1008, "no message for 3 s"),
])  # fmt: skip
def test_what_the_native_protocol_refuses(
    running: Running, query: str, sent: Any, code: int, text: str
) -> None:
    with connect(running.url(f"/v1/stream{query}")) as client:
        if sent is not None:
            assert json.loads(client.recv())["type"] == "ready"
            client.send(sent)
        errors = [message for message in rest(client) if message["type"] == "error"]
    assert client.close_code == code and text in errors[0]["message"] and text in client.close_reason
    wait_until(lambda: not running.server.connections)


def test_a_client_that_vanishes_frees_its_slot(running: Running) -> None:
    with connect(running.url("/v1/stream")) as client:
        client.recv()
        client.send(bytes(64_000))
        wait_until(lambda: len(running.server.connections) == 1)
        client.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: not running.server.connections)
    assert not running.server.model(None).engine.streams


def test_vosk_keeps_lock_step(running: Running) -> None:
    samples = int16(recording(1, 8000))
    answers = []
    with connect(running.url("/vosk")) as client:
        for begin in range(0, len(samples), 1600):
            client.send(samples[begin : begin + 1600].tobytes())
            answers.append(json.loads(client.recv(timeout=20)))
        client.send('{"eof" : 1}')
        answers.append(json.loads(client.recv(timeout=20)))
    said = [answer["text"] for answer in answers if answer.get("text")]
    assert said == expected_texts(running, samples, 8000)
    words = [word for answer in answers for word in answer.get("result", ())]
    assert " ".join(word["word"] for word in words) == " ".join(said)
    assert all({"conf", "start", "end", "word"} == set(word) for word in words)
    assert any(answer.get("partial") for answer in answers)
    with connect(running.url("/vosk")) as client:
        client.send('{"config": {"sample_rate": 16000, "words": false, "model": "/etc/passwd"}}')
        client.send(int16(recording(1)).tobytes()[:1_000_000])
        first = json.loads(client.recv(timeout=20))
        client.send('{"reset": 1}')
        second = json.loads(client.recv(timeout=20))
        assert "result" not in first and "text" in second


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_the_openai_client(running: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=running.url("/v1", "http"), api_key="unused", max_retries=0)
    audio = recording(2)
    create = client.audio.transcriptions.create
    upload = ("a.wav", wav(audio))
    assert [m.id for m in client.models.list()] == ["small"] and client.models.retrieve("small").id == "small"
    answer = create(file=upload, model="small")
    assert answer.text and answer.usage.seconds == round(len(audio) / RATE)
    verbose = create(file=upload, model="whisper-1", response_format="verbose_json",
                     timestamp_granularities=["word", "segment"])  # fmt: skip
    assert verbose.text == answer.text and " ".join(w.word for w in verbose.words) == answer.text
    assert " ".join(s.text for s in verbose.segments) == answer.text
    assert create(file=upload, model="small", response_format="text").strip() == answer.text
    assert create(file=upload, model="small", response_format="vtt").startswith("WEBVTT")
    assert create(file=upload, model="small", response_format="srt").startswith("1\n00:")
    events = list(create(file=upload, model="small", stream=True))
    assert "".join(e.delta for e in events[:-1]) == events[-1].text == answer.text
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        create(file=upload, model="other")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc/passwd")
    for options in (
        {"language": "xx"}, {"response_format": "docx"},
        {"extra_body": {"timestamp_granularities[]": "year"}},
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            create(file=upload, model="small", **options)
        assert caught.value.param in ("language", "response_format", "timestamp_granularities")
    for data in (b"", b"not audio at all", wav(audio)[:40]):
        with pytest.raises(openai.BadRequestError) as caught:
            create(file=("a.wav", data), model="small")
        assert caught.value.param == "file"
    with pytest.raises(openai.APIStatusError, match="more than") as caught:
        create(file=("a.wav", bytes(4_000_000)), model="small")
    assert caught.value.status_code == 413


def test_requests_without_a_client(running: Running) -> None:
    base = running.url("", "http")
    assert httpx.get(f"{base}/health").json() == {"status": "ok"}
    assert httpx.get(f"{base}/ready").json() == {"ready": True}
    with connect(running.url("/v1/stream")) as client:
        client.send(bytes(32_000))
        client.send('{"type": "end"}')
        assert rest(client)[-1]["type"] == "ended"
    text = httpx.get(f"{base}/metrics").text
    assert "maya_step_seconds_count" in text and 'maya_audio_seconds_total{kind="live"}' in text
    post = f"{base}/v1/audio/transcriptions"
    assert httpx.post(post).json()["error"]["param"] == "file"
    assert httpx.post(post, data={"file": "text"}).status_code == 400
    assert httpx.post(post, content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400
    garbage = {"content-type": "multipart/form-data; boundary=a"}
    assert httpx.post(post, content=b"--a\r\n" + os.urandom(3000), headers=garbage).status_code == 400
    assert httpx.get(f"{base}/v1/nothing").status_code == 404
    answer = httpx.get(f"{base}/v1/models")
    assert len(answer.headers["x-request-id"]) == 32


def test_keys_origins_and_slots() -> None:
    server = Running(config(engine=EngineConfig(slots=1)), Access.of([KEY], ["https://friend.example"]))
    try:
        base, bearer = server.url("", "http"), {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{base}/v1/models").json()["error"]["type"] == "authentication_error"
        assert httpx.get(f"{base}/health").status_code == 200
        assert httpx.get(f"{base}/v1/models", headers=bearer).status_code == 200
        assert httpx.get(f"{base}/v1/models", headers={"Authorization": "Bearer no"}).status_code == 401
        url = server.url("/v1/stream")

        def status(headers: dict[str, str], path: str = "") -> int:
            try:
                with connect(url + path, additional_headers=headers) as client:
                    client.recv()
                    return 101
            except InvalidStatus as error:
                return error.response.status_code

        assert status({}) == 401
        assert status({}, f"?token={KEY}") == 101
        assert status(bearer | {"Origin": "https://evil.example"}) == 403
        assert status(bearer | {"Origin": "https://friend.example"}) == 101
        assert status(bearer | {"Origin": base}) == 101
        wait_until(lambda: not server.server.connections)
        subprotocols: Any = ["maya", f"maya-key.{KEY}"]
        with connect(url, subprotocols=subprotocols) as client:
            assert client.subprotocol == "maya" and json.loads(client.recv())["type"] == "ready"
            assert httpx.get(f"{base}/ready").status_code == 503
            with connect(url, additional_headers=bearer) as second:
                assert "slots are taken" in json.loads(second.recv())["message"]
                assert rest(second) == []
            assert second.close_code == 1013
    finally:
        server.close()


def test_the_journal_has_a_line_for_each_session_and_request() -> None:
    """And nothing that a client sent or heard: no key, no address, no text."""
    server = Running(config(), Access.of([KEY]))
    try:
        samples = int16(recording(0))
        said = expected_texts(server, samples)
        with connect(server.url(f"/v1/stream?token={KEY}&language=en")) as client:
            client.send(samples.tobytes())
            client.send('{"type": "end"}')
            rest(client)
        with connect(server.url(f"/vosk?token={KEY}")) as client:
            client.send("no JSON")
            rest(client)
        with pytest.raises(InvalidStatus):
            connect(server.url("/v1/stream?token=wrong-key"))
        post, files = (
            server.url("/v1/audio/transcriptions", "http"),
            {"file": ("secret.wav", wav(recording(0)))},
        )
        httpx.post(f"{post}?token={KEY}", files=files, data={"prompt": "secret"})
        httpx.post(post, files=files)
        httpx.get(server.url(f"/v1/models/secret?token={KEY}", "http"))
        wait_until(lambda: server.journal.getvalue().count("\n") == 6)
        lines = [json.loads(line) for line in server.journal.getvalue().splitlines()]
        assert [(x["kind"], x["code"]) for x in lines] == [
            ("session", 1000), ("session", 1007), ("refused", 401), ("request", 200), ("request", 401),
            ("request", 404),
        ]  # fmt: skip
        session, _, _, request, *_ = lines
        assert session["audio_seconds"] == pytest.approx(len(samples) / RATE, abs=1e-3)
        assert (session["protocol"], session["model"]) == ("native", "small")
        assert session["finals"] == len(said) and 0 < session["first_text_seconds"] < session["seconds"]
        assert 0 <= session["last_seconds"] <= session["seconds"]
        assert request["model"] == "small" and request["audio_seconds"] == session["audio_seconds"]
        assert len({line["id"] for line in lines}) == 6
        for word in (KEY, "wrong-key", "secret", "127.0.0.1", "token", *said):
            assert word not in server.journal.getvalue(), word
    finally:
        server.close()


def test_draining_gives_the_last_words() -> None:
    server = Running(config())
    try:
        samples = int16(recording(0))
        with connect(server.url("/v1/stream")) as client:
            client.recv()
            client.send(samples.tobytes())
            wait_until(lambda: sum(c.seconds for c in server.server.connections) == len(samples) / RATE)
            loop = next(iter(server.server.connections))._loop
            drained = asyncio.run_coroutine_threadsafe(server.server.drain(), loop)
            messages = rest(client)
            drained.result(20)
        assert client.close_code == 1012
        assert [m["text"] for m in messages if m["type"] == "final"] == expected_texts(server, samples)
        assert httpx.get(server.url("/ready", "http")).status_code == 503
        assert httpx.post(server.url("/v1/audio/transcriptions", "http")).status_code == 503
    finally:
        server.close()


def test_sherpa_clients(running: Running) -> None:
    samples = int16(recording(0))
    floats = (samples / np.float32(32768)).astype("<f4").tobytes()
    with connect(running.url("/sherpa")) as client:
        for begin in range(0, len(floats), 12_800):
            client.send(floats[begin : begin + 12_800])
        client.send("Done")
        answers = []
        while (message := client.recv(timeout=20)) != "Done!":
            answers.append(json.loads(message))
        assert rest(client) == []
    said = {answer["segment"]: answer["text"] for answer in answers if answer["is_final"]}
    assert list(said.values()) == expected_texts(running, samples)
    assert [answer["is_eof"] for answer in answers].count(True) == 1 and answers[-1]["is_eof"]
    with connect(running.url("/sherpa/offline")) as client:
        audio = struct.pack("<ii", RATE, len(floats)) + floats
        both = audio + audio
        for begin in range(0, len(both), 100_001):
            client.send(both[begin : begin + 100_001])
        first, second = (json.loads(client.recv(timeout=20)) for _ in range(2))
        assert first["text"] and first == second
        client.send("Done")
        assert rest(client) == []
    for header in ((RATE, -4), (RATE, 0), (RATE, 2**31 - 1), (0, 400), (RATE, 402)):
        with connect(running.url("/sherpa/offline")) as client:
            client.send(struct.pack("<ii", *header) + bytes(500))
            assert rest(client) == []
        assert client.close_code in (1007, 1008, 1009)


def test_the_realtime_client(running: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(
        base_url=running.url("/v1", "http"), websocket_base_url=running.url("/v1"), api_key="k"
    )
    samples = int16(recording(0, 24_000))
    expected, events = expected_texts(running, samples, 24_000), []
    with client.realtime.connect(model="small", extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        form = {"type": "audio/pcm", "rate": 24000}
        audio = {"input": {"format": form, "transcription": {"model": "small"},
                           "turn_detection": {"type": "server_vad"}}}  # fmt: skip
        connection.session.update(session={"type": "transcription", "audio": audio})
        assert connection.recv().type == "session.updated"
        connection.input_audio_buffer.append(audio="not base64")
        assert connection.recv().error.param == "audio"
        for begin in range(0, len(samples), 4800):
            data = base64.b64encode(samples[begin : begin + 4800].tobytes()).decode()
            connection.input_audio_buffer.append(audio=data)
        connection.input_audio_buffer.commit()
        done = "conversation.item.input_audio_transcription.completed"
        while sum(event.type == done for event in events) < len(expected):
            events.append(connection.recv())
    completed = [event for event in events if event.type == done]
    assert [event.transcript for event in completed] == expected
    kinds = {event.type for event in events}
    assert {"input_audio_buffer.speech_started", "input_audio_buffer.committed"} <= kinds
    for item in completed:
        deltas = [event.delta for event in events
                  if event.type.endswith(".delta") and event.item_id == item.item_id]  # fmt: skip
        assert "".join(deltas) == item.transcript
    chain = [(e.previous_item_id, e.item_id) for e in events if e.type == "input_audio_buffer.committed"]
    assert [previous for previous, _ in chain] == [None, *(item for _, item in chain)][: len(chain)]
    assert len({event.event_id for event in events}) == len(events)


@pytest.mark.parametrize(("law", "subtype"), [("pcmu", "ULAW"), ("pcma", "ALAW")])
def test_g711(law: str, subtype: str) -> None:
    from maya.serve.protocols.realtime import g711

    data = bytes(range(256))
    expected, _ = soundfile.read(io.BytesIO(data), dtype="int16", format="RAW", subtype=subtype,
                                 channels=1, samplerate=8000)  # fmt: skip
    assert g711(data, law).tolist() == expected.tolist()


def test_deepgram_clients(running: Running) -> None:
    samples, answers = int16(recording(0)), []
    query = "?sample_rate=16000&encoding=linear16&interim_results=true&vad_events=true&smart_format=true"
    with connect(running.url(f"/v1/listen{query}")) as client:
        client.send('{"type": "KeepAlive"}')
        half = len(samples) // 2
        client.send(samples[:half].tobytes())
        client.send('{"type": "Finalize"}')
        client.send(samples[half:].tobytes())
        client.send('{"type": "CloseStream"}')
        answers = rest(client)
    finals_told = [a for a in answers if a.get("is_final")]
    alternatives = [a["channel"]["alternatives"][0] for a in finals_told]
    assert any(a["from_finalize"] for a in finals_told) and finals_told[-1]["speech_final"]
    assert all(" ".join(w["word"] for w in a["words"]) == a["transcript"] for a in alternatives)
    assert {"SpeechStarted", "Results", "Metadata"} == {a["type"] for a in answers}
    assert answers[-1]["duration"] == pytest.approx(len(samples) / RATE, abs=0.01)
    with connect(running.url("/v1/listen?encoding=opus")) as client:
        assert rest(client) == []
    assert client.close_code == 1008
