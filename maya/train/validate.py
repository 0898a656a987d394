"""Validation: loss and greedy error rates per language, spread over ranks."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from maya.data.batch import Batch
from maya.decode.recognizer import Method, decode_frames
from maya.models.hybrid import HybridModel
from maya.models.speech_llm import SpeechLLM
from maya.score.wer import cer, wer
from maya.text.tokenizer import Tokenizer
from maya.train.distributed import all_reduce_sum, gather_objects


class Validate(Protocol):
    """From a model to its scores on the dev set; `ctc_only` before the transducer has begun to learn."""

    def __call__(self, model: Any, ctc_only: bool = False) -> dict[str, float]: ...


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
    checkpoint is chosen by it. A model that tells languages apart also has `language_accuracy` (macro
    average) and `language_accuracy_<code>`.
    """

    @torch.inference_mode()
    def validate(model: HybridModel, ctc_only: bool = False) -> dict[str, float]:
        model.eval()
        device = next(model.parameters()).device
        loss = tokens = 0.0
        pairs: list[tuple[str, str, str]] = []  # (language, reference, hypothesis)
        told: list[tuple[str, bool]] = []  # (language, whether the encoder told it)
        for batch in batches():
            batch = batch.to(device)
            heard, enc_lens = model.listen(batch.audio, batch.audio_lens)
            enc = model.with_language(heard, batch.langs)
            spoken = model.identify(heard, enc_lens) if model.cfg.language_id_weight else None
            only = 1.0 if ctc_only else None
            losses = model.losses(enc, enc_lens, batch, ctc_weight=only, spoken=spoken).total
            loss += float(losses.masked_fill(~losses.isfinite(), 0.0).sum())
            tokens += float(batch.token_lens.clamp(min=1).sum())
            hyps = decode_frames(model, enc, enc_lens, method="ctc" if ctc_only else method)
            for hyp, name, lang in zip(hyps, batch.ids, batch.langs.tolist(), strict=True):
                pairs.append((languages[lang], references[name], tokenizer.decode(hyp.tokens)))
            if spoken is not None:
                right = (spoken.argmax(-1) == batch.langs).tolist()
                known = [(i, hit) for i, hit in zip(batch.langs.tolist(), right, strict=True) if i >= 0]
                told += [(languages[i], hit) for i, hit in known]
        model.train()
        loss, tokens = all_reduce_sum([loss, tokens], device)
        merged = [p for share in gather_objects(pairs) for p in share]
        everywhere = [t for share in gather_objects(told) for t in share]
        return {"loss": loss / max(tokens, 1.0)} | error_rates(merged) | language_accuracy(everywhere)

    return validate


def make_validate_llm(
    batches: Callable[[], Iterable[Batch]],
    references: dict[str, str],
    tokenizer: Tokenizer,
    languages: tuple[str, ...],
    *,
    tokens_per_second: float,
) -> Validate:
    """As `make_validate`, for a `SpeechLLM`, by generation of at most so many tokens a second of audio."""

    @torch.inference_mode()
    def validate(model: SpeechLLM, ctc_only: bool = False) -> dict[str, float]:
        model.eval()
        device = next(model.parameters()).device
        loss = tokens = 0.0
        pairs: list[tuple[str, str, str]] = []  # (language, reference, hypothesis)
        for batch in batches():
            batch = batch.to(device)
            speech, lens = model.project(batch.audio, batch.audio_lens)
            loss += float(model.losses(speech, lens, batch).total.sum())
            tokens += float(batch.token_lens.clamp(min=1).sum())
            limits = token_limits(batch, tokens_per_second)
            for found, name, lang in zip(
                model.generate(speech, lens, batch.langs, max_tokens=limits),
                batch.ids, batch.langs.tolist(), strict=True,
            ):  # fmt: skip
                pairs.append((languages[lang], references[name], tokenizer.decode(found.tokens)))
        model.train()
        loss, tokens = all_reduce_sum([loss, tokens], device)
        merged = [p for share in gather_objects(pairs) for p in share]
        return {"loss": loss / max(tokens, 1.0)} | error_rates(merged)

    return validate


def token_limits(batch: Batch, tokens_per_second: float) -> list[int]:
    """How long each utterance's transcript may get: by its own length, so that it does not depend on the
    batch, and at least 8 tokens."""
    return [8 + math.ceil(n / batch.sample_rate * tokens_per_second) for n in batch.audio_lens.tolist()]


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


def language_accuracy(told: list[tuple[str, bool]]) -> dict[str, float]:
    """Share of each language's utterances whose language was told, and the mean over languages; from
    (language, whether it was told). Empty without utterances."""
    by_language: dict[str, list[bool]] = {}
    for language, right in sorted(told):
        by_language.setdefault(language, []).append(right)
    shares = {language: sum(hits) / len(hits) for language, hits in by_language.items()}
    if not shares:
        return {}
    macro = sum(shares.values()) / len(shares)
    return {"language_accuracy": macro} | {f"language_accuracy_{k}": v for k, v in shares.items()}
