"""The recordings that the arguments of `maya transcribe` mean: files, folders, patterns, manifests, stdin."""

import glob
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from maya.audio.byte_ranges import ByteRange
from maya.decode.transcription import Channels, Recording
from maya.errors import MayaError
from maya.files import shown
from maya.recipes.pcm import PCMFormat, read_pcm

STDIN = "-"
_MANIFESTS = (".jsonl", ".json")
_NAMED = 3  # file endings that a note lists


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A recording, and the name of its output files without their suffix, relative to the output folder."""

    recording: Recording
    name: str


@dataclass(kw_only=True, slots=True)
class RecordingList:
    """items: in the order of the arguments. notes: what was passed over, for a person."""

    items: list[Input] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_inputs(arguments: Sequence[str], channel: Channels, stdin: "StdinAudio") -> RecordingList:
    """All recordings. A file that does not exist is among them, and fails when it is read.

    Raises MayaError for a folder without audio, a pattern that matches nothing, and a damaged manifest.
    """
    inputs = RecordingList()
    for argument in arguments:
        inputs.items += _read_argument(argument, inputs.notes, stdin)
    return RecordingList(items=_with_distinct_names(inputs.items, channel), notes=inputs.notes)


@dataclass(frozen=True, kw_only=True, slots=True)
class StdinAudio:
    """Audio on the standard input: a WAV or another file, or samples in `raw` format without a header.
    sample_rate: Hz of the model."""

    sample_rate: int
    raw: PCMFormat | None = None
    stream: IO[bytes] | None = None

    @property
    def source(self) -> IO[bytes]:
        """Where the bytes come from."""
        return self.stream or sys.stdin.buffer


def _read_argument(argument: str, notes: list[str], stdin: StdinAudio) -> Iterator[Input]:
    path = Path(argument)
    if argument == STDIN:
        samples = read_pcm(stdin.source, stdin.raw, stdin.sample_rate)
        yield Input(recording=Recording(audio=samples, id="stdin"), name="stdin")
    elif path.is_fifo() or path.is_char_device():  # <(ffmpeg ...), /dev/stdin
        with path.open("rb") as pipe:
            samples = read_pcm(pipe, stdin.raw, stdin.sample_rate)
        yield Input(recording=Recording(audio=samples, id=shown(path)), name=path.name)
    elif path.is_dir():
        yield from _read_folder(path, notes)
    elif path.suffix.lower() in _MANIFESTS and path.is_file():
        yield from _read_manifest(path)
    elif not path.exists() and glob.has_magic(argument):
        matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
        files = [match for match in matches if match.is_file()]
        if not files:
            raise MayaError(f"no file matches {argument}")
        yield from (_file(match, match.name) for match in files)
    else:
        yield _file(path, path.name)


def _file(path: Path, name: str) -> Input:
    stem = str(PurePosixPath(name).with_suffix(""))
    return Input(recording=Recording(audio=path, id=shown(path)), name=stem)


def _read_folder(folder: Path, notes: list[str]) -> Iterator[Input]:
    from maya.data.corpus.common import AUDIO_SUFFIXES  # noqa: PLC0415  readers take a while to import
    from maya.data.corpus.walk import walk  # noqa: PLC0415

    walked = walk(folder)
    audio = [path for path in walked.files if path.suffix.lower() in AUDIO_SUFFIXES]
    others = Counter(path.suffix.lower() or path.name for path in walked.files) - Counter(
        path.suffix.lower() for path in audio
    )
    folder_notes = [f"{folder}: {note}" for note in walked.notes(folder)]
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(_NAMED))
        rest = ", ..." if len(others) > _NAMED else ""
        count = others.total()
        files = "file that is" if count == 1 else "files that are"
        folder_notes.append(f"{folder}: passed over {count} {files} no audio ({kinds}{rest})")
    if not audio:
        formats = " ".join(suffix[1:] for suffix in AUDIO_SUFFIXES[:6])
        reasons = "".join(f"; {note.removeprefix(f'{folder}: ')}" for note in folder_notes)
        raise MayaError(f"{folder} holds no audio file ({formats} ...){reasons}")
    notes += folder_notes
    for path in audio:
        yield _file(path, path.relative_to(folder).as_posix())


def _read_manifest(path: Path) -> Iterator[Input]:
    """The recordings of a file of JSON lines, of Maya (audio), NeMo (audio_filepath) or Hugging Face
    (file_name). Texts need not be there."""
    from maya.data.corpus.manifest import parse_object, read_lines  # noqa: PLC0415

    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            recording = _manifest_row(parse_object(line), path.parent)
        except ValueError as error:
            raise MayaError(
                f"{where}: {error}; a manifest holds a JSON object with its audio a line"
            ) from None
        parts = [part for part in PurePosixPath(recording.id).parts if part not in ("/", "..", ".")]
        yield Input(recording=recording, name="/".join(parts) or str(number))


def _manifest_row(values: dict[str, Any], folder: Path) -> Recording:
    from maya.data.corpus.common import channel_of  # noqa: PLC0415

    audio = next((values[n] for n in ("audio_filepath", "audio", "file_name") if values.get(n)), None)
    if not isinstance(audio, str):
        raise ValueError("it names no audio (audio_filepath, audio or file_name)")
    source: Path | ByteRange = folder / audio
    if values.get("tar"):
        source, values = _tar_member(values, folder), {**values, "offset": None, "start": None}
    start = _seconds(values, "offset", "start")
    duration = _seconds(values, "duration") if start is not None else None
    language = next((values[n] for n in ("language", "lang", "source_lang") if values.get(n)), None)
    channel = channel_of(next((values[n] for n in ("channel", "channel_selector") if n in values), None))
    name = str(PurePosixPath(audio).with_suffix(""))
    name += f"-{start:.2f}" if start is not None else ""
    return Recording(
        audio=source, id=str(values.get("id") or name), start=start, duration=duration,
        language=str(language) if language else None, channel=None if channel is None else channel + 1,
    )  # fmt: skip


def _tar_member(values: dict[str, Any], folder: Path) -> ByteRange:
    offset, size = values.get("offset"), values.get("size")
    if type(offset) is not int or type(size) is not int:
        raise ValueError("its audio lies in a tar; give its offset and size there in bytes")
    return ByteRange(str(folder / str(values["tar"])), offset, size)


def _seconds(values: dict[str, Any], *names: str) -> float | None:
    """The first of these fields that is given. Raises ValueError if it is no time."""
    for name in names:
        if (value := values.get(name)) is not None:
            if type(value) not in (int, float) or not 0 <= value < 1 << 40:
                raise ValueError(f"its {name} must be seconds, not {value!r}")
            return float(value)
    return None


def _with_distinct_names(items: list[Input], channel: Channels) -> list[Input]:
    """Items that read `channel` unless they name their own, and whose outputs have names of their own.

    Names that occur twice get the suffix of the audio, and if that does not help a number."""
    counts = Counter(item.name for item in items)
    taken: set[str] = set()
    distinct = []
    for item in items:
        name, audio = item.name, item.recording.audio
        if counts[name] > 1 and isinstance(audio, Path):
            name += audio.suffix
        number, base = 1, name
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        recording = replace(item.recording, channel=item.recording.channel or channel)
        distinct.append(Input(recording=recording, name=name))
    return distinct
