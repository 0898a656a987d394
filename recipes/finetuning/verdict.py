"""Before and after: error rates with intervals on the same utterances, and whether they differ by more than
chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maya.recipes.score import read_hypotheses
from maya.score.measures.significance import matched_pairs
from maya.score.report import percent, span
from maya.score.wer import Comparison, ErrorStats, Interval, cer, macro_average, macro_compare, wer

SIGNIFICANT = 0.05  # p-value below which a difference is taken for one
_FEW = 10  # utterances, under which nothing is said
TOO_FEW = f"too few utterances to tell ({_FEW} are needed)"
_STUCK = 1.5  # a head's CER over that of the best head, above which it may have learnt nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class RateChange:
    """One error rate, before and after, on the utterances of one set: macro averages over languages."""

    name: str
    utterances: int
    rates: tuple[float, float]
    intervals: tuple[Interval, Interval]
    comparison: Comparison
    p_value: float  # the larger of the bootstrap's and of matched pairs'

    @property
    def verdict(self) -> str:
        """better, worse, no significant change, or too few utterances."""
        if self.utterances < _FEW or not math.isfinite(self.p_value):
            return TOO_FEW
        if self.p_value >= SIGNIFICANT:
            return "no significant change"
        return "better" if self.comparison.difference < 0 else "worse"

    def as_json(self) -> dict[str, Any]:
        c = self.comparison
        return {
            "utterances": self.utterances,
            "before": self.rates[0],
            "after": self.rates[1],
            "intervals": [[i.low, i.high] for i in self.intervals],
            "difference": c.difference,
            "difference_interval": [c.interval.low, c.interval.high],
            "p_value": self.p_value,
            "verdict": self.verdict,
        }


def judge(before: Path, after: Path) -> list[RateChange]:
    """WER and CER of two files of hypotheses (hyps.jsonl) of the same utterances.

    A difference counts only where the paired bootstrap and, for words, the matched-pairs test (MAPSSWE) both
    find it: on few utterances either errs by itself.
    """
    first, second = (sorted(read_hypotheses(path), key=lambda u: u.id) for path in (before, after))
    languages = sorted({u.language for u in first if u.ref})
    blocks = {code: [u.id for u in first if u.language == code] for code in languages}
    measured = []
    for name, count in (("WER", wer), ("CER", cer)):
        stats: list[dict[str, ErrorStats]] = [
            {
                code: count(
                    [u.ref for u in us if u.language == code], [u.hyp for u in us if u.language == code]
                )
                for code in languages
            }
            for us in (first, second)
        ]
        rates, intervals = zip(*(macro_average(s, blocks=blocks) for s in stats), strict=True)
        test = macro_compare(*stats, blocks={code: (ids, ids) for code, ids in blocks.items()})
        p_value = test.p_value
        if name == "WER":
            pairs = matched_pairs((u.ref for u in first), (u.hyp for u in first), (u.hyp for u in second))
            p_value = max(p_value, pairs.p_value) if math.isfinite(pairs.p_value) else p_value
        measured.append(
            RateChange(
                name=name,
                utterances=len(first),
                rates=rates,
                intervals=intervals,
                comparison=test,
                p_value=p_value,
            )
        )
    return measured


def line(title: str, m: RateChange) -> str:
    """A row of the table of a tuning: before, after, difference, verdict."""
    c = m.comparison
    before, after = (f"{percent(r)} {span(i)}" for r, i in zip(m.rates, m.intervals, strict=True))
    change, p_value = f"{100 * c.difference:+.1f}", "-"
    if math.isfinite(m.p_value):  # one utterance has neither an interval nor a test
        change += f" [{100 * c.interval.low:+.1f}, {100 * c.interval.high:+.1f}]"
        p_value = f"{m.p_value:.3f}"
    cells = (title, m.name, str(m.utterances), before, after, change, p_value, m.verdict)
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| set | rate | utterances | before % | after % | change, points | p | verdict |\n"
    "|---|---|---|---|---|---|---|---|"
)


def stuck_heads(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """The heads that learnt nothing while another did. before, after: CER on dev by head.

    Such a head is far behind the best one, and a fifth of its errors at most went away. Heads that were good
    before are not stuck.
    """
    if not after:
        return []
    best = min(after.values())
    return [
        head
        for head, rate in after.items()
        if rate > max(_STUCK * best, best + 0.05) and rate > 0.8 * before.get(head, 1.0)
    ]


def advice(heads: Sequence[str], best: str) -> str:
    """What to do about stuck heads."""
    names = " and ".join(heads)
    return (
        f"the head {names} learnt little while {best} did: decoding uses {best}. To train it, give it more "
        f"steps (--set train.steps=...), keep its rows with --vocabulary extend instead of replace, or raise "
        f"--set model.heads.{heads[0]}.weight"
    )
