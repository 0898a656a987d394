"""Rules for dropping an utterance: its audio must exist, decode, and fit what is claimed and said."""

import errno
import os.path
import sys
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from tqdm import tqdm

from maya.audio.byte_ranges import ByteRange, file_stamp
from maya.audio.decoding import open_audio
from maya.audio.load import check_channel, select_channel
from maya.audio.sound import Sound, measure_sound
from maya.audio.stamps import Stamp
from maya.audio.tar_index import TarMember, member_header
from maya.audio.tar_members import TarMembers
from maya.config import config
from maya.data.corpus.manifest import Problem, Row
from maya.data.measure.entry import SOUND_FIELDS, Entry
from maya.data.measure.measured import Measured, forget_others, part_name, read_part, write_part
from maya.data.measure.workers import cpus, in_processes
from maya.errors import MayaError
from maya.ranges import INF, Count, Limit, NonNegFloat, Range
from maya.text.normalize import normalize

_SMALLEST_CHUNK, _LARGEST_CHUNK = 32, 2048  # rows: what each process loses when a run is killed
_WORTH_PROCESSES = 200  # rows
_HELD_TARS = 4
_S3 = "s3://"
_AUDIBLE = 1e-4  # peak of full scale, -80 dB
_TAR_NAME_LIMIT = 100  # bytes of a name that fit into the plain header
_TAR_SIZE_LIMIT = 8 << 30  # bytes from which a size does not


@config
class ProbeConfig:
    """Rules for dropping an utterance.

    decode: decode every file. This finds truncated and silent ones, and measures how each sounds. Without it
    only headers are read, and the frames of MP3 and pages of Ogg counted.
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


class _Bad(Exception):
    """reason, detail"""


def probe(
    folder: Path, rows: Sequence[Row], cfg: ProbeConfig, keep: Path | None = None
) -> tuple[list[Entry], list[Problem]]:
    """Check every row, in several processes; order is kept. Nothing is raised for a single utterance.

    keep: a folder for measurements. A call that was killed goes on where it was, and a call with the same
    audio and settings measures nothing. Measurements of other audio are removed from it.
    """
    kept, dropped, names = probe_rows(folder, rows, cfg, keep)
    if keep is not None:
        forget_others(keep, names)
    return kept, dropped


def probe_rows(
    folder: Path, rows: Sequence[Row], cfg: ProbeConfig, keep: Path | None = None, *, quiet: bool = False
) -> tuple[list[Entry], list[Problem], list[str]]:
    """As `probe`, and the names of the files with the measurements; the others in `keep` stay. quiet: without
    a bar of progress."""
    kept: list[Entry] = []
    dropped: list[Problem] = []
    names: list[str] = []
    chunks = [_Chunk(folder, some, cfg, keep) for some in _chunks(rows)]
    workers = min(cfg.num_workers or cpus(), len(chunks)) if len(rows) >= _WORTH_PROCESSES else 1
    every = 0.5 if sys.stderr.isatty() else 10.0  # seconds between lines in a log
    with (
        closing(in_processes(_probe_chunk, chunks, workers, "checking audio")) as checked,
        tqdm(
            total=len(rows),
            desc="checking audio",
            unit=" utterances",
            mininterval=every,
            delay=every,
            disable=quiet,
        ) as bar,
    ):
        for name, fresh, results in checked:
            names.append(name)
            kept += [item for item in results if isinstance(item, Entry)]
            dropped += [item for item in results if isinstance(item, Problem)]
            if not (fresh or quiet):
                bar.initial += len(results)  # measured in an earlier run: not part of the rate
            bar.update(len(results))
    return kept, dropped, names


class _Chunk(NamedTuple):
    """Rows that are looked at together."""

    folder: Path
    rows: list[Row]
    cfg: ProbeConfig
    keep: Path | None


def _chunks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows in order, some at a time.

    A chunk ends with a tar, or with a row that its name selects. One more row at the beginning of a corpus
    then leaves the later chunks as they were.
    """
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


def _probe_chunk(chunk: _Chunk) -> tuple[str, bool, list[Entry | Problem]]:
    """(name of the file of its measurements, whether they were made now, the result of each row)."""
    folder, rows, cfg, keep = chunk
    _real_folder.cache_clear()  # a link may lead elsewhere since
    texts = [normalize(row.text, row.language) for row in rows]
    with_text = [row for row, text in zip(rows, texts, strict=True) if text]
    stats = [look(audio_path(folder, row)) for row in with_text]
    settings = [cfg.decode, cfg.min_seconds, cfg.max_seconds, cfg.duration_tolerance]
    places = [_place(folder, row, stat) for row, stat in zip(with_text, stats, strict=True)]
    name = part_name(places, settings)
    measured = read_part(keep / name, len(with_text)) if keep is not None else None
    fresh = measured is None
    if measured is None:
        measured = [_measured(folder, row, cfg) for row in with_text]
        if keep is not None:
            write_part(keep / name, measured)
    remaining = zip(measured, stats, strict=True)
    results: list[Entry | Problem] = []
    for row, text in zip(rows, texts, strict=True):
        try:
            if not text:
                raise _Bad("empty_transcript", f"nothing speakable is left of the text {row.text[:40]!r}")
            audio, stat = next(remaining)
            results.append(_entry(folder, row, text, audio, stat, cfg))
        except _Bad as bad:
            reason, detail = bad.args
            results.append(
                Problem(id=row.id, language=row.language, reason=reason, detail=detail, where=row.where)
            )
    return name, fresh, results


@lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def _without_links(path: str) -> str:
    """As os.path.realpath of a file, which would look at all its folders for each of millions of files."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)


def _absence(path: str, shown: Path | str) -> str:
    """Why there is no file that can be read."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
            return f"no permission to look at {shown}"
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            return f"the link {shown} leads to itself"
        return f"there is no file {shown}"
    return f"{shown} is not a file"


class FileStatus(NamedTuple):
    """size: bytes; mtime_ns: time of change, in ns since 1970."""

    size: int
    mtime_ns: int


def audio_path(folder: Path, row: Row) -> str:
    """Where the audio of a row lies, or its tar: an absolute path, or an object in S3 (s3://bucket/key)."""
    name = row.tar or row.audio
    return name if name.startswith(_S3) else os.path.abspath(os.path.join(folder, name))


def look(path: str) -> FileStatus | None:
    """A file or object as it is now; None where there is none."""
    try:
        if path.startswith(_S3):
            stamp = file_stamp(path)
            return FileStatus(stamp.size, stamp.mtime * 1_000_000_000)
        status = os.stat(path)
    except (OSError, ValueError, MayaError):
        return None
    return FileStatus(status.st_size, status.st_mtime_ns)


def _place(folder: Path, row: Row, stat: FileStatus | None) -> list[object]:
    """The audio that a row means, and the identity of its file."""
    path = audio_path(folder, row)
    stamp = [stat.size, stat.mtime_ns] if stat else []
    return [path, row.tar and row.audio, row.offset, row.size, row.start, row.duration, row.channel, stamp]


def _measured(folder: Path, row: Row, cfg: ProbeConfig) -> Measured:
    path = audio_path(folder, row)
    remote = look(path) if path.startswith(_S3) else None
    shown: Path | str = path if path.startswith(_S3) else folder / (row.tar or row.audio)
    try:
        if not remote and not os.path.isfile(path):  # Path.is_file raises for a name that is too long
            raise _Bad("missing_audio", _absence(path, shown))
        audio: Path | ByteRange = ByteRange(path, 0, remote.size) if remote else Path(shown)
        audio = _located(shown, row) if row.tar is not None else audio
        rate, channels, num_samples, sound = _measure(audio, row, cfg)
    except _Bad as bad:
        reason, detail = bad.args
        return Measured(reason, detail)
    place = audio if isinstance(audio, ByteRange) and row.tar is not None else None
    offset, size = (place.offset, place.size) if place else (None, None)
    return Measured(None, None, offset, size, rate, channels, num_samples, sound)


def _entry(
    folder: Path, row: Row, text: str, audio: Measured, stat: FileStatus | None, cfg: ProbeConfig
) -> Entry:
    """The entry of a row, if what was measured fits what is claimed and said."""
    if audio.reason is not None:
        raise _Bad(audio.reason, audio.detail)
    path, rate = audio_path(folder, row), audio.sample_rate
    if stat is None:  # it appeared after that
        raise _Bad("missing_audio", f"there is no file {path}")
    begin, count = _part(row, rate, audio.num_samples, cfg)
    seconds = count / rate
    if row.sample_rate is not None and row.sample_rate != rate:
        raise _Bad("sample_rate_mismatch", f"the manifest says {row.sample_rate} Hz, the audio has {rate} Hz")
    if (
        row.start is None
        and row.duration is not None
        and abs(row.duration - seconds) > cfg.duration_tolerance
    ):
        raise _Bad("duration_mismatch", f"the manifest says {row.duration:g} s, it lasts {seconds:.2f} s")
    if len(text) / seconds > (limit := cfg.max_chars_per_second):
        raise _Bad("text_too_long", f"{len(text)} characters in {seconds:.2f} s, over {limit:g} a second")
    in_tar = row.tar is not None
    return Entry(
        id=row.id,
        path=path if path.startswith(_S3) else _without_links(path),
        offset=audio.offset if in_tar else None,
        size=audio.size if in_tar else None,
        member=row.audio if in_tar else None,
        file_size=stat.size,
        file_mtime=stat.mtime_ns // 1_000_000_000,
        sample_rate=rate,
        channels=audio.channels,
        num_samples=audio.num_samples,
        start=None if row.start is None else begin / rate,
        duration=seconds,
        text=text,
        raw_text=row.text,
        language=row.language,
        speaker=row.speaker or row.id,
        kind=row.kind,
        source=row.source,
        licence=row.licence,
        where=row.where,
        channel=None if audio.channels == 1 else row.channel,
        labels=row.labels,
        **{name: getattr(audio.sound, name) for name in SOUND_FIELDS if audio.sound is not None},
    )


def _located(path: Path | str, row: Row) -> ByteRange:
    """The byte range of a row's member, checked against the tar's own header."""
    try:
        if row.offset is None or row.size is None:
            member = _look_up(path, row.audio)
            return ByteRange(str(path), member.offset, member.size)
        header, end = member_header(path, row.offset), file_stamp(path).size
    except MayaError as error:
        raise _Bad("tar_mismatch", str(error)) from None
    if header is None:
        raise _Bad("tar_mismatch", f"no member of {path} begins at byte {row.offset}; was it written again?")
    # A long name is kept elsewhere, and so is a size over 8 GB; this header has a part, or zero.
    long_name = len(row.audio.encode("utf-8", "surrogateescape")) > _TAR_NAME_LIMIT
    if header.size != (row.size if row.size < _TAR_SIZE_LIMIT else header.size) or not (
        long_name or header.name == row.audio
    ):
        raise _Bad(
            "tar_mismatch",
            f"at byte {row.offset} of {path} lies {header.name!r} of {header.size} bytes, "
            f"not {row.audio!r} of {row.size} bytes",
        )
    if row.offset + row.size > end:
        detail = f"{row.audio!r} ends at byte {row.offset + row.size} of {path}, which has {end} bytes"
        raise _Bad("tar_mismatch", detail)
    return ByteRange(str(path), row.offset, row.size)


def _measure(audio: Path | ByteRange, row: Row, cfg: ProbeConfig) -> tuple[int, int, int, Sound | None]:
    """(sample rate, channels, samples, sound) of a row's audio; of a part only the sound is the part's."""
    name = audio.path if isinstance(audio, ByteRange) else str(audio)
    name = name if row.tar is None else f"{row.audio} in {name}"
    try:
        with open_audio(audio, name, whole=cfg.decode and row.start is None) as file:
            rate, channels, total = file.sample_rate, file.channels, file.num_samples
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
            samples = file.read(begin, count)
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
    if seconds <= 0:
        raise _Bad("too_short", f"{name} holds no audio samples")
    if seconds < cfg.min_seconds:
        raise _Bad("too_short", f"{name} lasts {seconds:.2f} s, less than {cfg.min_seconds:g} s")
    if seconds > cfg.max_seconds:
        raise _Bad("too_long", f"{name} lasts {seconds:.2f} s, more than {cfg.max_seconds:g} s")


class _TarIndex:
    """Members by name of the tars that were used last, each read once. Members before a damage can be
    used."""

    def __init__(self) -> None:
        self._tars: OrderedDict[Path | str, tuple[Stamp, TarMembers | MayaError]] = OrderedDict()

    def __call__(self, path: Path | str, name: str) -> TarMember:
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
