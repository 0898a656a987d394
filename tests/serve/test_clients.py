"""Programs that people have, or clients that do exactly what those programs do, get what they wait for.

The openai client is in test_server.py. Vosk's and sherpa-onnx's test programs are scripts and not packages,
so their steps are written here as their protocols describe them; tests/interop/test_clients.py runs the
programs themselves.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.serve.test_session import RATE, recording

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
from websockets.asyncio.client import connect as connect_async  # noqa: E402
from websockets.exceptions import InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from maya.serve.access import Access  # noqa: E402
from tests.serve.test_server import KEY, Running, config, expected_texts, int16, wav  # noqa: E402


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    server = Running(config(), Access.of([KEY]))
    yield server
    server.close()


def deepgram(running: Running, key: str = KEY) -> Any:
    package = pytest.importorskip("deepgram", reason="deepgram-sdk is not installed")
    environment = package.DeepgramClientEnvironment(
        base=running.url("", "http"), production=running.url(""), agent="ws://127.0.0.1:1",
        agent_rest="http://127.0.0.1:1",
    )  # fmt: skip
    return package.DeepgramClient(api_key=key, environment=environment)


def test_the_deepgram_client_live(running: Running) -> None:
    samples, results = int16(recording(0)), []
    options = {"model": "nova-3", "encoding": "linear16", "sample_rate": RATE, "interim_results": True,
               "vad_events": True}  # fmt: skip
    with deepgram(running).listen.v1.connect(**options) as session:
        session.send_keep_alive()
        for begin in range(0, len(samples), 3200):
            session.send_media(samples[begin : begin + 3200].tobytes())
        session.send_close_stream()
        for message in session:
            results.append(message)
    final = [m.channel.alternatives[0] for m in results if m.type == "Results" and m.is_final]
    assert [alternative.transcript for alternative in final] == expected_texts(running, samples)
    assert all(a.words[0].start <= a.words[-1].end and 0 <= a.confidence <= 1 for a in final)
    assert any(m.type == "Results" and not m.is_final for m in results)
    assert any(m.type == "SpeechStarted" for m in results)
    assert results[-1].type == "Metadata" and results[-1].duration == pytest.approx(
        len(samples) / RATE, abs=0.1
    )


def test_the_deepgram_client_with_a_recording(running: Running) -> None:
    client = deepgram(running)
    answer = client.listen.v1.media.transcribe_file(request=wav(recording(0)), model="nova-3", language="en")
    (alternative,) = answer.results.channels[0].alternatives
    assert alternative.transcript and alternative.transcript.split() == [w.word for w in alternative.words]
    assert answer.metadata.duration == pytest.approx(len(recording(0)) / RATE, abs=1e-3)
    from deepgram.core.api_error import ApiError

    media = client.listen.v1.media
    for call, status in (
        (lambda: media.transcribe_file(request=b"not audio"), 400),
        (lambda: media.transcribe_url(url="http://127.0.0.1:1/a.wav"), 400),
        (lambda: media.transcribe_file(request=wav(recording(0)), model="../x"), 400),
        (lambda: deepgram(running, "wrong-key").listen.v1.media.transcribe_file(request=b"x"), 401),
    ):
        with pytest.raises(ApiError) as caught:
            call()
        assert caught.value.status_code == status


def test_a_vosk_program(running: Running) -> None:
    """It sends 0.2 s, waits for the answer, and sends the next; a message without an answer would hang it."""
    samples, texts, partials = int16(recording(0)), [], []
    with connect(running.url(f"/vosk?token={KEY}")) as client:
        client.send('{ "config" : { "sample_rate" : 16000 } }')
        for begin in range(0, len(samples), 3200):
            client.send(samples[begin : begin + 3200].tobytes())
            answer = json.loads(client.recv(timeout=20))
            assert set(answer) in ({"partial"}, {"text"}, {"text", "result"})
            partials.append(answer.get("partial", ""))
            texts.append(answer.get("text", ""))
        client.send('{"eof" : 1}')
        texts.append(json.loads(client.recv(timeout=20))["text"])
    assert [text for text in texts if text] == expected_texts(running, samples) and any(partials)


def test_a_program_that_names_no_path() -> None:
    """It gets the protocol of the configuration, and the page is still at `/`."""
    running = Running(config(root="vosk"), Access.of([KEY]))
    try:
        with connect(running.url(f"?token={KEY}")) as client:
            client.send(bytes(3200))
            assert json.loads(client.recv(timeout=20)) == {"partial": ""}
        with pytest.raises(InvalidStatus), connect(running.url("")):
            pass
    finally:
        running.close()


@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_a_sherpa_onnx_program(running: Running, pause: float) -> None:
    """It reads in a task of its own until `Done!`, sends floats in pieces of 0.1 s, then `Done`."""
    samples = int16(recording(0))
    floats = (samples / np.float32(32768)).astype("<f4")

    async def talk() -> dict[int, str]:
        async with connect_async(running.url(f"/sherpa?token={KEY}")) as socket:
            texts: dict[int, str] = {}

            async def read() -> None:
                async for message in socket:
                    if message == "Done!":
                        return
                    answer = json.loads(message)
                    texts[answer["segment"]] = answer["text"]

            reader = asyncio.create_task(read())
            for begin in range(0, len(floats), 1600):
                await socket.send(floats[begin : begin + 1600].tobytes())
                await asyncio.sleep(pause)
            await socket.send("Done")
            await asyncio.wait_for(reader, 30)
            return texts

    texts = asyncio.run(talk())
    assert [text for _, text in sorted(texts.items()) if text] == expected_texts(running, samples)
