"""The model's output for a few utterances of the dev set, always the same ones, while it trains."""

from collections.abc import Callable, Iterable

import torch

from maya.data.loading.batch import Batch
from maya.decode.methods import greedy
from maya.decode.table import true_labels
from maya.models.speech_model import SpeechModel
from maya.score.wer import wer
from maya.text.tokenizer import Tokenizer
from maya.train.runlog import Sample


class Samples:
    """From a model to one head's output for some utterances, in the order of `references`.

    `batches()` yields them; they are read once and kept. Nothing random is drawn and no other rank is needed:
    only the main process calls this. The model is back in training mode afterwards.
    """

    def __init__(
        self, batches: Callable[[], Iterable[Batch]], references: dict[str, str], tokenizer: Tokenizer
    ) -> None:
        self._batches, self._references, self._tokenizer = batches, references, tokenizer
        self._kept: list[Batch] | None = None

    @torch.inference_mode()
    def __call__(self, model: SpeechModel, head: str) -> list[Sample]:
        """`head` writes text (greedily), or predicts a label."""
        self._kept = self._kept or list(self._batches())
        model.eval()
        device = next(model.parameters()).device
        samples = {s.id: s for batch in self._kept for s in self._of_batch(model, batch.to(device), head)}
        model.train()
        return [samples[name] for name in self._references if name in samples]  # the others are unreadable

    def _of_batch(self, model: SpeechModel, batch: Batch, head: str) -> list[Sample]:
        encoded = model.encode_audio(batch.audio, batch.audio_lens, hidden=model.hidden)
        rates: list[float | None] = [None] * batch.size
        if head in model.cfg.text_heads:
            refs: list[str | None] = [self._references[name] for name in batch.ids]
            hyps = [self._tokenizer.decode(h.tokens) for h in greedy(model, encoded, head, batch.langs)]
            rates = [round(wer([r], [h]).rate, 4) if r else None for r, h in zip(refs, hyps, strict=True)]
        else:
            module = model.head(head)
            refs = true_labels(model, batch, module.predicts)
            if module.conditioned:
                encoded = model.with_language(encoded, batch.langs)
            hyps = [prediction.label for prediction in module.predict(encoded)]
        languages = [model.cfg.languages[i] if i >= 0 else "" for i in batch.langs.tolist()]
        return [
            Sample(id=name, language=language, head=head, ref=ref or "", hyp=hyp, wer=rate)
            for name, language, ref, hyp, rate in zip(batch.ids, languages, refs, hyps, rates, strict=True)
        ]
