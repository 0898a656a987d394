"""NeMo's tarred data sets: lines of a manifest name a shard and a member of its tar, audio_0.tar and so on.

DIR/tarred_audio_manifest.json, DIR/audio_0.tar ... audio_511.tar               --corpus DIR
DIR/sharded_manifests/manifest_0.json ..., DIR/audio_0.tar ...                  --corpus DIR
anything else                --corpus 'nemo:DIR/m__OP_0..511_CL_.json:DIR/audio__OP_0..511_CL_.tar'
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from maya.audio.tar_members import TarMembers
from maya.data.corpus.common import folder_language, merged, part_in_name, unused
from maya.data.corpus.manifest import ReadOptions, Result, RowCollector, parse_object, read_lines
from maya.data.corpus.nemo import has_fields, is_nemo, nemo_values
from maya.data.corpus.pieces import CorpusPiece
from maya.data.corpus.shards import by_number, expanded
from maya.errors import MayaError

_SHARDED = "sharded_manifests"
_PIECE = re.compile(r"-sub\d+$")  # of several utterances in one recording, which lies in the tar once


def nemo_tarred(folder: Path) -> tuple[list[Path], list[Path]]:
    """(manifests, tars) of a tarred data set in a folder; nothing where there is none. Manifests of single
    shards lie in sharded_manifests/; they are taken where there is no manifest of all shards."""
    manifests = sorted(p for p in folder.glob("*.json") if p.is_file() and is_tarred(p))
    if not manifests:
        # A damaged line may have lost its shard_id.
        shards = sorted(p for p in (folder / _SHARDED).glob("*.json") if p.is_file() and is_nemo(p))
        manifests = shards if any(map(is_tarred, shards)) else []
    return manifests, sorted(folder.glob("*.tar")) if manifests else []


def is_tarred(path: Path) -> bool:
    """Whether the first line that is not empty names a shard and a member."""
    return has_fields(path, "audio_filepath", "shard_id")


def tarred_files(manifests: str, tars: str) -> tuple[list[Path], list[Path]]:
    """The files of `nemo:MANIFESTS:TARS`, with NeMo's ranges expanded. MayaError when one is missing."""
    files = [Path(name) for name in expanded(manifests)], [Path(name) for name in expanded(tars)]
    for path in (*files[0], *files[1]):
        if not path.is_file():
            raise MayaError(f"there is no file {path}, which the corpus nemo:{manifests}:{tars} names")
    return files


def read_nemo_tarred(manifests: Sequence[Path], tars: Sequence[Path], options: ReadOptions) -> Result:
    """A row for each line, and lines whose audio is not in its tar.

    The last number in a tar's name is the number of its shard; a manifest without shard_id describes the
    shard of its own number. Fields: as in maya.data.corpus.nemo. Notes say how much audio in the tars no
    line names. Raises MayaError for lines and shards that are wrong.
    """
    reader = _NemoTarredReader(by_number(tars), options)
    several, piece = len(manifests) > 1, options.piece
    selected = manifests if piece is None else [piece.path]
    rows, dropped = merged(
        reader.read(path, part_in_name(path.stem) if several else None) for path in selected
    )
    if not rows and piece is None:
        raise MayaError(f"{manifests[0]}: none of its utterances is in the tars beside it")
    reader.note_unused()
    return rows, dropped


def tarred_pieces(manifests: Sequence[Path], tars: Sequence[Path]) -> list[CorpusPiece]:
    """The manifests, where each describes the tar of its own number, as sharded manifests do."""
    try:
        own = by_number(manifests)
    except MayaError:
        return []
    alone = len(own) == len(manifests) and own.keys() == by_number(tars).keys()
    if not alone or any(_first_shard(path) not in (number, None) for number, path in own.items()):
        return []
    return [CorpusPiece(path) for path in manifests]


def _first_shard(path: Path) -> Any:
    """The number of the shard in the first line, None where it has none."""
    line = next((line for line in read_lines(path) if line.strip()), "{}")
    try:
        return parse_object(line).get("shard_id")
    except ValueError:
        return None


class _NemoTarredReader:
    def __init__(self, tars: dict[int, Path], options: ReadOptions) -> None:
        self._paths, self._options = tars, options
        self._open: tuple[int, TarMembers] | None = None  # the latest: lines come by shards
        self._members: dict[int, int] = {}  # their number, by shard
        self._used: dict[int, set[int]] = {}  # places of those that a line names, by shard

    def read(self, path: Path, part: str | None) -> Result:
        numbers = re.findall(r"\d+", path.stem)
        own = int(numbers[-1]) if numbers else None
        collector, lines = RowCollector(path), []
        for number, given in collector.objects():
            try:
                shard = self._shard(given.pop("shard_id", own))
                lines.append((shard, number, nemo_values(given, self._options.labels)))
            except ValueError as error:
                collector.reject(str(error), number)
        # Each tar is read once, and its list of members is not kept.
        for shard, number, values in sorted(lines, key=lambda line: line[:2]):
            self._add(collector, shard, {"split": part} | values, number)
        return collector.result(may_be_none=self._options.piece is not None)

    def note_unused(self) -> None:
        """Note the tars and members that no line names. Of a piece, every tar has its own manifest."""
        tars = [path.name for shard, path in self._paths.items() if shard not in self._used]
        if self._options.piece is None:
            self._options.notes.extend(unused(tars, "tars are named by no line of a manifest"))
        count = sum(self._members[shard] - len(used) for shard, used in self._used.items())
        self._options.pass_over("files in the tars are named by no line of a manifest", count)

    def _shard(self, number: Any) -> int:
        if type(number) is not int:
            raise ValueError("the field 'shard_id' must be the number of the tar that holds the audio")
        if number not in self._paths:
            raise ValueError(
                f"it lies in shard {number}, and there is no tar of that number; copy it to the others"
            )
        return number

    def _add(self, collector: RowCollector, shard: int, values: dict[str, Any], line: int) -> None:
        if self._open is None or self._open[0] != shard:
            self._open = shard, TarMembers(self._paths[shard])
            self._members[shard] = len(self._open[1])
        members, name = self._open[1], values["audio"]
        stem = PurePosixPath(name).stem
        member = members[name] or members.by_stem(stem) or members.by_stem(_PIECE.sub("", stem))
        if values.get("language") is None:
            values["language"] = self._options.language or folder_language(
                Path(name), f"{collector.path}:{line}"
            )
        if member is None:
            language = str(values["language"])
            collector.drop(values["id"], language, "missing_audio", members.lacks(name), line)
            return
        self._used.setdefault(shard, set()).add(member.offset)
        place = {"audio": member.name, "offset": member.offset, "size": member.size}
        collector.add(values | place | {"tar": str(self._paths[shard].resolve())}, line)
