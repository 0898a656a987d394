"""Validation: loss and greedy error rates per language, spread over ranks."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from maya.data.batch import Batch
from maya.decode.recognizer import Method, decode_frames
from maya.models.hybrid import HybridModel
from maya.score.wer import cer, wer
from maya.text.tokenizer import Tokenizer
from maya.train.distributed import all_reduce_sum, gather_objects


class Validate(Protocol):
    """From a model to its scores on the dev set; `ctc_only` before the transducer has begun to learn."""

    def __call__(self, model: HybridModel, ctc_only: bool = False) -> dict[str, float]: ...


def make_validate(
    batches: Callable[[], Iterable[Batch]],
    references: dict[str, str],
    tokenizer: Tokenizer,
    languages: tuple[str, ...],
    *,
    method: Method = "transducer",
) -> Validate:
    """A function from a model to its scores on the dev set.

    `batches()` yields this rank's share; `references` maps an utterance id to its normalised text. The
    scores hold `loss` (per token), `wer` and `cer` (macro averages over languages), `wer_<code>`, and
    `error`, which is the CER: it moves more smoothly than the WER while a model is young, so the best
    checkpoint is chosen by it.
    """

    @torch.inference_mode()
    def validate(model: HybridModel, ctc_only: bool = False) -> dict[str, float]:
        model.eval()
        device = next(model.parameters()).device
        loss = tokens = 0.0
        pairs: list[tuple[str, str, str]] = []  # (language, reference, hypothesis)
        for batch in batches():
            batch = batch.to(device)
            enc, enc_lens = model.encode(batch.audio, batch.audio_lens, batch.langs)
            losses = model.losses(enc, enc_lens, batch, ctc_only=ctc_only).total
            loss += float(losses.masked_fill(~losses.isfinite(), 0.0).sum())
            tokens += float(batch.token_lens.clamp(min=1).sum())
            hyps = decode_frames(model, enc, enc_lens, method="ctc" if ctc_only else method)
            for hyp, name, lang in zip(hyps, batch.ids, batch.langs.tolist(), strict=True):
                pairs.append((languages[lang], references[name], tokenizer.decode(hyp.tokens)))
        model.train()
        loss, tokens = all_reduce_sum([loss, tokens], device)
        merged = [p for share in gather_objects(pairs) for p in share]
        return {"loss": loss / max(tokens, 1.0)} | error_rates(merged)

    return validate


def error_rates(pairs: list[tuple[str, str, str]]) -> dict[str, float]:
    """Macro-averaged WER and CER and the WER of each language, from (language, reference, hypothesis)."""
    by_language: dict[str, list[tuple[str, str]]] = {}
    for language, ref, hyp in sorted(pairs):
        by_language.setdefault(language, []).append((ref, hyp))
    words, chars = {}, {}
    for language, rows in by_language.items():
        refs, hyps = [r for r, _ in rows], [h for _, h in rows]
        if any(refs):  # without a word of reference there is no rate
            words[language], chars[language] = wer(refs, hyps).rate, cer(refs, hyps).rate
    macro_cer = sum(chars.values()) / len(chars) if chars else 1.0
    scores = {"error": macro_cer, "wer": sum(words.values()) / max(len(words), 1), "cer": macro_cer}
    return scores | {f"wer_{k}": v for k, v in words.items()}
