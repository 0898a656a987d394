"""Validation: the loss, greedy error rates per language, and accuracies per class, spread over ranks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from maya.data.loading.batch import Batch
from maya.decode.head_choice import TrainedHeads
from maya.decode.methods import greedy
from maya.decode.table import true_labels
from maya.encoders import Encoded
from maya.heads import Head, final_weights
from maya.models.speech_model import SpeechModel
from maya.score.wer import cer, wer
from maya.text.languages import UNKNOWN_LANGUAGE, indexed_language
from maya.text.tokenizer import Tokenizer
from maya.train.distributed import all_reduce_sum, gather_objects


class Validate(Protocol):
    """From a model to its scores on the dev set. `heads`: names of those to score, which have been trained;
    None: all heads of the model."""

    def __call__(self, model: Any, heads: Sequence[str] | None = None) -> dict[str, float]: ...


@dataclass(slots=True)
class _Outputs:
    """The outputs of a part of the dev set.

    texts: language, reference, and the hypothesis of each text head. classes: by head the true and the
    predicted class of each utterance that has one. loss: its sum. count: of tokens, or of utterances.
    """

    texts: list[tuple[str, str, list[str]]] = field(default_factory=list)
    classes: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    loss: float = 0.0
    count: float = 0.0


def make_validate(
    batches: Callable[[], Iterable[Batch]],
    references: dict[str, str],
    tokenizer: Tokenizer,
    languages: tuple[str, ...],
    *,
    method: str = "auto",
) -> Validate:
    """A function from a model to its scores on the dev set.

    `batches()` yields this rank's share; `references` maps an utterance id to its normalised text. The
    encoder runs once for all heads. The scores hold

    - `loss`, per token, or per utterance for a model without text heads;
    - for each text head, decoded greedily, `<head>_wer` and `<head>_cer` (macro averages over languages),
      `<head>_wer_<code>` and `<head>_cer_<code>`; without `<head>_` those of the head `method`, or of the
      best head where that is "auto" or not trained yet;
    - for each head that predicts a label `<head>_accuracy` (macro average) and `<head>_accuracy_<class>`;
    - `error`, by which the best checkpoint is chosen: the CER, which moves more smoothly than the WER while a
      model is young; for a model without text heads 1 - the accuracy of its first predicting head, or else
      the loss.

    Utterances whose language is not one of `languages` are scored as the language "unknown", which no macro
    average includes, and `unknown_language` is their number.
    """

    @torch.inference_mode()
    def validate(model: SpeechModel, heads: Sequence[str] | None = None) -> dict[str, float]:
        model.eval()
        names = tuple(heads or model.heads)
        text = tuple(name for name in model.cfg.text_heads if name in names)
        weights = final_weights(model.cfg.heads, names)
        predicting = [name for name in names if model.head(name).predicts]
        device, outputs = next(model.parameters()).device, _Outputs(classes={name: [] for name in predicting})
        for batch in batches():
            batch = batch.to(device)
            encoded = model.encode_audio(batch.audio, batch.audio_lens, hidden=model.hidden)
            losses = model.losses(encoded, batch, weights=weights).total
            outputs.loss += sum_of_feasible(losses)
            outputs.count += float(batch.token_lens.clamp(min=1).sum()) if text else batch.size
            hyps = [greedy(model, encoded, head, batch.langs) for head in text]
            if text:
                for name, lang, *row in zip(batch.ids, batch.langs.tolist(), *hyps, strict=True):
                    texts = [tokenizer.decode(hyp.tokens) for hyp in row]
                    outputs.texts.append((indexed_language(lang, languages), references[name], texts))
            for name in predicting:
                outputs.classes[name] += classes_of(model, model.head(name), encoded, batch)
        model.train()
        loss, count = all_reduce_sum([outputs.loss, outputs.count], device)
        shares = gather_objects((outputs.texts, outputs.classes))
        scores = {"loss": loss / max(count, 1.0)}
        if text:
            scores |= rates_of_heads([row for rows, _ in shares for row in rows], text, method)
        accuracies: dict[str, float] = {}
        for name in predicting:
            accuracies |= accuracy([pair for _, classes in shares for pair in classes[name]], name)
        error = next((1 - value for value in accuracies.values()), scores["loss"])
        return {"error": error} | scores | accuracies

    return validate


def sum_of_feasible(losses: Tensor) -> float:
    """The sum of losses (B,) without the infinite ones, of texts that their audio cannot hold. NaN stays: as
    0 it would make a broken model the best one."""
    return float(losses.masked_fill(losses == float("inf"), 0.0).sum())


def classes_of(model: SpeechModel, head: Head, encoded: Encoded, batch: Batch) -> list[tuple[str, str]]:
    """The true and the predicted class of each utterance of a batch whose class is known, by a head that
    `predicts` a label."""
    if head.conditioned:
        encoded = model.with_language(encoded, batch.langs)
    pairs = zip(true_labels(model, batch, head.predicts), head.predict(encoded), strict=True)
    return [(value, prediction.label) for value, prediction in pairs if value is not None]


def rates_of_heads(
    rows: list[tuple[str, str, list[str]]], heads: tuple[str, ...], method: str
) -> dict[str, float]:
    """`error_rates` of each head under its name, and without a name those of `method`, or of the best head
    where it is not among `heads`; from (language, reference, the hypothesis of each head)."""
    rates = {
        head: error_rates([(language, ref, hyps[i]) for language, ref, hyps in rows])
        for i, head in enumerate(heads)
    }
    if method not in rates:
        method = TrainedHeads(heads=heads, trained=heads, dev=rates).best().head
    named = {
        f"{head}_{name}": value
        for head, scores in rates.items()
        for name, value in scores.items()
        if name not in ("error", "unknown_language")
    }
    return rates[method] | named


def error_rates(pairs: list[tuple[str, str, str]]) -> dict[str, float]:
    """WER and CER as macro averages and of each language, from (language, reference, hypothesis).

    Utterances of the language "unknown" have rates of their own and are counted as `unknown_language`; the
    macro averages include them only where there are no others. Without a word of reference both rates are 1.
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
    macro_cer, macro_wer = (
        sum(rates[k] for k in averaged) / len(averaged) if averaged else 1.0 for rates in (chars, words)
    )
    scores = {"error": macro_cer, "wer": macro_wer, "cer": macro_cer}
    scores |= {f"{name}_{k}": v for name, rates in (("wer", words), ("cer", chars)) for k, v in rates.items()}
    unknown = len(by_language.get(UNKNOWN_LANGUAGE, ()))
    return scores | ({"unknown_language": unknown} if unknown else {})


def accuracy(pairs: list[tuple[str, str]], head: str) -> dict[str, float]:
    """`<head>_accuracy`, the mean over classes, and the share of each class's utterances that were predicted
    as it; from (true class, predicted class). Empty without utterances."""
    by_class: dict[str, list[bool]] = {}
    for value, predicted in sorted(pairs):
        by_class.setdefault(value, []).append(predicted == value)
    shares = {value: sum(hits) / len(hits) for value, hits in by_class.items()}
    if not shares:
        return {}
    macro = sum(shares.values()) / len(shares)
    return {f"{head}_accuracy": macro} | {f"{head}_accuracy_{k}": v for k, v in shares.items()}
