"""OpenAI's interface for speech: `POST /v1/audio/speech`."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from maya.errors import MayaError
from maya.serve.offline import Busy
from maya.serve.protocols.openai import error_response
from maya.serve.server import Server
from maya.serve.speech.engines import SpeechRequestError
from maya.serve.speech.formats import MEDIA_TYPES, RATE, SpeechEncoder
from maya.serve.speech.process import EngineFailed

_BODY = 1 << 17  # bytes; 4096 characters have 25 kB at most, escaped


async def speech(request: Request) -> Response:
    """The audio of a text, as it is spoken."""
    server: Server = request.app.state.server
    if server.draining:
        return error_response("the server is shutting down", 503)
    try:
        options = _options(await _body(request))
        engine = server.speech.choose(options.model)
        audio = server.speech.audio(engine, options.text, options.voice, options.speed)
        first = await anext(audio)  # what is wrong with a request shows before the answer begins
    except SpeechRequestError as error:
        return error_response(str(error), 404 if error.param == "model" else 400, error.param)
    except Busy as error:
        server.metrics.rejected.labels("busy").inc()
        return error_response(str(error), 429)
    except EngineFailed as error:
        server.metrics.errors.labels("speech").inc()
        return error_response(str(error), 500)
    if options.events:
        return StreamingResponse(_events(first, audio, options), media_type="text/event-stream")
    return StreamingResponse(_encoded(first, audio, options), media_type=MEDIA_TYPES[options.format])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    model: str | None
    text: str
    voice: str | None
    format: str
    speed: float
    events: bool


async def _body(request: Request) -> dict[str, Any]:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY:
            raise SpeechRequestError(f"the body has more than {_BODY} bytes", "input")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise SpeechRequestError("the body is not a JSON object", "input")
    return body


def _options(body: dict[str, Any]) -> _Options:
    """Raises SpeechRequestError for a field of a wrong type, and for an unknown format."""
    voice = body.get("voice")
    if isinstance(voice, dict):  # {"id": ...}, a voice of one's own
        voice = voice.get("id", "")
    texts = {"input": body.get("input"), "voice": voice, "model": body.get("model")}
    for name, value in texts.items():
        if not isinstance(value, str) and not (value is None and name != "input"):
            raise SpeechRequestError(f"{name} must be a text", name)
    name = body.get("response_format") or "mp3"
    if not isinstance(name, str) or name not in MEDIA_TYPES:
        formats = ", ".join(MEDIA_TYPES)
        raise SpeechRequestError(f"response_format must be one of {formats}", "response_format")
    speed = body.get("speed", 1.0)
    # The comparison is false for NaN, and takes integers that no float can hold.
    if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not -1e6 < speed < 1e6:
        raise SpeechRequestError("speed must be a number", "speed")
    stream = body.get("stream_format") or "audio"
    if stream not in ("audio", "sse"):
        raise SpeechRequestError("stream_format must be audio or sse", "stream_format")
    return _Options(
        model=texts["model"], text=str(texts["input"]), voice=voice, format=name, speed=float(speed),
        events=stream == "sse",
    )  # fmt: skip


async def _encoded(
    first: NDArray[np.int16], audio: AsyncIterator[NDArray[np.int16]], options: _Options
) -> AsyncIterator[bytes]:
    """The bytes of the file. An engine that fails in the middle cuts it off, which a client notices."""
    encoder = SpeechEncoder(options.format)
    yield encoder.push(first)
    async for samples in audio:
        yield encoder.push(samples)
    yield encoder.finish()


async def _events(
    first: NDArray[np.int16], audio: AsyncIterator[NDArray[np.int16]], options: _Options
) -> AsyncIterator[str]:
    count = 0

    async def counted() -> AsyncIterator[NDArray[np.int16]]:
        nonlocal count
        async for samples in audio:
            count += len(samples)
            yield samples

    try:
        async for data in _encoded(first, counted(), options):
            if data:
                yield _line({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
    except MayaError as error:
        yield _line({"error": {"message": str(error), "type": "server_error", "param": None, "code": None}})
        return
    seconds = round((count + len(first)) / RATE, 3)
    yield _line({"type": "speech.audio.done", "usage": {"type": "duration", "seconds": seconds}})


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
