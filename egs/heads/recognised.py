"""Marks and capitals of recognised words: the labels of the words that were said are carried to them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from egs.heads.measures import mark_counts, shown, test_batches
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import PunctuationHead
from maya.heads.punctuation import SpokenWord
from maya.score.report import percent, span
from maya.score.tracks import score_events
from maya.score.wer import MISSING, align, count_errors, interval, pool


def carried(
    words: Sequence[str], marks: Sequence[str], cases: Sequence[int], recognised: Sequence[str]
) -> tuple[list[str], list[int], list[str]]:
    """The marks and cases of words that were said, carried to the words that were recognised along the
    alignment with the fewest errors: marks and cases (-1: none to know) of these, and the marks that no word
    can have.

    A wrong word has the mark and the case of the word in whose place it stands, an inserted word has none.
    The mark of a word that was left out is the mark of the recognised word before it, unless that has its
    own.
    """
    new_marks, new_cases, lost = list[str](), list[int](), list[str]()
    place = 0
    for said, got in align(words, recognised):
        mark, case = ("", -1) if said == MISSING else (marks[place], cases[place])
        place += said != MISSING
        if got != MISSING:
            new_marks.append(mark)
            new_cases.append(case)
        elif mark and new_marks and not new_marks[-1]:
            new_marks[-1] = mark
        elif mark:
            lost.append(mark)
    return new_marks, new_cases, lost


@torch.inference_mode()
def recognised(recognizer: Recognizer, data: Path) -> dict[str, Any]:
    """Word errors of the model's text head, and F1 of the marks and capitals that the head for them writes
    into its text, with the words' own times; beside it F1 with the words that were said and their times."""
    model, head = recognizer.model, recognizer.model.head("punctuation")
    if not isinstance(head, PunctuationHead):
        raise MayaError("the head punctuation of this run is of another kind")
    method = recognizer.make_method(recognizer.choose_method())
    counts: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
    blocks, stats = list[str](), []
    for batch in test_batches(recognizer, data):
        encoded = model.encode_audio(batch.audio, batch.audio_lens)
        rows, true_marks, true_cases = head.targets(batch)
        seconds = (batch.audio_lens / batch.sample_rate).tolist()
        hyps = recognizer.with_text(method(encoded, batch.langs), method=method.cfg.kind, seconds=seconds)
        own = [
            [
                SpokenWord(w.text, w.start, w.end)
                for w in hyp.words
                if w.start is not None and w.end is not None
            ]
            for hyp in hyps
        ]
        on_reference, on_text = head.write(encoded, rows), head.write(encoded, own)
        for i, words in enumerate(rows):
            texts, spoken = [w.text for w in words], [w.text.lower() for w in own[i]]
            marks = ["" if n < 1 else head.cfg.marks[n - 1] for n in true_marks[i, : len(words)].tolist()]
            cases = true_cases[i, : len(words)].tolist()
            stats.append(count_errors([" ".join(texts)], [" ".join(spoken)], str.split))
            blocks.append(batch.labels["speaker"][i] or "")
            new_marks, new_cases, lost = carried(texts, marks, cases, spoken)
            _count(counts, "words that were said", marks, cases, on_reference[i], head.cfg.marks)
            _count(counts, "recognised words", new_marks, new_cases, on_text[i], head.cfg.marks, lost)
    errors = pool(stats)
    bounds = interval(errors, blocks=blocks)
    print(f"word errors {percent(errors.rate)} {span(bounds)} % of {len(stats)} utterances")
    result: dict[str, Any] = {"wer": [errors.rate, bounds.low, bounds.high]}
    for name, tables in counts.items():
        totals = np.sum(tables, 0)[:, :2].sum(1)
        names = head.cfg.marks if len(totals) > 2 else ("capital", "upper")
        measures = {
            f"F1 of {mark}": score_events([table[[n]] for table in tables], blocks=blocks)["f1"]
            for n, mark in enumerate(names) if totals[n]
        }  # fmt: skip
        if totals.any():
            measures["F1"] = score_events(tables, blocks=blocks)["f1"]
            result[name] = shown(f"{name}, {totals.sum()}", measures)
    return result


def _count(
    counts: dict[str, list[NDArray[np.int64]]], name: str, marks: Sequence[str], cases: Sequence[int],
    said: Sequence[tuple[str, int]], names: Sequence[str], lost: Sequence[str] = (),
) -> None:  # fmt: skip
    """Add the tables of an utterance, of all words, of those before the last, and of capitals."""
    for place, size in (("", len(marks)), (", inside", max(0, len(marks) - 1))):
        written = [mark for mark, _ in said[:size]]
        table = mark_counts([*marks[:size], *lost], [*written, *[""] * len(lost)], names)
        counts[f"{name}{place}"].append(table)
    pairs = [(true, case) for true, (_, case) in zip(cases, said, strict=True) if true >= 0]
    table = mark_counts([str(true) for true, _ in pairs], [str(case) for _, case in pairs], ["0", "1", "2"])
    counts[f"{name}, capitals"].append(table[1:])
