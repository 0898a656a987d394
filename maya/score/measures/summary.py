"""All measures of a report beside WER and CER: `measure`, `measures_table` and `measures_result`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maya.pages import columns
from maya.score.measures.graphemes import grapheme_errors
from maya.score.measures.groups import GroupErrors, group_errors, group_result, group_table
from maya.score.measures.lenient import LenientStats, lenient_errors
from maya.score.measures.loops import loops_result
from maya.score.measures.numbers import has_number_words
from maya.score.measures.word_lists import (
    RARE_BELOW,
    HotWordScore,
    WordRecall,
    aligned_words,
    hot_word_score,
    rare_word_recall,
    recall_result,
    recall_table,
)
from maya.score.report import Report, finite, finite_pair, percent, span
from maya.score.wer import ErrorStats, Interval, interval

GROUPED_BY = ("speaker", "length", "snr", "rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureOptions:
    """training_counts: how often each word is in the training texts, None to leave rare words out. hot_words:
    phrases in normal form, empty to leave them out."""

    training_counts: Counter[str] | None = None
    rare_below: int = RARE_BELOW
    hot_words: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """graphemes, lenient: errors of the utterances in the order of the report. loops: JSON values of
    `loops_result`."""

    report: Report
    graphemes: ErrorStats
    lenient: LenientStats
    groups: dict[str, list[GroupErrors]]
    rare: list[WordRecall]
    hot: HotWordScore | None
    loops: dict[str, Any]


def measure(report: Report, options: MeasureOptions | None = None) -> Measures:
    """Compute all measures of a report; see `Measures`."""
    options = options or MeasureOptions()
    rows = report.utterances
    refs, hyps = [u.ref for u in rows], [u.hyp for u in rows]
    pairs = aligned_words(refs, hyps) if options.training_counts is not None or options.hot_words else []
    rare = []
    if options.training_counts is not None:
        rare = rare_word_recall(pairs, options.training_counts, below=options.rare_below)
    return Measures(
        report=report,
        graphemes=grapheme_errors(refs, hyps),
        lenient=lenient_errors(
            refs, hyps, [u.language for u in rows], strict=(report.pooled.words, report.pooled.characters)
        ),
        groups=group_errors(report, GROUPED_BY),
        rare=rare,
        hot=hot_word_score(pairs, options.hot_words) if options.hot_words else None,
        loops=loops_result((u.id, u.hyp, u.seconds) for u in rows),
    )


def measures_table(measures: Measures, *, groups: bool = False) -> str:
    """The measures as text for a terminal. groups: with the tables of groups."""
    rows = [["language", "strict WER %", "lenient WER %", "95 % interval", "lenient CER %", "clusters %"]]
    for name, places in _languages(measures).items():
        words, lenient, characters, clusters = _parts(measures, places)
        bounds = span(_bounds(measures, lenient, places))
        rates = [percent(stats.rate) for stats in (words, lenient, characters, clusters)]
        rows.append([name, rates[0], rates[1], bounds, rates[2], rates[3]])
    blocks = ["\n".join([*columns(rows, aligned_left={0, 3}), _note()])]
    if groups and (text := group_table(measures.groups)):
        blocks.append(text)
    if measures.rare or measures.hot:
        blocks.append(recall_table(measures.rare, measures.hot))
    if loops := _loop_lines(measures.loops):
        blocks.append("\n".join(loops))
    return "\n\n".join(blocks)


def measures_result(measures: Measures) -> dict[str, Any]:
    """The measures as JSON values: rates are fractions, null where they cannot be computed."""
    languages = {}
    for name, places in _languages(measures).items():
        _, lenient, characters, clusters = _parts(measures, places)
        languages[name] = {
            "lenient_wer": finite(lenient.rate),
            "lenient_wer_interval": finite_pair(_bounds(measures, lenient, places)),
            "lenient_cer": finite(characters.rate),
            "grapheme_error_rate": finite(clusters.rate),
            "grapheme_error_rate_interval": finite_pair(_bounds(measures, clusters, places)),
            "graphemes": clusters.ref_length,
        }
    return {
        "languages": languages,
        "number_words": has_number_words(),
        "groups": group_result(measures.groups),
        **recall_result(measures.rare, measures.hot),
        "loops": measures.loops,
    }


def _languages(measures: Measures) -> dict[str, list[int]]:
    """The places of each language's utterances, and of all if there are several languages."""
    rows: dict[str, list[int]] = {}
    for i, u in enumerate(measures.report.utterances):
        rows.setdefault(u.language, []).append(i)
    return rows | ({"all": list(range(len(measures.report.utterances)))} if len(rows) > 1 else {})


def _parts(measures: Measures, places: list[int]) -> list[ErrorStats]:
    """Of some utterances: strict words, lenient words, lenient characters, clusters."""
    every = (
        measures.report.pooled.words, measures.lenient.words, measures.lenient.characters, measures.graphemes,
    )  # fmt: skip
    return [ErrorStats(counts=stats.counts[places]) for stats in every]


def _bounds(measures: Measures, stats: ErrorStats, places: list[int]) -> Interval:
    report = measures.report
    blocks = None
    if report.by_speaker:
        rows = [report.utterances[i] for i in places]
        blocks = [u.speaker or ("id", u.id) for u in rows]
    return interval(stats, blocks=blocks, replicates=report.replicates, seed=report.seed)


def _note() -> str:
    note = (
        "lenient: accepted spellings count as correct (docs/scoring.md); clusters: errors in letters as read"
    )
    if has_number_words():
        return note
    return (
        note
        + "\nnumbers in words are compared as written: pip install 'maya-asr[score]' for the lenient score"
    )


def _loop_lines(loops: dict[str, Any]) -> list[str]:
    suspicious = loops["suspicious"]
    if not suspicious:
        return []
    id, reasons = next(iter(suspicious.items()))
    return [f"signs of a loop in {len(suspicious)} hypotheses, the first {id}: {', '.join(reasons)}"]
