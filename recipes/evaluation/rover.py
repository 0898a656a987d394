"""`maya rover`: one transcript of each utterance from those of several systems."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from maya.decode.hypothesis import Word
from maya.errors import MayaError
from maya.ranges import Range
from maya.recipes.arguments import number
from maya.recipes.evaluation.options import add_normalizer
from maya.score.files.objects import holds_both
from maya.score.files.transcript import TranscriptRow
from maya.score.files.transcripts import format_of, read_transcripts
from maya.score.files.writing import write_transcripts
from maya.score.measures.normalizers import make_normalizer
from maya.score.rover import TRAINED, VOTES, RoverOptions, rover
from maya.text.languages import language_code

_SHARE = number(float, Range(min=0, max=1))


def arguments(p: argparse.ArgumentParser) -> None:
    text = "hyps.jsonl, NeMo's pred_text, Kaldi text, .trn or .ctm of a system each; the best system first"
    p.add_argument("hyps", type=Path, nargs="+", metavar="HYP", help=text)
    p.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a .jsonl, .txt, .trn or .ctm file"
    )
    text = "count systems (freq), or also their words' confidences, the mean or the largest"
    p.add_argument("--vote", default="freq", choices=VOTES, help=text)
    trained = ", ".join(f"{vote} {alpha:g}" for vote, (alpha, _) in TRAINED.items())
    text = f"weight of the number of systems against the confidence (default: {trained})"
    p.add_argument("--alpha", type=_SHARE, metavar="A", help=text)
    trained = ", ".join(f"{vote} {null:g}" for vote, (_, null) in TRAINED.items())
    text = f"confidence that there is no word (default: {trained})"
    p.add_argument("--null-confidence", type=_SHARE, metavar="C", help=text)
    p.add_argument("--language", help="code of texts that name no language, for their normal form")
    add_normalizer(p)


def run(args: argparse.Namespace) -> None:
    options = RoverOptions(vote=args.vote, alpha=args.alpha, null_confidence=args.null_confidence)
    language = language_code(args.language) if args.language else ""
    systems = [read_transcripts(path, "hyp") for path in args.hyps]
    rows = combine(systems, options, make_normalizer(args.normalizer), language, names=args.hyps)
    first, refs = args.hyps[0], {}
    if format_of(first) == "json" and holds_both(first):
        refs = {row.id: row.text for row in read_transcripts(first, "ref")}
    write_transcripts(rows, args.out, format_of(args.out), refs)
    print(f"rover: {len(rows)} transcripts of {len(systems)} systems by {args.vote} → {args.out}")


def combine(
    systems: Sequence[Sequence[TranscriptRow]], options: RoverOptions,
    normalizer: Callable[[str, str], str], language: str, *, names: Sequence[Path],
) -> list[TranscriptRow]:  # fmt: skip
    """The combined transcripts, in the order of the first system. language: of texts that name none. names:
    of the systems, for messages. Raises MayaError for systems of different utterances."""
    tables = [{_key(row): row for row in rows} for rows in systems]
    for name, table in zip(names, tables, strict=True):
        if table.keys() != tables[0].keys():
            odd = min(table.keys() ^ tables[0].keys())
            where = " ".join(filter(None, odd))
            raise MayaError(f"{names[0]} and {name} hold different utterances, the first is {where!r}")
    combined = []
    for key, row in tables[0].items():
        words = rover([_words(table[key], normalizer, language) for table in tables], options)
        text = " ".join(word.text for word in words)
        combined.append(dataclasses.replace(row, words=tuple(words), text=text))
    return combined


def _key(row: TranscriptRow) -> tuple[str, str, str]:
    return (row.id, "", "") if row.id else ("", row.recording, row.channel)


def _words(row: TranscriptRow, normalizer: Callable[[str, str], str], language: str) -> list[Word]:
    """The words of a transcript in normal form, those that a word becomes with its times and confidence."""
    code = row.language or language
    if not row.words:
        return [Word(text=text) for text in normalizer(row.text, code).split()]
    return [
        dataclasses.replace(word, text=text)
        for word in row.words
        for text in normalizer(word.text, code).split()
    ]
