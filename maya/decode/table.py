"""Decoding of many utterances: batches by length, languages, texts and predicted labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from lhotse import CutSet

from maya.data.loading.batch import Batch
from maya.data.loading.loader import EvalLoader
from maya.data.table.utterances import Utterances
from maya.decode.base import Method
from maya.decode.hypothesis import Hypothesis
from maya.decode.predictions import identify, predict
from maya.decode.recognizer import Recognizer
from maya.decode.word_edges import levels_of_rows
from maya.heads import Prediction
from maya.heads.classify import LANGUAGE
from maya.models.speech_model import SpeechModel
from maya.text.languages import indexed_language

LanguageSource = Literal["known", "auto", "unknown"]
"""The language to decode in: that of the transcript, the one that the model identifies, or none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedRow:
    """The model's output for one utterance.

    hypothesis: None for a model without a text head. predictions: by label. labels: the true value of each of
    these labels, None where the data does not hold it. seconds: of audio.
    """

    id: str
    hypothesis: Hypothesis | None
    predictions: dict[str, Prediction]
    labels: dict[str, str | None]
    seconds: float


def decode_table(
    recognizer: Recognizer,
    utterances: Utterances | CutSet,
    method: Method | None,
    *,
    language: LanguageSource = "known",
    max_seconds: float = 120.0,
) -> Iterator[DecodedRow]:
    """The rows of all utterances, longest first. method: None for a model without a text head. max_seconds:
    padded audio in a batch. Raises MayaError for "auto" with a model that cannot identify languages."""
    loader = EvalLoader(
        utterances, recognizer.tokenizer, recognizer.model.cfg.languages,
        sample_rate=recognizer.sample_rate, max_seconds=max_seconds,
    )  # fmt: skip
    for batch in loader:
        rows = decode_batch(recognizer.model, batch.to(recognizer.device), method, language=language)
        texts = [row for row in rows if row.hypothesis is not None]
        hyps = [row.hypothesis for row in texts if row.hypothesis is not None]
        kind = "" if method is None else method.cfg.kind
        seconds = [row.seconds for row in texts]
        levels = levels_of_rows(batch.audio, batch.audio_lens, batch.sample_rate) if texts else None
        recognizer.with_text(hyps, method=kind, seconds=seconds, levels=levels)
        yield from rows


@torch.inference_mode()
def decode_batch(
    model: SpeechModel, batch: Batch, method: Method | None, *, language: LanguageSource = "known"
) -> list[DecodedRow]:
    """The rows of a batch, hypotheses without text. Put the model in eval mode first."""
    encoded = model.encode_audio(batch.audio, batch.audio_lens, hidden=model.hidden)
    langs = batch.langs if language == "known" else None
    if language == "auto":
        langs = identify(model, encoded)[0]
    predictions = predict(model, encoded, langs)
    labels = {label: true_labels(model, batch, label) for label in predictions}
    hyps = method(encoded, langs) if method else [None] * batch.size
    return [
        DecodedRow(
            id=name, hypothesis=hyps[i], seconds=int(batch.audio_lens[i]) / batch.sample_rate,
            predictions={label: rows[i] for label, rows in predictions.items()},
            labels={label: values[i] for label, values in labels.items()},
        )
        for i, name in enumerate(batch.ids)
    ]  # fmt: skip


def true_labels(model: SpeechModel, batch: Batch, label: str) -> list[str | None]:
    """The value of a label for each utterance of a batch; None where the batch does not hold it."""
    if label == LANGUAGE:
        languages = model.cfg.languages
        return [indexed_language(i, languages) if i >= 0 else None for i in batch.langs.tolist()]
    return batch.labels.get(label, [None] * batch.size)
