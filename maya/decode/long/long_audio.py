"""Long recordings in constant memory: `transcribe_long`, and `pieces` for who batches several recordings.

cfg = LongAudioConfig()                              # speech detected, in pieces of at most 30 s
hyp = transcribe_long(recognizer, "auto", "meeting.mp3", "hi", cfg)

joiner = make_joiner(recognizer, cfg)                # the same step by step
for piece in pieces(recognizer, "meeting.mp3", cfg):
    joiner.add(piece, hypothesis_of(piece.samples))  # in order; decoded in any batches
hyp = joiner.finish()
"""

from collections.abc import Iterable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from maya.audio.blocks import audio_blocks
from maya.audio.vad import VADConfig
from maya.config import config
from maya.decode.base import Method
from maya.decode.hypothesis import Hypothesis
from maya.decode.long.buffered import BufferConfig
from maya.decode.long.joining import Joiner
from maya.decode.long.pieces import Piece, overlapping_pieces, speech_pieces, whole_piece
from maya.decode.methods import AUTO
from maya.decode.streaming import RecognizerStream
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.ranges import NonNegFloat, PosFloat
from maya.text.tokenizer import Tokenizer

Recording = str | Path | Iterable[Tensor]
"""A file, or blocks (n,) of float samples at the model's rate, which are read as they are needed."""


def speech_defaults() -> VADConfig:
    """Voice activity for recognition: 0.2 s around speech, and pauses of less than 0.3 s are kept.

    The thresholds are lower than silero-vad's, with which single words of quiet voices are lost; lower ones
    take chords and coughs for speech (docs/decoding.md, `tools.bench.long_audio lost`)."""
    return VADConfig(threshold=0.25, exit_threshold=0.05, pad_seconds=0.2, min_silence_seconds=0.3)


@config
class LongAudioConfig:
    """strategy: "vad" decodes the speech, in pieces of at most `window_seconds`; "overlap" decodes windows
    that overlap, and joins them on the tokens on which both agree; "buffered" encodes chunks with the audio
    around them, and decodes them as one stream; "whole" takes the recording at once, in memory.

    overlap_seconds: of two windows, and of two pieces that divide continuous speech. join_seconds: a longer
    pause divides speech into two pieces. batch_seconds: audio that is decoded at once, with padding.
    pause_seconds: a longer pause between words begins another segment. vad: None for `speech_defaults()`.
    remember: each piece begins with what the encoder has learnt from the pieces before it, see
    `data.plan.same_speaker`: for LaCT trained so, one speaker, and pieces ("vad", "overlap").
    """

    strategy: Literal["vad", "overlap", "buffered", "whole"] = "vad"
    window_seconds: PosFloat = 30.0
    overlap_seconds: NonNegFloat = 4.0
    join_seconds: NonNegFloat = 1.0
    batch_seconds: PosFloat = 120.0
    pause_seconds: PosFloat = 0.8
    remember: bool = False
    vad: VADConfig | None = None
    buffer: BufferConfig = field(default_factory=BufferConfig)


class PieceRecognizer(Protocol):
    """What is needed of `maya.decode.recognizer.Recognizer`."""

    model: SpeechModel
    tokenizer: Tokenizer

    def choose_method(self, name: str = AUTO, *, stream: bool = False) -> Any: ...

    def make_method(self, choice: Any) -> Method: ...

    def model_language(self, language: str | None) -> str | None: ...

    def _transcribe_batch(
        self, samples: list[Tensor], language: str | None, decoder: Method
    ) -> list[Hypothesis]: ...

    def _transcribe_after(
        self, samples: Tensor, language: str | None, decoder: Method, memory: Any
    ) -> tuple[Hypothesis, Any]: ...


def pieces(
    recognizer: PieceRecognizer, audio: Recording, cfg: LongAudioConfig | None = None
) -> Iterator[Piece]:
    """The pieces of a recording, in order, to be decoded on their own in any batches.

    Raises MayaError for the strategy "buffered", whose chunks depend on one another, and for a file that
    cannot be read.
    """
    cfg = cfg or LongAudioConfig()
    clock = recognizer.model.cfg.clock
    blocks = _blocks(audio, clock.features.sample_rate)
    if cfg.strategy == "whole":
        return whole_piece(blocks, clock)
    if cfg.strategy == "overlap":
        return overlapping_pieces(
            blocks, clock, window_seconds=cfg.window_seconds, overlap_seconds=cfg.overlap_seconds
        )
    if cfg.strategy == "vad":
        return speech_pieces(
            blocks, clock, cfg.vad or speech_defaults(), window_seconds=cfg.window_seconds,
            overlap_seconds=cfg.overlap_seconds, join_seconds=cfg.join_seconds,
        )  # fmt: skip
    raise MayaError("the chunks of buffered decoding depend on one another; call transcribe_long")


def make_joiner(recognizer: PieceRecognizer, cfg: LongAudioConfig | None = None) -> Joiner:
    """What joins the hypotheses of one recording's pieces."""
    seconds = (cfg or LongAudioConfig()).pause_seconds
    return Joiner(recognizer.tokenizer, recognizer.model.frame_seconds, pause_seconds=seconds)


def transcribe_long(
    recognizer: PieceRecognizer, method: Method | str, audio: Recording, language: str | None = None,
    cfg: LongAudioConfig | None = None,
) -> Hypothesis:  # fmt: skip
    """The hypothesis of a recording of any length, with `segments`; its frames count from the start.

    method: one that is ready, or a name, see `Recognizer.transcribe`. Memory does not grow with the
    recording, except for the hypothesis, and with the strategy "whole". The language "auto" is identified in
    each piece. Raises MayaError as `Recognizer.transcribe` does, and with the strategy "buffered" for a
    method that decodes no streams and for the language "auto".
    """
    cfg = cfg or LongAudioConfig()
    buffered = cfg.strategy == "buffered"
    if buffered and cfg.remember:
        raise MayaError('remember=true needs pieces; set strategy="vad" or "overlap", or remember=false')
    if isinstance(method, str):
        method = recognizer.make_method(recognizer.choose_method(method, stream=buffered))
    language = recognizer.model_language(language)
    if buffered:
        hyp = _buffered(recognizer, method, audio, language, cfg)
    else:
        joiner = make_joiner(recognizer, cfg)
        rate, memory = recognizer.model.cfg.features.sample_rate, None
        for piece in pieces(recognizer, audio, cfg) if cfg.remember else ():
            own, memory = recognizer._transcribe_after(piece.samples, language, method, memory)
            joiner.add(piece, own)
        for batch in (
            () if cfg.remember else _batches(pieces(recognizer, audio, cfg), cfg.batch_seconds * rate)
        ):
            for piece, own in zip(batch, _decode(recognizer, method, batch, language), strict=True):
                joiner.add(piece, own)
        hyp = joiner.finish()
        hyp.language = hyp.language or (None if language == AUTO else language)
    if isinstance(audio, (str, Path)):
        hyp.id = str(audio)
    return hyp


def _blocks(audio: Recording, rate: int) -> Iterable[Tensor]:
    return audio_blocks(audio, rate) if isinstance(audio, (str, Path)) else audio


def _batches(items: Iterable[Piece], samples: float) -> Iterator[list[Piece]]:
    """Pieces in order, as many as stay within so many samples with padding."""
    batch: list[Piece] = []
    longest = 0
    for piece in items:
        longest = max(longest, len(piece.samples))
        if batch and longest * (len(batch) + 1) > samples:
            yield batch
            batch, longest = [], len(piece.samples)
        batch.append(piece)
    if batch:
        yield batch


def _decode(
    recognizer: PieceRecognizer, method: Method, batch: list[Piece], language: str | None
) -> list[Hypothesis]:
    return recognizer._transcribe_batch([piece.samples for piece in batch], language, method)


def _buffered(
    recognizer: PieceRecognizer, method: Method, audio: Recording, language: str | None, cfg: LongAudioConfig
) -> Hypothesis:
    if language == AUTO:
        raise MayaError("buffered decoding cannot identify the language; name it, or use another strategy")
    stream = RecognizerStream(method, recognizer.tokenizer, buffer=cfg.buffer, language=language)
    for block in _blocks(audio, recognizer.model.cfg.features.sample_rate):
        stream.accept(block)
    hyp = stream.finish()
    joiner = make_joiner(recognizer, cfg)
    joiner.hyp = hyp
    return joiner.finish()
