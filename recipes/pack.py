"""Pack a corpus folder into one tar a language, with a manifest of the position of each recording.

Files are copied as they are, not decoded. A million small files are slow to copy, to list and to open on most
storage; a few tars are not, and Maya reads recordings in place from them.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from maya.audio.byte_ranges import read_range
from maya.audio.tar_index import TarMember, index_tar
from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import Row
from maya.errors import MayaError
from maya.recipes.arguments import COUNT
from maya.recipes.corpus_writer import CorpusUtterance, finished, read_seal, write_corpus

_LONGEST_NAME = 80  # bytes of an id in a tar, which allows 100 in one part of a name


def arguments(p: argparse.ArgumentParser) -> None:
    text = "a corpus folder in any form that `maya prepare` reads"
    p.add_argument("--corpus", type=Path, required=True, help=text)
    text = "folder to write the tars to; give it to `maya prepare --corpus`"
    p.add_argument("--out", type=Path, required=True, help=text)
    p.add_argument("--language", help="code of utterances without a language, such as hi")
    text = "pack only the first N utterances of each language"
    p.add_argument("--take", type=COUNT, metavar="N", help=text)


def run(args: argparse.Namespace) -> None:
    seal = read_seal(pack(args.corpus, args.out, args.language, args.take)) or {}
    for code, cells in seal["summary"].items():
        print(f"{code}.tar: {sum(cell['utterances'] for cell in cells.values())} utterances")


def pack(corpus: Path, out: Path, language: str | None = None, take: int | None = None) -> Path:
    """Write the packed corpus into `out`, unless it is complete already, and return `out`.

    take: pack only the first `take` utterances of each language. Raises MayaError when the corpus cannot be
    read, a file is missing, or utterances are parts of longer recordings.
    """
    rows, dropped = read_corpus(corpus, language)
    if dropped:
        print(f"{corpus}: left out {len(dropped)} files, the first: {dropped[0].detail}")
    rows = _first(rows, take)
    settings = {
        "packed from": str(corpus.resolve()),
        "utterances": [
            [row.id, row.text, row.language, row.speaker, row.split, row.audio, dict(row.labels)]
            for row in rows
        ],
    }
    if not finished(out, settings):
        write_corpus(out, _utterances(corpus, rows), settings, total=len(rows))
    return out


def _first(rows: Sequence[Row], take: int | None) -> list[Row]:
    """The first `take` rows of each language, sorted by language: each tar is written from begin to end."""
    by_language: dict[str, list[Row]] = {}
    for row in rows:
        by_language.setdefault(row.language, []).append(row)
    return [row for group in by_language.values() for row in group[:take]]


def _utterances(corpus: Path, rows: Sequence[Row]) -> Iterator[CorpusUtterance]:
    taken: set[str] = set()
    for row in rows:
        if row.start is not None or row.channel is not None:
            what = "a part of a longer recording" if row.start is not None else "one channel of a recording"
            raise MayaError(
                f"{row.where}: {row.id!r} is {what}; such a corpus is read in place, "
                "there is nothing to gain from packing it"
            )
        # A name that a tar can hold and any system can extract; the manifest keeps the id as it is.
        name = re.sub(r"[^A-Za-z0-9._-]", "_", row.id)[:_LONGEST_NAME].lstrip(".") or "_"
        if name in taken:
            raise MayaError(
                f"{row.where}: {row.id!r} and another utterance would both be called {name!r} in the tar; "
                "give them ids that differ in letters or digits"
            )
        taken.add(name)
        yield CorpusUtterance(
            id=row.id, language=row.language, text=row.text, speaker=row.speaker or "", split=row.split or "",
            kind=row.kind or "", source=row.source or "", licence=row.licence or "",
            audio=_bytes(corpus, row), suffix=Path(row.audio).suffix.lower(), seconds=row.duration, name=name,
            labels=row.labels,
        )  # fmt: skip


def _bytes(corpus: Path, row: Row) -> bytes:
    path = corpus / (row.tar or row.audio)
    try:
        if row.tar is None:
            return path.read_bytes()
    except OSError as error:
        raise MayaError(f"{row.where}: cannot read {path}: {error.strerror}") from None
    if row.offset is not None and row.size is not None:
        return read_range(path, row.offset, row.size)
    members = _members(path)
    if row.audio not in members:
        raise MayaError(f"{row.where}: {path} has no member {row.audio!r}")
    return read_range(path, members[row.audio].offset, members[row.audio].size)


@cache
def _members(path: Path) -> dict[str, TarMember]:
    return {member.name: member for member in index_tar(path)}
