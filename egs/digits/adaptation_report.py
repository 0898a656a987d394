"""What the adaptation experiment found, as a table and as curves of WER against seconds heard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maya.score.wer import ErrorStats, Interval, macro_average, pool, wer
from tools.plot_metrics import figure_class

_MARKERS = "osD^v*"


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


Curve = list[tuple[float, float, Interval]]  # mean seconds heard, WER, its 95 % interval


def curves(answers: Sequence[Answer]) -> dict[tuple[str, bool], Curve]:
    """By way and whether labelled: a point for each amount heard.

    WER is the mean over languages, of all speakers, models and utterances of each; intervals by bootstrap
    over utterances: they know nothing of other speakers.
    """
    found: dict[tuple[str, bool], Curve] = {}
    for way, labelled in dict.fromkeys((a.way, a.labelled) for a in answers):
        mine = [a for a in answers if (a.way, a.labelled) == (way, labelled)]
        curve = []
        for asked in sorted({a.asked_seconds for a in mine}):
            here = [a for a in mine if a.asked_seconds == asked]
            languages = {
                code: pool(a.stats for a in here if a.language == code) for code in {a.language for a in here}
            }
            rate, bounds = macro_average(languages)
            curve.append((sum(a.seconds for a in here) / len(here), rate, bounds))
        found[way, labelled] = curve
    return found


def table(answers: Sequence[Answer]) -> str:
    """A Markdown table: a row for each way, a column for each amount heard."""
    found = curves(answers)
    amounts = sorted({a.asked_seconds for a in answers})
    heads = ["way", "texts", *(f"{amount:g} s" for amount in amounts)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (way, labelled), curve in found.items():
        asked = sorted({a.asked_seconds for a in answers if (a.way, a.labelled) == (way, labelled)})
        cells = dict.fromkeys(amounts, "")
        for amount, (_, rate, bounds) in zip(asked, curve, strict=True):
            cells[amount] = f"{100 * rate:.2f} % [{100 * bounds.low:.2f}, {100 * bounds.high:.2f}]"
        lines.append("| " + " | ".join([way, "given" if labelled else "none", *cells.values()]) + " |")
    return "\n".join(lines) + "\n"


def plot(answers: Sequence[Answer], path: Path) -> None:
    """WER against seconds heard, without transcripts on the left and with them on the right."""
    found = curves(answers)
    start = found["as trained", False][0][1]
    figure = figure_class()(figsize=(12, 4.6), layout="constrained")
    first = None
    for number, labelled in enumerate((False, True)):
        axes = figure.add_subplot(1, 2, number + 1, sharey=first)
        first = first or axes
        axes.axhline(100 * start, color="black", linestyle="--", linewidth=1, label="as trained")
        drawn = [(way, c) for (way, of), c in found.items() if of is labelled and c[-1][0] > 0]
        for (way, curve), marker in zip(drawn, _MARKERS, strict=False):
            x = [0.0, *(seconds for seconds, _, _ in curve)]
            low = [0.0, *(100 * (rate - bounds.low) for _, rate, bounds in curve)]
            high = [0.0, *(100 * (bounds.high - rate) for _, rate, bounds in curve)]
            y = [100 * start, *(100 * rate for _, rate, _ in curve)]
            axes.errorbar(x, y, yerr=[low, high], marker=marker, markersize=4, capsize=2, label=way)
        axes.set_title("with transcripts of what was heard" if labelled else "without transcripts")
        axes.set_xlabel("seconds of the speaker heard")
        axes.set_ylabel("WER, %, mean of the languages")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
