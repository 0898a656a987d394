"""lhotse Shar: cuts.000000.jsonl.gz beside recording.000000.tar, whose members hold the audio of each cut."""

import re
from pathlib import Path
from typing import Any

from maya.audio.tar_members import TarMembers
from maya.data.corpus.common import (
    SAME_SECONDS,
    channel_of,
    folder_language,
    merged,
    part_in_name,
    seconds,
    within,
)
from maya.data.corpus.lhotse_manifests import custom_labels
from maya.data.corpus.manifest import ReadOptions, Result, RowCollector, short
from maya.data.corpus.pieces import CorpusPiece
from maya.errors import MayaError

_CUTS = re.compile(r"cuts\.(.+)\.jsonl(\.gz)?")
_NO_AUDIO = (".json", ".nometa", ".nodata")  # beside the audio: its manifest, and marks of cuts without any


def shar_shards(folder: Path) -> list[tuple[Path, Path]]:
    """(cuts, recordings) of each shard: in the folder, or in folders of languages or splits within it. Raises
    MayaError for a shard of which one is missing."""
    for pattern in ("cuts.*", "*/cuts.*", "*/*/cuts.*"):
        cuts = [
            path
            for path in sorted(folder.glob(pattern))
            if _CUTS.fullmatch(path.name)
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
        tars = {path: _beside(path)[1] for path in cuts}
        if not any(tar.is_file() for tar in tars.values()):
            continue
        if missing := next(((c, tar) for c, tar in tars.items() if not tar.is_file()), None):
            raise MayaError(
                f"{missing[0]} has no {missing[1].name} beside it, which holds its audio; copy it there"
            )
        return list(tars.items())
    return []


def shar_files(folder: Path) -> list[Path]:
    """The files of `shar_shards`, one after the other."""
    return [path for pair in shar_shards(folder) for path in pair]


def read_shar(folder: Path, options: ReadOptions) -> Result:
    """A row for each supervision, and cuts whose audio is not in the tar.

    The id is the cut's where it has one supervision, else the supervision's. A folder such as train/ or hi/
    tells the split or the language where the cuts do not. Notes name cuts without a supervision, and audio
    without a cut. Raises MayaError for lines that are no cuts.
    """
    pairs = shar_shards(folder) if options.piece is None else [_beside(options.piece.path)]
    shards = [_Shard(folder, cuts, tar, options) for cuts, tar in pairs]
    rows, dropped = merged(shard.read() for shard in shards)
    if not rows and options.piece is None:
        raise MayaError(f"{folder}: no cut of its Shar has its audio there")
    silent = [name for shard in shards for name in shard.without_text]
    alone = [name for shard in shards for name in shard.without_cut]
    options.pass_over("cuts have no supervision", len(silent), silent)
    options.pass_over("members of its tars belong to no cut", len(alone), alone)
    return rows, dropped


def shar_pieces(folder: Path) -> list[CorpusPiece]:
    """The cuts of each shard."""
    return [CorpusPiece(cuts) for cuts, _ in shar_shards(folder)]


def _beside(cuts: Path) -> tuple[Path, Path]:
    """Cuts and the recordings of their shard."""
    match = _CUTS.fullmatch(cuts.name)
    return cuts, cuts.with_name(f"recording.{match[1] if match else ''}.tar")


class _Shard:
    def __init__(self, folder: Path, cuts: Path, tar: Path, options: ReadOptions) -> None:
        self.path, self.options = cuts, options
        self.members = TarMembers(tar)
        self.audio = self.members.without_ending(_NO_AUDIO)
        inside = tar.relative_to(folder)
        self.tar, self.inside = inside.as_posix(), inside.parent
        self.collector = RowCollector(cuts)
        self.without_text: list[str] = []  # cuts
        self.without_cut: list[str] = []  # members of the tar

    def read(self) -> Result:
        named: set[str] = set()
        piece = self.options.piece is not None
        result = self.collector.add_objects(
            lambda cut, line: named.add(self._add_cut(cut, line)), may_be_none=piece
        )
        self.without_cut = [member.name for name, member in self.audio.items() if name not in named]
        return result

    def _add_cut(self, cut: dict[str, Any], line: int) -> str:
        """Keep the supervisions of a cut, whose name is returned."""
        name, supervisions = cut.get("id"), cut.get("supervisions")
        if not isinstance(name, str) or not name:
            raise ValueError("the field 'id' must be text that is not empty")
        if not isinstance(supervisions, list) or not all(isinstance(s, dict) for s in supervisions):
            raise ValueError("the cut has no list of supervisions; they tell what is said")
        recording = cut.get("recording") or {}
        if not isinstance(recording, dict):
            raise ValueError(f"the recording of {short(name)} must be an object, not {short(recording)}")
        if not supervisions:
            self.without_text.append(name)
        for transform in recording.get("transforms") or ():
            raise ValueError(
                f"the recording of {short(name)} is changed by {short(transform)}; write it as it is"
            )
        member = self.audio.get(name)
        for supervision in supervisions:
            code = supervision.get("language") or self.options.language
            if member is None:
                self.collector.drop(name, code, "missing_audio", self.members.lacks(f"{name}.*"), line)
                continue
            values = {
                "id": name if len(supervisions) == 1 else supervision.get("id"),
                "text": supervision.get("text") or "",
                "audio": member.name,
                "tar": self.tar,
                "offset": member.offset,
                "size": member.size,
                "language": code or folder_language(self.inside / "x", f"{self.path}:{line}"),
                "speaker": supervision.get("speaker"),
                "split": part_in_name(self.inside.as_posix()),
                "channel": _channel(supervision, cut),
                "labels": custom_labels(supervision, self.options.labels),
            }
            if (place := _place(supervision, cut)) is None:
                start, end = supervision["start"], supervision["start"] + supervision["duration"]
                detail = f"it goes from {start:g} to {end:g} s of the audio of cut {short(name)}"
                id = str(supervision.get("id") or name)
                self.collector.drop(id, code, "outside_recording", detail, line)
                continue
            values |= place
            self.collector.add(values, line)
        return name


def _place(supervision: dict[str, Any], cut: dict[str, Any]) -> dict[str, float] | None:
    """start and duration of what is said, where that is not all of the cut; None where the cut, whose audio
    is all that Shar keeps, lacks some of it."""
    start, duration, total = (
        seconds(supervision, "start"),
        seconds(supervision, "duration"),
        seconds(cut, "duration"),
    )
    if abs(start) < SAME_SECONDS and abs(duration - total) < SAME_SECONDS:
        return {"duration": duration}
    placed = within(start, duration, total)
    return None if placed is None else {"start": placed[0], "duration": placed[1]}


def _channel(supervision: dict[str, Any], cut: dict[str, Any]) -> int | None:
    """The channel of a supervision among those of a MultiCut, which are all that Shar keeps."""
    if cut.get("type") != "MultiCut":
        return None
    return channel_of(supervision.get("channel"), cut.get("channel"))
