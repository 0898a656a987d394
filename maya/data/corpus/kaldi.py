"""Kaldi data directories: wav.scp, text, and if there are any segments, utt2spk, utt2lang and
reco2file_and_channel."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maya.data.corpus.common import folder_language, unused
from maya.data.corpus.line_table import Line, UsedLines, Value, line_table
from maya.data.corpus.manifest import Problem, ReadOptions, Result, RowCollector, read_lines, short
from maya.errors import MayaError

_FILES = ("wav.scp", "text", "segments", "utt2spk", "utt2lang", "reco2file_and_channel")


def kaldi_files(folder: Path) -> list[Path]:
    """The files of a Kaldi data directory that describe its utterances; [] where it has no wav.scp."""
    if not (folder / "wav.scp").is_file():
        return []
    labels = sorted(path.name for path in folder.glob("utt2*") if path.name not in _FILES)
    return [folder / name for name in (*_FILES, *labels) if (folder / name).is_file()]


def read_kaldi(folder: Path, options: ReadOptions) -> Result:
    """The utterances of a Kaldi data directory, in the order of `text`, and audio or text without the other.

    Paths in wav.scp are relative to the directory. A fifth column of segments is the channel, from 0. The
    label NAME of options.labels is read from utt2NAME. Raises
    MayaError for a command in wav.scp (a line with |), for what lies in an archive, and for files that do not
    fit each other's form.
    """
    language, cut_up = options.language, UsedLines()
    waves, segments = _table(folder / "wav.scp"), None
    if (folder / "segments").is_file():
        segments = _segments(folder / "segments", waves, cut_up)
    if not (folder / "text").is_file():
        raise MayaError(f"{folder} has a wav.scp and no file named text; it is needed to know what is said")
    texts = _table(folder / "text", may_be_empty=True)
    extra = {
        field: _table(folder / name) if (folder / name).is_file() else {}
        for field, name in (("speaker", "utt2spk"), ("language", "utt2lang"))
    }
    labels = {
        name: _table(folder / f"utt2{name}") for name in options.labels if (folder / f"utt2{name}").is_file()
    }
    channels = _channels(folder / "reco2file_and_channel", waves)
    collector, dropped = RowCollector(folder / "text", sink=options.sink), []
    for line, id, text in _lines(folder / "text"):
        where = f"{folder / 'text'}:{line}"
        values: dict[str, Any] = {field: own[0] for field, table in extra.items() if (own := table.get(id))}
        values["labels"] = {name: own[0] for name, table in labels.items() if (own := table.get(id))}
        place: Mapping[str, float] = {}
        if segments is None:
            recording, wave = id, waves.get(id)
        elif segment := segments.get(id):
            recording, place = _segment(folder / "segments", *segment)
            wave = waves[recording]
        else:
            wave = None
        if wave is None:
            what = "no line in wav.scp" if segments is None else "no line in segments"
            dropped.append(_drop(id, values.get("language", language), "missing_audio", what, where))
            continue
        path = _path(folder / "wav.scp", *wave)
        if "language" not in values:
            values["language"] = language or folder_language(Path(path), where)
        channel = {"channel": channels[recording]} if recording in channels else {}
        collector.add({"id": id, "text": text, "audio": path, **values, **channel, **place}, line)
    if segments is not None:
        count, whole = cut_up.others(waves)
        options.notes.extend(unused(whole, "recordings of wav.scp have no segment", count))
    for id in waves if segments is None else segments:
        if id not in texts:
            code = extra["language"].get(id, (language, 0))[0]
            dropped.append(_drop(id, code, "no_transcript", "no line in text", str(folder)))
    return collector.rows(), sorted(dropped, key=lambda problem: problem.id)


def _drop(id: str, language: str | None, reason: str, what: str, where: str) -> Problem:
    return Problem(
        id=id, language=language or "", reason=reason, detail=f"{short(id)} has {what}", where=where
    )


def _table(path: Path, may_be_empty: bool = False) -> Mapping[str, Value]:
    """(what follows the first word, line) by first word; MayaError for a line without it or a word twice."""

    def lines() -> Iterator[Line]:
        for number, name, rest in _lines(path):
            if not rest and not may_be_empty:
                problem = f"nothing follows {short(name)}; complete or remove the line"
                raise MayaError(f"{path}:{number}: {problem}")
            yield number, name, rest

    return line_table(path, lines())


def _lines(path: Path) -> Iterator[Line]:
    """(number, first word, the rest) of the lines that are not empty."""
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split(maxsplit=1)
        if words:
            yield number, words[0], words[1].strip() if len(words) == 2 else ""


def _channels(path: Path, waves: Mapping[str, Value]) -> dict[str, int]:
    """The channel of recordings that share a file, from reco2file_and_channel (A is 0, B is 1).

    It describes the files a corpus was delivered in. These are the files of wav.scp only where two recordings
    are one file there; else every channel has a file of its own already.
    """
    if not path.is_file():
        return {}
    shared = {audio for audio, count in Counter(audio for audio, _ in waves.values()).items() if count > 1}
    if not shared:
        return {}
    channels = {}
    for recording, (rest, number) in _table(path).items():
        name = rest.split()[-1].upper()
        if recording not in waves or waves[recording][0] not in shared:
            continue
        if not re.fullmatch(r"[A-Z]|[1-9]\d{0,2}", name):
            raise MayaError(
                f"{path}:{number}: it must read RECORDING FILE CHANNEL, the channel A, B or a number"
            )
        channels[recording] = int(name) - 1 if name.isdecimal() else ord(name) - ord("A")
    return channels


def _segments(path: Path, waves: Mapping[str, Value], cut_up: UsedLines) -> Mapping[str, Value]:
    """The lines of segments by utterance, checked. cut_up: gets the lines of their recordings in wav.scp."""

    def lines() -> Iterator[Line]:
        for number, id, rest in _lines(path):
            recording, _ = _segment(path, rest, number)
            if (wave := waves.get(recording)) is None:
                raise MayaError(f"{path}:{number}: wav.scp has no recording {short(recording)}; add it there")
            cut_up.add(wave[1])
            yield number, id, rest

    return line_table(path, lines())


def _segment(path: Path, rest: str, number: int) -> tuple[str, dict[str, float]]:
    """The recording of a line of segments, and the start, duration and channel within it."""
    words = rest.split()
    try:
        recording, start, end = words[0], float(words[1]), float(words[2])
        channel = int(words[3]) if len(words) == 4 else -1  # -1: none is named
        sound = len(words) in (3, 4) and 0 <= start < 1e12 and (end == -1 or start < end < 1e12)
    except (IndexError, ValueError):
        sound = False
    if not sound or channel < -1:
        raise MayaError(
            f"{path}:{number}: it must read UTTERANCE RECORDING START END, in seconds, the end after the "
            "start or -1 for that of the recording, and may name a CHANNEL, counted from 0"
        )
    place: dict[str, float] = {"start": start} if end == -1 else {"start": start, "duration": end - start}
    return recording, place | ({"channel": channel} if channel >= 0 else {})


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
