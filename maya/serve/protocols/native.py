"""Maya's own WebSocket protocol, `/v1/stream`.

The client opens `/v1/stream?model=NAME&language=hi&rate=16000&encoding=s16&partials=true` (all optional) and
sends binary messages of mono PCM, little-endian 16-bit integers (s16) or 32-bit floats (f32), of any length.
Text messages are JSON: `{"type": "flush", "marker": "7"}` asks for all that was said so far, `{"type":
"end"}` ends the audio. The server answers `ready` first, and then one message for each event, with its fields
and its `type`: speech_started, speech_ended, partial, final, flushed, ended, or error.
"""

import dataclasses
import json
import re
from typing import Any

from maya.serve.events import Failed, LiveEvent
from maya.serve.protocols.connection import Dialect, ProtocolError, pcm

ENCODINGS = ("s16", "f32")


class NativeDialect(Dialect):
    """See the module."""

    name = "native"
    subprotocols = ("maya",)

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
        self.connection.open(model, query.get("language") or None, cfg)
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
            case other:
                raise ProtocolError(f"unknown type {str(other)[:40]!r}; send flush or end", 1008)

    def write(self, event: LiveEvent) -> list[str]:
        if isinstance(event, Failed):
            return []  # `error` follows
        return [json.dumps(event.as_dict(), ensure_ascii=False)]

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
