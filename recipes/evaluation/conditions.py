"""`maya evaluate` under conditions: with noise, without speech, and streamed."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maya
from maya.data.measure.entry import Entry
from maya.decode.methods import AUTO
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.files import write_json
from maya.ranges import Range
from maya.recipes.arguments import number
from maya.recipes.evaluation.decoding import chosen_method
from maya.recipes.evaluation.noise import MADE, SNRS, ladder_result, ladder_table, noise_ladder
from maya.recipes.evaluation.silence import MINUTES, silence_result, silence_table, silence_test
from maya.recipes.evaluation.streams import CHUNK, stream_check, stream_result, stream_table
from maya.recipes.transcribe import limit_context
from maya.text.languages import language_among, language_code

_DECIBELS = number(float, Range(min=-100, max=100))
_MINUTES = number(float, Range(min=0.1, max=600))
_SECONDS = number(float, Range(min=0.01, max=60))
_FRAMES = number(int, Range(min=0, also=(-1,)))
Entries = Callable[[str | None], list[Entry]]


def add_conditions(p: argparse.ArgumentParser) -> None:
    """The options --noise, --snr, --non-speech, --minutes, --stream and --chunk."""
    text = f"a noise ladder: {', '.join(MADE)}, or a folder of recordings, at each level of --snr"
    p.add_argument("--noise", metavar="KIND", help=text)
    text = f"levels in dB of the utterance over the noise (default: {' '.join(f'{x:g}' for x in SNRS)})"
    p.add_argument("--snr", type=_DECIBELS, nargs="+", default=list(SNRS), metavar="DB", help=text)
    text = "count words where nobody speaks: silence, noise and tones, and the recordings of these folders"
    p.add_argument("--non-speech", type=Path, nargs="*", metavar="FOLDER", help=text)
    text = f"length of each made-up sound of --non-speech (default: {MINUTES:g})"
    p.add_argument("--minutes", type=_MINUTES, default=MINUTES, metavar="M", help=text)
    text = "decode in chunks, too, and compare error rates and latencies"
    p.add_argument("--stream", action="store_true", help=text)
    text = f"seconds of audio a chunk of --stream (default: {CHUNK:g})"
    p.add_argument("--chunk", type=_SECONDS, default=CHUNK, metavar="S", help=text)
    text = "encoder frames that a frame of --stream attends to, one of those trained: default: the first"
    p.add_argument("--context", type=_FRAMES, nargs=2, metavar=("LEFT", "RIGHT"), help=text)


def in_conditions(args: argparse.Namespace) -> bool:
    """Whether one of these options is given."""
    return args.noise is not None or args.non_speech is not None or args.stream


def evaluate_conditions(args: argparse.Namespace, entries_of: Entries | None) -> dict[str, Any]:
    """Print and return what the options ask for. entries_of: reads the utterances, None if none are named.

    Raises MayaError for --noise or --stream without utterances.
    """
    if entries_of is None and (args.noise is not None or args.stream):
        raise MayaError("name what to evaluate: --manifest, or audio files with their --reference")
    recognizer = maya.load(args.checkpoint, args.device)
    if args.context is not None:
        limit_context(recognizer, tuple(args.context))
    results: dict[str, Any] = {"checkpoint": str(args.checkpoint)}
    code = _language(recognizer, args.language)
    if args.non_speech is not None:
        method = chosen_method(recognizer, args.method)
        scores = silence_test(recognizer, args.non_speech, method=method, language=code, minutes=args.minutes)
        print(silence_table(scores))
        results["non_speech"] = silence_result(scores)
    if entries_of is not None and (args.noise is not None or args.stream):
        languages = recognizer.model.cfg.languages
        only = languages[0] if len(languages) == 1 else None
        entries = entries_of(code if code not in (None, AUTO) else only)
        options: dict[str, Any] = {"language": AUTO if code == AUTO else None, "normalizer": args.normalizer}
        if args.noise is not None:
            method = chosen_method(recognizer, args.method)
            rungs = noise_ladder(recognizer, entries, args.noise, args.snr, method=method, **options)
            print(f"{args.noise} noise, {len(entries)} utterances, {method}\n{ladder_table(rungs)}")
            results["noise"] = {"kind": args.noise, "method": method, "levels": ladder_result(rungs)}
        if args.stream:
            method = chosen_method(recognizer, args.method, stream=True)
            check = stream_check(recognizer, entries, method=method, chunk=args.chunk, **options)
            print(f"{len(entries)} utterances, {method}\n{stream_table(check)}")
            results["stream"] = {"method": method, **stream_result(check)}
    if args.json is not None:
        write_json(args.json, results)
    return results


def _language(recognizer: Recognizer, language: str | None) -> str | None:
    if language in (None, AUTO):
        return language
    return language_code(language_among(language, recognizer.model.cfg.languages))
