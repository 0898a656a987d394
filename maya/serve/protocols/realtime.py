"""OpenAI's realtime interface for transcription: `/v1/realtime?intent=transcription`.

Messages are JSON in both directions; audio comes as base64 of 16-bit PCM at 24 kHz, or of G.711. Each segment
is an item of the conversation. With `turn_detection` null, a client commits its turns itself. The older
dialect (`transcription_session.update`, fields at the top level) is understood too.
"""

import base64
import binascii
import json
import uuid
from typing import Any

import numpy as np

from maya.serve.events import Final, LiveEvent, Partial, SpeechEnded, SpeechStarted
from maya.serve.protocols.connection import Dialect, ProtocolError, pcm
from maya.serve.protocols.native import json_object

PCM_RATE, G711_RATE = 24_000, 8000  # Hz
_FORMATS = {"audio/pcm": "pcm", "pcm16": "pcm", "audio/pcmu": "pcmu", "g711_ulaw": "pcmu",
            "audio/pcma": "pcma", "g711_alaw": "pcma"}  # fmt: skip
_SHORTEST = 0.1  # seconds of a turn that may be committed


class RealtimeDialect(Dialect):
    """See the module."""

    name = "realtime"
    subprotocols = ("realtime",)

    async def begin(self) -> None:
        self.session_id = f"sess_{uuid.uuid4().hex}"
        self.format, self.rate, self.turns = "pcm", PCM_RATE, True
        self.model_name: str | None = self.socket.query_params.get("model")
        self.language: str | None = None
        self.item, self.sent_text = (
            _new_item(),
            "",
        )  # of the open segment: its item, and what of its text was sent
        self.previous: str | None = None
        self.turn_seconds = 0.0  # since the last commit
        await self._tell({"type": "session.created", "session": self._session()})

    async def _tell(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(self._text(message))

    def _text(self, message: dict[str, Any]) -> str:
        return json.dumps({"event_id": f"event_{uuid.uuid4().hex}"} | message, ensure_ascii=False)

    def _session(self) -> dict[str, Any]:
        names = {"pcm": "audio/pcm", "pcmu": "audio/pcmu", "pcma": "audio/pcma"}
        given = {"model": self.model_name or "", "language": self.language, "prompt": ""}
        source = {
            "format": {"type": names[self.format]} | ({"rate": self.rate} if self.format == "pcm" else {}),
            "transcription": given, "noise_reduction": None,
            "turn_detection": {"type": "server_vad"} if self.turns else None,
        }  # fmt: skip
        return {"id": self.session_id, "object": "realtime.session", "type": "transcription",
                "audio": {"input": source}}  # fmt: skip

    async def receive(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            raise ProtocolError("messages must be JSON texts", 1003)
        request = json_object(message)
        try:
            await self._do(request)
        except _Refused as error:
            details = {"type": "invalid_request_error", "code": error.code, "message": str(error),
                       "param": error.param, "event_id": request.get("event_id")}  # fmt: skip
            await self._tell({"type": "error", "error": details})

    async def _do(self, request: dict[str, Any]) -> None:
        match request.get("type"):
            case "session.update" | "transcription_session.update" as kind:
                self._update(_mapping(request.get("session", {}), "session"))
                answer = "session.updated" if kind == "session.update" else "transcription_session.updated"
                await self._tell({"type": answer, "session": self._session()})
            case "input_audio_buffer.append":
                await self._append(request.get("audio"))
            case "input_audio_buffer.commit":
                if self.turn_seconds < _SHORTEST:
                    raise _Refused("the buffer has less than 100 ms", "input_audio_buffer_commit_empty")
                self.turn_seconds = 0.0
                await self.connection.flush("commit")
            case "input_audio_buffer.clear":
                # What was appended has been recognised already; nothing of it will be sent.
                self.turn_seconds = 0.0
                await self._tell({"type": "input_audio_buffer.cleared"})
            case other:
                raise _Refused(f"unknown type {str(other)[:60]!r}", "unknown_event", "type")

    def _update(self, session: dict[str, Any]) -> None:
        source = session
        if "audio" in session:
            source = _mapping(_mapping(session["audio"], "audio").get("input", {}), "audio.input")
        form = source.get("format", session.get("input_audio_format"))
        if form is not None:
            name = form.get("type") if isinstance(form, dict) else form
            if name not in _FORMATS:
                raise _Refused(f"unknown format {str(name)[:40]!r}", "invalid_value", "format")
            rate = form.get("rate", PCM_RATE) if isinstance(form, dict) else PCM_RATE
            if not isinstance(rate, int) or not 8000 <= rate <= 48_000:
                raise _Refused("rate must be 8000 to 48000", "invalid_value", "format")
            self._must_be_new("format")
            self.format = _FORMATS[name]
            self.rate = rate if self.format == "pcm" else G711_RATE
        given = source.get("transcription", session.get("input_audio_transcription"))
        if given is not None:
            self._must_be_new("transcription")
            given = _mapping(given, "transcription")
            self.model_name = str(given["model"]) if given.get("model") else self.model_name
            self.language = str(given["language"]) if given.get("language") else None
        if "turn_detection" in source:
            self.turns = source["turn_detection"] is not None

    def _must_be_new(self, param: str) -> None:
        if self.connection.stream is not None:
            raise _Refused("this cannot change once audio was appended", "invalid_value", param)

    async def _append(self, audio: Any) -> None:
        try:
            data = base64.b64decode(str(audio), validate=True)
        except (binascii.Error, ValueError):
            raise _Refused("audio is not base64", "invalid_value", "audio") from None
        if self.connection.stream is None:
            self.connection.open(self.connection.server.model(self.model_name), self.language)
        samples = pcm(data, "s16") if self.format == "pcm" else g711(data, self.format)
        self.turn_seconds += len(samples) / self.rate
        await self.connection.feed(samples, self.rate)

    def write(self, event: LiveEvent) -> list[str]:
        match event:
            case SpeechStarted() | SpeechEnded() if not self.turns:
                return []
            case SpeechStarted(seconds=seconds):
                fields = {"audio_start_ms": round(1000 * seconds), "item_id": self.item}
                return [self._text({"type": "input_audio_buffer.speech_started"} | fields)]
            case SpeechEnded(seconds=seconds):
                fields = {"audio_end_ms": round(1000 * seconds), "item_id": self.item}
                return [self._text({"type": "input_audio_buffer.speech_stopped"} | fields)]
            case Partial():
                return self._delta(event.text[: event.stable])
            case Final():
                return self._final(event)
            case _:
                return []

    def _delta(self, text: str) -> list[str]:
        """What of the text of the open segment was not sent yet; only text that stays is sent."""
        if len(text) <= len(self.sent_text) or not text.startswith(self.sent_text):
            return []
        kind = "conversation.item.input_audio_transcription.delta"
        fields = {"item_id": self.item, "content_index": 0, "delta": text[len(self.sent_text) :]}
        self.sent_text = text
        return [self._text({"type": kind} | fields)]

    def _final(self, event: Final) -> list[str]:
        place = {"item_id": self.item, "previous_item_id": self.previous}
        content = [{"type": "input_audio", "transcript": None}]
        item = {"id": self.item, "type": "message", "role": "user", "status": "completed", "content": content}
        added = {"type": "conversation.item.added", "previous_item_id": self.previous, "item": item}
        usage = {"type": "duration", "seconds": round(event.end - event.start, 2)}
        kind = "conversation.item.input_audio_transcription.completed"
        done = {"item_id": self.item, "content_index": 0, "transcript": event.text, "usage": usage}
        messages = [self._text({"type": "input_audio_buffer.committed"} | place), self._text(added)]
        messages += [*self._delta(event.text), self._text({"type": kind} | done)]
        self.previous, self.item, self.sent_text = self.item, _new_item(), ""
        return messages

    def error(self, message: str) -> list[str]:
        details = {"type": "server_error", "code": None, "message": message, "param": None, "event_id": None}
        return [self._text({"type": "error", "error": details})]


def _new_item() -> str:
    return f"item_{uuid.uuid4().hex[:20]}"


class _Refused(Exception):
    """A message that is refused; the session goes on."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Refused(f"{name} must be an object", "invalid_value", name)
    return value


def g711(data: bytes, law: str) -> np.ndarray:
    """(n,) int16 of G.711 bytes, "pcmu" (μ-law) or "pcma" (A-law); ITU-T G.711."""
    code: Any = np.frombuffer(data, np.uint8)
    if law == "pcmu":
        code = ~code
        magnitude = ((((code & 0x0F).astype(np.int32) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
        return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)
    code = code ^ 0x55
    exponent, mantissa = (code & 0x70).astype(np.int32) >> 4, (code & 0x0F).astype(np.int32) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
