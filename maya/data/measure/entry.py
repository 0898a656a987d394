"""The record of an utterance from measuring on: what the checks read, a table holds and a loader decodes."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from maya.audio.byte_ranges import ByteRange
from maya.audio.load import load_audio
from maya.audio.sound import Sound
from maya.audio.stamps import Stamp
from maya.errors import MayaError

_SLACK = 0.01  # seconds that durations may differ by rounding
_MOST_CHANNELS = 1024  # as many as libsndfile reads
SOUND_FIELDS = ("level", "snr", "clipped", "dc_offset", "high_band", "lead", "trail")


class Entry(NamedTuple):
    """One utterance: its audio was measured, and its text is in normal form.

    path: absolute, of the audio file or of the tar that holds it. offset, size: of the audio in a tar, bytes;
    member: its name there; all three None where path is the audio itself. file_size, file_mtime: of path when
    it was measured (bytes, seconds since 1970); a tar that differs is refused.
    sample_rate (Hz), channels, num_samples: of the whole recording as it is stored. start: seconds into it at
    which the utterance begins; None where it is all of it. duration: seconds of it, a whole number of the
    samples that are stored (tables of Maya 0.1: of samples at 16 kHz). Nothing here depends on the rate of a
    model: audio is resampled when it is loaded.
    text: in normal form; raw_text: as published. language: code; speaker: the id where none is named.
    kind, source (the corpus it is from), licence: None where the corpus does not name them. where: file and
    line, for messages. level ... trail: see maya.audio.sound.Sound; all None where it was not decoded.
    channel: the only channel of the recording that is read, counted from 0; None where all are averaged.
    labels: values by name, such as {"emotion": "happy"}. Fields with a default are left out where only the
    audio of a table is read.
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
    text: str = ""
    raw_text: str = ""
    language: str = ""
    speaker: str = ""
    kind: str | None = None
    source: str | None = None
    licence: str | None = None
    where: str = ""
    level: float | None = None
    snr: float | None = None
    clipped: float | None = None
    dc_offset: float | None = None
    high_band: float | None = None
    lead: float | None = None
    trail: float | None = None
    channel: int | None = None
    labels: Mapping[str, str] = {}  # noqa: RUF012  never changed

    @property
    def stamp(self) -> Stamp:
        """The identity of the file when it was measured."""
        return Stamp(self.file_size, self.file_mtime)

    @property
    def sound(self) -> Sound | None:
        """Its sound in numbers; None where it was not decoded."""
        if self.level is None:
            return None
        return Sound(**{name: getattr(self, name) for name in SOUND_FIELDS})

    @property
    def audio(self) -> ByteRange | str:
        """The file or byte range that holds the recording; of an object in S3 all its bytes."""
        if self.offset is None or self.size is None:
            remote = self.path.startswith("s3://")
            return ByteRange(self.path, 0, self.file_size, self.stamp) if remote else self.path
        return ByteRange(self.path, self.offset, self.size, self.stamp)

    def check(self) -> None:
        """Raise MayaError for numbers that no audio has, and for a channel that the file lacks."""
        possible = (
            0 < self.sample_rate < 1 << 31
            and 0 < self.channels <= _MOST_CHANNELS
            and 0 < self.num_samples < 1 << 62
        )
        begin, whole = self.start or 0.0, self.num_samples / max(self.sample_rate, 1)
        # The rate is written down with the durations: a wrong rate would make any length of the samples.
        fits = begin >= 0 and self.duration > 0 and begin + self.duration <= whole + _SLACK
        if not (possible and fits and (self.start is not None or self.duration >= whole - _SLACK)):
            raise MayaError(
                f"utterance {self.id!r}: {self.num_samples} samples of {self.channels} channels at "
                f"{self.sample_rate} Hz, of which {self.duration} s from {begin} s, cannot be; prepare the "
                "data again"
            )
        if self.channel is not None and not 0 <= self.channel < self.channels:
            raise MayaError(
                f"utterance {self.id!r}: {self.path} has {self.channels} channels, no channel {self.channel};"
                " prepare the data again"
            )

    def load_audio(self, sample_rate: int | None = None) -> Tensor:
        """(N,) float32 in [-1, 1] at `sample_rate` Hz (None: as it is stored), its channel or their average.

        Raises MayaError, which names the utterance, where the audio cannot be read or is not what was
        measured.
        """
        self.check()
        try:
            return load_audio(
                self.audio,
                sample_rate or self.sample_rate,
                self.channel,
                start=self.start,
                duration=self.duration,
                stored_rate=self.sample_rate,
            )
        except MayaError as error:
            raise MayaError(f"utterance {self.id!r}: cannot read {self.path}: {error}") from None
