"""Transcription of many recordings: a result for each as it comes. A bad recording does not end the rest."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from maya.audio.blocks import audio_blocks
from maya.audio.byte_ranges import ByteRange
from maya.audio.load import as_audio, load_audio, load_channels
from maya.config import config
from maya.decode.hypothesis import Hypothesis, SpeakerTurn
from maya.decode.long.joined_nbest import joined_alternatives, search_score, without_samples
from maya.decode.long.joining import Joiner
from maya.decode.long.long_audio import LongAudioConfig
from maya.decode.long.pieces import Piece
from maya.decode.long.sliding_window import Reading, Slot, Track, WindowSize, read_in_batches
from maya.decode.methods import AUTO
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
    labels. turns: who spoke when, where it was asked for. error: one sentence where it failed, else empty.
    """

    id: str
    place: int
    seconds: float = 0.0
    channel: int | None = None
    channels: int = 1
    hypothesis: Hypothesis | None = None
    predictions: Mapping[str, Prediction] = field(default_factory=dict)
    turns: Sequence[SpeakerTurn] = ()
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What the model made of a piece of audio."""

    hypothesis: Hypothesis | None
    predictions: Mapping[str, Prediction]
    memory: Any = None  # what the encoder has learnt up to the end of it


@config
class TranscriptionConfig:
    """How recordings are read, cut into pieces and put into batches.

    max_seconds_per_batch: audio in a batch, padding counted. seconds_ahead: audio that is read before it is
    decoded; the more, the less padding the batches have. It bounds the memory: 64 kB a second at 16 kHz.
    long_audio: how recordings are cut; None takes each whole, whatever its length.
    """

    max_seconds_per_batch: PosFloat = 120.0
    seconds_ahead: PosFloat = 480.0
    long_audio: LongAudioConfig | None = field(default_factory=LongAudioConfig)

    def window(self, sample_rate: int, *, in_order: bool = False) -> WindowSize:
        """The same in samples."""
        batch, ahead = self.max_seconds_per_batch * sample_rate, self.seconds_ahead * sample_rate
        return WindowSize(batch=batch, ahead=ahead, in_order=in_order)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutting:
    """How recordings are cut into pieces and their hypotheses joined.

    pieces: of blocks of samples. joiner: makes what joins those of a recording. finish: completes a joined
    hypothesis of so many seconds. remember: see `LongAudioConfig`.
    """

    pieces: Callable[[Iterable[Tensor]], Iterator[Piece]]
    joiner: Callable[[], Joiner]
    finish: Callable[[Hypothesis, float], Hypothesis]
    remember: bool = False


DecodeBatch = Callable[[list[Tensor], Sequence[str | None], list[Any] | None], list[Decoded]]


class Transcription:
    """Recordings in, transcripts out, in the order in which they are done.

    decode: called with audio (N,) of each row, a list that it may empty, the language of each row, and what
    the encoder has learnt from earlier pieces of its track; None where each piece is by itself.
    sample_rate: Hz of the model. model_language: the model's code of a language, as in `Recognizer`. cutting:
    None takes each recording whole.
    """

    def __init__(
        self,
        decode: DecodeBatch,
        sample_rate: int,
        model_language: Callable[[str | None], str | None],
        *,
        cfg: TranscriptionConfig,
        cutting: Cutting | None,
    ) -> None:
        self.decode, self.sample_rate, self.model_language = decode, sample_rate, model_language
        self.cfg, self.cutting = cfg, cutting

    def run(self, recordings: Iterable[Recording]) -> Generator[Transcript, None, None]:
        """A transcript of each recording, or of each channel. Audio that cannot be read has an `error`."""
        parts: dict[Track, _Parts] = {}
        remember = self.cutting is not None and self.cutting.remember
        window = self.cfg.window(self.sample_rate, in_order=remember)
        for read, batch in read_in_batches(recordings, self._read, window):
            touched = dict.fromkeys(read)
            memories = [parts[s.track].memory if s.track in parts else None for s in batch]
            decoded_batch = self._decode(batch, memories if remember else None) if batch else []
            for slot, decoded in zip(batch, decoded_batch, strict=True):
                parts.setdefault(slot.track, _Parts(self.cutting)).add(slot, decoded)
                touched[slot.track] = None
            for track in read:
                parts.setdefault(track, _Parts(self.cutting)).is_read = True
            done = [track for track in touched if parts[track].is_complete(track)]
            for track in sorted(done, key=lambda track: (track.place, track.channel or 0)):
                yield self._transcript(track, parts.pop(track))

    def _decode(self, batch: list[Slot], memories: list[Any] | None) -> list[Decoded]:
        """Decode a batch; in halves where the memory does not suffice for all of it."""
        try:
            languages = [slot.track.language for slot in batch]
            return self.decode([slot.samples for slot in batch], languages, memories)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(batch) // 2
        first, second = (None, None) if memories is None else (memories[:half], memories[half:])
        return self._decode(batch[:half], first) + self._decode(batch[half:], second)

    def _transcript(self, track: Track, parts: "_Parts") -> Transcript:
        if track.error:
            return Transcript(id=track.id, place=track.place, error=track.error)
        hypothesis = parts.hypothesis
        if parts.joiner is not None:
            assert self.cutting is not None
            hypothesis = self.cutting.finish(parts.joiner.finish(), track.seconds)
            hypothesis.search_score = search_score(parts.rows)
            if any(hyp.alternatives for _, hyp in parts.rows):
                alternatives = joined_alternatives(parts.rows, self.cutting.joiner)
                hypothesis.alternatives = [self.cutting.finish(h, track.seconds) for h in alternatives]
            if hypothesis.language is None and track.language != AUTO:
                hypothesis.language = track.language
        if hypothesis is not None:
            hypothesis.id = track.id
        return Transcript(
            id=track.id, place=track.place, seconds=track.seconds, channel=track.channel,
            channels=track.channels, hypothesis=hypothesis, predictions=parts.predictions,
        )  # fmt: skip

    def _read(self, recording: Recording, place: int) -> Reading:
        """The pieces of a recording. Its track has an error where it cannot be read. Runs in a thread."""
        opened = Track(place=place, id=recording.id)
        try:
            language = self.model_language(recording.language)
            channels = channel_blocks(recording, self.sample_rate)
        except MayaError as error:
            opened.error = str(error)
            yield opened
            return
        for channel, blocks in channels:
            track = replace(opened, language=language, channel=channel, channels=len(channels))
            try:
                yield from self._pieces(track, blocks)
            except MayaError as error:
                track.error = str(error)
            except MemoryError:
                track.error = f"{recording.id} is too long for the memory of this machine; cut it into parts"
            yield track

    def _pieces(self, track: Track, blocks: Iterable[Tensor]) -> Iterator[Slot]:
        counted = self._counted(track, blocks)
        if self.cutting is None:
            samples = [*counted]
            track.pieces = 1
            whole = samples[0] if len(samples) == 1 else torch.cat(samples)
            yield Slot(track=track, index=0, samples=whole)
            return
        for index, piece in enumerate(self.cutting.pieces(counted)):
            track.pieces = index + 1
            yield Slot(track=track, index=index, samples=piece.samples, piece=piece)

    def _counted(self, track: Track, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        for block in blocks:
            track.seconds += len(block) / self.sample_rate
            yield block


class _Parts:
    """What was decoded of one track so far; pieces are joined in order as soon as those before them came."""

    def __init__(self, cutting: Cutting | None) -> None:
        self.joiner = None if cutting is None else cutting.joiner()
        self.hypothesis: Hypothesis | None = None
        self.predictions: Mapping[str, Prediction] = {}
        self.is_read = False
        self.memory: Any = None  # of the encoder, after the piece that was decoded last
        self.rows: list[tuple[Piece, Hypothesis]] = []  # in order
        self._waiting: dict[int, tuple[Piece, Decoded]] = {}
        self._decoded = self._joined = self._longest = 0

    def add(self, slot: Slot, decoded: Decoded) -> None:
        self._decoded += 1
        self.memory = decoded.memory
        if len(slot.samples) > self._longest:  # the labels of the longest piece stand for the recording
            self._longest, self.predictions = len(slot.samples), decoded.predictions
        if self.joiner is None or decoded.hypothesis is None:
            self.hypothesis, self.joiner = decoded.hypothesis, None
            return
        self._waiting[slot.index] = (slot.piece, decoded)
        while (ready := self._waiting.pop(self._joined, None)) is not None:
            piece, earlier = ready
            assert earlier.hypothesis is not None
            self.joiner.add(piece, earlier.hypothesis)
            self.rows.append((without_samples(piece), earlier.hypothesis))
            self._joined += 1

    def is_complete(self, track: Track) -> bool:
        return self.is_read and self._decoded == track.pieces


def as_recording(item: Audio | Recording, place: int, language: str | None) -> Recording:
    """An item as a recording, in `language` unless it has its own. Its id is its path, or its place."""
    if isinstance(item, Recording):
        return replace(item, language=item.language or language)
    return Recording(audio=item, id=str(item if isinstance(item, (str, Path)) else place), language=language)


def recording_audio(recording: Recording, sample_rate: int, channel: int | None = None) -> Tensor:
    """(N,) the audio of a recording, or of one channel of it from 1. Raises MayaError as `channel_blocks`."""
    if channel is not None:
        recording = replace(recording, channel=channel)
    ((_, blocks),) = channel_blocks(recording, sample_rate)
    return torch.cat([*blocks])


def channel_blocks(recording: Recording, sample_rate: int) -> list[tuple[int | None, Iterable[Tensor]]]:
    """The number (from 1, or None for the average) of each channel that is asked for, and its audio in blocks
    (n,) that are read as they are needed.

    Raises MayaError for a channel that the recording lacks, and, at once or at a block, for audio that cannot
    be read.
    """
    audio, channel = recording.audio, recording.channel
    if isinstance(audio, (np.ndarray, Tensor)):
        try:
            return [(None, [as_audio(audio, sample_rate)])]
        except MayaError as error:
            raise MayaError(f"audio {recording.id}: {error}") from None
    start, duration = recording.start, recording.duration
    if channel is None or channel == "mix":
        if start is None and duration is None:
            return [(None, audio_blocks(audio, sample_rate))]
        return [(None, [load_audio(audio, sample_rate, start=start, duration=duration)])]
    channels = load_channels(audio, sample_rate, start=start, duration=duration)
    if channel == "all":
        return [(i if len(channels) > 1 else None, [own]) for i, own in enumerate(channels, start=1)]
    if not 1 <= channel <= len(channels):
        raise MayaError(f"{recording.id} has {len(channels)} channels, so no channel {channel}")
    return [(channel, [channels[channel - 1]])]
