"""Kaldi data directories: wav.scp, text, and if there are any segments, utt2spk, utt2lang."""

from collections.abc import Iterator
from pathlib import Path

from maya.data.formats.common import folder_language
from maya.data.manifest import Dropped, Row, RowCollector, read_lines, short
from maya.errors import MayaError
from maya.text.languages import LANGUAGES

KALDI_FILES = ("wav.scp", "text", "segments", "utt2spk", "utt2lang")


def read_kaldi(folder: Path, language: str | None = None) -> tuple[list[Row], list[Dropped]]:
    """The utterances of a Kaldi data directory, in the order of `text`, and audio or text without the other.

    Paths in wav.scp are relative to the directory. Raises MayaError for a command in wav.scp (a line with |),
    for what lies in an archive, and for files that do not fit each other's form.
    """
    waves = _table(folder / "wav.scp")
    segments = _segments(folder / "segments", waves) if (folder / "segments").is_file() else None
    if not (folder / "text").is_file():
        raise MayaError(f"{folder} has a wav.scp and no file named text; it is needed to know what is said")
    texts = _table(folder / "text", may_be_empty=True)
    extra = {
        field: _table(folder / name) if (folder / name).is_file() else {}
        for field, name in (("speaker", "utt2spk"), ("language", "utt2lang"))
    }
    found, dropped = RowCollector(folder / "text", tuple(LANGUAGES)), []
    for id, (text, line) in texts.items():
        where = f"{folder / 'text'}:{line}"
        values = {field: table[id][0] for field, table in extra.items() if id in table}
        start: dict[str, float] = {}
        if segments is None and id in waves:
            audio = waves[id]
        elif segments is not None and id in segments:
            audio, start = segments[id]
        else:
            what = "no line in wav.scp" if segments is None else "no line in segments"
            dropped.append(_drop(id, values.get("language", language), "missing_audio", what, where))
            continue
        path = _path(folder / "wav.scp", *audio)
        if "language" not in values:
            values["language"] = language or folder_language(Path(path), where)
        found.add({"id": id, "text": text, "audio": path, **values, **start}, line)
    for id in (waves if segments is None else segments).keys() - texts.keys():
        known = extra["language"].get(id, (language, 0))[0]
        dropped.append(_drop(id, known, "no_transcript", "no line in text", str(folder)))
    return found.rows(), sorted(dropped, key=lambda one: one.id)


def _drop(id: str, language: str | None, reason: str, what: str, where: str) -> Dropped:
    return Dropped(
        id=id, language=language or "", reason=reason, detail=f"{short(id)} has {what}", where=where
    )


def _table(path: Path, may_be_empty: bool = False) -> dict[str, tuple[str, int]]:
    """(what follows the first word, line) by first word; MayaError for a line without it or a word twice."""
    table: dict[str, tuple[str, int]] = {}
    for number, name, rest in _lines(path):
        if not rest and not may_be_empty:
            raise MayaError(f"{path}:{number}: nothing follows {short(name)}; complete or remove the line")
        if name in table:
            raise MayaError(
                f"{path}:{number}: {short(name)} occurs in line {table[name][1]} already; remove one"
            )
        table[name] = rest, number
    return table


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """(number, first word, the rest) of the lines that are not empty."""
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split(maxsplit=1)
        if words:
            yield number, words[0], words[1].strip() if len(words) == 2 else ""


def _segments(
    path: Path, waves: dict[str, tuple[str, int]]
) -> dict[str, tuple[tuple[str, int], dict[str, float]]]:
    """By utterance: the line of wav.scp of its recording, and the start and duration within it."""
    segments = {}
    for id, (rest, number) in _table(path).items():
        words = rest.split()
        try:
            recording, start, end = words[0], float(words[1]), float(words[2])
            sound = len(words) in (3, 4) and 0 <= start < 1e12 and (end == -1 or start < end < 1e12)
        except (IndexError, ValueError):
            sound = False
        if not sound:
            raise MayaError(
                f"{path}:{number}: it must read UTTERANCE RECORDING START END, in seconds, the end after the "
                "start or -1 for that of the recording"
            )
        if recording not in waves:
            raise MayaError(f"{path}:{number}: wav.scp has no recording {short(recording)}; add it there")
        part = {"start": start} if end == -1 else {"start": start, "duration": end - start}
        segments[id] = waves[recording], part
    return segments


def _path(scp: Path, value: str, line: int) -> str:
    """The path of a line of wav.scp; MayaError for commands and archives."""
    if value.startswith("|") or value.endswith("|"):
        raise MayaError(
            f"{scp}:{line}: {short(value)} is a command, and none is run from a data directory; write its "
            "output to a file (wav-copy does for all of them) and give the path of that"
        )
    name, colon, offset = value.rpartition(":")
    if colon and offset.isdigit() and name.endswith(".ark"):
        raise MayaError(
            f"{scp}:{line}: {short(value)} lies in a Kaldi archive; write it to a file of its own (wav-copy) "
            "and give the path of that"
        )
    return value
