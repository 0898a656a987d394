"""Results of an adaptation experiment: WER against seconds of adaptation speech, as a table and a picture.

    python -m maya.recipes.adaptation_report adaptation.json    # writes .png and .md beside it
    python -m maya.recipes.adaptation_report plain.json other.json --over speakers

Of several files the ways of each further one have its name before them, and all are compared with the models
of the first as trained: of the same speakers and utterances, and as many runs.
The picture needs matplotlib: pip install 'maya-asr[plot]'.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from maya.errors import MayaError
from maya.recipes.figure import figure_class, save_figure
from maya.score.wer import Comparison, ErrorStats, Interval, macro_average, macro_compare, pool, wer


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The hypotheses of one model for one speaker, after one amount of adaptation in one way.

    pairs: (text, hypothesis). target_seconds: the amount of speech that the experiment names. seconds: the
    amount of the whole utterances nearest to it.
    """

    run: str
    speaker: str
    language: str
    way: str
    labelled: bool
    target_seconds: float
    seconds: float
    pairs: list[tuple[str, str]]

    @property
    def stats(self) -> ErrorStats:
        """Word errors, utterance by utterance."""
        return wer([ref for ref, _ in self.pairs], [hyp for _, hyp in self.pairs])


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The result for one amount of speech: WER, its 95 % interval, the difference from `START`."""

    target_seconds: float
    seconds: float  # mean of the adaptation speech
    rate: float
    interval: Interval
    change: Comparison


Over = Literal["utterances", "speakers"]
START = "as trained"
_MARKERS = "osD^v*"
_APART = 0.35  # seconds between the ways, so that bars at one amount do not hide one another


def curves(answers: Sequence[Answer], over: Over = "utterances") -> dict[tuple[str, bool], list[Point]]:
    """By way and whether labelled: a point for each amount of speech.

    WER is the mean over languages, of all speakers, models and utterances of each; over speakers, that of all
    words. Intervals are by bootstrap over utterances, each drawn for all models at once, which do not cover
    other speakers, or over speakers. Raises MayaError without answers of the models as
    trained, or when ways have different utterances.
    """
    start = _Scored([a for a in answers if a.way == START], over)
    if not start.words:
        raise MayaError(f"there are no answers {START} to compare the others with")
    points: dict[tuple[str, bool], list[Point]] = {}
    for way, labelled in dict.fromkeys((a.way, a.labelled) for a in answers):
        of_way = [a for a in answers if (a.way, a.labelled) == (way, labelled)]
        for target in sorted({a.target_seconds for a in of_way}):
            group = [a for a in of_way if a.target_seconds == target]
            scored = _Scored(group, over)
            rate, bounds = macro_average(scored.words, blocks=scored.labels)
            both = {code: (start.labels[code], labels) for code, labels in scored.labels.items()}
            point = Point(
                target_seconds=target,
                seconds=sum(a.seconds for a in group) / len(group),
                rate=rate,
                interval=bounds,
                change=macro_compare(start.words, scored.words, blocks=both),
            )
            points.setdefault((way, labelled), []).append(point)
    return points


class _Scored:
    """Word errors by language, and a label for each utterance, the same in all models: over utterances its
    own, over speakers the speaker's, and then all languages are one, since one may have a single speaker."""

    def __init__(self, answers: Sequence[Answer], over: Over) -> None:
        self.words: dict[str, ErrorStats] = {}
        self.labels: dict[str, list[tuple[str, int]]] = {}
        together = over == "speakers"
        for code in sorted({"" if together else a.language for a in answers}):
            group = [a for a in answers if together or a.language == code]
            self.words[code] = pool(a.stats for a in group)
            self.labels[code] = [
                (a.speaker, 0 if together else i) for a in group for i in range(len(a.pairs))
            ]


def table(answers: Sequence[Answer], over: Over = "utterances") -> str:
    """Two Markdown tables, a row for each way, a column for each amount of speech: WER, and the change."""
    points = curves(answers, over)
    rates = _table(points, lambda p: f"{100 * p.rate:.2f} % {_span(p.interval)}")
    changes = _table(
        {key: curve for key, curve in points.items() if key[0] != START},
        lambda p: f"{100 * p.change.difference:+.2f} {_span(p.change.interval, '+')}",
    )
    return f"{rates}\nPoints more than {START}:\n\n{changes}"


def _table(points: dict[tuple[str, bool], list[Point]], text: Callable[[Point], str]) -> str:
    amounts = sorted({p.target_seconds for curve in points.values() for p in curve})
    heads = ["way", "texts", *(f"{amount:g} s" for amount in amounts)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (way, labelled), curve in points.items():
        cells = dict.fromkeys(amounts, "") | {p.target_seconds: text(p) for p in curve}
        lines.append("| " + " | ".join([way, "given" if labelled else "none", *cells.values()]) + " |")
    return "\n".join(lines) + "\n"


def _span(bounds: Interval, sign: str = "") -> str:
    return f"[{100 * bounds.low:{sign}.2f}, {100 * bounds.high:{sign}.2f}]"


def plot(answers: Sequence[Answer], path: Path, over: Over = "utterances") -> None:
    """WER against seconds of speech, without transcripts on the left and with them on the right."""
    points = curves(answers, over)
    start = points[START, False][0].rate
    figure = figure_class()(figsize=(12, 4.6), layout="constrained")
    ways = list(dict.fromkeys(way for way, _ in points))  # a way has its colour and mark in both halves
    first = None
    for number, labelled in enumerate((False, True)):
        axes = figure.add_subplot(1, 2, number + 1, sharey=first)
        first = first or axes
        axes.axhline(100 * start, color="black", linestyle="--", linewidth=1, label=START)
        drawn = [
            (way, c)
            for (way, with_texts), c in points.items()
            if with_texts is labelled and c[-1].seconds > 0
        ]
        for place, (way, curve) in enumerate(drawn):
            look = {"color": f"C{ways.index(way)}", "marker": _MARKERS[ways.index(way) % len(_MARKERS)]}
            x = [0.0, *(p.seconds + _APART * (place - (len(drawn) - 1) / 2) for p in curve)]
            low = [0.0, *(100 * (p.rate - p.interval.low) for p in curve)]
            high = [0.0, *(100 * (p.interval.high - p.rate) for p in curve)]
            y = [100 * start, *(100 * p.rate for p in curve)]
            axes.errorbar(x, y, yerr=[low, high], markersize=4, capsize=2, label=way, **look)
        axes.set_title("with transcripts of the adaptation speech" if labelled else "without transcripts")
        axes.set_xlabel("seconds of adaptation speech")
        axes.set_ylabel("WER, %, mean of the languages")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path, dpi=110)


def read(path: Path) -> list[Answer]:
    """The answers in an adaptation.json. Raises MayaError for another file."""
    try:
        return [Answer(**answer) for answer in json.loads(path.read_text())["answers"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MayaError(f"{path} is not the adaptation.json of an experiment ({error!r})") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m maya.recipes.adaptation_report", description="Draw and tabulate."
    )
    parser.add_argument("answers", type=Path, nargs="+", help="adaptation.json, of one experiment or several")
    parser.add_argument("--over", choices=get_args(Over), default="utterances", help="what intervals draw")
    parser.add_argument("--out", type=Path, help="the picture, and its .md (default: beside the JSON)")
    options = parser.parse_args(arguments)
    out = options.out or options.answers[0].with_suffix(".png")
    try:
        answers = read(options.answers[0])
        for path in options.answers[1:]:
            answers += [replace(a, way=f"{path.stem}: {a.way}") for a in read(path)]
        plot(answers, out, options.over)
        out.with_suffix(".md").write_text(table(answers, options.over))
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
