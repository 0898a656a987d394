"""The scores of references and hypotheses: a table, result.json and errors.txt.

    report = make_report(utterances)
    print(table(report))
    write_result(report, folder / "result.json")
    write_errors(report, folder / "errors.txt")

`maya.score.page` writes the HTML page.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.files import writing
from maya.score.wer import (
    REPLICATES,
    ErrorStats,
    Interval,
    align,
    cer,
    interval,
    macro_average,
    pool,
    wer,
    words_of,
)
from maya.text.languages import language_name

SECONDS_PER_HOUR = 3600.0
_COLUMNS = {
    "code": "<5",
    "language": "<10",
    "hours": ">7",
    "utts": ">7",
    "words": ">8",
    "WER %": ">7",
    "95 % interval": "<16",
    "CER %": ">7",
    "sub": ">6",
    "del": ">6",
    "ins": ">6",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One utterance to score. ref, hyp: normalised text, may be empty. seconds: duration of the audio. snr:
    in dB, None where it was not measured."""

    id: str
    language: str
    ref: str
    hyp: str
    seconds: float = 0.0
    speaker: str | None = None
    snr: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScore:
    """The scores of one language, or of all languages pooled: a line of the table."""

    code: str
    name: str
    hours: float
    words: ErrorStats
    characters: ErrorStats
    wer_interval: Interval
    cer_interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredUtterance:
    """An utterance, its errors, and its aligned words (`maya.score.wer.align`)."""

    utterance: Utterance
    words: ErrorStats
    characters: ErrorStats
    pairs: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Scores of one decoding; rates are fractions.

    utterances: sorted by language code, then in the given order. languages: sorted by code. pooled: all
    utterances as one list. macro_wer, macro_cer: the means of the languages' rates. by_speaker: the bootstrap
    draws speakers instead of utterances.
    """

    utterances: list[Utterance]
    languages: list[GroupScore]
    pooled: GroupScore
    macro_wer: float
    macro_wer_interval: Interval
    macro_cer: float
    macro_cer_interval: Interval
    by_speaker: bool
    replicates: int
    seed: int


def make_report(
    utterances: Iterable[Utterance],
    *,
    by_speaker: bool = False,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Report:
    """Score utterances language by language.

    by_speaker: the bootstrap draws whole speakers. Its intervals are wider, and correct if a speaker has many
    utterances; an utterance without a speaker counts as a speaker of its own.
    Raises MayaError if there is nothing to score or an id appears twice.
    """
    rows = sorted(utterances, key=lambda u: u.language)
    _check(rows)
    codes = list(dict.fromkeys(u.language for u in rows))
    groups = {code: [u for u in rows if u.language == code] for code in codes}
    words = {code: wer((u.ref for u in g), (u.hyp for u in g)) for code, g in groups.items()}
    characters = {code: cer((u.ref for u in g), (u.hyp for u in g)) for code, g in groups.items()}
    blocks = {code: [_speaker(u) for u in g] for code, g in groups.items()} if by_speaker else None

    def score(code: str, name: str, group: list[Utterance], w: ErrorStats, c: ErrorStats) -> GroupScore:
        labels = [_speaker(u) for u in group] if by_speaker else None
        return GroupScore(
            code=code,
            name=name,
            hours=sum(u.seconds for u in group) / SECONDS_PER_HOUR,
            words=w,
            characters=c,
            wer_interval=interval(w, blocks=labels, replicates=replicates, seed=seed),
            cer_interval=interval(c, blocks=labels, replicates=replicates, seed=seed),
        )

    macro_wer, macro_wer_interval = macro_average(words, blocks=blocks, replicates=replicates, seed=seed)
    macro_cer, macro_cer_interval = macro_average(characters, blocks=blocks, replicates=replicates, seed=seed)
    return Report(
        utterances=rows,
        languages=[
            score(code, language_name(code), groups[code], words[code], characters[code]) for code in codes
        ],
        pooled=score("all", "pooled", rows, pool(words.values()), pool(characters.values())),
        macro_wer=macro_wer,
        macro_wer_interval=macro_wer_interval,
        macro_cer=macro_cer,
        macro_cer_interval=macro_cer_interval,
        by_speaker=by_speaker,
        replicates=replicates,
        seed=seed,
    )


def table(report: Report) -> str:
    """The scores as text for a terminal of 100 columns (more for long names), a line for each language; no
    newline at the end."""
    widths = _widths(report.languages)
    head = _row(widths, *_COLUMNS)
    rule = "-" * len(head)
    lines = [head, rule, *(_table_line(widths, score) for score in report.languages), rule]
    if len(report.languages) > 1:
        lines.append(_table_line(widths, report.pooled))
    macro = (percent(report.macro_wer), span(report.macro_wer_interval), percent(report.macro_cer))
    average = _row(widths, "", "", "", "", "", *macro)
    label = f"macro average of {_count(len(report.languages), 'language')}"
    lines.append(label + average[len(label) :].rstrip())
    drawn = "speakers" if report.by_speaker else "utterances"
    lines.append(
        f"95 % interval: of WER, bootstrap over {drawn}, {report.replicates} draws; sub, del, ins: words"
    )
    return "\n".join(lines)


def result(report: Report) -> dict[str, Any]:
    """The scores as JSON values. Rates are fractions; values that cannot be computed are null."""
    return {
        "macro": {
            "wer": finite(report.macro_wer),
            "wer_interval": finite_pair(report.macro_wer_interval),
            "cer": finite(report.macro_cer),
            "cer_interval": finite_pair(report.macro_cer_interval),
        },
        "pooled": _result_of(report.pooled),
        "languages": {score.code: _result_of(score) for score in report.languages},
        "interval": {
            "level": 0.95,
            "over": "speakers" if report.by_speaker else "utterances",
            "replicates": report.replicates,
            "seed": report.seed,
        },
    }


def write_result(report: Report, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write `result` and the entries of `extra` (command, commit, checkpoint, ...) as one JSON object."""
    content = {**(extra or {}), **result(report)}
    with writing(Path(path)) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def score_utterances(report: Report) -> list[ScoredUtterance]:
    """The score of each utterance, worst first: by WER, then number of errors, CER, and id."""
    words, characters = report.pooled.words, report.pooled.characters
    scored = [
        ScoredUtterance(
            utterance=u,
            words=words[i : i + 1],
            characters=characters[i : i + 1],
            pairs=align(words_of(u.ref), words_of(u.hyp)),
        )
        for i, u in enumerate(report.utterances)
    ]
    return sorted(scored, key=lambda s: (-s.words.rate, -s.words.errors, -s.characters.rate, s.utterance.id))


def write_errors(report: Report, path: str | Path) -> None:
    """Write every utterance with an error, worst first. Words that differ are in brackets.

    `[*]` marks a missing word: a deletion in `hyp`, an insertion in `ref`.
    """
    scored = score_utterances(report)
    wrong = [s for s in scored if s.words.errors]
    lines = [
        f"# {_count(len(wrong), 'utterance')} with errors of {len(scored)}, worst first. "
        "[words that differ] are in brackets; [*] is a missing word."
    ]
    for s in wrong:
        u, w = s.utterance, s.words
        lines += [
            "",
            f"{u.id}  {u.language}  WER {percent(w.rate)} %  CER {percent(s.characters.rate)} %"
            f"  {w.substitutions} sub {w.deletions} del {w.insertions} ins of {_count(w.ref_length, 'word')}",
            "ref: " + " ".join(_marked(ref, ref == hyp) for ref, hyp in s.pairs),
            "hyp: " + " ".join(_marked(hyp, ref == hyp) for ref, hyp in s.pairs),
        ]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def percent(rate: float) -> str:
    """A fraction as a percentage with two decimals; a dash where it cannot be computed."""
    return f"{100 * rate:.2f}" if math.isfinite(rate) else "-"


def span(bounds: Interval) -> str:
    """An interval in per cent, as in the tables; a dash where it cannot be computed."""
    if not (math.isfinite(bounds.low) and math.isfinite(bounds.high)):
        return "-"
    return f"[{percent(bounds.low)}, {percent(bounds.high)}]"


def _widths(languages: Iterable[GroupScore]) -> list[str]:
    """The format of each column, with room for the longest code and name."""
    widths = _COLUMNS | {
        "code": f"<{max(5, *(len(score.code) for score in languages))}",
        "language": f"<{max(10, *(len(score.name) for score in languages))}",
    }
    return list(widths.values())


def _row(widths: Iterable[str], *cells: str) -> str:
    """One line of the table; missing cells at the end are blank."""
    return " ".join(format(cell, width) for cell, width in zip_longest(cells, widths, fillvalue=""))


def _table_line(widths: Iterable[str], score: GroupScore) -> str:
    w, c = score.words, score.characters
    return _row(
        widths,
        score.code,
        score.name,
        f"{score.hours:.2f}",
        str(w.utterances),
        str(w.ref_length),
        percent(w.rate),
        span(score.wer_interval),
        percent(c.rate),
        str(w.substitutions),
        str(w.deletions),
        str(w.insertions),
    )


def _result_of(score: GroupScore) -> dict[str, Any]:
    return {
        "name": score.name,
        "hours": round(score.hours, 6),
        "utterances": score.words.utterances,
        "wer": finite(score.words.rate),
        "wer_interval": finite_pair(score.wer_interval),
        "words": _counts(score.words),
        "cer": finite(score.characters.rate),
        "cer_interval": finite_pair(score.cer_interval),
        "characters": _counts(score.characters),
    }


def _counts(stats: ErrorStats) -> dict[str, int]:
    return {
        "reference": stats.ref_length,
        "errors": stats.errors,
        "substitutions": stats.substitutions,
        "deletions": stats.deletions,
        "insertions": stats.insertions,
    }


def _check(rows: list[Utterance]) -> None:
    if not rows:
        raise MayaError("nothing to score: the list of decoded utterances is empty")
    id_, times = Counter(u.id for u in rows).most_common(1)[0]
    if times > 1:
        raise MayaError(f"utterance {id_!r} was decoded {times} times; every id must appear once")


def _speaker(u: Utterance) -> str:
    return f"speaker {u.speaker}" if u.speaker is not None else f"id {u.id}"


def _marked(word: str, same: bool) -> str:
    return word if same else f"[{word or '*'}]"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def finite(rate: float) -> float | None:
    """A rate as a JSON value: null where it cannot be computed."""
    return rate if math.isfinite(rate) else None


def finite_pair(bounds: Interval) -> list[float | None]:
    """An interval as JSON values."""
    return [finite(bounds.low), finite(bounds.high)]
