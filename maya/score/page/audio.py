"""The audio of the report page: links to files that a browser plays, and clips of the worst utterances."""

import base64
import io
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import soundfile
from torch import Tensor

from maya.audio.byte_ranges import is_address
from maya.data.measure.entry import Entry
from maya.errors import MayaError
from maya.pages import Html

CLIP_SECONDS = 30.0  # of an utterance
CLIP_RATE = 16_000  # Hz
MOST_BYTES = 5_000_000  # of all clips of a page, in base64
# MP3 plays in every browser; Ogg Opus does not play in Safari before 18.4. At this level of compression
# speech takes about 3 kB a second.
_FORMAT, _SUBTYPE, CLIP_TYPE = "MP3", "MPEG_LAYER_III", "audio/mpeg"
_COMPRESSION = 0.9
_AT_ONCE = 1 << 14  # samples per call of libsndfile
_PLAYABLE = {".wav", ".mp3", ".flac", ".ogg", ".opus", ".oga", ".m4a", ".mp4", ".webm"}


def link(entry: Entry, folder: Path) -> str:
    """The address, relative to `folder`, of an utterance whose audio is a local file that a browser plays; ""
    for others. A media fragment (`#t=1.5,3`) limits a part of a recording to its seconds.

    Audio inside an archive or in object storage, and one channel of several, has no such address.
    """
    alone = entry.channel is None or entry.channels == 1
    path = entry.path
    if entry.offset is not None or not alone or is_address(path) or "://" in path:
        return ""
    if Path(path).suffix.lower() not in _PLAYABLE:
        return ""
    relative = PurePosixPath(os.path.relpath(path, folder).replace(os.sep, "/"))
    part = ""
    if entry.start is not None:
        part = f"#t={entry.start:.3f},{entry.start + entry.duration:.3f}"
    return quote(str(relative)) + part


def clips(entries: Iterable[tuple[int, Entry]]) -> dict[str, str]:
    """MP3 clips in base64 by place of the utterance, from the first on until `MOST_BYTES`. A clip has at most
    `CLIP_SECONDS`. Audio that cannot be read is left out."""
    encoded: dict[str, str] = {}
    total = 0
    for place, entry in entries:
        try:
            clip = base64.b64encode(mp3(entry)).decode("ascii")
        except (MayaError, OSError, soundfile.SoundFileError):
            continue
        total += len(clip)
        if total > MOST_BYTES:
            break
        encoded[str(place)] = clip
    return encoded


def mp3(entry: Entry) -> bytes:
    """The first `CLIP_SECONDS` of an utterance as MP3, mono at `CLIP_RATE`. Raises MayaError where its audio
    cannot be read, and SoundFileError where libsndfile has no MP3 encoder."""
    short = entry
    if entry.duration > CLIP_SECONDS:
        short = entry._replace(start=entry.start or 0.0, duration=CLIP_SECONDS)
    return encoded_mp3(short.load_audio(CLIP_RATE))


def encoded_mp3(audio: Tensor) -> bytes:
    """Audio (N,) at `CLIP_RATE` as MP3; one that is louder than 1 is made softer. Raises SoundFileError where
    libsndfile has no MP3 encoder."""
    audio = audio / max(1.0, float(audio.abs().max())) if len(audio) else audio
    samples, buffer = audio.numpy(), io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", CLIP_RATE, 1, _SUBTYPE, format=_FORMAT, compression_level=_COMPRESSION
    ) as file:
        for start in range(0, len(samples), _AT_ONCE):
            file.write(samples[start : start + _AT_ONCE])
    return buffer.getvalue()


def player(audio: Tensor) -> Html:
    """An audio element that holds its clip, of audio (N,) at `CLIP_RATE`, of `CLIP_SECONDS` at most."""
    clip = base64.b64encode(encoded_mp3(audio[: int(CLIP_SECONDS * CLIP_RATE)])).decode("ascii")
    return Html(f'<audio controls preload="none" src="data:{CLIP_TYPE};base64,{clip}"></audio>')
