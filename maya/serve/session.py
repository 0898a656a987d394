"""A session: audio in, events out, without a transport.

The audio is cut into blocks of one length, whatever the pieces it arrives in, and all decisions are taken at
the end of a block. So any division of the same audio gives the same events.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.audio.load import as_audio
from maya.audio.resampling import ResamplingStream
from maya.audio.vad.detector import SpeechDetector
from maya.decode.base import Method
from maya.decode.hypothesis import Hypothesis, Word, write_texts
from maya.decode.long.buffered import BufferConfig
from maya.decode.punctuation import LivePunctuation
from maya.decode.recognizer import Recognizer
from maya.decode.stream_rows import StreamRows
from maya.decode.words import join_words, write_words
from maya.errors import MayaError
from maya.serve.config import SessionConfig
from maya.serve.events import Ended, Final, Flushed, LiveEvent, Partial, SpeechEnded, SpeechStarted
from maya.serve.segments import SegmentFacts, SegmentHeads
from maya.serve.speakers import name_words_of, open_speakers, push_speakers
from maya.serve.votes import OtherModels, SegmentAudio, shifted

log = logging.getLogger(__name__)
# For encoders that cannot stream: a word comes up to 2.4 s after it was spoken.
LIVE_BUFFER = BufferConfig(left_seconds=6.4, chunk_seconds=1.6, right_seconds=0.8)
RATES = (8000, 192_000)  # Hz, the lowest and the highest


@dataclass(frozen=True, slots=True)
class Block:
    """The next samples of a session. marker: of a flush that follows them. last: no audio follows. pause: a
    pause has begun before them."""

    samples: Tensor
    marker: str | None = None
    last: bool = False
    pause: bool = False

    @property
    def final(self) -> bool:
        """Whether all that was said in it must be recognised at once."""
        return self.last or self.pause or self.marker is not None


class LiveModel:
    """A recogniser, one method and one look-ahead, for many sessions. One thread uses it at a time.

    context, buffer: see `Recognizer.stream`. others: models by name that vote on the words of finals; they
    read the audio of each segment when it ends, in the same thread. Raises MayaError for a model or a method
    that cannot stream.
    """

    def __init__(
        self, recognizer: Recognizer, *, method: str = "auto", context: tuple[int, int] | None = None,
        buffer: BufferConfig | None = None, others: Mapping[str, Recognizer] | None = None,
    ) -> None:  # fmt: skip
        self.recognizer = recognizer
        self.others = OtherModels(others) if others else None
        self.method: Method = recognizer.make_method(recognizer.choose_method(method, stream=True))
        self.rows = StreamRows(self.method, context=context, buffer=buffer)
        self.heads = SegmentHeads(recognizer)
        self.rules = recognizer.word_rules(self.method.cfg.kind)
        self.frame_seconds = recognizer.model.frame_seconds
        self.sample_rate = recognizer.sample_rate

    def open(self, language: str | None = None, cfg: SessionConfig | None = None) -> "Session":
        """A session in a language that the model knows, or None. Raises MayaError for one that the model does
        not know, and for a method or a head that it does not have."""
        cfg = cfg or SessionConfig()
        self.heads.prepare(cfg)
        return Session(self, self.recognizer.model_language(language), cfg)

    def step(self, sessions: "Sequence[Session]") -> list[list[LiveEvent]]:
        """Compute the next block of each session, which must have one: the events of each."""
        blocks = [session.next_block() for session in sessions]
        self.rows.push(
            [session.row for session in sessions],
            [block.samples for block in blocks],
            [block.final for block in blocks],
        )
        audible = [i for i, s in enumerate(sessions) if s.detector is not None and len(blocks[i].samples)]
        detectors: list[Any] = [sessions[i].detector for i in audible]
        if detectors:
            SpeechDetector.push_each(detectors, [blocks[i].samples for i in audible])
        push_speakers([(session.speakers, session.detector, block.samples, block.final)
                       for session, block in zip(sessions, blocks, strict=True)])  # fmt: skip
        return [session.advance(block) for session, block in zip(sessions, blocks, strict=True)]

    def text(self, hyp: Hypothesis, first_second: float) -> Hypothesis:
        """Text and words of tokens whose frames count from `first_second`."""
        write_texts([hyp], self.recognizer.tokenizer, self.frame_seconds)
        write_words([hyp], self.recognizer.tokenizer, self.rules)
        return shifted(hyp, first_second)


def live_model(
    recognizer: Recognizer, method: str, context: tuple[int, int] | None,
    others: Mapping[str, Recognizer] | None = None,
) -> LiveModel:  # fmt: skip
    """A `LiveModel`, through a buffer where the encoder cannot stream."""
    try:
        return LiveModel(recognizer, method=method, context=context, others=others)
    except MayaError as error:
        log.info("live sessions through a buffer: %s", error)
        return LiveModel(recognizer, method=method, buffer=LIVE_BUFFER, others=others)


@dataclass(slots=True)
class _Segment:
    """The open segment. tokens: of its partial text. has_speech: whether there was speech since it began.
    speech: how many of its blocks are speech. live: its written form, where that was asked for."""

    number: int = 0
    tokens: int = 0
    text: str = ""
    has_speech: bool = False
    speech: int = 0
    live: LivePunctuation | None = None


class Session:
    """Live speech of one speaker or more. `LiveModel.open` makes it.

    `feed` computes at once and returns the events; an engine uses `push`, `next_block` and `advance` instead.
    """

    def __init__(self, model: LiveModel, language: str | None, cfg: SessionConfig) -> None:
        self.model, self.language, self.cfg = model, language, cfg
        self.detector = None if cfg.vad is None else SpeechDetector(cfg.vad, model.sample_rate)
        self.speakers = open_speakers(cfg, model.sample_rate)
        self.row = model.rows.open(language, keep=cfg.keeps_frames)
        self.block_samples = max(1, round(cfg.block_seconds * model.sample_rate))
        self.blocks: deque[Block] = deque()
        self._waiting = np.zeros(0, np.float32)  # samples of the next block
        self._resampler: ResamplingStream | None = None
        self._audio = None if model.others is None else SegmentAudio(model.sample_rate)
        self._segment = self._open_segment(0)
        self._speaking = self._closed = self._pausing = False
        self._samples = self._row_samples = 0  # computed so far; those before the row began

    @property
    def seconds(self) -> float:
        """Seconds of audio that were computed."""
        return self._samples / self.model.sample_rate

    @property
    def backlog_seconds(self) -> float:
        """Seconds of audio that wait to be computed."""
        return sum(len(block.samples) for block in self.blocks) / self.model.sample_rate

    def feed(self, samples: np.ndarray | Tensor, rate: int) -> list[LiveEvent]:
        """The next samples (n,), float in [-1, 1] or integers, at `rate` Hz, which may change -> the events.

        Raises MayaError for samples that are none, and for a rate out of range; the session then goes on.
        """
        self.push(samples, rate)
        return self._compute()

    def flush(self, marker: str = "") -> list[LiveEvent]:
        """Recognise all that was said so far, without waiting for what follows it."""
        self.push_marker(marker)
        return self._compute()

    def finish(self) -> list[LiveEvent]:
        """The end of the audio: the last events."""
        self.push_end()
        return self._compute()

    def push(self, samples: np.ndarray | Tensor, rate: int) -> None:
        """`feed` without computing."""
        self._check_open()
        if not RATES[0] <= rate <= RATES[1]:
            raise MayaError(f"a rate of {rate} Hz is out of range; send {RATES[0]} to {RATES[1]} Hz")
        audio = as_audio(samples, rate).numpy().clip(-1.0, 1.0)
        if self._resampler is None or self._resampler.rate != rate:
            self._drain()
            self._resampler = ResamplingStream(rate, self.model.sample_rate)
        self._append(self._resampler.push(audio))

    def push_marker(self, marker: str) -> None:
        """`flush` without computing."""
        self._check_open()
        self._push_rest(marker=marker)

    def push_end(self) -> None:
        """`finish` without computing."""
        self._check_open()
        self._push_rest(last=True)
        self._closed = True

    @property
    def is_due(self) -> bool:
        """Whether the next block, which must be there, may cost a step of the encoder."""
        block, encoder = self.blocks[0], self.row.encoder
        hop = self.model.recognizer.model.cfg.features.hop_samples
        return block.final or encoder is None or encoder.completes(-(-len(block.samples) // hop) + 1)

    def next_block(self) -> Block:
        """The next block to compute. IndexError where none is complete."""
        block = self.blocks.popleft()
        return replace(block, pause=True) if self._pausing else block

    def _check_open(self) -> None:
        if self._closed:
            raise MayaError("the session has ended; open another one")

    def _compute(self) -> list[LiveEvent]:
        events: list[LiveEvent] = []
        while self.blocks:
            (new,) = self.model.step([self])
            events += new
        return events

    def _drain(self) -> None:
        if self._resampler is not None:
            self._append(self._resampler.finish())

    def _append(self, samples: np.ndarray) -> None:
        size = self.block_samples
        waiting = np.concatenate([self._waiting, samples])
        whole = len(waiting) // size * size
        self.blocks += (Block(torch.from_numpy(part)) for part in waiting[:whole].reshape(-1, size))
        self._waiting = waiting[whole:]

    def _push_rest(self, marker: str | None = None, last: bool = False) -> None:
        self._drain()
        self._resampler = None
        self.blocks.append(Block(torch.from_numpy(self._waiting), marker=marker, last=last))
        self._waiting = np.zeros(0, np.float32)

    def advance(self, block: Block) -> list[LiveEvent]:
        """What follows from a block that the model and the detector have computed."""
        self._samples += len(block.samples)
        if self._audio is not None:
            self._audio.push(block.samples, self.row.hypothesis.tokens != [])
        events = self._speech_events()
        self._count_block()
        if block.final:
            events += self._close("end" if block.last else "flush" if block.marker is not None else "pause")
            self._pausing = False
            self.row = self.model.rows.open(self.language, keep=self.cfg.keeps_frames)
            self._row_samples = self._samples
            if block.marker is not None:
                events.append(Flushed(marker=block.marker, seconds=self.seconds))
            if block.last:
                events.append(Ended(seconds=self.seconds))
            return events
        if self._paused():
            return events + self._close("pause")
        self._pausing = self._pause_before_buffer()
        if (count := self._too_long()) is not None:
            events += self._cut(count)
        return events + self._partial()

    def _speech_events(self) -> list[LiveEvent]:
        if self.detector is None:
            self._segment.has_speech = True
            return []
        tracker, was_speaking = self.detector.tracker, self._speaking
        self._speaking = tracker.speaking
        self._segment.has_speech |= tracker.speaking
        if tracker.speaking and not was_speaking:
            return [SpeechStarted(seconds=tracker.start_seconds)]
        if was_speaking and not tracker.speaking:
            return [SpeechEnded(seconds=tracker.voice_end_seconds)]
        return []

    def _count_block(self) -> None:
        """Count a block of the open segment, and forget frames before its first token."""
        if self.cfg.keeps_frames:
            self.model.heads.trim(self.row)
        self._segment.speech += self._speaking

    def _open_segment(self, number: int, *, has_speech: bool = False) -> _Segment:
        live = None
        if self.cfg.punctuate and self.model.heads.punctuation is not None:
            live = LivePunctuation(self.model.heads.punctuation, self.language)
        return _Segment(number=number, has_speech=has_speech, live=live)

    def _first_second(self) -> float:
        """When the frames of the row's hypothesis begin."""
        begin = self._row_samples / self.model.sample_rate
        return begin + self.row.first_frame * self.model.frame_seconds

    def _last_token_end(self) -> float:
        hyp = self.row.hypothesis
        frame = hyp.frames[-1] + max(1, hyp.durations[-1])
        return self._first_second() + frame * self.model.frame_seconds

    def _paused(self) -> bool:
        """Whether the open segment, which has text, has ended with silence."""
        if not self.row.hypothesis.tokens:
            return False
        cfg = self.cfg.endpoint
        decoded = self._row_samples / self.model.sample_rate + self.row.frames * self.model.frame_seconds
        if self.detector is None:
            return decoded - self._last_token_end() >= cfg.trailing_seconds
        voice_end = self.detector.tracker.voice_end_seconds
        silence = self.seconds - voice_end
        if self._speaking or silence < cfg.silence_seconds or decoded - voice_end < cfg.settle_seconds:
            return False
        # A decoder that goes on in silence does not keep a segment open for ever.
        return decoded - self._last_token_end() >= cfg.settle_seconds or silence >= 2 * cfg.silence_seconds

    def _pause_before_buffer(self) -> bool:
        """Whether a pause has begun that the model has not read: a buffer waits for seconds of audio. What it
        holds is then recognised at once, or the next words would join the segment."""
        if self.row.buffer is None or self.detector is None or self._speaking or not self._segment.has_speech:
            return False
        silence = self.seconds - self.detector.tracker.voice_end_seconds
        return silence >= max(self.cfg.endpoint.silence_seconds, self.cfg.endpoint.settle_seconds)

    def _too_long(self) -> int | None:
        """The number of tokens to give out now, up to the start of a word, if the segment is too long."""
        hyp, frame_seconds = self.row.hypothesis, self.model.frame_seconds
        if not hyp.frames or not math.isfinite(limit := self.cfg.endpoint.max_seconds):
            return None
        if (hyp.frames[-1] - hyp.frames[0]) * frame_seconds < limit:
            return None
        ends = [frame + max(1, size) for frame, size in zip(hyp.frames, hyp.durations, strict=True)]
        middle = (hyp.frames[0] + hyp.frames[-1]) / 2
        gaps = {
            i: hyp.frames[i] - ends[i - 1]
            for i in range(1, len(hyp.tokens))
            if hyp.frames[i] >= middle and self._begins_word(hyp.tokens, i)
        }
        return max(gaps, key=lambda i: (gaps[i], i)) if gaps else None

    def _begins_word(self, tokens: list[int], place: int) -> bool:
        decode = self.model.recognizer.tokenizer.decode
        begin = max(0, place - 1)
        return " " in decode(tokens[begin : place + 1]).strip()

    def _cut(self, count: int) -> list[LiveEvent]:
        """Give out the first tokens; the others stay in the hypothesis."""
        hyp = self.row.hypothesis
        first = Hypothesis()
        for name in ("tokens", "frames", "durations", "scores", "confidences"):
            values = getattr(hyp, name)
            setattr(first, name, values[:count])
            del values[:count]
        end = self.row.first_frame + hyp.frames[0]
        events = self._final(first, "length", end)
        self.row.keep_from(end)
        return events

    def _close(self, reason: str) -> list[LiveEvent]:
        """End the open segment. Text without speech is dropped."""
        hyp = self.row.hypothesis
        events = self._final(hyp, reason) if hyp.tokens and self._segment.has_speech else []
        self.model.rows.begin_text(self.row)
        self._segment = self._open_segment(self._segment.number, has_speech=self._speaking)
        return events

    def _facts(self, hyp: Hypothesis, seconds: float, end: int | None) -> SegmentFacts:
        """What the heads say of the segment, whose last frame is before `end`."""
        if not self.cfg.keeps_frames or not self.row.kept:
            return SegmentFacts()
        begin, spoken = (
            self._row_samples / self.model.sample_rate,
            self._segment.speech * self.cfg.block_seconds,
        )
        speech = None if self.detector is None else min(1.0, spoken / max(seconds, self.cfg.block_seconds))
        options: dict[str, Any] = {"first_second": begin, "seconds": seconds, "speech": speech, "end": end}
        return self.model.heads.read(self.row, hyp, self.cfg, **options)

    def _vote(self, hyp: Hypothesis, start: float, end: float, last_frame: int | None) -> list[str]:
        """Change the words of a segment to those that win the vote: warnings of models that have none."""
        others, warnings = list[Hypothesis](), list[str]()
        if self._audio is not None and self.model.others is not None:
            audio, first = self._audio.part(start, end)
            rate, language = self.model.sample_rate, self.language
            others, warnings = self.model.others.hypotheses(audio, rate, language, first)
        if others or self.cfg.rover:
            begin = self._row_samples / self.model.sample_rate
            self.model.heads.vote(self.row, hyp, self.cfg, others, first_second=begin, end=last_frame)
        return warnings

    def _written(self, hyp: Hypothesis, last_frame: int | None = None) -> list[Word]:
        """The words of the open segment, changed in place to their written form if that was asked for."""
        live, begin = self._segment.live, self._row_samples / self.model.sample_rate
        if live is not None:
            if self._votes:  # other words than those of the partials
                live.stable.clear()
            hyp.words = self.model.heads.written(self.row, hyp.words, live, begin, last_frame)
        return hyp.words

    @property
    def _votes(self) -> bool:
        """Whether the words of a final may be others than those of its partials."""
        return bool(self.cfg.rover) or self.model.others is not None

    def _final(self, hyp: Hypothesis, reason: str, last_frame: int | None = None) -> list[LiveEvent]:
        first, frame_seconds = self._first_second(), self.model.frame_seconds
        start = first + hyp.frames[0] * frame_seconds
        end = first + (hyp.frames[-1] + max(1, hyp.durations[-1])) * frame_seconds
        hyp = self.model.text(hyp, first)
        if not hyp.text:
            return []
        hyp.language = self.language
        warnings = self._vote(hyp, start, end, last_frame)
        number, facts = self._segment.number, self._facts(hyp, end - start, last_frame)
        if self._segment.live is not None:
            hyp.text = join_words([word.text for word in self._written(hyp, last_frame)])
        self._segment = self._open_segment(number + 1, has_speech=self._segment.has_speech)
        speaker = None if self.speakers is None else name_words_of(self.speakers, hyp.words)
        sure = [word.confidence for word in hyp.words if word.confidence is not None]
        return [Final(
            segment=number, text=hyp.text, start=start, end=min(end, self.seconds), reason=reason,
            words=hyp.words, confidence=sum(sure) / len(sure) if sure else None, language=self.language,
            speaker=speaker,
            labels=facts.labels, tracks=facts.tracks, check=facts.check, warnings=warnings,
        )]  # fmt: skip

    def _partial(self) -> list[LiveEvent]:
        """The text so far where it has changed. Only the last word may still grow, and without their context
        the marks of some words before it."""
        hyp, segment = self.row.hypothesis, self._segment
        if not self.cfg.partials or not segment.has_speech or len(hyp.tokens) == segment.tokens:
            return []
        segment.tokens = len(hyp.tokens)
        text = self.model.recognizer.tokenizer.decode(hyp.tokens)
        stable = text.rfind(" ") + 1
        if segment.live is not None:
            own = self.model.text(hyp.copy_of_tokens(), self._first_second())
            text = join_words([word.text for word in self._written(own)])
            stable = len(join_words(segment.live.stable))
        if text == segment.text:
            return []
        segment.text = text
        stable = 0 if self._votes else stable
        start = self._first_second() + hyp.frames[0] * self.model.frame_seconds
        return [Partial(segment=segment.number, text=text, stable=stable, start=start)]
