"""What an adaptation experiment found: WER against seconds of a speaker heard, and a table of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from maya.score.wer import ErrorStats, Interval, macro_average, pool, wer


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
