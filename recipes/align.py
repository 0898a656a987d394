"""Align a text with its recording, hours of it, also where the two differ: the time of every word."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import maya
from maya.align.aligner import AlignOptions, align
from maya.align.ctc import SkipCosts
from maya.align.formats.base import FormatConfig
from maya.align.formats.table import FORMATS
from maya.decode.hypothesis import Hypothesis, TextSegment
from maya.decode.transcription import Transcript
from maya.decode.words import join_words
from maya.errors import MayaError
from maya.files import writing
from maya.ranges import Range
from maya.recipes.arguments import add_checkpoint, add_device, number
from maya.recipes.experiment_file import import_recorded

_SUFFIXES = {entry.suffix.lower(): name for name, entry in FORMATS.items()}


def arguments(p: argparse.ArgumentParser) -> None:
    add_checkpoint(p)
    p.add_argument("audio", type=Path, help="a recording (wav, flac, ogg, opus, mp3) of any length")
    p.add_argument(
        "text", type=Path, help="a text file in UTF-8; each of its lines becomes a segment or subtitle"
    )
    p.add_argument("--language", help="code of the language of the text, such as hi; default: not given")
    text = "files to write, their format by the suffix: " + " ".join(sorted(_SUFFIXES))
    p.add_argument("--out", type=Path, nargs="+", default=[], metavar="FILE", help=text + "; default: print")
    text = "the format that is printed without --out; default: json, where words not spoken have null times"
    p.add_argument("--format", default="json", choices=sorted(FORMATS), help=text)
    p.add_argument(
        "--head", default="", help="the CTC or transducer head that aligns; default: the first CTC head"
    )
    text = "the text is what was spoken, word by word: leave nothing out and expect no other speech"
    p.add_argument("--exact", action="store_true", help=text)
    text = (
        "nats that it costs to leave out a token; smaller: leave out more of what is heard badly; default: 6"
    )
    p.add_argument("--skip-cost", type=number(float, Range(above=0)), default=6.0, metavar="N", help=text)
    add_device(p)


def run(args: argparse.Namespace) -> None:
    import_recorded(args.checkpoint, args.experiment)
    costs = None if args.exact else SkipCosts(token=args.skip_cost)
    align_files(
        args.checkpoint, args.audio, args.text, out=args.out, form=args.format, language=args.language,
        options=AlignOptions(head=args.head, costs=costs), device=args.device,
    )  # fmt: skip


def align_files(
    checkpoint: Path, audio: Path, text: Path, *, out: list[Path], form: str = "json",
    language: str | None = None, options: AlignOptions | None = None, device: str = "auto",
) -> Hypothesis:  # fmt: skip
    """Align and write `out`, or print. Raises MayaError for files that cannot be read, and for a suffix of no
    format, before anything is computed."""
    forms = {path: _form(path) for path in out}
    if not audio.is_file():
        raise MayaError(f"{audio} is not a file")
    try:
        written = text.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MayaError(f"{text} cannot be read as a text in UTF-8 ({error})") from None
    recognizer = maya.load(checkpoint, device)
    recognizer = recognizer.in_language(language)
    hyp = align(recognizer, audio, written, language, options=options)
    cfg = FormatConfig(model=str(checkpoint))
    for path, name in forms.items():
        with writing(path) as partial:
            partial.write_text(_formatted(hyp, audio, name, cfg), encoding="utf-8")
    if not out:
        print(_formatted(hyp, audio, form, cfg), end="")
    unspoken = sum(word.start is None for word in hyp.words)
    share = f"{unspoken} of {len(hyp.words)} words" if unspoken else "no word"
    print(f"align: {share} of the text without a place in the audio", file=sys.stderr)
    return hyp


def _form(path: Path) -> str:
    name = _SUFFIXES.get(path.suffix.lower())
    if name is None:
        raise MayaError(f"{path}: unknown suffix {path.suffix!r}; use one of {' '.join(sorted(_SUFFIXES))}")
    return name


def _formatted(hyp: Hypothesis, audio: Path, name: str, cfg: FormatConfig) -> str:
    shown = hyp if name in ("json", "jsonl") else spoken(hyp)
    text = FORMATS[name].write(Transcript(id=audio.name, place=0, hypothesis=shown), cfg)
    return FORMATS[name].header + text


def spoken(hyp: Hypothesis) -> Hypothesis:
    """The hypothesis without words that have no times, for formats in which each has some."""
    segments = [_timed(segment) for segment in hyp.segments]
    words = [word for word in hyp.words if word.start is not None]
    return replace(
        hyp, words=words, segments=[segment for segment in segments if segment.words],
        text=join_words([word.text for word in words]),
    )  # fmt: skip


def _timed(segment: TextSegment) -> TextSegment:
    words = [word for word in segment.words if word.start is not None]
    return replace(segment, words=words, text=join_words([word.text for word in words]))
