"""The web application: which path is served by what, and what holds for all of them."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from maya.serve import metrics
from maya.serve.journal import new_id
from maya.serve.page.files import FILES, FOLDER, show_page
from maya.serve.protocols import openai
from maya.serve.protocols.connection import converse
from maya.serve.protocols.deepgram import DeepgramDialect, listen
from maya.serve.protocols.native import NativeDialect
from maya.serve.protocols.realtime import RealtimeDialect
from maya.serve.protocols.sherpa import SherpaDialect, sherpa_offline
from maya.serve.protocols.vosk import vosk
from maya.serve.server import RootProtocol, Server
from maya.serve.speech.endpoint import speech
from maya.serve.translation.endpoint import translations

# Bytes beyond the limit that are read before the refusal, so that most clients hear it; then the connection
# is closed.
_BEYOND = 16_000_000
OPEN_PATHS = ("/", "/health", "/ready")  # without a key, as the files of the page, which asks for it


def make_app(server: Server) -> Starlette:
    """The ASGI application of a server."""
    app = Starlette(
        routes=[
            Route("/", show_page),
            WebSocketRoute("/", PROTOCOLS[server.cfg.root]),
            Mount(FOLDER, FILES),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", show_metrics),
            Route("/v1/models", openai.list_models),
            Route("/v1/models/{name:path}", openai.show_model),
            Route("/v1/audio/transcriptions", openai.transcriptions, methods=["POST"]),
            Route("/v1/audio/translations", translations, methods=["POST"]),
            Route("/v1/audio/speech", speech, methods=["POST"]),
            WebSocketRoute("/v1/stream", native),
            WebSocketRoute("/v1/realtime", realtime),
            WebSocketRoute("/v1/listen", deepgram),
            Route("/v1/listen", listen, methods=["POST"]),
            WebSocketRoute("/vosk", vosk_socket),
            WebSocketRoute("/sherpa", sherpa),
            WebSocketRoute("/sherpa/offline", sherpa_recordings),
        ],
        middleware=[Middleware(Gate, server=server)],
    )
    app.state.server = server
    return app


async def health(_: Request) -> Response:
    """The process lives."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """A new session would be taken."""
    server: Server = request.app.state.server
    return JSONResponse({"ready": server.ready}, 200 if server.ready else 503)


async def show_metrics(request: Request) -> Response:
    """For Prometheus."""
    server: Server = request.app.state.server
    return Response(server.metrics.text(), media_type=metrics.CONTENT_TYPE)


async def native(socket: WebSocket) -> None:
    """Maya's own protocol."""
    await _quietly(converse(socket, socket.app.state.server, NativeDialect))


async def realtime(socket: WebSocket) -> None:
    """OpenAI's realtime transcription."""
    await _quietly(converse(socket, socket.app.state.server, RealtimeDialect))


async def deepgram(socket: WebSocket) -> None:
    """Deepgram's live protocol."""
    await _quietly(converse(socket, socket.app.state.server, DeepgramDialect))


async def sherpa(socket: WebSocket) -> None:
    """sherpa-onnx' live protocol."""
    await _quietly(converse(socket, socket.app.state.server, SherpaDialect))


async def sherpa_recordings(socket: WebSocket) -> None:
    """sherpa-onnx' protocol for recordings."""
    await _quietly(sherpa_offline(socket))


async def vosk_socket(socket: WebSocket) -> None:
    """Vosk's protocol."""
    await _quietly(vosk(socket))


# What a WebSocket at `/` speaks: many programs can name a host and a port and no path.
PROTOCOLS: dict[RootProtocol, Callable[[WebSocket], Awaitable[None]]] = {
    "maya": native, "vosk": vosk_socket, "sherpa": sherpa, "sherpa-offline": sherpa_recordings,
}  # fmt: skip


async def _quietly(conversation: Awaitable[None]) -> None:
    try:
        await conversation
    except WebSocketDisconnect:  # refused, or gone
        return


class Gate:
    """Before all HTTP requests: the key, the size of the body, a request id, and headers for safety."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        request_id, began, status = new_id(), time.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400 and request.method == "POST":  # or the rest of the body would be read
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                message["headers"] = [
                    *message["headers"], (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]  # fmt: skip
            await send(message)

        try:
            if refusal := self._refusal(request):
                if (length := request.headers.get("content-length", "")).isdigit():
                    await self._discard(receive, int(length))
                await refusal(scope, receive, send_with_headers)
            else:
                await self.app(scope, self._limited(receive), send_with_headers)
        finally:
            state, endpoint = scope.get("state", {}), scope.get("endpoint")
            self.server.journal.write(
                "request", id=request_id, code=status, seconds=time.monotonic() - began,
                endpoint=getattr(endpoint, "__name__", ""), model=state.get("model", ""),
                audio_seconds=state.get("audio_seconds", 0.0),
            )  # fmt: skip

    def _refusal(self, request: Request) -> Response | None:
        path = request.url.path
        open_path = path in OPEN_PATHS or path.startswith(f"{FOLDER}/")
        if not open_path and not self.server.access.allows(request.headers, request.query_params):
            self.server.metrics.rejected.labels("key").inc()
            return openai.error_response("the key is missing or wrong", 401, code="invalid_api_key")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._body_limit:
            return openai.error_response(f"the body has more than {self._body_limit} bytes", 413, "file")
        return None

    @property
    def _body_limit(self) -> int:
        return int(self.server.cfg.upload_mb * 1e6) + (1 << 20)

    def _limited(self, receive: Receive) -> Receive:
        """Bodies without a stated length are cut off at the limit, too, and those that do not come."""
        read, is_body = 0, True

        async def limited() -> Message:
            nonlocal read, is_body
            try:
                seconds = self.server.cfg.idle_seconds if is_body else None
                message = await asyncio.wait_for(receive(), seconds)
            except TimeoutError:
                raise HTTPException(408, "the body does not come") from None
            is_body = message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self._body_limit:
                await self._discard(receive, _BEYOND)
                raise HTTPException(413, f"the body has more than {self._body_limit} bytes")
            return message

        return limited

    async def _discard(self, receive: Receive, size: int) -> None:
        """Read the rest of a body that is refused, if it is `size` bytes and not too many."""
        waiting = size <= self._body_limit + _BEYOND
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.server.cfg.idle_seconds):
                while waiting and size > 0:
                    message = await receive()
                    size -= len(message.get("body", b""))
                    waiting = message.get("more_body", False)
