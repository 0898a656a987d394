"""A WebSocket as Deepgram's clients speak it: `/v1/listen`.

Binary messages are PCM (`encoding=linear16`) or G.711 (`mulaw`, `alaw`). Texts are `{"type": "KeepAlive"}`,
`Finalize` (flush) and `CloseStream`. `endpointing` sets the silence that ends a segment, in milliseconds.
Options of the address that are not known are ignored, as clients send many of them.
"""

import json
import re
import uuid
from dataclasses import replace
from typing import Any

from maya.serve.config import SessionConfig
from maya.serve.events import Ended, Final, LiveEvent, Partial, SpeechStarted
from maya.serve.protocols.connection import Dialect, ProtocolError, pcm
from maya.serve.protocols.native import json_object
from maya.serve.protocols.realtime import G711_RATE, g711

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
                about = {"request_id": self.request_id, "duration": seconds, "channels": 1}
                return [json.dumps({"type": "Metadata"} | about)]
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
            alternative["words"] = [
                {"word": word.text, "punctuated_word": word.text, "start": word.start, "end": word.end,
                 "confidence": word.confidence or 0.0}
                | ({} if word.speaker is None else {"speaker": ord(word.speaker) - ord("A")})
                for word in event.words
            ]  # fmt: skip
        info = {"name": self.model_name, "version": "", "arch": ""}
        return about | {
            "type": "Results", "channel_index": [0, 1], "start": event.start, "duration": duration,
            "channel": {"alternatives": [alternative]},
            "metadata": {"request_id": self.request_id, "model_info": info, "model_uuid": self.model_name},
        }  # fmt: skip
