"""Deepgram's interface, `/v1/listen`: a WebSocket for live speech, and POST for a recording.

Binary messages are PCM (`encoding=linear16`) or G.711 (`mulaw`, `alaw`). Texts are `{"type": "KeepAlive"}`,
`Finalize` (flush) and `CloseStream`. `endpointing` sets the silence that ends a segment, in milliseconds.
Options of the address that are not known are ignored, as clients send many of them. A recording is the body
itself; the form in which a client names an address to fetch is refused.
"""

import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from maya.decode.hypothesis import Word
from maya.errors import MayaError
from maya.serve.config import SessionConfig
from maya.serve.events import Ended, Final, LiveEvent, Partial, SpeechStarted
from maya.serve.offline import Busy
from maya.serve.protocols.connection import Dialect, ProtocolError, pcm
from maya.serve.protocols.native import json_object
from maya.serve.protocols.openai import RETRY_SECONDS, transcribe
from maya.serve.protocols.realtime import G711_RATE, g711
from maya.serve.server import Server

_ENCODINGS = {"linear16": "s16", "mulaw": "pcmu", "alaw": "pcma"}


class DeepgramDialect(Dialect):
    """See the module."""

    name = "deepgram"
    subprotocols = ("token", "bearer")

    async def begin(self) -> None:
        query, server = self.socket.query_params, self.connection.server
        encoding = query.get("encoding", "linear16")
        if encoding not in _ENCODINGS or query.get("channels", "1") != "1":
            raise ProtocolError("send one channel as linear16, mulaw or alaw", 1008)
        self.encoding = _ENCODINGS[encoding]
        self.rate = self._number("sample_rate", 16_000 if self.encoding == "s16" else G711_RATE)
        model = server.model(query.get("model"))
        session = replace(server.cfg.session, partials=query.get("interim_results") == "true")
        self.connection.open(model, query.get("language") or None, self._with_endpointing(session))
        self.vad_events = query.get("vad_events") == "true"
        self.request_id, self.model_name, self.flushing = str(uuid.uuid4()), model.name, False

    def _number(self, name: str, default: int) -> int:
        text = self.socket.query_params.get(name, str(default))
        if not re.fullmatch("[0-9]{1,6}", text):
            raise ProtocolError(f"{name} must be a number", 1008)
        return int(text)

    def _with_endpointing(self, session: SessionConfig) -> SessionConfig:
        if not re.fullmatch("[1-9][0-9]{0,4}", self.socket.query_params.get("endpointing", "")):
            return session
        silence = self._number("endpointing", 300) / 1000
        return replace(session, endpoint=replace(session.endpoint, silence_seconds=silence))

    async def receive(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            if not message:  # of older clients, at the end
                self.connection.finish()
                return
            samples = pcm(message, "s16") if self.encoding == "s16" else g711(message, self.encoding)
            await self.connection.feed(samples, self.rate)
            return
        match json_object(message).get("type"):
            case "KeepAlive":
                return
            case "Finalize":
                self.flushing = True
                await self.connection.flush("finalize")
            case "CloseStream":
                self.connection.finish()
            case other:
                raise ProtocolError(f"unknown type {str(other)[:40]!r}", 1008)

    def write(self, event: LiveEvent) -> list[str]:
        match event:
            case SpeechStarted(seconds=seconds) if self.vad_events:
                return [json.dumps({"type": "SpeechStarted", "channel": [0, 1], "timestamp": seconds})]
            case Partial() | Final():
                return [json.dumps(self._results(event), ensure_ascii=False)]
            case Ended(seconds=seconds):
                return [json.dumps({"type": "Metadata"} | _metadata(self.request_id, seconds))]
            case _:
                return []

    def _results(self, event: Partial | Final) -> dict[str, Any]:
        alternative: dict[str, Any] = {"transcript": event.text, "confidence": 0.0, "words": []}
        about: dict[str, Any] = {"is_final": False, "speech_final": False, "from_finalize": False}
        duration = 0.0
        if isinstance(event, Final):
            duration, by_flush = event.end - event.start, event.reason == "flush" and self.flushing
            about = {"is_final": True, "speech_final": event.reason != "length", "from_finalize": by_flush}
            alternative["confidence"] = event.confidence or 0.0
            alternative["words"] = _words(event.words)
        info = {"name": self.model_name, "version": "", "arch": ""}
        return about | {
            "type": "Results", "channel_index": [0, 1], "start": event.start, "duration": duration,
            "channel": {"alternatives": [alternative]},
            "metadata": {"request_id": self.request_id, "model_info": info, "model_uuid": self.model_name},
        }  # fmt: skip


def _words(words: list[Word]) -> list[dict[str, Any]]:
    return [
        {"word": word.text, "punctuated_word": word.text, "start": word.start, "end": word.end,
         "confidence": word.confidence or 0.0}
        | ({} if word.speaker is None else {"speaker": ord(word.speaker) - ord("A")})
        for word in words
    ]  # fmt: skip


def _metadata(request_id: str, seconds: float) -> dict[str, Any]:
    return {
        "request_id": request_id, "created": datetime.now(UTC).isoformat(), "duration": seconds,
        "channels": 1, "transaction_key": "", "sha256": "",
    }  # fmt: skip


async def listen(request: Request) -> Response:
    """`POST /v1/listen`: the bytes of an audio file."""
    server: Server = request.app.state.server
    status, headers = 400, {"Retry-After": RETRY_SECONDS}
    server.uploads += 1
    try:
        if server.draining:
            status = 503
            raise MayaError("the server is shutting down")
        if request.headers.get("content-type", "").startswith("application/json"):
            raise MayaError("send the audio itself; addresses are not fetched")
        model = server.model(request.query_params.get("model"))
        data, limit = bytearray(), int(server.cfg.upload_mb * 1e6)
        async for part in request.stream():
            data += part
            if len(data) > limit:
                status = 413
                raise MayaError(f"the file has more than {server.cfg.upload_mb:g} MB")
        language = request.query_params.get("language") or None
        transcript, hyp = await transcribe(request, model, bytes(data), language)
    except HTTPException as error:  # of the gate
        return _failure(error.detail, error.status_code, None)
    except MayaError as error:
        status = 429 if isinstance(error, Busy) else status
        return _failure(str(error), status, headers if status in (429, 503) else None)
    finally:
        server.uploads -= 1
    sure = [word.confidence for word in hyp.words if word.confidence is not None]
    confidence = sum(sure) / len(sure) if sure else 0.0
    alternative = {"transcript": hyp.text, "confidence": confidence, "words": _words(hyp.words)}
    about = _metadata(str(uuid.uuid4()), transcript.seconds)
    about |= {
        "models": [model.name],
        "model_info": {model.name: {"name": model.name, "version": "", "arch": ""}},
    }
    return JSONResponse({"metadata": about, "results": {"channels": [{"alternatives": [alternative]}]}})


def _failure(message: str, status: int, headers: dict[str, str] | None) -> Response:
    """An error as Deepgram's clients understand it."""
    return JSONResponse({"err_code": f"HTTP_{status}", "err_msg": message}, status, headers)
