"""The WebSocket protocols of sherpa-onnx: `/sherpa` for live speech and `/sherpa/offline` for recordings.

Live: binary messages of 32-bit floats at the model's rate, and the text `Done` at the end. Each answer holds
the open segment; `is_final` closes it, `is_eof` comes with the last one, and the text `Done!` ends all.
Offline: 4 bytes with the rate and 4 with the number of bytes that follow, little-endian, then 32-bit floats
over any messages, any number of recordings one after another, and the text `Done`.
"""

import asyncio
import io
import json
import struct
from typing import Any

import numpy as np
import soundfile
from starlette.websockets import WebSocket

from maya.decode.hypothesis import Word
from maya.serve.events import Ended, Final, LiveEvent, Partial
from maya.serve.protocols.connection import Dialect, ProtocolError, accept, closed_after, pcm, receive, send
from maya.serve.server import Server
from maya.serve.session import RATES

_HEADER = struct.Struct("<ii")


class SherpaDialect(Dialect):
    """Live speech; see the module."""

    name = "sherpa"

    async def begin(self) -> None:
        query = self.socket.query_params
        model = self.connection.server.model(query.get("model"))
        self.rate = model.recognizer.sample_rate
        self.last: dict[str, Any] = _result(0, "", [], final=False)
        self.connection.open(model, query.get("language") or None)

    async def receive(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            await self.connection.feed(pcm(message, "f32"), self.rate)
        elif message.strip() == "Done":
            self.connection.finish()
        else:
            raise ProtocolError("unknown text; send 'Done' at the end of the audio", 1008)

    def write(self, event: LiveEvent) -> list[str]:
        match event:
            case Partial():
                answer = _result(event.segment, event.text, [], final=False)
            case Final():
                answer = _result(event.segment, event.text, event.words, final=True)
            case Ended():
                return [
                    json.dumps(self.last | {"is_final": True, "is_eof": True}, ensure_ascii=False),
                    "Done!",
                ]
            case _:
                return []
        self.last = answer
        return [json.dumps(answer, ensure_ascii=False)]


def _result(segment: int, text: str, words: list[Word], *, final: bool) -> dict[str, Any]:
    """The fields of sherpa-onnx. tokens and timestamps are those of words, which is what they are for."""
    times = [round(word.start, 2) for word in words if word.start is not None]
    return {
        "text": text, "tokens": [word.text for word in words], "timestamps": times, "ys_probs": [],
        "lm_probs": [], "context_scores": [], "segment": segment, "words": [],
        "start_time": times[0] if times else 0.0, "is_final": final, "is_eof": False,
    }  # fmt: skip


async def sherpa_offline(socket: WebSocket) -> None:
    """Recordings; see the module."""
    server: Server = socket.app.state.server
    await accept(socket, server)
    server.uploads += 1

    def release() -> None:
        server.uploads -= 1

    async with closed_after(socket, server, release):
        model = server.model(socket.query_params.get("model"))
        waiting = bytearray()
        while isinstance(message := await receive(socket, server), bytes):
            waiting += message
            while (recording := _recording(waiting, server)) is not None:
                samples, rate = recording
                data = await asyncio.to_thread(_wav, samples, rate)
                future = await asyncio.to_thread(model.offline.submit, data)
                transcript = await asyncio.wrap_future(future)
                hyp = transcript.hypothesis
                if transcript.error or hyp is None:
                    raise ProtocolError(transcript.error or "this model writes no text", 1008)
                answer = _result(0, hyp.text, hyp.words, final=True)
                await send(socket, json.dumps(answer, ensure_ascii=False))
        if waiting:
            raise ProtocolError("the last recording is not whole")


def _recording(waiting: bytearray, server: Server) -> tuple[np.ndarray, int] | None:
    """(samples, rate) of the first recording, which is taken off; None until all of it is there. Its length
    is checked before anything is kept for it."""
    if len(waiting) < _HEADER.size:
        return None
    rate, size = _HEADER.unpack_from(waiting)
    if not RATES[0] <= rate <= RATES[1]:
        raise ProtocolError(f"a rate of {rate} Hz is out of range", 1008)
    if not 0 < size <= server.cfg.upload_mb * 1e6:
        raise ProtocolError(f"a recording of {size} bytes; it takes 1 to {server.cfg.upload_mb:g} MB", 1009)
    if len(waiting) < (stop := _HEADER.size + size):
        return None
    samples = pcm(bytes(waiting[_HEADER.size : stop]), "f32")
    del waiting[:stop]
    return samples, rate


def _wav(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()
