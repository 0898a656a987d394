"""OpenAI's interface for translation, `POST /v1/audio/translations`: into English, or the language `to`."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from maya.decode.hypothesis import Hypothesis, TextSegment, Word
from maya.errors import MayaError
from maya.serve.protocols.openai import BadRequest, FormOptions, answer_form, recognise, transcript_response
from maya.serve.server import Server, only_language
from maya.text.languages import language_code

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


async def translations(request: Request) -> Response:
    """The translation of a recording."""
    return await answer_form(request, _translations)


async def _translations(request: Request, form: FormData, options: FormOptions) -> Response:
    server: Server = request.app.state.server
    if options.format not in FORMATS:
        raise BadRequest(f"response_format must be one of {', '.join(FORMATS)}", "response_format")
    target = options.text("to") or "en"
    # Checked before the recording is recognised, if its language is known by then.
    early = options.text("language") or only_language(server.model(options.text("model")))
    if early is not None:
        _check(server, early, target)
    _, _, transcript, hyp = await recognise(request, form, options)
    source = hyp.language or early
    if source is None:
        raise BadRequest("the model does not identify the language; send language", "language")
    if language_code(source) != language_code(target):
        _check(server, source, target)
        hyp = await _translated(server, hyp, source, target)
    return transcript_response(replace(transcript, hypothesis=hyp), hyp, options)


def _check(server: Server, source: str, target: str) -> None:
    try:
        if language_code(source) != language_code(target):
            server.translation.choose(source, target)
    except MayaError as error:
        raise BadRequest(str(error), "to") from None


async def _translated(server: Server, hyp: Hypothesis, source: str, target: str) -> Hypothesis:
    segments: Sequence[TextSegment] = hyp.segments or [TextSegment(text=hyp.text)]
    futures = [server.translation.submit(segment.text, source, target) for segment in segments]
    texts = await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
    done = [
        TextSegment(text=text, start=own.start, end=own.end, words=_words(text, own), speaker=own.speaker)
        for text, own in zip(texts, segments, strict=True)
    ]
    words = [word for segment in done for word in segment.words]
    return replace(
        hyp, text=" ".join(texts), segments=done, words=words, language=target, alternatives=[], tokens=[],
        frames=[], durations=[], scores=[], confidences=[], spans=[],
    )  # fmt: skip


def _words(text: str, segment: TextSegment) -> list[Word]:
    """The words of a translation over the time of its segment, by their letters: for subtitles."""
    texts = text.split()
    if segment.start is None or segment.end is None:
        return [Word(text=own) for own in texts]
    share = (segment.end - segment.start) / max(1, sum(map(len, texts)))
    words, start = [], segment.start
    for own in texts:
        words.append(Word(text=own, start=start, end=start + share * len(own)))
        start += share * len(own)
    return words
