"""Recognition of audio that is still coming: samples → features → encoder → decoder, piece by piece.

The decoders of pieces (`maya.decode.transducer.greedy`, `maya.decode.ctc.greedy`) give what they would
give for the whole utterance.
"""

import numpy as np
import torch
from torch import Tensor

from maya.audio.load import as_audio
from maya.decode.base import Method
from maya.decode.hypothesis import Hypothesis, write_texts
from maya.decode.long.buffered import BufferConfig
from maya.decode.stream_rows import StreamRows
from maya.decode.words import WordRules, write_words
from maya.errors import MayaError
from maya.text.tokenizer import Tokenizer

_LISTS = ("tokens", "frames", "durations", "scores", "confidences")


class RecognizerStream:
    """One utterance as it is spoken: `accept` samples as they come, then `finish`.

    `Recognizer.stream` makes it. The latency is the look-ahead of the model, its right context + 1 encoder
    frames (of a Zipformer a chunk and 130 ms), plus half a window of the features; with a `buffer` it is
    `latency_seconds`. keep_frames: for who reads the row's `kept` frames. After `finish` it takes the next
    utterance. Raises MayaError for an encoder or a method that cannot stream.
    """

    def __init__(
        self, method: Method, tokenizer: Tokenizer, *, language: str | None = None,
        context: tuple[int, int] | None = None, buffer: BufferConfig | None = None,
        rules: WordRules | None = None, keep_frames: bool = False,
    ) -> None:  # fmt: skip
        self.rows = StreamRows(method, context=context, buffer=buffer)
        self.keep_frames = keep_frames
        self.model, self.method, self.tokenizer = method.model, method, tokenizer
        self.language, self.buffer, self.rules = language, self.rows.buffer, rules or WordRules()
        self.row = self.rows.open(language, keep=keep_frames)

    @property
    def latency_seconds(self) -> float | None:
        """The longest time from a sound to its recognition with a buffer; None without."""
        return None if self.buffer is None else self.buffer.latency_seconds

    def accept(self, samples: np.ndarray | Tensor) -> Hypothesis:
        """The next samples, (n,) at the model's rate -> the hypothesis so far, which later calls leave alone.
        It is copied when it is read, so a call takes no longer late in a stream.

        Float in [-1, 1], or integers: see `maya.audio.load.as_audio`, also for its errors.
        """
        self.rows.push([self.row], [as_audio(samples, self.model.cfg.features.sample_rate)], [False])
        return self._hypothesis()

    def finish(self, *, same_speaker: bool = False) -> Hypothesis:
        """The end of the audio -> the whole hypothesis.

        With `same_speaker` the next utterance begins with what the encoder (a LaCT) has learnt of the speaker
        so far. Raises MayaError for an encoder that learns nothing while it runs, and with a buffer.
        """
        row = self.row
        if same_speaker and (row.encoder is None or not row.encoder.same_speaker):
            raise MayaError(
                "same_speaker needs a LaCT that streams: other encoders learn nothing from the audio"
            )
        self.rows.push([row], [torch.zeros(0)], [True], same_speaker=same_speaker)
        hyp = self._hypothesis()
        self.row = self.rows.open(self.language, after=row if same_speaker else None, keep=self.keep_frames)
        return hyp

    def _hypothesis(self) -> Hypothesis:
        """The hypothesis so far, copied when it is read: most are not, and a copy each of a long stream would
        take time that grows with its square."""
        own = self.row.hypothesis
        # What is there stays as it is, but for the last entries: see `StreamDecoder`.
        lists = {name: (getattr(own, name), len(getattr(own, name))) for name in _LISTS}
        last = {name: values[-1:] for name, (values, _) in lists.items()}
        tokenizer, frame_seconds, rules = self.tokenizer, self.model.frame_seconds, self.rules

        def fill(hyp: Hypothesis) -> None:
            for name, (values, size) in lists.items():
                setattr(hyp, name, values[: max(0, size - 1)] + last[name])
            write_words(write_texts([hyp], tokenizer, frame_seconds), tokenizer, rules)

        hyp = Hypothesis.when_read(fill)
        hyp.search_score, hyp.alternatives = own.search_score, [*own.alternatives]
        hyp.language, hyp.frame_seconds = self.language, frame_seconds
        return hyp
