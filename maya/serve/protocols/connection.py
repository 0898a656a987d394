"""A WebSocket and its stream in the engine: the audio waits for the model, and the events for the client.

The event loop only moves bytes. The engine's thread hands the events over; a client that does not read them
is closed, and one that sends faster than the model computes is read more slowly, so TCP makes it wait.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from maya.errors import MayaError
from maya.serve.config import SessionConfig
from maya.serve.engine import Full, LiveStream
from maya.serve.events import Ended, Failed, Final, LiveEvent, Partial
from maya.serve.journal import new_id
from maya.serve.server import ServedModel, Server
from maya.serve.translation.live import LiveTranslation

log = logging.getLogger(__name__)
MAX_TEXT = 64 * 1024  # bytes of a text message
_EVENTS = 1000  # that wait for the client
_LAG_SECONDS = 2.0  # of audio that waits, from which on the socket is read more slowly
_FAREWELL_SECONDS = 5.0
CLOSE_REASON = 123  # bytes that a close frame holds


class ProtocolError(MayaError):
    """A message that the protocol does not allow. code: of the close frame."""

    def __init__(self, message: str, code: int = 1007) -> None:
        super().__init__(message)
        self.code = code


class Connection:
    """The stream of one WebSocket. Use `open` first, and `close` in the end, whatever happens."""

    def __init__(self, server: Server, protocol: str) -> None:
        self.server, self.protocol = server, protocol
        self.stream: LiveStream | None = None
        self.seconds = 0.0  # of audio received
        self.finished = False
        self.model = ""
        self.finals = 0
        self._began = time.monotonic()
        self._first: float | None = None  # when the first text came
        self._finishing: float | None = None  # when the client had sent all
        self._last: float | None = None  # seconds from then to the last event
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[list[LiveEvent]] = asyncio.Queue()
        self.translation: LiveTranslation | None = None

    def open(self, model: ServedModel, language: str | None = None, cfg: SessionConfig | None = None) -> None:
        """Take a slot. Raises Full, and MayaError for an unknown language."""
        self.stream = model.engine.open(self._listen, language, cfg or self.server.cfg.session)
        self.model = model.name
        self.server.metrics.active.labels(self.protocol).inc()
        self.server.connections.add(self)

    def close(self) -> None:
        """Free the slot."""
        if self.translation is not None:
            self.translation.close()
        if self.stream is not None:
            self.stream.abandon()
            self.stream = None
            self.server.connections.discard(self)
            self.server.metrics.active.labels(self.protocol).dec()

    def post(self, events: list[LiveEvent]) -> None:
        """Events that are not of the engine. Call it in the event loop."""
        self._events.put_nowait(events)

    def _listen(self, events: list[LiveEvent]) -> None:  # in the engine's thread
        self._loop.call_soon_threadsafe(self._take, events)

    def _take(self, events: list[LiveEvent]) -> None:
        events = events if self.translation is None else self.translation.filter(events)
        if events:
            self._events.put_nowait(events)

    async def feed(self, samples: np.ndarray, rate: int) -> None:
        """Samples to the model; waits while too many are there already. Raises ProtocolError for a client
        that does not read what it gets, and for a session that is too long."""
        stream = self._opened()
        if self.finished:
            return
        self.seconds += len(samples) / max(1, rate)
        if self.seconds > self.server.cfg.session_seconds:
            raise ProtocolError(f"a session takes {self.server.cfg.session_seconds:g} s at most", 1008)
        if self._events.qsize() > _EVENTS:
            raise ProtocolError("the events are not read fast enough", 1008)
        while not stream.closed and stream.backlog_seconds > _LAG_SECONDS:
            await asyncio.sleep(0.02)
        stream.feed(samples, rate)
        self.server.metrics.audio.labels("live").inc(len(samples) / rate)

    async def flush(self, marker: str = "") -> None:
        """See `LiveStream.flush`. Waits until all is computed, so that nobody can pile them up."""
        stream = self._opened()
        stream.flush(marker)
        while stream.busy and not stream.closed:
            await asyncio.sleep(0.005)

    def finish(self) -> None:
        """See `LiveStream.finish`."""
        if not self.finished:
            self.finished = True
            self._finishing = time.monotonic()
            self._opened().finish()

    def _opened(self) -> LiveStream:
        if self.stream is None:
            raise ProtocolError("no session was begun", 1008)
        return self.stream

    async def computed(self) -> list[LiveEvent]:
        """The events so far, once all whole blocks that were sent are computed."""
        stream = self._opened()
        while not stream.closed and stream.busy:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)  # what the engine has handed over arrives
        events: list[LiveEvent] = []
        while not self._events.empty():
            events += self._count(self._events.get_nowait())
        return events

    async def events(self) -> list[LiveEvent]:
        """The next events; waits for them."""
        return self._count(await self._events.get())

    def _count(self, events: list[LiveEvent]) -> list[LiveEvent]:
        for event in events:
            if self._first is None and isinstance(event, (Partial, Final)):
                self._first = time.monotonic()
            if isinstance(event, Final):
                self.finals += 1
                self.server.metrics.finals.labels(event.reason).inc()
            elif isinstance(event, Ended) and self._finishing is not None:
                self._last = time.monotonic() - self._finishing
            elif isinstance(event, Failed):
                self.server.metrics.errors.labels("step").inc()
        return events

    def about(self) -> dict[str, Any]:
        """What the journal says of it. first_text_seconds: from the beginning; last_seconds: from the end of
        the audio to the last event."""
        first = None if self._first is None else self._first - self._began
        return {
            "protocol": self.protocol, "model": self.model, "audio_seconds": self.seconds,
            "seconds": time.monotonic() - self._began, "finals": self.finals, "first_text_seconds": first,
            "last_seconds": self._last,
        }  # fmt: skip


def is_last(events: list[LiveEvent]) -> bool:
    """Whether a session ends with these events."""
    return bool(events) and isinstance(events[-1], (Ended, Failed))


class Dialect:
    """A protocol over WebSocket in which both sides speak when they like. One object serves one socket."""

    name = ""
    subprotocols: tuple[str, ...] = ()

    def __init__(self, socket: WebSocket, connection: Connection) -> None:
        self.socket, self.connection = socket, connection

    async def begin(self) -> None:
        """After the socket was accepted: open the stream, unless the client must say something before."""

    async def receive(self, message: str | bytes) -> None:
        """A message of the client. `connection.finish()` ends the session."""
        raise NotImplementedError

    def write(self, event: LiveEvent) -> Sequence[str | bytes]:
        """The messages that tell an event."""
        raise NotImplementedError

    def release(self) -> None:
        """The socket is done: free what the dialect holds."""

    def error(self, message: str) -> list[str]:
        """The messages that tell an error, before the socket is closed."""
        return []


async def converse(socket: WebSocket, server: Server, kind: type[Dialect]) -> None:
    """Serve a socket, which is not accepted yet, in a dialect."""
    await accept(socket, server, kind.subprotocols)
    connection = Connection(server, kind.name)
    dialect = kind(socket, connection)

    def release() -> None:
        dialect.release()
        connection.close()

    async with closed_after(socket, server, release, dialect.error, connection.about):
        await dialect.begin()
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(_read(dialect, server))
            await _write(dialect)
            reader.cancel()


@contextlib.asynccontextmanager
async def closed_after(
    socket: WebSocket, server: Server, release: Callable[[], None],
    tell: Callable[[str], list[str]] = lambda reason: [], about: Callable[[], dict[str, Any]] = dict,
) -> AsyncIterator[None]:  # fmt: skip
    """The life of an accepted socket. In the end `release` is called, and the socket closed as the error, if
    there is one, demands; see `closing` and `end`. about: for the journal."""
    error: Exception | None = None
    try:
        yield
    except ExceptionGroup as errors:
        error = errors.exceptions[0]
    except Exception as single:  # a bug too: the client must be told, and `closing` logs it
        error = single
    finally:
        release()
    code = await end(socket, server, error, tell)
    server.journal.write("session", id=new_id(), code=code, **about())


def closing(server: Server, error: BaseException) -> tuple[int, str]:
    """The code and the reason of the close frame after an error, which is counted, and logged if it is a
    bug."""
    if isinstance(error, Full):
        server.metrics.rejected.labels("full").inc()
        return 1013, str(error)
    if isinstance(error, MayaError):
        return getattr(error, "code", 1008), str(error)
    log.error("a session failed", exc_info=error)
    server.metrics.errors.labels("session").inc()
    return 1011, "the server failed; its log has the reason"


async def accept(socket: WebSocket, server: Server, subprotocols: Sequence[str] = ()) -> None:
    """Accept a socket. Who has no key, comes from another page or too late gets an HTTP status instead."""
    offered = socket.scope.get("subprotocols", [])
    if not server.access.allows_origin(socket.headers):
        await refuse(socket, server, 403, "origin")
    if not server.access.allows(socket.headers, socket.query_params, offered):
        await refuse(socket, server, 401, "key")
    if server.draining:
        await refuse(socket, server, 503, "draining")
    await socket.accept(next((name for name in subprotocols if name in offered), None))


async def refuse(socket: WebSocket, server: Server, status: int, reason: str) -> None:
    """Answer the handshake with an HTTP status. Raises WebSocketDisconnect."""
    server.metrics.rejected.labels(reason).inc()
    server.journal.write("refused", id=new_id(), code=status, reason=reason)
    await socket.send_denial_response(PlainTextResponse(f"{reason}\n", status))
    raise WebSocketDisconnect(1008)


async def end(
    socket: WebSocket, server: Server, error: BaseException | None, tell: Callable[[str], list[str]]
) -> int:
    """Close the socket, if the client is still there; after an error with the messages that tell it. Returns
    the code of the close frame, the client's own if it went first."""
    code, reason = 1012 if server.draining else 1000, ""
    if isinstance(error, WebSocketDisconnect):
        return error.code
    if error is not None:
        code, reason = closing(server, error)
    # A client that has gone, or reads nothing, gets no farewell.
    with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
        async with asyncio.timeout(_FAREWELL_SECONDS):
            for message in tell(reason) if reason else []:
                await socket.send_text(message)
            await socket.close(code, reason.encode()[:CLOSE_REASON].decode(errors="ignore"))
    return code


async def send(socket: WebSocket, message: str | bytes) -> None:
    """Send a text or bytes. Raises WebSocketDisconnect where the server has closed the socket meanwhile, as
    it does after a ping without an answer."""
    try:
        await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))
    except RuntimeError:
        raise WebSocketDisconnect(1006) from None


async def _read(dialect: Dialect, server: Server) -> None:
    while not dialect.connection.finished:
        await dialect.receive(await receive(dialect.socket, server))


async def _write(dialect: Dialect) -> None:
    events: list[LiveEvent] = []
    while not is_last(events):
        events = await dialect.connection.events()
        for event in events:
            for message in dialect.write(event):
                await send(dialect.socket, message)
    if isinstance(events[-1], Failed):
        raise ProtocolError(events[-1].message, 1011)


async def receive(socket: WebSocket, server: Server) -> str | bytes:
    """The next message. Raises WebSocketDisconnect, and ProtocolError after too long a silence and for a text
    that is too long."""
    try:
        message: Any = await asyncio.wait_for(socket.receive(), server.cfg.idle_seconds)
    except TimeoutError:
        raise ProtocolError(f"no message for {server.cfg.idle_seconds:g} s", 1008) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    if (text := message.get("text")) is not None:
        if len(text) > MAX_TEXT:
            raise ProtocolError(f"a text message has more than {MAX_TEXT} characters", 1009)
        return str(text)
    return bytes(message.get("bytes") or b"")


def pcm(data: bytes, encoding: str) -> np.ndarray:
    """Little-endian mono samples: "s16" or "f32". Raises ProtocolError for half a sample, and for numbers
    that are none."""
    size = {"s16": 2, "f32": 4}[encoding]
    if len(data) % size:
        raise ProtocolError(f"a message of {len(data)} bytes ends within a sample of {size} bytes")
    samples = np.frombuffer(data, "<i2" if encoding == "s16" else "<f4")
    if encoding == "f32" and not np.isfinite(samples).all():
        raise ProtocolError("a message holds samples that are not finite numbers")
    return samples
