"""How well words that matter are recognised: rare words of the training texts, and hot words of a list.

Both read one alignment for each utterance, that of WER. A reference word is recognised if it is aligned with
an equal word.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maya.pages import columns
from maya.score.report import finite, percent, span
from maya.score.wer import ErrorStats, Interval, align, interval, words_of

RARE_BELOW = 5  # times in the training texts
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class WordRecall:
    """The share of reference words of one class that are recognised. words: how many there are."""

    name: str
    words: int
    recall: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class HotWordScore:
    """A list's phrases: how often they are in the references, in the hypotheses, and right in both. missed:
    phrases of the references that were not recognised, wrong: phrases that were not said, both by count."""

    said: int
    recognised: int
    right: int
    missed: Counter[str]
    wrong: Counter[str]

    @property
    def recall(self) -> float:
        """right / said; nan if none was said."""
        return self.right / self.said if self.said else float("nan")

    @property
    def precision(self) -> float:
        """right / recognised; nan if none was recognised."""
        return self.right / self.recognised if self.recognised else float("nan")

    @property
    def f_score(self) -> float:
        """The harmonic mean of precision and recall: 2 right / (said + recognised)."""
        total = self.said + self.recognised
        return 2 * self.right / total if total else float("nan")


def aligned_words(refs: Iterable[str], hyps: Iterable[str]) -> list[list[tuple[str, str]]]:
    """For each utterance its aligned words."""
    return [align(words_of(ref), words_of(hyp)) for ref, hyp in zip(refs, hyps, strict=True)]


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word is in the texts."""
    return Counter(word for text in texts for word in words_of(text))


def rare_word_recall(
    utterances: Sequence[Pairs], counts: Counter[str], *, below: int = RARE_BELOW
) -> list[WordRecall]:
    """The recall of words that the training texts never hold, hold fewer than `below` times, and others.

    utterances: of `aligned_words`. counts: of `count_words`.
    """
    classes = {
        "unseen in training": (0, 1),
        f"1 to {below - 1} times": (1, below),
        f"{below} times and more": (below, None),
    }
    return [
        _recall(utterances, counts, name, low, high)
        for name, (low, high) in classes.items()
        if high is None or low < high
    ]


def _recall(
    utterances: Sequence[Pairs], counts: Counter[str], name: str, low: int, high: int | None
) -> WordRecall:
    rows = np.zeros((len(utterances), 4), np.int64)
    for row, pairs in zip(rows, utterances, strict=True):
        for ref, hyp in pairs:
            if ref and low <= counts[ref] and (high is None or counts[ref] < high):
                row[3] += 1
                row[1] += ref != hyp
    missed = ErrorStats(counts=rows)
    if not missed.ref_length:
        nan = float("nan")
        return WordRecall(name=name, words=0, recall=nan, interval=Interval(low=nan, high=nan))
    # Utterances without such words say nothing of their recall.
    bounds = interval(ErrorStats(counts=rows[rows[:, 3] > 0]))
    return WordRecall(
        name=name, words=missed.ref_length, recall=1 - missed.rate,
        interval=Interval(low=1 - bounds.high, high=1 - bounds.low),
    )  # fmt: skip


def hot_word_score(utterances: Sequence[Pairs], phrases: Iterable[str]) -> HotWordScore:
    """Recall, precision and F of phrases of one or more words, in normal form.

    A phrase is right where its words follow one another in the reference and each is aligned with an equal
    word, without another word between them. utterances: of `aligned_words`.
    """
    every = {tuple(words_of(phrase)) for phrase in phrases} - {()}
    wanted = {n: {phrase for phrase in every if len(phrase) == n} for n in map(len, every)}
    said: Counter[str] = Counter()
    recognised: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for pairs in utterances:
        said += _occurrences([ref for ref, _ in pairs if ref], wanted)
        recognised += _occurrences([hyp for _, hyp in pairs if hyp], wanted)
        right += _occurrences([ref if ref == hyp else "" for ref, hyp in pairs], wanted)
    return HotWordScore(
        said=said.total(), recognised=recognised.total(), right=right.total(), missed=said - right,
        wrong=recognised - right,
    )  # fmt: skip


def _occurrences(words: Sequence[str], phrases: dict[int, set[tuple[str, ...]]]) -> Counter[str]:
    """How often each phrase is in the words. phrases: by their number of words."""
    counts: Counter[str] = Counter()
    for length, some in phrases.items():
        for i in range(len(words) - length + 1):
            if (part := tuple(words[i : i + length])) in some:
                counts[" ".join(part)] += 1
    return counts


def recall_table(rows: Sequence[WordRecall], hot: HotWordScore | None = None) -> str:
    """Both as text for a terminal."""
    lines = []
    if rows:
        table = [["words in training", "words", "recall %", "95 % interval"]]
        table += [[r.name, str(r.words), percent(r.recall), span(r.interval)] for r in rows]
        lines += columns(table)
    if hot is not None:
        numbers = f"recall {percent(hot.recall)} %, precision {percent(hot.precision)} %"
        counts = f"{hot.said} said, {hot.recognised} recognised, {hot.right} right"
        lines.append(f"hot words: {numbers}, F {percent(hot.f_score)} % ({counts})")
        for title, some in (("missed", hot.missed), ("not said", hot.wrong)):
            if some:
                named = ", ".join(f"{phrase} ({n})" for phrase, n in some.most_common(10))
                lines.append(f"hot words {title}: {named}")
    return "\n".join(lines)


def recall_result(rows: Sequence[WordRecall], hot: HotWordScore | None = None) -> dict[str, Any]:
    """Both as JSON values."""
    result: dict[str, Any] = {}
    if rows:
        result["rare_words"] = [
            {"name": r.name, "words": r.words, "recall": finite(r.recall)}
            | {"interval": [finite(r.interval.low), finite(r.interval.high)]}
            for r in rows
        ]
    if hot is not None:
        result["hot_words"] = {
            "said": hot.said, "recognised": hot.recognised, "right": hot.right,
            "recall": finite(hot.recall), "precision": finite(hot.precision), "f_score": finite(hot.f_score),
            "missed": dict(hot.missed), "wrong": dict(hot.wrong),
        }  # fmt: skip
    return result
