"""Pack a corpus folder into one tar a language, with a manifest of where each recording lies in it.

    python -m tools.pack_corpus --corpus DIR --out DIR2      # then: maya prepare --corpus DIR2 ...

A folder of any form that `maya prepare` reads; files are copied as they are, not decoded. A million small
files are slow to copy, to list and to open on most storage, where a few tars are not; Maya reads recordings
out of them in place.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from maya.audio.byte_ranges import read_range
from maya.audio.tar_index import TarMember, index_tar
from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import Row
from maya.errors import MayaError
from maya.recipes.corpus_writer import Utterance, finished, read_seal, write_corpus

_LONGEST_NAME = 80  # bytes of an id in a tar, which allows 100 in one part of a name


def pack(corpus: Path, out: Path, language: str | None = None, take: int | None = None) -> Path:
    """Write the packed corpus into `out`, unless it is there, and return `out`.

    take: the first so many utterances of each language. Raises MayaError when the corpus cannot be read, a
    file is missing, or utterances are parts of longer recordings.
    """
    rows, dropped = read_corpus(corpus, language)
    if dropped:
        print(f"{corpus}: left out {len(dropped)} files, the first: {dropped[0].detail}")
    rows = _first(rows, take)
    settings = {
        "packed from": str(corpus.resolve()),
        "utterances": [[row.id, row.text, row.language, row.speaker, row.split, row.audio] for row in rows],
    }
    if not finished(out, settings):
        write_corpus(out, _utterances(corpus, rows), settings, total=len(rows))
    return out


def _first(rows: Sequence[Row], take: int | None) -> list[Row]:
    """In the order of languages, so that each tar is written from begin to end."""
    by_language: dict[str, list[Row]] = {}
    for row in rows:
        by_language.setdefault(row.language, []).append(row)
    return [row for mine in by_language.values() for row in mine[:take]]


def _utterances(corpus: Path, rows: Sequence[Row]) -> Iterator[Utterance]:
    taken: set[str] = set()
    for row in rows:
        if row.start is not None or row.channel is not None:
            what = "a part of a longer recording" if row.start is not None else "one channel of a recording"
            raise MayaError(
                f"{row.where}: {row.id!r} is {what}; such a corpus is read in place, "
                "there is nothing to gain from packing it"
            )
        # Of names that a tar can hold and any system can extract; the manifest keeps the id as it is.
        name = re.sub(r"[^A-Za-z0-9._-]", "_", row.id)[:_LONGEST_NAME].lstrip(".") or "_"
        if name in taken:
            raise MayaError(
                f"{row.where}: {row.id!r} and another utterance would both be called {name!r} in the tar; "
                "give them ids that differ in letters or digits"
            )
        taken.add(name)
        yield Utterance(
            id=row.id, language=row.language, text=row.text, speaker=row.speaker or "", split=row.split or "",
            kind=row.kind or "", source=row.source or "", licence=row.licence or "",
            audio=_bytes(corpus, row), suffix=Path(row.audio).suffix.lower(), seconds=row.duration, name=name,
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
    where = _members(path)
    if row.audio not in where:
        raise MayaError(f"{row.where}: {path} has no member {row.audio!r}")
    return read_range(path, where[row.audio].offset, where[row.audio].size)


@cache
def _members(path: Path) -> dict[str, TarMember]:
    return {member.name: member for member in index_tar(path)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--language", help="of utterances that do not tell, such as hi")
    parser.add_argument("--take", type=int, help="only the first so many utterances of each language")
    args = parser.parse_args(argv)
    try:
        seal = read_seal(pack(args.corpus, args.out, args.language, args.take)) or {}
    except MayaError as error:
        sys.exit(f"error: {error}")
    for code, cells in seal["summary"].items():
        print(f"{code}.tar: {sum(cell['utterances'] for cell in cells.values())} utterances")


if __name__ == "__main__":
    main()
