"""The WebSocket protocol of vosk-server, `/vosk`: each binary message gets exactly one answer.

Audio is 16-bit PCM, at 8000 Hz unless the client says otherwise: `{"config": {"sample_rate": 16000, "words":
true}}`. `{"eof": 1}` gets the last words, `{"reset": 1}` those of the segment. As Vosk has no answer for two
segments at once, their texts are joined. The model is that of `?model=`, never a path from the client.
"""

import json
from typing import Any

from starlette.websockets import WebSocket

from maya.serve.events import Failed, Final, LiveEvent, Partial
from maya.serve.protocols.connection import (
    Connection,
    ProtocolError,
    accept,
    closed_after,
    pcm,
    receive,
    send,
)
from maya.serve.protocols.native import json_object
from maya.serve.server import Server
from maya.serve.session import RATES

DEFAULT_RATE = 8000


class _Vosk:
    def __init__(self, socket: WebSocket, server: Server) -> None:
        self.socket, self.server = socket, server
        self.connection = Connection(server, "vosk")
        self.rate, self.words, self.partial = DEFAULT_RATE, True, ""

    async def answer(self, message: str | bytes) -> str | None:
        """The answer to a message; none to a configuration."""
        if self.connection.stream is None and not self._configures(message):
            query = self.socket.query_params
            self.connection.open(self.server.model(query.get("model")), query.get("language") or None)
        if isinstance(message, bytes):
            await self.connection.feed(pcm(message, "s16"), self.rate)
            return self._told(await self.connection.computed())
        request = json_object(message)
        if isinstance(config := request.get("config"), dict):
            self._configure(config)
        if request.get("eof"):
            self.connection.finish()
            return self._told(await self.connection.computed(), last=True)
        if request.get("reset"):
            await self.connection.flush()
            return self._told(await self.connection.computed(), last=True)
        return None

    def _configures(self, message: str | bytes) -> bool:
        return isinstance(message, str) and "config" in json_object(message)

    def _configure(self, config: dict[str, Any]) -> None:
        rate = config.get("sample_rate", self.rate)
        if not isinstance(rate, (int, float)) or not RATES[0] <= rate <= RATES[1]:
            raise ProtocolError(f"sample_rate must be {RATES[0]} to {RATES[1]}", 1008)
        self.rate = int(rate)
        self.words = bool(config.get("words", self.words))

    def _told(self, events: list[LiveEvent], last: bool = False) -> str:
        finals = [event for event in events if isinstance(event, Final)]
        for event in events:
            if isinstance(event, Failed):
                raise ProtocolError(event.message, 1011)
            if isinstance(event, Final):
                self.partial = ""
            elif isinstance(event, Partial):
                self.partial = event.text
        if not finals and not last:
            return json.dumps({"partial": self.partial}, ensure_ascii=False)
        answer: dict[str, Any] = {}
        if words := [word for final in finals for word in final.words if self.words]:
            answer["result"] = [
                {"conf": 1.0 if w.confidence is None else w.confidence, "start": w.start, "end": w.end,
                 "word": w.text}
                for w in words
            ]  # fmt: skip
        return json.dumps(answer | {"text": " ".join(final.text for final in finals)}, ensure_ascii=False)


async def vosk(socket: WebSocket) -> None:
    """Serve a client of Vosk."""
    server: Server = socket.app.state.server
    await accept(socket, server)
    session = _Vosk(socket, server)
    connection = session.connection
    async with closed_after(socket, server, connection.close, about=connection.about):
        while not connection.finished:
            answer = await session.answer(await receive(socket, server))
            if answer is not None:
                await send(socket, answer)
