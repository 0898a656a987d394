"""Texts for recordings that have none: a model transcribes them into a table, the least sure first; a person
corrects it; what is checked or sure becomes training data.

    maya label --from MODEL recordings/ --table review.tsv          write the table
    (correct `text`, and put an x into `checked`)
    maya label --take review.tsv --out corrected                    a corpus folder
    maya finetune --from MODEL --data corrected
"""

import argparse
import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import maya
from maya.data.table.labels import PSEUDO
from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.transcription import Recording, Transcript
from maya.errors import MayaError
from maya.files import replacing
from maya.ranges import Range
from maya.recipes.arguments import add_device, add_list, number
from maya.recipes.experiment_file import import_recorded
from maya.recipes.transcribe_inputs import StdinAudio, read_inputs

LONGEST = 30.0  # seconds of an utterance; longer recordings become a row for each segment
_LEFT_OUT = "-"  # in `checked`: not to be trained on


def arguments(p: argparse.ArgumentParser) -> None:
    add_list(p, "audio", help="audio files, folders, patterns in quotes, manifests")
    p.add_argument("--from", type=Path, dest="model", metavar="MODEL", help="the model that transcribes")
    text = "the table to write: .tsv, which spreadsheets open, or .jsonl"
    p.add_argument("--table", type=Path, metavar="FILE", help=text)
    p.add_argument("--language", help="code of the spoken language; auto: identify it")
    p.add_argument("--take", type=Path, metavar="FILE", help="a corrected table, to make a corpus of")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="with --take: the corpus folder to write")
    text = "with --take: also take rows that nobody checked, from this confidence on; default: 1, none"
    p.add_argument("--min-confidence", type=number(float, Range(min=0, max=1)), default=1.0, help=text)
    text = (
        "with --take: unchecked rows make up the same share of each language and of short and long "
        "utterances; otherwise what is easy to recognise prevails"
    )
    p.add_argument("--balance", action="store_true", help=text)
    add_device(p)


def run(args: argparse.Namespace) -> None:
    if args.take is not None:
        if args.out is None:
            raise MayaError("--take needs --out, the corpus folder to write")
        take(args.take, args.out, min_confidence=args.min_confidence, balance=args.balance)
        return
    if args.model is None or args.table is None or not args.audio:
        raise MayaError(
            "name a model with --from, a table with --table, and recordings; or a table with --take"
        )
    label(args.model, args.audio, args.table, language=args.language, device=args.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """A row of the table. start, seconds: of the utterance in its recording. confidence: in [0, 1].
    checked: empty; "-" leaves the row out; anything else says that a person has read it."""

    audio: str
    start: float
    seconds: float
    text: str
    language: str
    confidence: float
    checked: str = ""


_FIELDS = tuple(TableRow.__dataclass_fields__)


def label(
    model: Path, audio: Sequence[str], out: Path, *, language: str | None = None, device: str = "auto"
) -> int:
    """Transcribe recordings into a table, least sure first; returns the number of rows.

    The confidence of a row is the mean of its words', which are probabilities where `maya calibrate` measured
    the model. A recording that cannot be read is named and left out. Raises MayaError for a table that is
    there already: it may hold corrections.
    """
    if out.exists():
        raise MayaError(f"{out} exists, and may hold corrections; name another table")
    import_recorded(model)
    recognizer = maya.load(model, device)
    inputs = read_inputs(audio, "mix", StdinAudio(sample_rate=recognizer.sample_rate))
    recordings = [item.recording for item in inputs.items]
    rows: list[TableRow] = []
    for transcript in recognizer.transcribe_each(recordings, language):
        recording = recordings[transcript.place]
        if transcript.hypothesis is None:
            print(f"label: left out: {transcript.error}")
            continue
        rows += _rows(transcript, transcript.hypothesis, recording)
    if not rows:
        raise MayaError("none of the recordings could be transcribed")
    rows.sort(key=lambda row: (row.confidence, row.audio, row.start))
    write_rows(out, rows)
    calibrated = "" if recognizer.calibration else "; they are no probabilities before `maya calibrate`"
    print(f"label: {len(rows)} rows, the least sure first → {out} (confidences {rows[0].confidence:.2f} to "
          f"{rows[-1].confidence:.2f}{calibrated})")  # fmt: skip
    return len(rows)


def _rows(transcript: Transcript, hyp: Hypothesis, recording: Recording) -> Iterator[TableRow]:
    """The row of a recording, or one for each segment of a long one."""
    if not isinstance(recording.audio, (str, Path)):
        raise MayaError(f"{recording.id}: a table needs recordings that are files; unpack the archive first")
    path, begin, language = str(Path(recording.audio).absolute()), recording.start or 0.0, hyp.language or ""
    if transcript.seconds <= LONGEST or not hyp.segments or hyp.segments[0].start is None:
        yield TableRow(audio=path, start=begin, seconds=round(transcript.seconds, 3), text=hyp.text,
                       language=language, confidence=_mean(hyp.words))  # fmt: skip
        return
    for segment in hyp.segments:
        if segment.start is not None and segment.end is not None and segment.end > segment.start:
            yield TableRow(
                audio=path, start=round(begin + segment.start, 3), text=segment.text, language=language,
                seconds=round(segment.end - segment.start, 3), confidence=_mean(segment.words),
            )  # fmt: skip


def _mean(words: Sequence[Word]) -> float:
    """The share of the words that is expected to be right; 0 without words, where speech may be missed."""
    return round(sum(w.confidence or 0.0 for w in words) / len(words), 4) if words else 0.0


def write_rows(path: Path, rows: Iterable[TableRow]) -> None:
    """Write a table: tab-separated, or lines of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("w", newline="") as f:
        if path.suffix == ".jsonl":
            f.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
            return
        writer = csv.writer(f, delimiter="\t", lineterminator="\n")
        writer.writerow(_FIELDS)
        writer.writerows([getattr(row, name) for name in _FIELDS] for row in rows)


def read_rows(path: Path) -> list[TableRow]:
    """The rows of a table. Raises MayaError, which names the line, for one that is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            given = (
                list(map(json.loads, f))
                if path.suffix == ".jsonl"
                else list(csv.DictReader(f, delimiter="\t"))
            )
    except (OSError, ValueError) as error:
        raise MayaError(f"cannot read the table {path}: {error}") from None
    rows = []
    for place, values in enumerate(given, start=1):
        try:
            numbers = {name: float(values[name]) for name in ("start", "seconds", "confidence")}
            texts = {name: str(values[name] or "").strip() for name in _FIELDS if name not in numbers}
            rows.append(TableRow(**numbers, **texts))  # type: ignore[arg-type]
        except (KeyError, ValueError, TypeError):
            raise MayaError(
                f"{path}: row {place} lacks one of {', '.join(_FIELDS)}, or a number is none"
            ) from None
    return rows


def take(table: Path, out: Path, *, min_confidence: float = 1.0, balance: bool = False) -> int:
    """Write a corpus folder of the rows that were checked, or are at least so sure; returns their number.

    Rows without a text, and those with "-" in `checked`, are left out. Rows that nobody checked have the
    label `PSEUDO`: they are trained on, and never in dev or test. balance: see `balanced`. The folder holds a
    NeMo manifest, whose rows may be parts of recordings; audio stays where it is. Raises MayaError where
    nothing is taken.
    """
    rows = read_rows(table)
    usable = [r for r in rows if r.text and r.checked != _LEFT_OUT]
    taken = [r for r in usable if r.checked or r.confidence >= min_confidence]
    if balance:
        taken = [r for r in taken if r.checked] + balanced(
            [r for r in taken if not r.checked], [r for r in rows if not r.checked]
        )
    if not taken:
        raise MayaError(
            f"{table}: no row is checked (put an x into the column checked), and none has a confidence "
            f"of {min_confidence:g}; lower --min-confidence to take unchecked ones"
        )
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "manifest.json") as partial, partial.open("w") as f:
        for row in taken:
            values = {
                "audio_filepath": row.audio,
                "offset": row.start,
                "duration": row.seconds,
                "text": row.text,
                **({"lang": row.language} if row.language else {}),
                **({} if row.checked else {"labels": {PSEUDO: f"{row.confidence:.3f}"}}),
            }
            f.write(json.dumps(values, ensure_ascii=False) + "\n")
    checked = sum(bool(row.checked) for row in taken)
    print(f"label: {len(taken)} of {len(rows)} rows → {out} ({checked} checked, {len(taken) - checked} sure)")
    return len(taken)


def balanced(taken: Sequence[TableRow], everything: Sequence[TableRow]) -> list[TableRow]:
    """The surest rows of `taken`, so many that no language and no third of lengths is a larger part of them
    than of `everything`: of each, at most the share of rows that were taken at all."""
    cuts = np.quantile([row.seconds for row in everything], [1 / 3, 2 / 3])

    def cell(row: TableRow) -> tuple[str, int]:
        return row.language, int(np.searchsorted(cuts, row.seconds))

    room = {c: math.ceil(n * len(taken) / len(everything)) for c, n in Counter(map(cell, everything)).items()}
    kept = []
    for row in sorted(taken, key=lambda row: -row.confidence):
        if room[cell(row)] > 0:
            room[cell(row)] -= 1
            kept.append(row)
    return kept
