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
from maya.errors import MayaError
from maya.heads import Head, final_weights
from maya.heads.classify import concordance, number_in
from maya.models.speech_model import SpeechModel
from maya.score.wer import cer, wer
from maya.text.languages import UNKNOWN_LANGUAGE, indexed_language
from maya.text.tokenizer import Tokenizer
from maya.train.distributed import all_reduce_sum, gather_objects, rank
from maya.train.failure import is_out_of_memory
from maya.train.verdict import NATS, DevScores, DevUtterances

MOST_CLASSES = 100  # whose shares the log has one by one; speakers may be thousands


class Validate(Protocol):
    """From a model to its scores on the dev set. `heads`: names of those to score, which have been trained;
    None: all heads of the model."""

    def __call__(self, model: Any, heads: Sequence[str] | None = None) -> dict[str, float]: ...


@dataclass(slots=True)
class _Outputs:
    """The outputs of a part of the dev set.

    texts: language, reference, and the hypothesis of each text head. classes: by head the true and the
    predicted class of each utterance that has one. loss: its sum. count: of tokens, or of utterances.
    losses: id, loss in thousandths of a nat, and count of each utterance, in the order of `texts`. labelled:
    by head the ids in `classes`. no_memory: why this rank could not go on.
    """

    texts: list[tuple[str, str, list[str]]] = field(default_factory=list)
    classes: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    loss: float = 0.0
    count: float = 0.0
    losses: list[tuple[str, int, int]] = field(default_factory=list)
    labelled: dict[str, list[str]] = field(default_factory=dict)
    no_memory: str = ""


class ValidationOutOfMemory(MayaError):
    """Validation ran out of memory, on some rank; raised on all."""


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
    - for each head that predicts a label `<head>_accuracy` (macro average) and `<head>_accuracy_<class>`, or
      `<head>_ccc` where the label is a number;
    - `error`, by which the best checkpoint is chosen: the CER, which moves more smoothly than the WER while a
      model is young; for a model without text heads 1 - the accuracy (or CCC) of its first predicting head,
      or else the loss.

    Utterances whose language is not one of `languages` are scored as the language "unknown", which no macro
    average includes, and `unknown_language` is their number.
    """

    @torch.inference_mode()
    def validate(model: SpeechModel, heads: Sequence[str] | None = None) -> DevScores:
        model.eval()
        names = tuple(heads or model.heads)
        text = tuple(name for name in model.cfg.text_heads if name in names)
        predicting = {name: model.head(name).numeric for name in names if model.head(name).predicts}
        outputs = _Outputs(classes={n: [] for n in predicting}, labelled={n: [] for n in predicting})
        try:
            for batch in batches():
                _add(outputs, model, batch, names, tokenizer.decode, references, languages)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            outputs.no_memory = f"rank {rank()}: {str(error).splitlines()[0][:200]}"
        model.train()
        if reasons := [reason for reason in gather_objects(outputs.no_memory) if reason]:
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            raise ValidationOutOfMemory(f"{reasons[0]}; lower decode.max_seconds")
        return _scores(outputs, text, predicting, method, next(model.parameters()).device)

    return validate


def _add(
    outputs: _Outputs, model: SpeechModel, batch: Batch, names: tuple[str, ...],
    decode: Callable[[list[int]], str], references: dict[str, str], languages: tuple[str, ...],
) -> None:  # fmt: skip
    """Add the outputs of a batch, of the heads `names`."""
    text = tuple(name for name in model.cfg.text_heads if name in names)
    batch = batch.to(next(model.parameters()).device)
    encoded = model.encode_audio(batch.audio, batch.audio_lens, hidden=model.hidden)
    losses = model.losses(encoded, batch, weights=final_weights(model.cfg.heads, names)).total
    counts = batch.token_lens.clamp(min=1) if text else torch.ones_like(batch.token_lens)
    outputs.loss += sum_of_feasible(losses)
    outputs.count += float(counts.sum())
    nats = (losses.double() * NATS).nan_to_num(0.0, 0.0, 0.0).round().long().tolist()
    outputs.losses += zip(batch.ids, nats, counts.tolist(), strict=True)
    hyps = [greedy(model, encoded, head, batch.langs) for head in text]
    if text:
        for name, lang, *row in zip(batch.ids, batch.langs.tolist(), *hyps, strict=True):
            texts = [decode(hyp.tokens) for hyp in row]
            outputs.texts.append((indexed_language(lang, languages), references[name], texts))
    for name in outputs.classes:
        labels = true_labels(model, batch, model.head(name).predicts)
        outputs.labelled[name] += [i for i, label in zip(batch.ids, labels, strict=True) if label is not None]
        outputs.classes[name] += classes_of(model, model.head(name), encoded, batch)


def _scores(
    outputs: _Outputs, text: tuple[str, ...], predicting: dict[str, bool], method: str, device: torch.device
) -> DevScores:
    """The scores of the outputs of all ranks. predicting: heads, and whether their labels are numbers."""
    loss, count = all_reduce_sum([outputs.loss, outputs.count], device)
    parts: list[_Outputs] = gather_objects(outputs)
    rows = [row for part in parts for row in part.texts]
    losses = [row for part in parts for row in part.losses]
    scores = {"loss": loss / max(count, 1.0)}
    if text:
        scores |= rates_of_heads(rows, text, method)
    accuracies: dict[str, float] = {}
    for name in predicting:
        pairs = [pair for part in parts for pair in part.classes[name]]
        accuracies |= agreement(pairs, name) if predicting[name] else accuracy(pairs, name)
    error = next((1 - value for value in accuracies.values()), scores["loss"])
    out = DevScores({"error": error} | scores | accuracies)
    if text:
        head = next(i for i, name in enumerate(text) if scores[f"{name}_cer"] == scores["error"])
        errors = cer([ref for _, ref, _ in rows], [hyps[head] for *_, hyps in rows])
        counted = (errors.utterance_errors.tolist(), errors.utterance_ref_lengths.tolist())
        out.utterances = _utterances(losses, [language for language, *_ in rows], *counted)
    elif name := next((name for name in predicting if f"{name}_accuracy" in accuracies), ""):
        classes = dict(
            pair for part in parts for pair in zip(part.labelled[name], part.classes[name], strict=True)
        )
        losses = [row for row in losses if row[0] in classes]
        pairs = [classes[row[0]] for row in losses]
        wrong = [int(true != predicted) for true, predicted in pairs]
        out.utterances = _utterances(losses, [true for true, _ in pairs], wrong, [1] * len(pairs))
    else:
        nats, units = [row[1] for row in losses], [row[2] * NATS for row in losses]
        out.utterances = _utterances(losses, ["loss"] * len(losses), nats, units)
    return out


def _utterances(
    losses: list[tuple[str, int, int]], groups: list[str], errors: list[int], lengths: list[int]
) -> DevUtterances:
    return DevUtterances(
        ids=[row[0] for row in losses], groups=groups, errors=errors, lengths=lengths,
        losses=[row[1] for row in losses], units=[row[2] for row in losses],
    )  # fmt: skip


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
    as it, for up to `MOST_CLASSES`; from (true class, predicted class). Empty without utterances."""
    by_class: dict[str, list[bool]] = {}
    for value, predicted in sorted(pairs):
        by_class.setdefault(value, []).append(predicted == value)
    shares = {value: sum(hits) / len(hits) for value, hits in by_class.items()}
    if not shares:
        return {}
    scores = {f"{head}_accuracy": sum(shares.values()) / len(shares)}
    each = shares if len(shares) <= MOST_CLASSES else {}
    return scores | {f"{head}_accuracy_{k}": v for k, v in each.items()}


def agreement(pairs: list[tuple[str, str]], head: str) -> dict[str, float]:
    """`<head>_ccc` of the numbers in (true value, predicted value); empty for fewer than two of them."""
    values = [
        (true, said) for a, b in sorted(pairs) if None not in ((true := number_in(a)), (said := number_in(b)))
    ]
    if len(values) < 2:
        return {}
    true, said = torch.tensor(values, dtype=torch.float64).T
    return {f"{head}_ccc": float(concordance(said, true))}
