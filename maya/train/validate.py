"""Validation: loss and greedy error rates per language, spread over ranks."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from maya.data.loading.batch import Batch
from maya.decode.head_choice import best_head
from maya.decode.recognizer import Method, decode_frames
from maya.models.hybrid import HybridModel
from maya.models.speech_llm import SpeechLLM
from maya.models.text_heads import Head, heads_of
from maya.score.wer import cer, wer
from maya.text.languages import UNKNOWN_LANGUAGE, indexed_language
from maya.text.tokenizer import Tokenizer
from maya.train.distributed import all_reduce_sum, gather_objects


class Validate(Protocol):
    """From a model to its scores on the dev set. `heads`: those to score, which have been trained; None: all
    that the model has."""

    def __call__(self, model: Any, heads: Sequence[Head] | None = None) -> dict[str, float]: ...


def make_validate(
    batches: Callable[[], Iterable[Batch]],
    references: dict[str, str],
    tokenizer: Tokenizer,
    languages: tuple[str, ...],
    *,
    method: Method = "auto",
) -> Validate:
    """A function from a model to its scores on the dev set.

    `batches()` yields this rank's share; `references` maps an utterance id to its normalised text. The
    encoder runs once, and every head decodes its output greedily. The scores hold `loss` (per token), and for
    each head `<head>_wer`, `<head>_cer` (macro averages over languages), `<head>_wer_<code>` and
    `<head>_cer_<code>`. The same without `<head>_`, and `error`, are those of the head `method`, or where
    that is "auto" or not trained yet, of the best head. `error` is the CER: it moves more smoothly than the
    WER while a model is young, so the best checkpoint is chosen by it. A model that tells languages apart
    also has `language_accuracy` (macro average) and `language_accuracy_<code>`.

    Utterances whose language is not one of `languages` are scored as the language "unknown", which no macro
    average includes, and `unknown_language` is their number.
    """

    @torch.inference_mode()
    def validate(model: HybridModel, heads: Sequence[Head] | None = None) -> dict[str, float]:
        model.eval()
        heads = tuple(heads or heads_of(model.cfg))
        device = next(model.parameters()).device
        loss = tokens = 0.0
        # The loss of a transducer that is not trained yet says nothing and costs the most.
        only_ctc = model.cfg.transducer != "none" and "transducer" not in heads and "ctc" in heads
        rows: list[tuple[str, str, list[str]]] = []  # language, reference, the hypothesis of each head
        told: list[tuple[str, bool]] = []  # (language, whether the encoder told it)
        for batch in batches():
            batch = batch.to(device)
            heard, enc_lens = model.listen(batch.audio, batch.audio_lens)
            enc = model.with_language(heard, batch.langs)
            spoken = model.identify(heard, enc_lens) if model.cfg.language_id_weight else None
            ctc_weight = 1.0 if only_ctc else None
            losses = model.losses(enc, enc_lens, batch, ctc_weight=ctc_weight, spoken=spoken).total
            loss += float(losses.masked_fill(~losses.isfinite(), 0.0).sum())
            tokens += float(batch.token_lens.clamp(min=1).sum())
            hyps = [decode_frames(model, enc, enc_lens, method=head) for head in heads]
            for name, lang, *row in zip(batch.ids, batch.langs.tolist(), *hyps, strict=True):
                texts = [tokenizer.decode(hyp.tokens) for hyp in row]
                rows.append((indexed_language(lang, languages), references[name], texts))
            if spoken is not None:
                right = (spoken.argmax(-1) == batch.langs).tolist()
                known = [(i, hit) for i, hit in zip(batch.langs.tolist(), right, strict=True) if i >= 0]
                told += [(languages[i], hit) for i, hit in known]
        model.train()
        loss, tokens = all_reduce_sum([loss, tokens], device)
        merged = [row for share in gather_objects(rows) for row in share]
        everywhere = [t for share in gather_objects(told) for t in share]
        rates = rates_of_heads(merged, heads, method)
        return {"loss": loss / max(tokens, 1.0)} | rates | language_accuracy(everywhere)

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
    def validate(model: SpeechLLM, heads: Sequence[Head] | None = None) -> dict[str, float]:
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
                text = tokenizer.decode(found.tokens)
                pairs.append((indexed_language(lang, languages), references[name], text))
        model.train()
        loss, tokens = all_reduce_sum([loss, tokens], device)
        merged = [p for share in gather_objects(pairs) for p in share]
        return {"loss": loss / max(tokens, 1.0)} | error_rates(merged)

    return validate


def token_limits(batch: Batch, tokens_per_second: float) -> list[int]:
    """How long each utterance's transcript may get: by its own length, so that it does not depend on the
    batch, and at least 8 tokens."""
    return [8 + math.ceil(n / batch.sample_rate * tokens_per_second) for n in batch.audio_lens.tolist()]


def rates_of_heads(
    rows: list[tuple[str, str, list[str]]], heads: Sequence[Head], method: Method
) -> dict[str, float]:
    """`error_rates` of each head under its name, and without a name those of `method`, or of the best head
    where it is not among `heads`; from (language, reference, the hypothesis of each head)."""
    rates = {
        head: error_rates([(language, ref, hyps[i]) for language, ref, hyps in rows])
        for i, head in enumerate(heads)
    }
    chosen = rates[best_head(rates) if method not in rates else method]
    named = {
        f"{head}_{name}": value
        for head, scores in rates.items()
        for name, value in scores.items()
        if name not in ("error", "unknown_language")
    }
    return chosen | named


def error_rates(pairs: list[tuple[str, str, str]]) -> dict[str, float]:
    """WER and CER as macro averages and of each language, from (language, reference, hypothesis).

    Utterances of the language "unknown" have rates of their own and are counted as `unknown_language`; the
    macro averages include them only where there are no others.
    """
    by_language: dict[str, list[tuple[str, str]]] = {}
    for language, ref, hyp in sorted(pairs):
        by_language.setdefault(language, []).append((ref, hyp))
    words, chars = {}, {}
    for language, rows in by_language.items():
        refs, hyps = [r for r, _ in rows], [h for _, h in rows]
        if any(refs):  # without a word of reference there is no rate
            words[language], chars[language] = wer(refs, hyps).rate, cer(refs, hyps).rate
    averaged = [language for language in words if language != UNKNOWN_LANGUAGE] or list(words)
    macro_cer = sum(chars[k] for k in averaged) / len(averaged) if averaged else 1.0
    macro_wer = sum(words[k] for k in averaged) / max(len(averaged), 1)
    scores = {"error": macro_cer, "wer": macro_wer, "cer": macro_cer}
    scores |= {f"{name}_{k}": v for name, rates in (("wer", words), ("cer", chars)) for k, v in rates.items()}
    unknown = len(by_language.get(UNKNOWN_LANGUAGE, ()))
    return scores | ({"unknown_language": unknown} if unknown else {})


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
