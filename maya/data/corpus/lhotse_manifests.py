"""lhotse manifests on disk: recordings with supervisions, or cuts, as JSON lines, packed with gzip or not."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.data.corpus.common import (
    SAME_SECONDS,
    channel_of,
    folder_language,
    merged,
    part_in_name,
    seconds,
    unused,
    within,
)
from maya.data.corpus.line_table import Line, UsedLines, Value, line_table
from maya.data.corpus.manifest import (
    ReadOptions,
    Result,
    RowCollector,
    labels_in,
    parse_object,
    read_lines,
    short,
)
from maya.errors import MayaError

_SUFFIXES = (".jsonl", ".jsonl.gz")
_NAMED = 3  # names that a note lists


def lhotse_manifests(folder: Path) -> list[tuple[Path, Path | None]]:
    """The manifests in a folder: (cuts, None), or (supervisions, the recordings of the same name).

    Files are told by the words cuts, supervisions and recordings in their names. Cuts are made of the other
    two, which are not read if there are cuts.
    """
    files = {
        p.name: p
        for p in sorted(folder.glob("*"))
        if p.name.endswith(_SUFFIXES) and not p.name.startswith(".") and p.is_file()
    }
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


def lhotse_files(folder: Path) -> list[Path]:
    """The files of `lhotse_manifests`, one after the other."""
    return [path for pair in lhotse_manifests(folder) for path in pair if path is not None]


def read_lhotse(folder: Path, options: ReadOptions) -> Result:
    """A row for each supervision of `lhotse_manifests`, in order, and supervisions that lie outside of their
    recordings.

    A supervision may begin before its cut and end after it: all of it is read, as far as the recording goes.
    The channel is that of a MonoCut, and of a MultiCut that of the supervision.

    Files may name their split (cuts_dev.jsonl.gz), or one of several of a split, which becomes the subset
    (cuts_dev-clean.jsonl.gz). A supervision that is not all of its recording becomes a part of it. Raises
    MayaError for audio that is not one file, mixed and padded cuts, transforms other than resampling, and
    several channels out of more: these are not what the file itself holds.
    """
    manifests = lhotse_manifests(folder)
    several = len(manifests) > 1
    results = []
    options.notes.extend(_unused_supervisions(folder, [path for path, _ in manifests]))
    for path, recordings in manifests:
        stem = _stem(path.name)
        reader = _LhotseReader(path, options, part_in_name(stem) if several else None, subset_in_name(stem))
        results.append(reader.cuts() if recordings is None else reader.supervisions(recordings))
    return merged(results)


def _unused_supervisions(folder: Path, read: Sequence[Path]) -> list[str]:
    """A note about supervisions that are not read because there are cuts, of other sets than theirs."""
    if not _has(read[0].name, "cuts"):
        return []
    sets = {subset_in_name(_stem(path.name)) for path in read}
    others = [path.name for path in sorted(folder.glob("*")) if path.name.endswith(_SUFFIXES)]
    others = [name for name in others if _has(name, "supervisions") and name[0] != "."]
    others = [name for name in others if subset_in_name(_stem(name)) not in sets]
    return unused(others, "files of supervisions lie beside files of cuts")


def rows_of_supervisions(
    supervisions: Iterable[dict[str, Any]],
    recordings: Mapping[str, dict[str, Any]],
    name: Path,
    options: ReadOptions,
    part: str | None,
    subset: str | None = None,
) -> Result:
    """As `read_lhotse`, of supervisions and of recordings by id; both as lhotse writes them down. name: used
    in messages, with the number of the supervision."""
    reader = _LhotseReader(name, options, part, subset)
    lines = {id: (json.dumps(recording), n) for n, (id, recording) in enumerate(recordings.items(), start=1)}
    return reader.joined(enumerate(supervisions, start=1), lines, str(name))


class _LhotseReader:
    """Rows of one file, and its wrong lines."""

    def __init__(self, path: Path, options: ReadOptions, part: str | None, subset: str | None) -> None:
        self.path, self.options, self.part = path, options, part
        self.subset = subset if part is not None and subset is not None and subset.lower() != part else None
        self.collector = RowCollector(path, sink=options.sink)
        self.without_text = 0  # cuts
        self.named: list[str] = []  # the first of them

    def cuts(self) -> Result:
        result = self.collector.add_objects(self._add_cut)
        what = f"cuts of {self.path.name} have no supervision"
        self.options.notes.extend(unused(self.named, what, self.without_text))
        return result

    def supervisions(self, path: Path) -> Result:

        def lines() -> Iterator[Line]:
            for number, line in enumerate(read_lines(path), start=1):
                try:
                    if line.strip():
                        recording = parse_object(line)
                        yield number, _text(recording, "id"), json.dumps(recording, sort_keys=True)
                except ValueError as error:
                    raise MayaError(f"{path}:{number}: {error}") from None

        twice = "there is another recording {name} before it; rename one"
        return self.joined(self.collector.objects(), line_table(path, lines(), twice), path.name)

    def joined(
        self, supervisions: Iterable[tuple[int, dict[str, Any]]], lines: Mapping[str, Value], name: str
    ) -> Result:
        """Rows of numbered supervisions. lines: of the recordings, as JSON; `name` stands for them in
        messages."""

        used = UsedLines()

        def add(supervision: dict[str, Any], number: int) -> None:
            id = _text(supervision, "recording_id")
            if (place := lines.get(id)) is None:
                raise ValueError(f"{name} has no recording {short(id)}; add it there")
            used.add(place[1])
            recording = json.loads(place[0])
            try:
                seconds(recording, "duration")
            except ValueError as error:
                raise ValueError(f"line {place[1]} of {name}, its recording: {error}") from None
            self._add(supervision, recording, 0.0, supervision.get("channel"), number)

        result = self.collector.add_objects(add, supervisions)
        count, without_text = used.others(lines)
        self.options.notes.extend(unused(without_text, f"recordings of {name} have no supervision", count))
        return result

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
        if not supervisions:
            self.without_text += 1
            self.named = [*self.named, str(cut.get("id"))][:_NAMED]
        for supervision in supervisions:
            # The channels of a MonoCut's supervisions are its own.
            channel = supervision.get("channel") if kind == "MultiCut" else None
            self._add(supervision, recording, begin, cut.get("channel") if channel is None else channel, line)

    def _add(
        self, supervision: dict[str, Any], recording: dict[str, Any], begin: float, channel: Any, line: int
    ) -> None:
        """begin: seconds into the recording from which the supervision counts its start."""
        audio, number = _audio(recording, channel)
        start, duration = begin + seconds(supervision, "start"), seconds(supervision, "duration")
        total = seconds(recording, "duration")
        if start >= total or start < 0:  # maya.data.measure.probe judges an end beyond the recording's
            placed = within(start, duration, total)
            if placed is None:
                detail = f"it goes from {start:g} to {start + duration:g} s of a recording of {total:g} s"
                language = str(supervision.get("language") or self.options.language or "")
                id = _text(supervision, "id")
                return self.collector.drop(id, language, "outside_recording", detail, line)
            start, duration = placed
        values = {
            "id": supervision.get("id"),
            "text": supervision.get("text") or "",
            "audio": audio,
            "language": supervision.get("language") or self.options.language,
            "speaker": supervision.get("speaker"),
            "duration": duration,
            "split": self.part,
            "channel": number,
            "labels": custom_labels(supervision, self.options.labels),
        }
        whole = start < SAME_SECONDS and abs(duration - total) < SAME_SECONDS
        if not whole:
            values["start"] = start
        if values["language"] is None:
            values["language"] = folder_language(Path(audio), f"{self.path}:{line}")
        self.collector.add(values, line, self.subset)


def subset_in_name(stem: str) -> str | None:
    """The end of a file's name after the kind of manifest: dev-clean of
    librispeech_supervisions_dev-clean."""
    match = re.fullmatch(r"(?:.*[_.-])?(?:supervisions|cuts)[_.-]([A-Za-z0-9][A-Za-z0-9_-]*)", stem)
    return match[1] if match else None


def custom_labels(supervision: dict[str, Any], names: Sequence[str]) -> Any:
    """The labels in a supervision's `custom`: its object `labels`, label_NAME, and fields with these
    names."""
    custom = supervision.get("custom")
    return labels_in(custom, names) if isinstance(custom, dict) else {}


def _audio(recording: dict[str, Any], channel: Any) -> tuple[str, int | None]:
    """(path of the one file of a recording, its channel, None for all); ValueError where the samples of the
    file are not those of the cut."""
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
    try:
        return address, channel_of(channel, source.get("channels"))
    except ValueError as error:
        raise ValueError(f"recording {name}: {error}") from None


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"the field {name!r} must be text that is not empty")
    return value


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".jsonl")


def _has(name: str, word: str) -> bool:
    return word in re.split(r"[^a-z]+", _stem(name).lower())
