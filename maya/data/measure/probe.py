"""Looking at each utterance: is its audio there, can it be decoded, does it fit what is claimed and said."""

import os.path
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from maya.audio.decoding import open_audio
from maya.audio.load import check_channel, select_channel
from maya.audio.sound import Sound, measure_sound
from maya.audio.tar_audio import (
    ByteRange,
    Stamp,
    TarMember,
    file_stamp,
    member_header,
)
from maya.audio.tar_members import TarMembers
from maya.config import config
from maya.data.corpus.manifest import Dropped, Row
from maya.data.measure.measured import Measured, forget_others, part_name, read_part, write_part
from maya.data.measure.progress import Progress
from maya.data.measure.workers import cpus, in_processes
from maya.errors import MayaError
from maya.ranges import INF, Count, Limit, NonNegFloat, Range
from maya.text.normalize import normalize

_SMALLEST_CHUNK, _LARGEST_CHUNK = 32, 2048  # rows: what is lost when a run is killed, for each process
_WORTH_PROCESSES = 200  # rows
_HELD_TARS = 4
_AUDIBLE = 1e-4  # peak of full scale, -80 dB
_TAR_NAME_LIMIT = 100  # bytes of a name that fit into the plain header
_TAR_SIZE_LIMIT = 8 << 30  # bytes from which a size does not


@config
class ProbeConfig:
    """What costs an utterance its place.

    decode: decode every file: finds truncated and silent ones, and measures how each sounds. Without it only
    headers are read, and the frames of MP3 and pages of Ogg counted.
    min_seconds, max_seconds: limits of duration.
    max_chars_per_second: of the normalised text; more cannot be spoken. Fast reading reaches about 20.
    duration_tolerance: seconds by which the duration given in the manifest may be off.
    num_workers: processes that look at files; 0 is one for each CPU.
    """

    decode: bool = True
    min_seconds: NonNegFloat = 0.1
    max_seconds: Limit = 40.0
    max_chars_per_second: Limit = 40.0
    duration_tolerance: Annotated[float, Range(min=0, also=(INF,))] = 0.5
    num_workers: Count = 0


@dataclass(frozen=True, slots=True)
class Probed:
    """A row that passed: its audio as it lies on disk, and its text in normal form. `row` has offset and size
    filled in, and a speaker, which is the utterance's id where the corpus names none; of a part of a
    recording the start and duration as found, while num_samples counts all of it. sound: None where
    it was not decoded."""

    row: Row
    text: str
    path: Path
    sample_rate: int
    channels: int
    num_samples: int
    sound: Sound | None = None

    @property
    def seconds(self) -> float:
        if self.row.start is not None and self.row.duration is not None:
            return self.row.duration
        return self.num_samples / self.sample_rate


class _Bad(Exception):
    """reason, detail"""


def probe(
    folder: Path, rows: Sequence[Row], cfg: ProbeConfig, keep: Path | None = None
) -> tuple[list[Probed], list[Dropped]]:
    """Check every row, in several processes; order is kept. Nothing is raised for a single utterance.

    keep: a folder in which what was measured is kept: a call that was killed goes on where it was, and one
    with the same audio and settings measures nothing. What it holds of others is removed.
    """
    kept: list[Probed] = []
    dropped: list[Dropped] = []
    used: list[str] = []
    chunks = [_Chunk(folder, some, cfg, keep) for some in _chunks(rows)]
    workers = min(cfg.num_workers or cpus(), len(chunks)) if len(rows) >= _WORTH_PROCESSES else 1
    progress = Progress("checked", len(rows), "utterances")
    with closing(in_processes(_probe_chunk, chunks, workers, "checking audio")) as found:
        for name, fresh, results in found:
            used.append(name)
            kept += [one for one in results if isinstance(one, Probed)]
            dropped += [one for one in results if isinstance(one, Dropped)]
            progress.advance(len(results), fresh=fresh)
    progress.end()
    if keep is not None:
        forget_others(keep, used)
    return kept, dropped


class _Chunk(NamedTuple):
    """Some rows that are looked at together."""

    folder: Path
    rows: list[Row]
    cfg: ProbeConfig
    keep: Path | None


def _chunks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows in order, some at a time. A chunk ends with a tar, or with a row whose name says so, so that a row
    more at the beginning of a corpus leaves the chunks after it as they were."""
    largest = min(max(1 << (len(rows) // 64).bit_length(), _SMALLEST_CHUNK), _LARGEST_CHUNK)
    chunk: list[Row] = []
    for row in rows:
        if chunk and (
            len(chunk) == largest
            or row.tar != chunk[-1].tar
            or zlib.crc32(chunk[-1].id.encode("utf-8", "surrogateescape")) % largest < 2
        ):
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _probe_chunk(chunk: _Chunk) -> tuple[str, bool, list[Probed | Dropped]]:
    """(name of the part kept of it, whether it was measured now, what was found of each row)."""
    folder, rows, cfg, keep = chunk
    texts = [normalize(row.text, row.language) for row in rows]
    spoken = [row for row, text in zip(rows, texts, strict=True) if text]
    settings = [cfg.decode, cfg.min_seconds, cfg.max_seconds, cfg.duration_tolerance]
    name = part_name([_place(folder, row) for row in spoken], settings)
    measured = read_part(keep / name, len(spoken)) if keep is not None else None
    fresh = measured is None
    if measured is None:
        measured = [_measured(folder, row, cfg) for row in spoken]
        if keep is not None:
            write_part(keep / name, measured)
    left = iter(measured)
    results: list[Probed | Dropped] = []
    for row, text in zip(rows, texts, strict=True):
        try:
            if not text:
                raise _Bad("empty_transcript", f"nothing speakable is left of the text {row.text[:40]!r}")
            results.append(_judged(row, text, folder / (row.tar or row.audio), next(left), cfg))
        except _Bad as bad:
            reason, detail = bad.args
            results.append(
                Dropped(id=row.id, language=row.language, reason=reason, detail=detail, where=row.where)
            )
    return name, fresh, results


def _place(folder: Path, row: Row) -> list[object]:
    """Which audio a row means, and which file that is today."""
    path = os.path.abspath(folder / (row.tar or row.audio))
    try:
        found = os.stat(path)
        stamp = [found.st_size, found.st_mtime_ns]
    except (OSError, ValueError):
        stamp = []
    return [path, row.tar and row.audio, row.offset, row.size, row.start, row.duration, row.channel, stamp]


def _measured(folder: Path, row: Row, cfg: ProbeConfig) -> Measured:
    path = folder / (row.tar or row.audio)
    try:
        if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
            raise _Bad("missing_audio", f"there is no file {path}")
        if row.tar is not None:
            row = _locate(path, row)
        rate, channels, num_samples, sound = _measure(path, row, cfg)
    except _Bad as bad:
        reason, detail = bad.args
        return Measured(reason, detail)
    return Measured(None, None, row.offset, row.size, rate, channels, num_samples, sound)


def _judged(row: Row, text: str, path: Path, found: Measured, cfg: ProbeConfig) -> Probed:
    """Whether what was measured fits what is claimed and said."""
    if found.reason is not None:
        raise _Bad(found.reason, found.detail)
    rate = found.sample_rate
    if found.channels == 1:
        row = replace(row, channel=None)
    if row.tar is not None:
        row = replace(row, offset=found.offset, size=found.size)
    begin, count = _part(row, rate, found.num_samples, cfg)
    seconds = count / rate
    if row.start is not None:
        row = replace(row, start=begin / rate, duration=seconds)
    if row.sample_rate is not None and row.sample_rate != rate:
        raise _Bad("sample_rate_mismatch", f"the manifest says {row.sample_rate} Hz, the audio has {rate} Hz")
    if row.duration is not None and abs(row.duration - seconds) > cfg.duration_tolerance:
        raise _Bad("duration_mismatch", f"the manifest says {row.duration:g} s, it lasts {seconds:.2f} s")
    if len(text) / seconds > (limit := cfg.max_chars_per_second):
        raise _Bad("text_too_long", f"{len(text)} characters in {seconds:.2f} s, over {limit:g} a second")
    if row.speaker is None:
        row = replace(row, speaker=row.id)
    return Probed(row, text, path, rate, found.channels, found.num_samples, found.sound)


def _locate(path: Path, row: Row) -> Row:
    """The row with the byte range of its member, checked against the tar's own header."""
    try:
        if row.offset is None or row.size is None:
            member = _look_up(path, row.audio)
            return replace(row, offset=member.offset, size=member.size)
        found = member_header(path, row.offset)
    except MayaError as error:
        raise _Bad("tar_mismatch", str(error)) from None
    if found is None:
        raise _Bad("tar_mismatch", f"no member of {path} begins at byte {row.offset}; was it written again?")
    # A long name is kept elsewhere, and so is a size over 8 GB; this header has a part, or zero.
    long_name = len(row.audio.encode("utf-8", "surrogateescape")) > _TAR_NAME_LIMIT
    if found.size != (row.size if row.size < _TAR_SIZE_LIMIT else found.size) or not (
        long_name or found.name == row.audio
    ):
        raise _Bad(
            "tar_mismatch",
            f"at byte {row.offset} of {path} lies {found.name!r} of {found.size} bytes, "
            f"not {row.audio!r} of {row.size} bytes",
        )
    return row


def _measure(path: Path, row: Row, cfg: ProbeConfig) -> tuple[int, int, int, Sound | None]:
    """(sample rate, channels, samples, sound) of a row's audio; of a part only the sound is the part's."""
    name = f"{row.audio} in {path}" if row.tar else str(path)
    source = ByteRange(str(path), row.offset or 0, row.size or 0) if row.tar else path
    try:
        with open_audio(source, name, whole=cfg.decode and row.start is None) as audio:
            rate, channels, total = audio.sample_rate, audio.channels, audio.num_samples
            begin, count = _part(row, rate, total, cfg)
            if row.start is not None:
                name = f"{name} from {row.start:g} s"
            _check_length(count / rate, name, cfg)
            try:
                check_channel(channels, row.channel, name)
            except MayaError as error:
                raise _Bad("no_channel", str(error)) from None
            if not cfg.decode:
                return rate, channels, total, None
            samples = audio.read(begin, count)
    except MayaError as error:
        raise _Bad("unreadable_audio", str(error)) from None
    if row.channel is not None:
        samples = samples[:, row.channel : row.channel + 1]
    try:
        average = select_channel(samples, None, name)
    except MayaError as error:
        raise _Bad("silent", str(error)) from None
    peak = float(np.abs(average).max())
    if peak < _AUDIBLE:
        raise _Bad("silent", f"{name} is silent (peak {peak:.1e} of full scale)")
    return rate, channels, total, measure_sound(samples, rate)


def _part(row: Row, rate: int, total: int, cfg: ProbeConfig) -> tuple[int, int]:
    """(first sample, number of samples) of the utterance within its `total` samples."""
    if row.start is None:
        return 0, total
    begin = round(row.start * rate)
    end = total if row.duration is None else begin + round(row.duration * rate)
    if begin >= total or end - total > cfg.duration_tolerance * rate:
        place = f"from {row.start:g} s" + (f" to {end / rate:g} s" if row.duration is not None else "")
        detail = f"the manifest says it goes {place}, the audio lasts {total / rate:.2f} s"
        raise _Bad("duration_mismatch", detail)
    return begin, min(end, total) - begin


def _check_length(seconds: float, name: str, cfg: ProbeConfig) -> None:
    if seconds < cfg.min_seconds:
        raise _Bad("too_short", f"{name} lasts {seconds:.2f} s, less than {cfg.min_seconds:g} s")
    if seconds > cfg.max_seconds:
        raise _Bad("too_long", f"{name} lasts {seconds:.2f} s, more than {cfg.max_seconds:g} s")


class _TarIndex:
    """Members by name of the tars that were asked about last, each read once. Those before a damage can be
    used."""

    def __init__(self) -> None:
        self._tars: OrderedDict[Path, tuple[Stamp, TarMembers | MayaError]] = OrderedDict()

    def __call__(self, path: Path, name: str) -> TarMember:
        stamp = file_stamp(path)
        if path not in self._tars or self._tars[path][0] != stamp:
            try:
                self._tars[path] = stamp, TarMembers(path)
            except MayaError as error:
                self._tars[path] = stamp, error
            while len(self._tars) > _HELD_TARS:
                self._tars.popitem(last=False)
        tar = self._tars[path][1]
        if isinstance(tar, MayaError):
            raise tar
        if (member := tar[name]) is None:
            raise MayaError(tar.lacks(name))
        return member


_look_up = _TarIndex()  # of this process
