"""Punctuation marks and capitals for recognised words, by a model's head for them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.recognizer import Recognizer
from maya.decode.stream_rows import StreamRow
from maya.decode.streaming import RecognizerStream
from maya.decode.words import join_words, segments_of
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import PunctuationHead
from maya.heads.punctuation import SpokenWord
from maya.text.punctuation import write_word

_MARGIN_SECONDS = 0.5  # of audio that is heard on either side of a segment


class Punctuation:
    """Writes the texts of one recogniser. Raises MayaError for a model without a trained head for it."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        heads = recognizer.model.named_heads()
        own = [n for n, head in heads.items() if isinstance(head, PunctuationHead)]
        if not own:
            raise MayaError("this model has no head for punctuation; train one as egs/heads does")
        if own[0] in recognizer.model.untrained:
            raise MayaError(f"the head {own[0]} for punctuation was never trained")
        self.head = heads[own[0]]

    @property
    def context_words(self) -> int:
        """Words on either side of a word that its mark and its case depend on."""
        assert isinstance(self.head, PunctuationHead)
        return self.head.cfg.layers * self.head.cfg.reach

    @torch.inference_mode()
    def write(self, words: list[Word], encoded: Encoded, first_second: float, language: str | None) -> None:
        """Change the texts of words. encoded: frames (1, S, D) without a language, from `first_second` on.
        Words without times stay as they are."""
        assert isinstance(self.head, PunctuationHead)
        timed = [
            (i, w.start, w.end) for i, w in enumerate(words) if w.start is not None and w.end is not None
        ]
        spoken = [SpokenWord(words[i].text, a - first_second, b - first_second) for i, a, b in timed]
        for (i, *_), (mark, case) in zip(timed, self.head.write(encoded, [spoken])[0], strict=True):
            words[i] = replace(words[i], text=write_word(words[i].text, mark, case, language))

    @torch.inference_mode()
    def __call__(self, hyp: Hypothesis, audio: Tensor) -> None:
        """Rewrite words, segments and text of a hypothesis of audio (N,) at the model's rate, segment by
        segment. Segments then also end with sentences."""
        rate, device = self.recognizer.sample_rate, self.recognizer.device
        model, segments = self.recognizer.model, hyp.segments
        words: list[Word] = []
        for segment in segments:
            start, end = segment.start or 0.0, segment.end or len(audio) / rate
            first = max(0, int((start - _MARGIN_SECONDS) * rate))
            part = audio[first : int((end + _MARGIN_SECONDS) * rate)]
            lens = torch.tensor([len(part)], device=device)
            encoded = model.encode_audio(part[None].to(device), lens)
            own = list(segment.words)
            self.write(own, encoded, first / rate, hyp.language)
            segment.words, segment.text = own, join_words([word.text for word in own])
            words += own
        if not any(segment.check for segment in segments):  # a verdict is of the segment as it was
            segments = segments_of(words)
        hyp.text, hyp.words, hyp.segments = join_words([word.text for word in words]), words, segments


class LivePunctuation:
    """The written form of text that grows. A word stays as it is written as soon as all words that its mark
    depends on are complete, so it is the form that the whole text gives it."""

    def __init__(self, punctuation: Punctuation, language: str | None) -> None:
        self.punctuation, self.language = punctuation, language
        self.stable: list[str] = []

    @property
    def next_word(self) -> int:
        """The first word whose times and frames the next call reads."""
        return max(0, len(self.stable) - self.punctuation.context_words)

    def write(self, words: Sequence[Word], encoded: Encoded, first_second: float) -> list[Word]:
        """All words so far as they are written; those in `stable` will not change. The last of `words` may
        still grow. encoded: frames (1, S, D) without a language from `first_second` on, those of `next_word`
        and later words among them."""
        begin, count = self.next_word, len(self.stable)
        own = list(words[begin:])
        self.punctuation.write(own, encoded, first_second, self.language)
        written = [replace(w, text=t) for w, t in zip(words, self.stable, strict=False)] + own[
            count - begin :
        ]
        complete = len(words) - 1 - self.punctuation.context_words
        self.stable += [word.text for word in written[count : max(count, complete)]]
        return written


class PunctuatedStream:
    """A `RecognizerStream` that keeps its frames, with hypotheses in their written form."""

    def __init__(self, stream: RecognizerStream, punctuation: Punctuation) -> None:
        self.stream, self.punctuation = stream, punctuation
        self.live = LivePunctuation(punctuation, stream.language)

    @property
    def latency_seconds(self) -> float | None:
        return self.stream.latency_seconds

    def accept(self, samples: np.ndarray | Tensor) -> Hypothesis:
        """See `RecognizerStream.accept`."""
        return self._written(self.stream.accept(samples))

    def finish(self) -> Hypothesis:
        """See `RecognizerStream.finish`; the stream then takes the next utterance."""
        row = self.stream.row
        hyp = self._written(self.stream.finish(), row)
        self.live = LivePunctuation(self.punctuation, self.stream.language)
        return hyp

    @property
    def stable_text(self) -> str:
        """The part of the text that will not change."""
        return join_words(self.live.stable)

    def _written(self, hyp: Hypothesis, row: StreamRow | None = None) -> Hypothesis:
        row = row or self.stream.row
        frames, seconds = row.kept_frames(), self.stream.model.frame_seconds
        if not hyp.words or not frames.shape[1]:
            return hyp
        encoded = Encoded(frames, torch.tensor([frames.shape[1]], device=frames.device))
        hyp.words = self.live.write(hyp.words, encoded, row.kept_from * seconds)
        hyp.text, hyp.segments = join_words([word.text for word in hyp.words]), segments_of(hyp.words)
        start = hyp.words[self.live.next_word].start
        if start is not None:
            row.keep_from(int((start - _MARGIN_SECONDS) / seconds))
        return hyp
