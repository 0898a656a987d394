"""NeMo manifests: JSON lines with audio_filepath, text, duration and, of a longer recording, offset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maya.data.corpus.common import channel_of, folder_language, joined, part_id, part_in_name, unused
from maya.data.corpus.manifest import (
    ReadOptions,
    Result,
    Row,
    RowCollector,
    labels_in,
    parse_object,
    read_lines,
    short,
)
from maya.errors import MayaError


def nemo_manifests(folder: Path) -> list[Path]:
    """The files in a folder, ending in .json or .jsonl, whose first line has an audio_filepath."""
    return [path for path in _json_files(folder) if is_nemo(path)]


def is_nemo(path: Path) -> bool:
    """Whether the first line that is not empty has an audio_filepath."""
    return has_fields(path, "audio_filepath")


def has_fields(path: Path, *names: str) -> bool:
    """Whether the first line that is not empty has these fields. A damaged line counts if it holds their
    names: whoever reads the file then says what is wrong with it."""
    line = ""
    try:
        line = next((line for line in read_lines(path) if line.strip()), "")
        return all(name in parse_object(line) for name in names)
    except MayaError:
        return False
    except ValueError:
        return all(f'"{name}"' in line for name in names)


def read_nemo_folder(folder: Path, options: ReadOptions) -> Result:
    """Rows of the NeMo manifests in a folder. A note names the other files of their kind."""
    paths = nemo_manifests(folder)
    others = [path.name for path in _json_files(folder) if path not in paths]
    if options.first:
        options.notes.extend(unused(others, "files do not begin with a line of a NeMo manifest"))
    return read_nemo(paths, options), []


def _json_files(folder: Path) -> list[Path]:
    visible = (path for path in folder.glob("*") if not path.name.startswith("."))
    return sorted(path for path in visible if path.suffix in (".json", ".jsonl") and path.is_file())


def read_nemo(paths: list[Path], options: ReadOptions) -> list[Row]:
    """Rows of NeMo manifests that lie in one folder. Each may name its split (dev_manifest.json).

    With an `offset`, the utterance is `duration` seconds from there; without one it is the whole file.
    `channel` or `channel_selector` is a channel of the file, from 0, or "average", which is usual. `lang` or
    `language` is the language, `speaker` the speaker; the id, if none is given, is the path without its
    ending. Tarred data sets: maya.data.corpus.nemo_tarred.
    """
    several, piece = len(paths) > 1, options.piece
    files = []
    for path in paths if piece is None else [piece.path]:
        part = part_in_name(path.stem) if several else None
        collector = RowCollector(path, piece=piece)
        for number, given in collector.objects():
            try:
                values = nemo_values(given, options.labels)
            except ValueError as error:
                collector.reject(str(error), number)
                continue
            if values.get("language") is None:
                where = f"{path}:{number}"
                values["language"] = options.language or folder_language(Path(values["audio"]), where)
            collector.add({"split": part} | values, number)
        files.append(collector.rows(may_be_none=piece is not None))
    return joined(files)


def nemo_values(given: dict[str, Any], labels: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a Row from those of a line; ValueError says what it lacks. labels: see `labels_in`."""
    audio = given.get("audio_filepath")
    if not isinstance(audio, str) or not audio.strip():
        raise ValueError("the field 'audio_filepath' must be the path of the audio; several are not read")
    if "shard_id" in given:
        raise ValueError(
            "it lies in a tar, which was not found: put the tars of the data set beside the manifest"
        )
    values = {"audio": audio, "text": given.get("text"), "labels": labels_in(given, labels)}
    for name in ("duration", "split"):
        if given.get(name) is not None:
            values[name] = given[name]
    for name, others in (("language", ("language", "lang")), ("speaker", ("speaker", "speaker_id"))):
        value = next((given[n] for n in others if given.get(n) not in (None, "")), None)
        if value is not None:
            values[name] = str(value) if type(value) is int else value
    name = str(Path(audio).with_suffix("")) if Path(audio).name else audio
    if (start := given.get("offset")) is not None:
        duration = given.get("duration")
        for field, value in (("offset", start), ("duration", duration)):
            if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1 << 40):
                raise ValueError(f"the field {field!r} must be seconds, not {short(value)}")
        values["start"] = start
        name = part_id(name, start, duration)
    named = (given[n] for n in ("channel", "channel_selector") if given.get(n) is not None)
    if (channel := channel_of(next(named, None))) is not None:
        values["channel"] = channel
        name += f"-channel{channel}"
    values["id"] = str(given.get("id", name))
    return values
