"""Transcription of many recordings: a result for each as it comes. A bad recording does not end the rest."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from maya.audio.byte_ranges import ByteRange
from maya.audio.load import as_audio, load_audio, load_channels
from maya.config import config
from maya.decode.hypothesis import Hypothesis
from maya.decode.sliding_window import Slot, Track, WindowSize, read_in_batches
from maya.errors import MayaError
from maya.heads import Prediction
from maya.ranges import PosFloat

Audio = str | Path | bytes | ByteRange | np.ndarray | Tensor
Channels = Literal["mix", "all"] | int
"""The channel to read, from 1; "mix": the average of all; "all": each by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A recording to transcribe, if more is to be said of it than where it is.

    audio: a path, the bytes of a file, a byte range, or samples (N,) at the model's rate. start, duration:
    seconds of a part; None: from its beginning, to its end. language: as in `Recognizer.transcribe`; None:
    that of the call.
    """

    audio: Audio
    id: str
    start: float | None = None
    duration: float | None = None
    channel: Channels | None = None
    language: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """The result for a recording, or for one channel of it.

    place: of the recording among those that were given, from 0. channel: from 1; None for the average.
    channels: transcripts of this recording. seconds: of audio; 0 if it was not read. hypothesis: None where
    it failed, and for a model without a text head. predictions: by label, for a model with heads that predict
    labels. error: one sentence where it failed, else empty.
    """

    id: str
    place: int
    seconds: float = 0.0
    channel: int | None = None
    channels: int = 1
    hypothesis: Hypothesis | None = None
    predictions: Mapping[str, Prediction] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What the model made of a piece of audio."""

    hypothesis: Hypothesis | None
    predictions: Mapping[str, Prediction]


@config
class TranscriptionConfig:
    """How recordings are read and put into batches.

    max_seconds_per_batch: audio in a batch, padding counted. seconds_ahead: audio that is read before it is
    decoded; the more, the less padding the batches have. It bounds the memory: 64 kB a second at 16 kHz.
    """

    max_seconds_per_batch: PosFloat = 120.0
    seconds_ahead: PosFloat = 960.0

    def window(self, sample_rate: int) -> WindowSize:
        """The same in samples."""
        return WindowSize(
            batch=self.max_seconds_per_batch * sample_rate, ahead=self.seconds_ahead * sample_rate
        )


DecodeBatch = Callable[[list[Tensor], Sequence[str | None]], list[Decoded]]


class Transcription:
    """Recordings in, transcripts out, in the order in which they are done.

    decode: called with audio (N,) of each row, a list that it may empty, and the language of each row.
    sample_rate: Hz of the model. model_language: the model's code of a language, as in `Recognizer`.
    """

    def __init__(
        self,
        decode: DecodeBatch,
        sample_rate: int,
        model_language: Callable[[str | None], str | None],
        cfg: TranscriptionConfig | None = None,
    ) -> None:
        self.decode, self.sample_rate, self.model_language = decode, sample_rate, model_language
        self.cfg = cfg or TranscriptionConfig()

    def run(self, recordings: Iterable[Recording]) -> Generator[Transcript, None, None]:
        """A transcript of each recording, or of each channel. Audio that cannot be read has an `error`."""
        results: dict[Track, dict[int, Decoded]] = {}
        for done, batch in read_in_batches(recordings, self._read, self.cfg.window(self.sample_rate)):
            for track in done:
                yield self._transcript(track, {})
            if not batch:
                continue
            for slot, decoded in zip(batch, self._decode(batch), strict=True):
                own = results.setdefault(slot.track, {})
                own[slot.index] = decoded
                if len(own) == len(slot.track.pieces):
                    yield self._transcript(slot.track, results.pop(slot.track))

    def _decode(self, batch: list[Slot]) -> list[Decoded]:
        """Decode a batch; in halves where the memory does not suffice for all of it."""
        languages = [slot.track.language for slot in batch]
        samples = [piece for slot in batch if (piece := slot.track.pieces[slot.index]) is not None]
        half = len(batch) // 2
        if not half:
            batch[0].track.pieces[batch[0].index] = None  # hours of audio are large: `decode` frees them
        try:
            decoded = self.decode(samples, languages)
        except torch.OutOfMemoryError:
            if not half:
                raise
            torch.cuda.empty_cache()
            return self._decode(batch[:half]) + self._decode(batch[half:])
        for slot in batch:
            slot.track.pieces[slot.index] = None
        return decoded

    def _transcript(self, track: Track, decoded: dict[int, Decoded]) -> Transcript:
        if track.error:
            return Transcript(id=track.id, place=track.place, error=track.error)
        hypothesis, predictions = decoded[0].hypothesis, decoded[0].predictions
        if hypothesis is not None:
            hypothesis.id = track.id
        return Transcript(
            id=track.id, place=track.place, seconds=track.seconds, channel=track.channel,
            channels=track.channels, hypothesis=hypothesis, predictions=predictions,
        )  # fmt: skip

    def _read(self, recording: Recording, place: int) -> list[Track]:
        """The tracks of a recording; one with an error where it cannot be read. Runs in a thread."""
        try:
            language = self.model_language(recording.language)
            channels = read_channels(recording, self.sample_rate)
        except MayaError as error:
            return [Track(place=place, id=recording.id, error=str(error))]
        except MemoryError:
            sentence = f"{recording.id} is too long for the memory of this machine; cut it into parts"
            return [Track(place=place, id=recording.id, error=sentence)]
        return [
            Track(
                place=place, id=recording.id, language=language, channel=channel,
                channels=len(channels), seconds=len(samples) / self.sample_rate, pieces=[samples],
                starts=[0.0],
            )
            for channel, samples in channels
        ]  # fmt: skip


def as_recording(item: Audio | Recording, place: int, language: str | None) -> Recording:
    """An item as a recording, in `language` unless it has its own. Its id is its path, or its place."""
    if isinstance(item, Recording):
        return replace(item, language=item.language or language)
    return Recording(audio=item, id=str(item if isinstance(item, (str, Path)) else place), language=language)


def read_channels(recording: Recording, sample_rate: int) -> list[tuple[int | None, Tensor]]:
    """The number (from 1, or None for the average) and the samples (N,) of each channel that is asked for.

    Raises MayaError for audio that cannot be read, and for a channel that it lacks.
    """
    audio, channel = recording.audio, recording.channel
    if isinstance(audio, (np.ndarray, Tensor)):
        try:
            return [(None, as_audio(audio, sample_rate))]
        except MayaError as error:
            raise MayaError(f"audio {recording.id}: {error}") from None
    start, duration = recording.start, recording.duration
    if channel is None or channel == "mix":
        return [(None, load_audio(audio, sample_rate, start=start, duration=duration))]
    channels = load_channels(audio, sample_rate, start=start, duration=duration)
    if channel == "all":
        return list(enumerate(channels, start=1)) if len(channels) > 1 else [(None, channels[0])]
    if not 1 <= channel <= len(channels):
        raise MayaError(f"{recording.id} has {len(channels)} channels, so no channel {channel}")
    return [(channel, channels[channel - 1])]
