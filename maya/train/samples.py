"""What the model writes for a few utterances of the dev set, always the same ones, while it trains."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from maya.data.loading.batch import Batch
from maya.decode.recognizer import decode_frames
from maya.models.text_heads import Head
from maya.score.wer import wer
from maya.text.tokenizer import Tokenizer
from maya.train.runlog import Sample
from maya.train.validate import token_limits

Greedy = Callable[[Any, Batch, Head | None], list[list[int]]]
"""model, batch on its device, the head that decodes (None: a model without such heads) -> the tokens of each
utterance."""


class Samples:
    """From a model to its greedy texts of some utterances, in the order of `references`.

    `batches()` yields them; they are read once and kept. Nothing random is drawn and no other rank is needed:
    only the main process calls this. The model comes back as it was, in training mode.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[Batch]],
        references: dict[str, str],
        tokenizer: Tokenizer,
        languages: tuple[str, ...],
        greedy: Greedy,
    ) -> None:
        self._batches, self._references, self._tokenizer = batches, references, tokenizer
        self._languages, self._greedy = languages, greedy
        self._kept: list[Batch] | None = None

    @torch.inference_mode()
    def __call__(self, model: Any, head: Head | None = None) -> list[Sample]:
        self._kept = self._kept or list(self._batches())
        model.eval()
        device = next(model.parameters()).device
        found = {}
        for batch in self._kept:
            texts = map(self._tokenizer.decode, self._greedy(model, batch.to(device), head))
            for name, lang, hyp in zip(batch.ids, batch.langs.tolist(), texts, strict=True):
                found[name] = self._sample(name, self._languages[lang] if lang >= 0 else "", hyp, head)
        model.train()
        return [found[name] for name in self._references if name in found]  # the others cannot be read

    def _sample(self, name: str, language: str, hyp: str, head: Head | None) -> Sample:
        ref = self._references[name]
        rate = round(wer([ref], [hyp]).rate, 4) if ref else None
        return Sample(id=name, language=language, head=head or "", ref=ref, hyp=hyp, wer=rate)


def greedy_hybrid(model: Any, batch: Batch, head: Head | None) -> list[list[int]]:
    """The tokens that a head of a hybrid model writes; None: its transducer, or else its CTC head."""
    enc, enc_lens = model.encode(batch.audio, batch.audio_lens, batch.langs)
    return [hyp.tokens for hyp in decode_frames(model, enc, enc_lens, method=head or "transducer")]


def greedy_llm(tokens_per_second: float) -> Greedy:
    """Of a speech LLM, at most so many tokens a second of audio."""

    def greedy(model: Any, batch: Batch, head: Head | None) -> list[list[int]]:
        speech, lens = model.project(batch.audio, batch.audio_lens)
        limits = token_limits(batch, tokens_per_second)
        return [found.tokens for found in model.generate(speech, lens, batch.langs, max_tokens=limits)]

    return greedy
