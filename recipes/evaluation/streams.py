"""Streaming against offline: the same model and audio, the error rates of both, and how late words come."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from maya.data.measure.entry import Entry
from maya.decode.hypothesis import Hypothesis
from maya.decode.recognizer import Recognizer
from maya.decode.streaming import RecognizerStream
from maya.errors import MayaError
from maya.recipes.evaluation.decoding import decode_audio, decoding_language, scored
from maya.score.measures.normalizers import DEFAULT
from maya.score.report import Report, make_report, percent, result, span
from maya.score.wer import Comparison, compare

CHUNK = 0.1  # seconds of audio a push
AUTO_LANGUAGE = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Latencies:
    """Of one utterance, in seconds. first: of audio, from the frame of the first token to the end of the
    chunk after which it was there; nan without tokens. tokens: the same of every token. final: of computing,
    from the last samples to the final text. compute: of computing in all."""

    first: float
    tokens: tuple[float, ...]
    final: float
    compute: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamCheck:
    """offline, streamed: the scores. difference: of word errors, streamed minus offline. changed: utterances
    whose texts differ."""

    offline: Report
    streamed: Report
    difference: Comparison
    changed: int
    latencies: list[Latencies]
    chunk: float
    audio_seconds: float


def stream_check(
    recognizer: Recognizer, entries: Sequence[Entry], *, method: str, language: str | None = None,
    chunk: float = CHUNK, normalizer: str = DEFAULT,
) -> StreamCheck:  # fmt: skip
    """Decode each utterance whole and in chunks of `chunk` seconds, as fast as possible.

    method: one that decodes streams. Raises MayaError for a model or a method that cannot stream, and for the
    language "auto".
    """
    if language == AUTO_LANGUAGE:
        raise MayaError("a stream cannot identify the language: leave --language auto out")
    offline, streamed, latencies = [], [], []
    streams: dict[str | None, RecognizerStream] = {}
    changed, seconds = 0, 0.0
    for entry in entries:
        audio = entry.load_audio(recognizer.sample_rate)
        code = decoding_language(recognizer, entry, language)
        if code not in streams:
            streams[code] = recognizer.stream(code, method=method)
        (whole,) = decode_audio(recognizer, [entry], [audio], method, language)
        hyp, latency = _stream(streams[code], audio, recognizer.sample_rate, chunk)
        changed += hyp.text != whole.text
        seconds += len(audio) / recognizer.sample_rate
        offline += scored([entry], [whole.text], normalizer)
        streamed += scored([entry], [hyp.text], normalizer)
        latencies.append(latency)
    reports = make_report(offline), make_report(streamed)
    difference = compare(reports[0].pooled.words, reports[1].pooled.words)
    return StreamCheck(
        offline=reports[0], streamed=reports[1], difference=difference, changed=changed,
        latencies=latencies, chunk=chunk, audio_seconds=seconds,
    )  # fmt: skip


def _stream(
    stream: RecognizerStream, audio: Tensor, sample_rate: int, chunk: float
) -> tuple[Hypothesis, Latencies]:
    step = max(1, round(chunk * sample_rate))
    arrivals: list[float] = []  # of each token: seconds of audio when it was there
    began = time.perf_counter()
    for start in range(0, len(audio), step):
        hyp = stream.accept(audio[start : start + step])
        now = min(start + step, len(audio)) / sample_rate
        arrivals += [now] * (len(hyp.tokens) - len(arrivals))
    ended = time.perf_counter()
    hyp = stream.finish()
    finished = time.perf_counter()
    arrivals += [len(audio) / sample_rate] * (len(hyp.tokens) - len(arrivals))
    delays = tuple(
        arrival - begin for arrival, (begin, _) in zip(arrivals, hyp.times, strict=False)
    )  # fmt: skip
    return hyp, Latencies(
        first=delays[0] if delays else float("nan"), tokens=delays, final=finished - ended,
        compute=finished - began,
    )  # fmt: skip


def stream_table(check: StreamCheck) -> str:
    """The comparison as text for a terminal."""
    lines = []
    for name, report in (("offline", check.offline), ("streamed", check.streamed)):
        score = report.pooled
        lines.append(f"{name:<9} WER {percent(score.words.rate)} % {span(score.wer_interval)}, "
                     f"CER {percent(score.characters.rate)} %")  # fmt: skip
    d = check.difference
    lines.append(
        f"streamed minus offline: {100 * d.difference:+.2f} points [{100 * d.interval.low:+.2f}, "
        f"{100 * d.interval.high:+.2f}]; {check.changed} of {len(check.latencies)} texts differ"
    )
    for name, values in _named(check):
        median, high = _quantiles(values)
        lines.append(f"{name}: median {1000 * median:.0f} ms, 95 % {1000 * high:.0f} ms")
    compute = sum(latency.compute for latency in check.latencies)
    lines.append(
        f"chunks of {1000 * check.chunk:.0f} ms; real-time factor {compute / check.audio_seconds:.4f}"
    )
    return "\n".join(lines)


def stream_result(check: StreamCheck) -> dict[str, Any]:
    """The comparison as JSON values; latencies in seconds."""
    latencies = {}
    for name, values in _named(check):
        median, high = _quantiles(values)
        latencies[name] = {"median": median, "p95": high} if values else None
    return {
        "offline": result(check.offline),
        "streamed": result(check.streamed),
        "difference": check.difference.difference,
        "changed_texts": check.changed,
        "chunk_seconds": check.chunk,
        "latency": latencies,
    }


def _named(check: StreamCheck) -> list[tuple[str, list[float]]]:
    rows = check.latencies
    return [
        ("first token after its frame", [r.first for r in rows if np.isfinite(r.first)]),
        ("last token after its frame", [r.tokens[-1] for r in rows if r.tokens]),
        ("any token after its frame", [delay for r in rows for delay in r.tokens]),
        ("final text after the last samples (computing)", [r.final for r in rows]),
    ]


def _quantiles(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    median, high = np.percentile(values, [50, 95])
    return float(median), float(high)
