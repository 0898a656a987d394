"""One row of the table of a prepared part, and the lhotse cut that it stands for."""

from pathlib import Path
from typing import NamedTuple

from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import Cut, MonoCut

from maya.audio.sound import Sound
from maya.audio.tar_audio import ByteRange, Stamp, file_stamp
from maya.data.corpus.manifest import Row
from maya.data.measure.probe import Probed
from maya.errors import MayaError

_SLACK = 0.01  # seconds that durations may differ by rounding
_MOST_CHANNELS = 1024  # as many as libsndfile reads
SOUND_FIELDS = ("level", "snr", "clipped", "dc_offset", "high_band", "lead", "trail")


class Entry(NamedTuple):
    """One utterance, its audio found and its text in normal form.

    path: absolute, of the audio file or of the tar that holds it. offset, size: of the audio in a tar, bytes;
    member: its name there; all three None where path is the audio itself. file_size, file_mtime: of path when
    it was looked at (bytes, seconds since 1970): a tar that differs is refused.
    sample_rate (Hz), channels, num_samples: of the whole recording as it is stored. start: seconds into it at
    which the utterance begins; None where it is all of it. duration: seconds of it, a whole number of the
    samples that are stored (tables of Maya 0.1: of samples at 16 kHz). Nothing here depends on the rate of a
    model: audio is resampled when it is loaded.
    text: in normal form; raw_text: as published. language: code; speaker: the id where none is named.
    kind, source (the corpus it is from), licence: where the corpus tells. where: file and line, for messages.
    level ... trail: how it sounds, see maya.audio.sound.Sound; all None where it was not decoded.
    channel: the only channel of the recording that is read, counted from 0; None where all are averaged.
    """

    id: str
    path: str
    offset: int | None
    size: int | None
    member: str | None
    file_size: int
    file_mtime: int
    sample_rate: int
    channels: int
    num_samples: int
    start: float | None
    duration: float
    text: str
    raw_text: str
    language: str
    speaker: str
    kind: str | None
    source: str | None
    licence: str | None
    where: str
    level: float | None = None
    snr: float | None = None
    clipped: float | None = None
    dc_offset: float | None = None
    high_band: float | None = None
    lead: float | None = None
    trail: float | None = None
    channel: int | None = None

    @property
    def stamp(self) -> Stamp:
        """By which a replaced file is known."""
        return Stamp(self.file_size, self.file_mtime)

    @property
    def sound(self) -> Sound | None:
        """How it sounds; None where it was not decoded."""
        if self.level is None:
            return None
        return Sound(**{name: getattr(self, name) for name in SOUND_FIELDS})

    def audio(self) -> Cut:
        """Its cut without what is said, see `audio_cut`."""
        return audio_cut(
            self.id, self.path, self.offset, self.size, self.stamp, self.sample_rate, self.channels,
            self.num_samples, self.start, self.duration, channel=self.channel,
        )  # fmt: skip

    def cut(self) -> Cut:
        """Its lhotse cut, with one supervision: text, language, speaker; custom: the text as it was, kind,
        source, licence, where they are known."""
        cut = self.audio()
        custom = {
            "raw_text": self.raw_text,
            "kind": self.kind,
            "source": self.source,
            "licence": self.licence,
        }
        cut.supervisions = [
            SupervisionSegment(
                id=self.id,
                recording_id=self.id,
                start=0.0,
                duration=cut.duration,
                channel=cut.channel,
                text=self.text,
                language=self.language,
                speaker=self.speaker,
                custom={name: value for name, value in custom.items() if value is not None},
            )
        ]
        return cut


def entry_of(probed: Probed) -> Entry:
    """The entry of an utterance that was looked at. Raises MayaError when its file is gone since."""
    row, in_tar = probed.row, probed.row.tar is not None
    path = str(probed.path.resolve())
    stamp = file_stamp(path)
    return Entry(
        id=row.id,
        path=path,
        offset=row.offset if in_tar else None,
        size=row.size if in_tar else None,
        member=row.audio if in_tar else None,
        file_size=stamp.size,
        file_mtime=stamp.mtime,
        sample_rate=probed.sample_rate,
        channels=probed.channels,
        num_samples=probed.num_samples,
        start=row.start,
        duration=probed.seconds,
        text=probed.text,
        raw_text=row.text,
        language=row.language,
        speaker=row.speaker or row.id,
        kind=row.kind,
        source=row.source,
        licence=row.licence,
        where=row.where,
        channel=row.channel,
        **{name: getattr(probed.sound, name) for name in SOUND_FIELDS if probed.sound is not None},
    )


def probed_of(entry: Entry) -> Probed:
    """What `probe` found of an entry, for the checks; its split and its claims are not kept."""
    in_tar = entry.offset is not None
    row = Row(
        id=entry.id,
        language=entry.language,
        text=entry.raw_text,
        audio=entry.member or entry.path,
        where=entry.where,
        speaker=entry.speaker,
        duration=None if entry.start is None else entry.duration,
        kind=entry.kind,
        source=entry.source,
        licence=entry.licence,
        tar=entry.path if in_tar else None,
        offset=entry.offset,
        size=entry.size,
        start=entry.start,
        channel=entry.channel,
    )
    return Probed(
        row, entry.text, Path(entry.path), entry.sample_rate, entry.channels, entry.num_samples, entry.sound
    )


def audio_cut(
    id: str,
    path: str,
    offset: int | None,
    size: int | None,
    stamp: Stamp,
    sample_rate: int,
    channels: int,
    num_samples: int,
    start: float | None,
    duration: float,
    *,
    channel: int | None = None,
) -> Cut:
    """The lhotse cut of an entry without what is said: a MonoCut, or a MultiCut where several channels of the
    file are read. It is at the rate that is stored; of a part of a recording only the part is read. Raises
    MayaError for numbers that no audio has, and for a channel that the file lacks."""
    sound = 0 < sample_rate < 1 << 31 and 0 < channels <= _MOST_CHANNELS and 0 < num_samples < 1 << 62
    begin, whole = start or 0.0, num_samples / max(sample_rate, 1)
    # Durations are written down twice: a rate that is not the file's would make any length of its samples.
    fits = begin >= 0 and duration > 0 and begin + duration <= whole + _SLACK
    if not (sound and fits and (start is not None or duration >= whole - _SLACK)):
        raise MayaError(
            f"utterance {id!r}: {num_samples} samples of {channels} channels at {sample_rate} Hz, of which "
            f"{duration} s from {start or 0} s, cannot be; prepare the data again"
        )
    if channel is not None and not 0 <= channel < channels:
        raise MayaError(
            f"utterance {id!r}: {path} has {channels} channels, no channel {channel}; prepare the data again"
        )
    numbers = list(range(channels))
    if offset is not None and size is not None:
        # Type "file", as in byte_range_source, which would look again where links lead.
        source = AudioSource(
            type="file", channels=numbers, source=ByteRange(path, offset, size, stamp).address
        )
    else:
        source = AudioSource(type="file", channels=numbers, source=path)
    recording = Recording(
        id=id,
        sources=[source],
        sampling_rate=sample_rate,
        num_samples=num_samples,
        duration=num_samples / sample_rate,
    )
    cut = recording.to_cut()
    if channel is not None and channels > 1:
        cut = MonoCut(id=id, start=0.0, duration=cut.duration, channel=channel, recording=recording)
    if start is None:
        return cut
    # A duration that was rounded at another rate may reach past the end by less than a sample.
    return cut.truncate(offset=start, duration=min(duration, whole - begin), preserve_id=True)
