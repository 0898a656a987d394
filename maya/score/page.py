"""The score report as one HTML page."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.pages import escaped, html_table, line_chart, page
from maya.score.report import GroupScore, Report, ScoredUtterance, percent, score_utterances, span

WORST = 20  # utterances shown per language
FREQUENT = 15  # confusions shown per language


def write_page(report: Report, path: str | Path, *, title: str, metrics: str | Path | None = None) -> None:
    """Write the report as a self-contained HTML page.

    metrics: a run's metrics.jsonl; its training curve is drawn when the file exists.
    """
    scored = score_utterances(report)
    parts = [
        _summary(report),
        _table(report),
        _curves(metrics),
        "<h2>Errors by language</h2>",
        '<p class="note">Worst utterances first. <span class="sub"><del>reference</del> <ins>hypothesis</ins>'
        "</span>: substituted; <del>reference</del>: deleted; <ins>hypothesis</ins>: inserted.</p>",
    ]
    for score in report.languages:
        parts.append(_language(score, [s for s in scored if s.utterance.language == score.code]))
    Path(path).write_text(page(title, parts), encoding="utf-8")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, in order; none for a missing file. Incomplete lines of a killed run are
    left out."""
    if not Path(path).is_file():
        return []
    rows = []
    # str.splitlines would end a line at characters that a text may hold, such as U+2028.
    for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def series(rows: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of every row of this kind that has a finite `name`."""
    points = [(_finite(r.get("step")), _finite(r.get(name))) for r in rows if r.get("kind") == kind]
    return [(x, y) for x, y in points if x is not None and y is not None]


def confusions(scored: Iterable[ScoredUtterance]) -> Counter[tuple[str, str]]:
    """How often each pair (reference word, hypothesis word) differed; "" stands for a missing word."""
    return Counter(pair for s in scored for pair in s.pairs if pair[0] != pair[1])


def _summary(report: Report) -> str:
    over = "speakers" if report.by_speaker else "utterances"
    return (
        f"<p>Macro average over {len(report.languages)} language(s): WER <b>{percent(report.macro_wer)} %</b>"
        f" {span(report.macro_wer_interval)}, CER {percent(report.macro_cer)} %"
        f" {span(report.macro_cer_interval)}. {report.pooled.words.utterances} utterances,"
        f" {report.pooled.hours:.2f} hours.</p>"
        f'<p class="note">Intervals: 95 %, bootstrap over {over}, {report.replicates} draws. CER counts code'
        " points, spaces included. sub, del, ins: words.</p>"
    )


def _table(report: Report) -> str:
    head = ("language", "hours", "utterances", "words", "WER %", "95 %", "CER %", "95 %", "sub", "del", "ins")
    macro = [percent(report.macro_wer), span(report.macro_wer_interval)]
    macro += [percent(report.macro_cer), span(report.macro_cer_interval)]
    pooled = [_row(report.pooled)] if len(report.languages) > 1 else []
    totals: list[list[object]] = [*pooled, ["macro average", "", "", "", *macro, "", "", ""]]
    return html_table(head, map(_row, report.languages), totals)


def _row(score: GroupScore) -> list[object]:
    w, c = score.words, score.characters
    cells = [f"{score.name} ({score.code})", f"{score.hours:.2f}", w.utterances, w.ref_length]
    cells += [percent(w.rate), span(score.wer_interval), percent(c.rate), span(score.cer_interval)]
    return [*cells, w.substitutions, w.deletions, w.insertions]


def _curves(metrics: str | Path | None) -> str:
    rows = read_metrics(metrics) if metrics else []
    errors = {name.upper(): series(rows, "valid", name) for name in ("wer", "cer")}
    charts = [
        line_chart(
            {"train": series(rows, "train", "loss"), "dev": series(rows, "valid", "loss")},
            title="Loss by step",
        ),
        line_chart(
            {k: [(x, 100 * y) for x, y in v] for k, v in errors.items()}, title="Dev error rate, % by step"
        ),
    ]
    drawn = "\n".join(c for c in charts if c)
    return f'<h2>Training</h2>\n<div class="charts">{drawn}</div>' if drawn else ""


def _language(score: GroupScore, scored: list[ScoredUtterance]) -> str:
    wrong = [s for s in scored if s.words.errors]
    share = f"{len(wrong)} of {len(scored)} utterances with errors"
    name = escaped(f"{score.name} ({score.code})")
    counts = confusions(scored)
    pairs = [
        _frequent("substituted", {k: n for k, n in counts.items() if all(k)}, ("reference", "hypothesis")),
        _frequent("deleted", {k[:1]: n for k, n in counts.items() if not k[1]}, ("reference",)),
        _frequent("inserted", {k[1:]: n for k, n in counts.items() if not k[0]}, ("hypothesis",)),
    ]
    body = "\n".join(_utterance(s) for s in wrong[:WORST])
    return (
        f"<details><summary><b>{name}</b> WER {percent(score.words.rate)} %, {share}</summary>\n"
        f'<div class="pairs">{"".join(pairs)}</div>\n{body}\n</details>'
    )


def _frequent(title: str, counts: dict[tuple[str, ...], int], head: tuple[str, ...]) -> str:
    """The most frequent of one kind of error as a small table."""
    if not counts:
        return ""
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:FREQUENT]
    cells = [[*words, times] for words, times in rows]
    return f"<div><b>{title}</b>{html_table([*head, 'times'], cells, text_columns=len(head))}</div>"


def _utterance(scored: ScoredUtterance) -> str:
    words = " ".join(_marked(ref, hyp) for ref, hyp in scored.pairs)
    u = scored.utterance
    rates = f"WER {percent(scored.words.rate)} %, CER {percent(scored.characters.rate)} %"
    facts = f"{u.id}: {rates}, {u.seconds:.1f} s"
    text = f'<p lang="{escaped(u.language)}">{words}</p>'  # lang: the browser picks a font of its script
    return f'<div class="utterance"><p class="note">{escaped(facts)}</p>{text}</div>'


def _marked(ref: str, hyp: str) -> str:
    if ref == hyp:
        return escaped(ref)
    deleted = f"<del>{escaped(ref)}</del>" if ref else ""
    inserted = f"<ins>{escaped(hyp)}</ins>" if hyp else ""
    return f'<span class="sub">{deleted} {inserted}</span>' if ref and hyp else deleted or inserted


def _finite(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
