"""Curves of WER against seconds of a speaker heard, and their table, of what an adaptation experiment wrote.

    python -m tools.plot_adaptation exp/digits/digits/adaptation/adaptation.json    # .png and .md beside it

Needs matplotlib: pip install 'maya-asr[plot]'.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from maya.errors import MayaError
from maya.recipes.adaptation_report import START, Answer, curves, table
from maya.recipes.figure import figure_class

_MARKERS = "osD^v*"
_APART = 0.35  # seconds between the ways, so that bars at one amount do not hide one another


def plot(answers: Sequence[Answer], path: Path) -> None:
    """WER against seconds heard, without transcripts on the left and with them on the right."""
    found = curves(answers)
    start = found[START, False][0].rate
    figure = figure_class()(figsize=(12, 4.6), layout="constrained")
    ways = list(dict.fromkeys(way for way, _ in found))  # a way has its colour and mark in both halves
    first = None
    for number, labelled in enumerate((False, True)):
        axes = figure.add_subplot(1, 2, number + 1, sharey=first)
        first = first or axes
        axes.axhline(100 * start, color="black", linestyle="--", linewidth=1, label=START)
        drawn = [(way, c) for (way, of), c in found.items() if of is labelled and c[-1].seconds > 0]
        for place, (way, curve) in enumerate(drawn):
            look = {"color": f"C{ways.index(way)}", "marker": _MARKERS[ways.index(way) % len(_MARKERS)]}
            x = [0.0, *(p.seconds + _APART * (place - (len(drawn) - 1) / 2) for p in curve)]
            low = [0.0, *(100 * (p.rate - p.interval.low) for p in curve)]
            high = [0.0, *(100 * (p.interval.high - p.rate) for p in curve)]
            y = [100 * start, *(100 * p.rate for p in curve)]
            axes.errorbar(x, y, yerr=[low, high], markersize=4, capsize=2, label=way, **look)
        axes.set_title("with transcripts of what was heard" if labelled else "without transcripts")
        axes.set_xlabel("seconds of the speaker heard")
        axes.set_ylabel("WER, %, mean of the languages")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def read(path: Path) -> list[Answer]:
    """The answers in a JSON file; MayaError when it is something else."""
    try:
        return [Answer(**answer) for answer in json.loads(path.read_text())["answers"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MayaError(f"{path} is not what an adaptation experiment writes ({error!r})") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m tools.plot_adaptation", description="Draw and tabulate."
    )
    parser.add_argument("answers", type=Path, help="adaptation.json")
    parser.add_argument("--out", type=Path, help="the picture, and its .md (default: beside the JSON)")
    options = parser.parse_args(arguments)
    out = options.out or options.answers.with_suffix(".png")
    try:
        answers = read(options.answers)
        out.with_suffix(".md").write_text(table(answers))
        plot(answers, out)
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
