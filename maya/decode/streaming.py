"""Recognition of audio that is still coming: samples → features → encoder → decoder, piece by piece.

The decoders of pieces (`maya.decode.transducer.greedy`, `maya.decode.ctc.greedy`) give what they would
give for the whole utterance.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.audio.load import as_audio
from maya.decode.base import Method
from maya.decode.hypothesis import Hypothesis, write_texts
from maya.decode.words import WordRules, write_words
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer


class RecognizerStream:
    """One utterance as it is spoken: `accept` samples as they come, then `finish`.

    `Recognizer.stream` makes it. The latency is the look-ahead of the model, its right context + 1 encoder
    frames (of a Zipformer a chunk and 130 ms), plus half a window of the features. After `finish` it takes
    the next utterance. Raises MayaError for an encoder or a method that cannot stream.
    """

    def __init__(
        self,
        method: Method,
        tokenizer: Tokenizer,
        *,
        language: str | None = None,
        context: tuple[int, int] | None = None,
        rules: WordRules | None = None,
    ) -> None:
        if any(head.hidden for head in method.heads):
            raise MayaError("a stream gives no hidden states, which a head of this method reads")
        self.model, self.method, self.tokenizer = method.model, method, tokenizer
        self.language, self.context, self.rules = language, context, rules or WordRules()
        self._device = next(self.model.parameters()).device
        self._langs = language_index(self.model, language)
        self._features = self.model.featurizer.stream()
        self._begin()

    def accept(self, samples: np.ndarray | Tensor) -> Hypothesis:
        """The next samples, (n,) at the model's rate -> the hypothesis so far, which later calls leave alone.

        Float in [-1, 1], or integers: see `maya.audio.load.as_audio`, also for its errors.
        """
        audio = as_audio(samples, self.model.cfg.features.sample_rate).to(self._device)
        return self._decode(self._features.push(audio[None]), final=False)

    def finish(self, *, same_speaker: bool = False) -> Hypothesis:
        """The end of the audio -> the whole hypothesis.

        With `same_speaker` the next utterance begins with what the encoder (a LaCT) has learnt of the speaker
        so far. Raises MayaError for an encoder that learns nothing while it runs.
        """
        if same_speaker and not self._encoder.same_speaker:
            raise MayaError("same_speaker needs a LaCT: other encoders learn nothing from the audio")
        # The features need a push even where no samples were accepted.
        self._features.push(torch.zeros(1, 0, device=self._device))
        hyp = self._decode(self._features.finish(), final=True, same_speaker=same_speaker)
        self._begin(same_speaker)
        return hyp

    def _begin(self, same_speaker: bool = False) -> None:
        if not same_speaker:
            padding_value = self.model.cfg.features.padding_value
            self._encoder = self.model.encoder.stream(1, self.context, padding_value=padding_value)
        self._decoder = self.method.stream(1, self._langs)

    def _decode(self, feats: Tensor, *, final: bool, same_speaker: bool = False) -> Hypothesis:
        with torch.inference_mode():
            encoded = self._encoder.push(feats, final, same_speaker=same_speaker)
            encoded = self.method.conditioned(encoded, self._langs)
            self._decoder.push(encoded.frames, encoded.lens, final)
        (own,) = self._decoder.hyps
        hyp = replace(copy_of(own, self.tokenizer, self.model.frame_seconds), language=self.language)
        write_words([hyp], self.tokenizer, self.rules)
        return hyp


def copy_of(hyp: Hypothesis, tokenizer: Tokenizer, frame_seconds: float) -> Hypothesis:
    """A copy of a stream decoder's hypothesis, which grows, with its text."""
    lists: dict[str, Any] = {
        name: [*getattr(hyp, name)] for name in ("tokens", "frames", "durations", "scores", "confidences")
    }
    (copy,) = write_texts([replace(hyp, **lists)], tokenizer, frame_seconds)
    return copy


def language_index(model: SpeechModel, language: str | None) -> Tensor:
    """(1,) the index of a model's language, -1 for None."""
    index = -1 if language is None else model.cfg.languages.index(language)
    return torch.tensor([index], device=next(model.parameters()).device)
