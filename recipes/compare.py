"""Compare two systems: their error rates on the same utterances, and the difference with its p-value."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from maya.errors import MayaError
from maya.recipes.evaluation.pages import read_details
from maya.recipes.recorded import data_of
from maya.recipes.score import read_hypotheses
from maya.recipes.tokenizer import require
from maya.score.measures.normalizers import normal_form
from maya.score.measures.significance import FEW, matched_pairs
from maya.score.page import ScoredSystem, write_comparison_page
from maya.score.report import Utterance, make_report, percent, span
from maya.score.wer import Comparison, ErrorStats, cer, macro_average, macro_compare, pool, wer


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("first", type=Path, nargs="+", help="a run folder, or several that differ in their seeds")
    text = "run folders of the other system"
    p.add_argument("--with", type=Path, nargs="+", required=True, dest="second", help=text)
    p.add_argument("--split", default="test", help="the folder under decode/, such as test or ctc/test")
    text = "the folder of the other system, if it is another one"
    p.add_argument("--with-split", default="", help=text)
    text = "also write a page of both systems: differences by language, utterances side by side"
    p.add_argument("--html", type=Path, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> None:
    compare(args.first, args.second, split=args.split, second_split=args.with_split)
    if args.html is not None:
        splits = (args.split, args.with_split or args.split)
        write_html(args.html, [(r, splits[0]) for r in args.first] + [(r, splits[1]) for r in args.second])
        print(f"page        {args.html}")


def write_html(path: Path, decoded: Sequence[tuple[Path, str]]) -> None:
    """Write a page of decoded runs, each (run folder, folder under decode/), with differences from the first.
    Raises MayaError for a run without hypotheses and for runs of different utterances."""
    systems = []
    for run, split in decoded:
        hyps = require(run / "decode" / split / "hyps.jsonl", "decode that run first (stage 5)")
        try:
            data = data_of(run, None)
        except MayaError:  # without them the page has no audio
            data = None
        # In order of the ids, as `System`: runs need not agree in order.
        report = make_report(sorted(read_hypotheses(hyps), key=lambda u: u.id))
        details = read_details(hyps, data, normal_form)
        systems.append(ScoredSystem(name=_name([run], split), report=report, details=details))
    write_comparison_page(systems, path, title=" against ".join(s.name for s in systems))


class System:
    """One system: one run, or several runs that differ in their seeds. folders: with a hyps.jsonl each."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.runs = [sorted(read_hypotheses(f), key=lambda u: u.id) for f in folders]
        if empty := [f for f, run in zip(folders, self.runs, strict=True) if not run]:
            raise MayaError(f"{empty[0]} holds no texts to compare; `maya score` scores predicted labels")
        first = [(u.id, u.ref) for u in self.runs[0]]
        for folder, run in zip(folders, self.runs, strict=True):
            if [(u.id, u.ref) for u in run] != first:
                raise MayaError(f"{folder} has other utterances than {folders[0]}; decode both again")
        self.languages = sorted({u.language for u in self.runs[0] if u.ref})  # others have no rate
        if not self.languages:
            raise MayaError(f"{folders[0]}: no reference has a word, so there is no error rate to compare")

    def words(self) -> dict[str, ErrorStats]:
        """Word errors by language, run after run."""
        return {code: pool(_stats(run, code) for run in self.runs) for code in self.languages}

    def blocks(self) -> dict[str, list[str]]:
        """By language, the ids of the utterances in `words`."""
        return {
            code: [u.id for run in self.runs for u in run if u.language == code] for code in self.languages
        }

    def rates(self) -> list[float]:
        """The WER of each run: the mean over languages."""
        return [fmean([_stats(run, code).rate for code in self.languages]) for run in self.runs]

    def characters(self) -> float:
        """The CER of all runs together: the mean over languages."""
        every = [u for run in self.runs for u in run]
        by_language = {c: [u for u in every if u.language == c] for c in self.languages}
        return fmean([cer([u.ref for u in us], [u.hyp for u in us]).rate for us in by_language.values()])


def compare(
    first: Sequence[Path], second: Sequence[Path], *, split: str = "test", second_split: str = ""
) -> str:
    """Print and return a table of two systems: rates with 95 % intervals, and the difference.

    first, second: run folders, several if a system was trained with several seeds. split: the folder under
    `decode/` with the hypotheses, such as test or ctc/test; second_split: that of the second system, if it is
    another. The bootstrap over utterances draws each utterance for all runs of both systems; the table also
    shows the range over seeds. Raises MayaError for a run without hypotheses and for runs of different
    utterances.
    """
    folders = [_hypotheses(first, split), _hypotheses(second, second_split or split)]
    if folders[0] == folders[1]:
        raise MayaError("both systems are the same runs and split; give another run or --with-split")
    systems = [System(group) for group in folders]
    names = [_name(first, split), _name(second, second_split or split)]
    lines = [_row("system", "runs", "WER %", "95 % interval", "runs from", "to", "CER %")]
    for name, system in zip(names, systems, strict=True):
        rate, bounds = macro_average(system.words(), blocks=system.blocks())
        each = system.rates()
        numbers = [percent(x) for x in (rate, min(each), max(each), system.characters())]
        lines.append(_row(name, str(len(each)), numbers[0], span(bounds), *numbers[1:]))
    a, b = systems
    if [(u.id, u.ref) for u in a.runs[0]] != [(u.id, u.ref) for u in b.runs[0]]:
        raise MayaError(f"{first[0]} and {second[0]} have different utterances; decode both again")
    ids = {code: (a.blocks()[code], b.blocks()[code]) for code in a.languages}
    test = macro_compare(a.words(), b.words(), blocks=ids)
    lines += [
        "",
        f"second minus first: {100 * test.difference:+.2f} points {_significance(test)}",
        f"{len(a.runs[0])} utterances, {len(a.languages)} language(s) with equal weights; bootstrap over "
        "utterances, the same draws for all runs",
    ]
    if all(len(system.runs) == 1 for system in systems):
        lines.append(_matched_pairs(*(system.runs[0] for system in systems)))
    text = "\n".join(lines)
    print(text)
    return text


def _hypotheses(runs: Sequence[Path], split: str) -> list[Path]:
    return [require(run / "decode" / split / "hyps.jsonl", "decode that run first (stage 5)") for run in runs]


def _stats(run: Sequence[Utterance], language: str) -> ErrorStats:
    group = [u for u in run if u.language == language]
    return wer([u.ref for u in group], [u.hyp for u in group])


def _significance(test: Comparison) -> str:
    if not math.isfinite(test.p_value):
        return "(an interval needs two utterances in each language)"
    return f"[{100 * test.interval.low:+.2f}, {100 * test.interval.high:+.2f}], p = {test.p_value:.3f}"


def _matched_pairs(first: Sequence[Utterance], second: Sequence[Utterance]) -> str:
    """The test on segments, which assumes less of utterances; of one run each, because seeds are not
    independent of one another."""
    test = matched_pairs((u.ref for u in first), (u.hyp for u in first), (u.hyp for u in second))
    if not math.isfinite(test.p_value):
        return f"matched pairs (MAPSSWE): {test.segments} segments with errors are too few"
    few = f"; under {FEW} segments p is rough" if test.segments < FEW else ""
    return (
        f"matched pairs (MAPSSWE): {test.mean:+.3f} errors in each of {test.segments} segments, "
        f"z = {test.z:.2f}, p = {test.p_value:.3f}{few}"
    )


def _name(runs: Sequence[Path], split: str) -> str:
    return " ".join(run.name for run in runs) + f" {split}"


def _row(name: str, *cells: str) -> str:
    return f"{name:<36}" + "".join(f"{cell:>18}" for cell in cells)  # [100.00, 100.00] has 16
