"""Where the transcripts of `maya transcribe` go: lines on stdout, or a file for each recording and format."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from maya.align.formats.base import FormatConfig
from maya.align.formats.plain import label_texts, line_name
from maya.align.formats.table import FORMATS
from maya.audio.byte_ranges import ByteRange
from maya.decode.transcription import Transcript
from maya.errors import MayaError
from maya.files import json_sha256, unwritable, writing
from maya.recipes.transcribe_inputs import Input

LEDGER = ".maya-transcribe.jsonl"
"""In the output folder: a line for each recording before its files are written, and one after it."""


class Outputs(Protocol):
    """Where transcripts go."""

    def is_done(self, item: Input) -> bool:
        """Whether the outputs of a recording are there already."""

    def write(self, item: Input, transcript: Transcript) -> None:
        """Write a transcript that has no error."""

    def close(self) -> None:
        """Write what ends the outputs. Called also after an error."""


class StandardOutput:
    """Transcripts as they come, on stdout. show: prints a text, without adding a line end.

    Raises MayaError for several formats, and for more than one recording in a format that holds one only.
    """

    def __init__(
        self, formats: Sequence[str], cfg: FormatConfig, show: Callable[[str], None], *, several: bool
    ) -> None:
        if len(formats) > 1:
            raise MayaError("several formats need a folder for their files: add --output-dir DIR")
        (self.name,) = formats
        self.format, self.cfg, self.show, self.count = FORMATS[self.name], cfg, show, 0
        if several and not self.format.joins and self.name != "json":
            raise MayaError(
                f"{self.name} on the standard output holds one recording; add --output-dir DIR for more"
            )

    def is_done(self, item: Input) -> bool:
        """Never: nothing remembers what was printed."""
        return False

    def write(self, item: Input, transcript: Transcript) -> None:
        """Print a transcript."""
        self.count += 1
        write = self.format.write
        text = _text_line(transcript) if self.name == "txt" else write(transcript, self.cfg)
        if self.count == 1:
            text = ("[\n" if self.name == "json" else self.format.header) + text
        elif self.name == "json":
            text = ",\n" + text
        self.show(text.rstrip("\n") if self.name == "json" else text)

    def close(self) -> None:
        """End the list of JSON objects."""
        if self.name == "json":
            self.show("\n]\n" if self.count else "[]\n")


def _text_line(transcript: Transcript) -> str:
    """The name of the recording, a tab and its text or labels, in one line."""
    name = line_name(transcript)
    if transcript.channel is not None:
        name += f"#{transcript.channel}"
    hyp = transcript.hypothesis
    return f"{name}\t{' '.join(label_texts(transcript)) if hyp is None else hyp.text}\n"


@dataclass(kw_only=True, slots=True)
class OutputFolder:
    """A file for each recording, channel and format, each written at once when it is complete. Files that no
    earlier run has written stay: a text beside its audio may be a person's.

    key: of the model and the options, by which a later run knows whether it would write the same.
    resume: whether recordings whose files are complete and have the same key are left out.
    """

    folder: Path
    formats: Sequence[str]
    cfg: FormatConfig
    key: str
    resume: bool = False
    _ledger: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    _own: set[str] = field(default_factory=set, init=False)
    _waiting: dict[str, list[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise MayaError(f"--output-dir {self.folder} is a file; name a folder")
        for row in _read_ledger(self.folder / LEDGER):
            self._own.update(row["files"])
            self._ledger[row["name"]] = row

    def check(self, items: Sequence[Input]) -> None:
        """Raises MayaError where a file of another origin has the name of one that is to be written."""
        for item in items:
            stems = [item.name] + [f"{item.name}.channel1"] * (item.recording.channel == "all")
            for name in (stem + FORMATS[n].suffix for stem in stems for n in self.formats):
                if name not in self._own and (self.folder / name).exists():
                    raise MayaError(
                        f"{self.folder / name} is there, and not from an earlier run: name another "
                        "--output-dir, or move the file away"
                    )

    def is_done(self, item: Input) -> bool:
        """Whether an earlier run with the same model and options wrote all files of this recording."""
        row = self._ledger.get(item.name) if self.resume else None
        if row is None or row.get("key") != self.key or row.get("audio") != audio_stamp(item):
            return False
        return all((self.folder / name).is_file() for name in row.get("files", [])) and bool(row.get("files"))

    def write(self, item: Input, transcript: Transcript) -> None:
        """Write the files of a transcript, and after those of the last channel a line of the ledger."""
        stem = item.name if transcript.channel is None else f"{item.name}.channel{transcript.channel}"
        names = self._waiting.setdefault(item.name, [])
        texts = {stem + FORMATS[n].suffix: FORMATS[n].header + FORMATS[n].write(transcript, self.cfg)
                 for n in self.formats}  # fmt: skip
        self._note(item, [*texts], key="")
        for name, text in texts.items():
            with writing(self.folder / name) as partial:
                partial.write_text(text, encoding="utf-8")
        names += texts
        if len(names) == transcript.channels * len(self.formats):
            self._note(item, names, key=self.key)
            del self._waiting[item.name]

    def _note(self, item: Input, files: list[str], *, key: str) -> None:
        row = {"name": item.name, "key": key, "audio": audio_stamp(item), "files": files}
        path = self.folder / LEDGER
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # On a new line, for the last one may be cut off; in ASCII, for names need not be text.
            with path.open("a", encoding="ascii") as file:
                file.write(("\n" if file.tell() else "") + json.dumps(row))
        except OSError as error:
            raise unwritable(path, error) from error

    def close(self) -> None:
        """Nothing remains to be written."""


def audio_stamp(item: Input) -> list[Any]:
    """What tells whether the audio of a recording has changed: its path, size, time and part."""
    recording = item.recording
    audio = recording.audio
    place: list[Any] = [recording.start, recording.duration, recording.channel, recording.language]
    if isinstance(audio, (str, Path)):
        try:
            status = Path(audio).stat()
        except OSError:
            return [str(audio), *place]
        return [str(Path(audio).resolve()), status.st_size, status.st_mtime_ns, *place]
    return [repr(audio) if isinstance(audio, ByteRange) else item.name, *place]


def options_key(checkpoint_digest: str, options: Mapping[str, Any]) -> str:
    """The key of a model and the options that change its output."""
    return json_sha256({"checkpoint": checkpoint_digest, "options": dict(options)})


def _read_ledger(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, the last of each recording last. A line that was cut off is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
            if isinstance(row["name"], str) and isinstance(row["files"], list):
                yield row
        except (ValueError, KeyError, TypeError):
            continue


def print_at_once(text: str) -> None:
    """Print a text on stdout and flush it, above a progress bar if there is one."""
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm.external_write_mode(file=sys.stdout):
        sys.stdout.write(text)
        sys.stdout.flush()
