"""OpenAI's interface for whole recordings: `POST /v1/audio/transcriptions` and `GET /v1/models`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from maya.align.formats.base import FormatConfig
from maya.align.formats.table import FORMATS
from maya.align.speakers.words import with_speakers
from maya.audio.blocks import audio_blocks
from maya.decode.hypothesis import Hypothesis
from maya.decode.transcription import Transcript
from maya.errors import MayaError
from maya.serve.offline import Busy
from maya.serve.server import ServedModel, Server, UnknownModel

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
RETRY_SECONDS = "1"


class BadRequest(MayaError):
    """A request that cannot be served. param: the field at fault; status: of HTTP."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.status = param, status


def error_response(message: str, status: int, param: str | None = None, code: str | None = None) -> Response:
    """An error as OpenAI's clients understand it."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    headers = {"Retry-After": RETRY_SECONDS} if status in (429, 503) else None
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, headers)


async def list_models(request: Request) -> Response:
    """`GET /v1/models`."""
    server: Server = request.app.state.server
    return JSONResponse({"object": "list", "data": [_model(model) for model in server.models.values()]})


async def show_model(request: Request) -> Response:
    """`GET /v1/models/NAME`."""
    server: Server = request.app.state.server
    name = request.path_params["name"]
    if name not in server.models:
        return error_response(f"the model {name!r} does not exist", 404, "model", "model_not_found")
    return JSONResponse(_model(server.models[name]))


def _model(model: ServedModel) -> dict[str, Any]:
    recognizer = model.recognizer
    return {
        "id": model.name, "object": "model", "created": model.created, "owned_by": "maya",
        "languages": list(recognizer.model.cfg.languages), "sample_rate": recognizer.sample_rate,
    }  # fmt: skip


async def transcriptions(request: Request) -> Response:
    """`POST /v1/audio/transcriptions`."""
    return await answer_form(request, _transcriptions)


async def answer_form(
    request: Request, work: "Callable[[Request, FormData, FormOptions], Awaitable[Response]]"
) -> Response:
    """Read a form with a file, and answer what is wrong as OpenAI's clients understand it."""
    server: Server = request.app.state.server
    if server.draining:
        return error_response("the server is shutting down", 503)
    server.uploads += 1
    try:
        async with request.form(max_files=1, max_fields=64, max_part_size=64 * 1024) as form:
            return await work(request, form, FormOptions(form))
    except BadRequest as error:
        return error_response(str(error), error.status, error.param)
    except UnknownModel as error:
        return error_response(str(error), 404, "model", "model_not_found")
    except Busy as error:
        server.metrics.rejected.labels("busy").inc()
        return error_response(str(error), 429)
    except MayaError as error:
        return error_response(str(error), 400, "file")
    except HTTPException as error:  # of the form's parser
        return error_response(error.detail, error.status_code)
    finally:
        server.uploads -= 1


async def _transcriptions(request: Request, form: FormData, options: "FormOptions") -> Response:
    model, data, transcript, hyp = await recognise(request, form, options)
    if options.format == "diarized_json":
        transcript = await _diarized(request.app.state.server, model, transcript, data)
    return transcript_response(transcript, hyp, options)


async def recognise(
    request: Request, form: FormData, options: "FormOptions"
) -> tuple[ServedModel, bytes, Transcript, Hypothesis]:
    """The model of a form, its file, and the transcript with its text."""
    server: Server = request.app.state.server
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise BadRequest("the form has no file", "file")
    model = server.model(options.text("model"))
    try:
        language = model.recognizer.model_language(options.text("language") or None)
    except MayaError as error:
        raise BadRequest(str(error), "language") from None
    limit = int(server.cfg.upload_mb * 1e6)
    data = await upload.read(limit + 1)
    if len(data) > limit:
        raise BadRequest(f"the file has more than {server.cfg.upload_mb:g} MB", "file", 413)
    return model, data, *await transcribe(request, model, data, language)


async def transcribe(
    request: Request, model: ServedModel, data: bytes, language: str | None
) -> tuple[Transcript, Hypothesis]:
    """The bytes of a file -> its transcript. Raises MayaError, and Busy, as `OfflineQueue.submit` does."""
    server: Server = request.app.state.server
    began = time.monotonic()
    future = await asyncio.to_thread(model.offline.submit, data, language)
    transcript = await asyncio.wrap_future(future)
    server.metrics.offline.observe(time.monotonic() - began)
    server.metrics.audio.labels("file").inc(transcript.seconds)
    request.state.audio_seconds, request.state.model = transcript.seconds, model.name
    if transcript.error or transcript.hypothesis is None:
        raise BadRequest(transcript.error or "this model writes no text", "file")
    return transcript, transcript.hypothesis


async def _diarized(server: Server, model: ServedModel, transcript: Transcript, data: bytes) -> Transcript:
    """With speakers. Raises BadRequest where the server tells none apart."""
    if (cfg := server.cfg.session.speakers) is None:
        raise BadRequest("this server tells no speakers apart; start it with --speakers", "response_format")
    rate = model.recognizer.sample_rate
    blocks, vad = audio_blocks(data, rate), server.cfg.session.vad
    return await asyncio.to_thread(with_speakers, transcript, blocks, rate, cfg, vad)


class FormOptions:
    """The fields of a form, checked before anything is computed."""

    def __init__(self, form: FormData) -> None:
        self.form = form
        self.format = self.text("response_format") or "json"
        if self.format not in RESPONSE_FORMATS:
            names = ", ".join(RESPONSE_FORMATS)
            raise BadRequest(f"response_format must be one of {names}", "response_format")
        lists = ("timestamp_granularities[]", "timestamp_granularities")
        self.granularities = {str(value) for name in lists for value in form.getlist(name)}
        if not self.granularities <= {"word", "segment"}:
            raise BadRequest("timestamp_granularities must be word or segment", "timestamp_granularities")
        self.stream = (self.text("stream") or "").lower() in ("true", "1")

    def text(self, name: str) -> str | None:
        """A field of text."""
        value = self.form.get(name)
        if isinstance(value, UploadFile):
            raise BadRequest(f"{name} must be a text", name)
        return value


def transcript_response(transcript: Transcript, hyp: Hypothesis, options: FormOptions) -> Response:
    """A transcript in the format that was asked for."""
    usage = {"type": "duration", "seconds": round(transcript.seconds)}
    if options.stream and options.format in ("json", "text", "verbose_json"):
        return StreamingResponse(_server_events(hyp, usage), media_type="text/event-stream")
    if options.format == "text":
        return PlainTextResponse(f"{hyp.text}\n")
    if options.format in ("srt", "vtt"):
        return PlainTextResponse(FORMATS[options.format].write(transcript, FormatConfig()))
    if options.format == "diarized_json":
        segments = [
            {"id": f"seg_{i}", "type": "transcript.text.segment", "start": s.start, "end": s.end,
             "speaker": s.speaker or "A", "text": s.text}
            for i, s in enumerate(hyp.segments)
        ]  # fmt: skip
        return JSONResponse({
            "task": "transcribe", "duration": transcript.seconds, "text": hyp.text, "segments": segments,
            "usage": usage,
        })  # fmt: skip
    if options.format == "json":
        return JSONResponse({"text": hyp.text, "usage": usage})
    body: dict[str, Any] = {
        "task": "transcribe", "language": hyp.language or "", "duration": transcript.seconds,
        "text": hyp.text, "usage": usage,
    }  # fmt: skip
    if "segment" in options.granularities or not options.granularities:
        body["segments"] = [
            {"id": number, "seek": 0, "start": segment.start, "end": segment.end, "text": segment.text,
             "tokens": [], "temperature": 0.0, "avg_logprob": hyp.score / max(1, len(hyp.tokens)),
             "compression_ratio": 1.0, "no_speech_prob": 0.0}
            for number, segment in enumerate(hyp.segments)
        ]  # fmt: skip
    if "word" in options.granularities:
        body["words"] = [{"word": word.text, "start": word.start, "end": word.end} for word in hyp.words]
    return JSONResponse(body)


async def _server_events(hyp: Hypothesis, usage: dict[str, Any]) -> AsyncIterator[str]:
    """The text of each segment as a delta, then the whole."""
    texts = [segment.text for segment in hyp.segments] or [hyp.text]
    for number, text in enumerate(texts):
        delta = text if number == 0 else f" {text}"
        yield _line({"type": "transcript.text.delta", "delta": delta})
    yield _line({"type": "transcript.text.done", "text": hyp.text, "usage": usage})


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
