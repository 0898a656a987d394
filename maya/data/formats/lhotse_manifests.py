"""lhotse manifests on disk: recordings with supervisions, or cuts, as JSON lines, packed with gzip or not."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from maya.data.formats.common import (
    SAME_SECONDS,
    folder_language,
    joined,
    known_language,
    part_in_name,
    seconds,
)
from maya.data.manifest import Row, RowCollector, parse_object, read_lines, short
from maya.errors import MayaError
from maya.text.languages import LANGUAGES

_SUFFIXES = (".jsonl", ".jsonl.gz")


def lhotse_manifests(folder: Path) -> list[tuple[Path, Path | None]]:
    """The manifests in a folder: (cuts, None), or (supervisions, the recordings of the same name).

    Files are told by the words cuts, supervisions and recordings in their names. Cuts are made of the other
    two, which are not read if there are cuts.
    """
    files = {p.name: p for p in sorted(folder.iterdir()) if p.name.endswith(_SUFFIXES) and p.is_file()}
    cuts: list[tuple[Path, Path | None]] = [(p, None) for name, p in files.items() if _has(name, "cuts")]
    if cuts:
        return cuts
    pairs: list[tuple[Path, Path | None]] = []
    for name, path in files.items():
        if not _has(name, "supervisions"):
            continue
        recordings = [
            files[other]
            for ending in _SUFFIXES
            if (other := _stem(name).replace("supervisions", "recordings") + ending) in files
        ]
        if not recordings:
            expected = name.replace("supervisions", "recordings")
            raise MayaError(f"{path} needs a file {expected} beside it, which tells where the audio is")
        pairs.append((path, recordings[0]))
    return pairs


def read_lhotse(manifests: list[tuple[Path, Path | None]], language: str | None = None) -> list[Row]:
    """A row for each supervision of what `lhotse_manifests` found, in order.

    Files may name their split (cuts_dev.jsonl.gz), or one of several of a split, which becomes the subset
    (cuts_dev-clean.jsonl.gz). A supervision that is not all of its recording becomes a part of it. Raises
    MayaError for audio that is not one file, mixed and padded cuts, transforms other than resampling, and
    single channels out of several: these are not what the file itself holds.
    """
    several = len(manifests) > 1
    found = []
    for path, recordings in manifests:
        stem = _stem(path.name)
        reader = _Reader(path, language, part_in_name(stem) if several else None, subset_in_name(stem))
        found.append(reader.cuts() if recordings is None else reader.supervisions(recordings))
    return joined(found)


def rows_of_supervisions(
    supervisions: Iterable[dict[str, Any]],
    recordings: Mapping[str, dict[str, Any]],
    name: Path,
    language: str | None,
    part: str | None,
    subset: str | None = None,
) -> list[Row]:
    """A row for each supervision, of recordings by id; both as lhotse writes them down. name: what messages
    call them, with the number of the supervision. Errors are those of `read_lhotse`."""
    reader = _Reader(name, language, part, subset)
    return reader.joined(enumerate(supervisions, start=1), recordings, str(name))


class _Reader:
    """Rows of one file; every line that is wrong is named."""

    def __init__(self, path: Path, language: str | None, part: str | None, subset: str | None) -> None:
        self.path, self.language, self.part = path, language, part
        self.subset = subset if part is not None and subset is not None and subset.lower() != part else None
        self.found = RowCollector(path, tuple(LANGUAGES))

    def cuts(self) -> list[Row]:
        for number, cut in self._objects():
            try:
                self._add_cut(cut, number)
            except ValueError as error:
                self.found.reject(str(error), number)
        return self.found.rows()

    def supervisions(self, path: Path) -> list[Row]:
        recordings: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(read_lines(path), start=1):
            try:
                if line.strip():
                    recording = parse_object(line)
                    recordings[_text(recording, "id")] = recording
            except ValueError as error:
                raise MayaError(f"{path}:{number}: {error}") from None
        return self.joined(self._objects(), recordings, path.name)

    def joined(
        self, supervisions: Iterable[tuple[int, dict[str, Any]]], recordings: Mapping[str, Any], name: str
    ) -> list[Row]:
        """Of numbered supervisions and the recordings, which messages call `name`."""
        for number, supervision in supervisions:
            try:
                wanted = _text(supervision, "recording_id")
                if wanted not in recordings:
                    raise ValueError(f"{name} has no recording {short(wanted)}; add it there")
                self._add(supervision, recordings[wanted], 0.0, supervision.get("channel"), number)
            except ValueError as error:
                self.found.reject(str(error), number)
        return self.found.rows()

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(read_lines(self.path), start=1):
            if not line.strip():
                continue
            try:
                values = parse_object(line)
            except ValueError as error:
                self.found.reject(str(error), number)
                continue
            yield number, values

    def _add_cut(self, cut: dict[str, Any], line: int) -> None:
        kind = cut.get("type", "MonoCut")
        if kind not in ("MonoCut", "MultiCut"):
            raise ValueError(f"a cut of type {short(kind)} is not a part of one recording; leave it out")
        recording, supervisions = cut.get("recording"), cut.get("supervisions")
        if not isinstance(recording, dict):
            raise ValueError(
                "the cut has no recording; features alone are not read, give cuts with recordings"
            )
        if not isinstance(supervisions, list) or not all(isinstance(s, dict) for s in supervisions):
            raise ValueError("the cut has no list of supervisions; they tell what is said")
        begin = seconds(cut, "start")
        for supervision in supervisions:
            self._add(supervision, recording, begin, cut.get("channel"), line)

    def _add(
        self, supervision: dict[str, Any], recording: dict[str, Any], begin: float, channel: Any, line: int
    ) -> None:
        """begin: seconds into the recording from which the supervision counts its start."""
        audio = _audio(recording, channel)
        start, duration = begin + seconds(supervision, "start"), seconds(supervision, "duration")
        if -SAME_SECONDS < start < 0:
            start = 0.0
        values = {
            "id": supervision.get("id"),
            "text": supervision.get("text") or "",
            "audio": audio,
            "language": known_language(supervision.get("language")) or self.language,
            "speaker": supervision.get("speaker"),
            "duration": duration,
            "split": self.part,
        }
        whole = start < SAME_SECONDS and abs(duration - seconds(recording, "duration")) < SAME_SECONDS
        if not whole:
            values["start"] = start
        if values["language"] is None:
            values["language"] = folder_language(Path(audio), f"{self.path}:{line}")
        self.found.add(values, line, self.subset)


def subset_in_name(stem: str) -> str | None:
    """What follows the kind of manifest in a file's name: dev-clean of librispeech_supervisions_dev-clean."""
    found = re.fullmatch(r"(?:.*[_.-])?(?:supervisions|cuts)[_.-]([A-Za-z0-9][A-Za-z0-9_-]*)", stem)
    return found[1] if found else None


def _audio(recording: dict[str, Any], channel: Any) -> str:
    """The path of the one file of a recording; ValueError where its samples are not those of the cut."""
    name, sources = short(recording.get("id")), recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise ValueError(f"recording {name} is not one file; write it to one")
    source = sources[0]
    if source.get("type") != "file":
        raise ValueError(
            f"the audio of recording {name} is of type {short(source.get('type'))}; only files are "
            "read, save it with lhotse's save_audios"
        )
    address = _text(source, "source")
    if "://" in address:
        raise ValueError(f"recording {name} lies at {short(address)}, which is no file; copy it to one")
    for transform in recording.get("transforms") or ():
        kind = transform.get("name", "unknown") if isinstance(transform, dict) else "unknown"
        if kind != "Resample":  # Maya resamples whatever the file holds
            raise ValueError(f"recording {name} is changed by {short(kind)}; give it as it was recorded")
    there = source.get("channels")
    wanted = channel if isinstance(channel, list) else [channel]
    if channel is not None and isinstance(there, list) and len(there) != len(wanted):
        raise ValueError(
            f"it is channel {short(wanted)} of recording {name}, which has {short(there)}; write that "
            "channel to a file"
        )
    return address


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"the field {name!r} must be text that is not empty")
    return value


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".jsonl")


def _has(name: str, word: str) -> bool:
    return word in re.split(r"[^a-z]+", _stem(name).lower())
