"""Word times by forced alignment with phonemes: of any text that can be pronounced, whatever the tokens."""

import numpy as np
import torch
from torch import Tensor

from maya.align.ctc import SkipGraph, align_graph
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import UnitCTC
from maya.heads.punctuation import SpokenWord
from maya.text.phonemes import pronounce
from maya.text.punctuation import split_written


class PhonemeAligner:
    """Finds the times of words by a model's head of phonemes, with eSpeak NG's pronunciations. Raises
    MayaError for a model without such a head."""

    def __init__(self, recognizer: Recognizer, head: str = "phonemes") -> None:
        self.model = recognizer.model
        own = self.model.head(head)
        if not isinstance(own, UnitCTC):
            raise MayaError(f"the head {head} is of kind {own.cfg.kind!r}; name one of kind unit_ctc")
        self.head, self.seconds = own, self.model.frame_seconds / own.cfg.upsampling

    @torch.inference_mode()
    def __call__(self, audio: Tensor, text: str, language: str) -> list[SpokenWord]:
        """Audio (N,) at the model's rate → the words of a text that can be pronounced, as they are written. A
        mark that stands alone belongs to the word before it. No words where the text is too long."""
        written: list[str] = []
        for part in text.split():
            if split_written(part)[0] or not written:
                written.append(part)
            else:
                written[-1] += part
        ids = [self.head.ids(pronounce(split_written(word)[0], language)) for word in written]
        words = [(word, own) for word, own in zip(written, ids, strict=True) if own]
        encoded = self.model.encode_audio(audio[None], torch.tensor([len(audio)]), hidden=self.head.hidden)
        scores = self.head.log_probs(encoded)[0].numpy()
        bounds = np.cumsum([0, *(len(own) for _, own in words)])
        tokens = np.array([number for _, own in words for number in own], np.int64)
        graph = SkipGraph(tokens=tokens, first=bounds[:-1], blank=self.head.blank)
        try:
            spans = align_graph(lambda begin, end: scores[begin:end], len(scores), graph)
        except MayaError:
            return []
        starts, ends = spans.start[bounds[:-1]] * self.seconds, spans.end[bounds[1:] - 1] * self.seconds
        rows = zip(words, starts.tolist(), ends.tolist(), strict=True)
        return [SpokenWord(word, start, end) for (word, _), start, end in rows]
