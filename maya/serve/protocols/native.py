"""Maya's own WebSocket protocol, `/v1/stream`.

The client opens `/v1/stream?model=NAME&language=hi&rate=16000&encoding=s16&partials=true` (all optional; also
`speakers=false` and `translate_to=en`) and
sends binary messages of mono PCM, little-endian 16-bit integers (s16) or 32-bit floats (f32), of any length.
Text messages are JSON: `{"type": "flush", "marker": "7"}` asks for all that was said so far, `{"type":
"end"}` ends the audio, `{"type": "say", "id": "1", "text": "Good morning."}` speaks a text, and `{"type":
"stop"}` silences it. The server answers `ready` first, and then one message for each event, with its fields
and its `type`: speech_started, speech_ended, partial, final, flushed, ended, or error. The
audio that is spoken comes as binary messages between say_started and say_ended: mono, s16, at the rate of
say_started. It ends when the voice detector hears the user.
"""

import dataclasses
import json
import re
from types import NoneType
from typing import Any

from starlette.websockets import WebSocket

from maya.errors import MayaError
from maya.serve.events import Ended, Failed, LiveEvent, SayAudio, SayEnded, SayStarted, SpeechStarted
from maya.serve.protocols.connection import Connection, Dialect, ProtocolError, pcm
from maya.serve.server import only_language
from maya.serve.speech.live import LiveSpeech
from maya.serve.translation.live import LiveTranslation

ENCODINGS = ("s16", "f32")


class NativeDialect(Dialect):
    """See the module."""

    name = "native"
    subprotocols = ("maya",)

    def __init__(self, socket: WebSocket, connection: Connection) -> None:
        super().__init__(socket, connection)
        self.speech = LiveSpeech(connection.server.speech, connection.post)

    async def begin(self) -> None:
        query, server = self.socket.query_params, self.connection.server
        self.encoding = query.get("encoding", "s16")
        if self.encoding not in ENCODINGS:
            raise ProtocolError(
                f"unknown encoding {self.encoding[:40]!r}; send {' or '.join(ENCODINGS)}", 1008
            )
        model = server.model(query.get("model"))
        rate = query.get("rate", str(model.recognizer.sample_rate))
        if not re.fullmatch("[0-9]{1,6}", rate):
            raise ProtocolError(f"rate must be a number of Hz, not {rate[:40]!r}", 1008)
        self.rate = int(rate)
        cfg = dataclasses.replace(server.cfg.session, partials=query.get("partials", "true") != "false")
        if query.get("speakers") == "false":
            cfg.speakers = None
        language = query.get("language") or None
        if target := query.get("translate_to"):
            source = language or only_language(model)
            if source is None:
                raise ProtocolError("translate_to needs language", 1008)
            self.connection.translation = LiveTranslation(
                server.translation, source, target, self.connection.post
            )
        self.connection.open(model, language, cfg)
        ready = {"type": "ready", "model": model.name, "rate": self.rate, "encoding": self.encoding}
        await self.socket.send_text(json.dumps(ready))

    async def receive(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            await self.connection.feed(pcm(message, self.encoding), self.rate)
            return
        request = json_object(message)
        match request.get("type"):
            case "end":
                self.connection.finish()
            case "flush":
                await self.connection.flush(str(request.get("marker", ""))[:200])
            case "say":
                self._say(request)
            case "stop":
                self.connection.post(self.speech.stop("stop"))
            case other:
                raise ProtocolError(f"unknown type {str(other)[:40]!r}; send flush, say, stop or end", 1008)

    def _say(self, request: dict[str, Any]) -> None:
        """Speak a text. What is wrong with it is told by say_ended; the session goes on."""
        text, voice, model, speed = (request.get(name) for name in ("text", "voice", "model", "speed"))
        id = str(request.get("id", ""))[:200]
        try:
            if not isinstance(text, str) or not isinstance(voice, (str, NoneType)):
                raise MayaError("say needs a text, and takes voice, model and speed")
            speed = 1.0 if speed is None else float(speed)
            model = None if model is None else str(model)
            self.speech.say(text, id=id, model=model, voice=voice, speed=speed)
        except (MayaError, TypeError, ValueError, OverflowError) as error:
            self.connection.post([SayEnded(id=id, reason="error", message=str(error)[:300])])

    def write(self, event: LiveEvent) -> list[str | bytes]:
        if isinstance(event, Failed):
            return []  # `error` follows
        if isinstance(event, (SayStarted, SayAudio)) and event.turn != self.speech.turn:
            return []  # silenced before it could be sent
        if isinstance(event, SayAudio):
            return [event.pcm]
        stopped: list[LiveEvent] = []
        if isinstance(event, SpeechStarted):
            stopped = self.speech.stop("barge_in")
        elif isinstance(event, Ended):
            stopped = self.speech.stop("session")
        events = [*stopped, event] if isinstance(event, Ended) else [event, *stopped]
        return [json.dumps(own.as_dict(), ensure_ascii=False) for own in events]

    def release(self) -> None:
        self.speech.stop("session")

    def error(self, message: str) -> list[str]:
        return [json.dumps({"type": "error", "message": message}, ensure_ascii=False)]


def json_object(text: str) -> dict[str, Any]:
    """A JSON object of a client. Raises ProtocolError for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("a text message is not JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError("a text message is not a JSON object")
    return value
