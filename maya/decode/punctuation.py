"""Punctuation marks and capitals for recognised words, by a model's head for them."""

from dataclasses import replace

import torch
from torch import Tensor

from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.recognizer import Recognizer
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
