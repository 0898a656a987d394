"""What an adaptation experiment found: WER against seconds of a speaker heard, and a table of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maya.errors import MayaError
from maya.score.wer import Comparison, ErrorStats, Interval, macro_average, macro_compare, pool, wer


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one model recognised of one speaker after having heard so much in one way.

    pairs: (text, what was recognised). `asked_seconds` were wanted, `seconds` is what whole utterances gave.
    """

    run: str
    speaker: str
    language: str
    way: str
    labelled: bool
    asked_seconds: float
    seconds: float
    pairs: list[tuple[str, str]]

    @property
    def stats(self) -> ErrorStats:
        """Word errors, utterance by utterance."""
        return wer([ref for ref, _ in self.pairs], [hyp for _, hyp in self.pairs])


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What was found after one amount of speech: WER, its 95 % interval, the difference from `START`."""

    asked_seconds: float
    seconds: float  # mean of what was heard
    rate: float
    interval: Interval
    change: Comparison


START = "as trained"


def curves(answers: Sequence[Answer]) -> dict[tuple[str, bool], list[Point]]:
    """By way and whether labelled: a point for each amount heard.

    WER is the mean over languages, of all speakers, models and utterances of each. Intervals are by bootstrap
    over utterances, each drawn for all models at once: they know nothing of other speakers. Raises MayaError
    without answers of the models as they were trained, or with other questions than those.
    """
    start = _Scored([a for a in answers if a.way == START])
    if not start.words:
        raise MayaError(f"there are no answers {START}, to which others could be compared")
    found: dict[tuple[str, bool], list[Point]] = {}
    for way, labelled in dict.fromkeys((a.way, a.labelled) for a in answers):
        mine = [a for a in answers if (a.way, a.labelled) == (way, labelled)]
        for asked in sorted({a.asked_seconds for a in mine}):
            here = [a for a in mine if a.asked_seconds == asked]
            scored = _Scored(here)
            rate, bounds = macro_average(scored.words, blocks=scored.labels)
            both = {code: (start.labels[code], labels) for code, labels in scored.labels.items()}
            point = Point(
                asked_seconds=asked,
                seconds=sum(a.seconds for a in here) / len(here),
                rate=rate,
                interval=bounds,
                change=macro_compare(start.words, scored.words, blocks=both),
            )
            found.setdefault((way, labelled), []).append(point)
    return found


class _Scored:
    """Word errors by language, and a label for each utterance, the same in all models."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.words: dict[str, ErrorStats] = {}
        self.labels: dict[str, list[tuple[str, int]]] = {}
        for code in sorted({a.language for a in answers}):
            mine = [a for a in answers if a.language == code]
            self.words[code] = pool(a.stats for a in mine)
            self.labels[code] = [(a.speaker, i) for a in mine for i in range(len(a.pairs))]


def table(answers: Sequence[Answer]) -> str:
    """Two Markdown tables, a row for each way, a column for each amount heard: WER, and the change."""
    found = curves(answers)
    rates = _table(found, lambda p: f"{100 * p.rate:.2f} % {_span(p.interval)}")
    changes = _table(
        {of: curve for of, curve in found.items() if of[0] != START},
        lambda p: f"{100 * p.change.difference:+.2f} {_span(p.change.interval, '+')}",
    )
    return f"{rates}\nPoints more than {START}:\n\n{changes}"


def _table(found: dict[tuple[str, bool], list[Point]], text: Callable[[Point], str]) -> str:
    amounts = sorted({p.asked_seconds for curve in found.values() for p in curve})
    heads = ["way", "texts", *(f"{amount:g} s" for amount in amounts)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (way, labelled), curve in found.items():
        cells = dict.fromkeys(amounts, "") | {p.asked_seconds: text(p) for p in curve}
        lines.append("| " + " | ".join([way, "given" if labelled else "none", *cells.values()]) + " |")
    return "\n".join(lines) + "\n"


def _span(bounds: Interval, sign: str = "") -> str:
    return f"[{100 * bounds.low:{sign}.2f}, {100 * bounds.high:{sign}.2f}]"
