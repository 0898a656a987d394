"""The report as one HTML file: nothing is fetched, so it opens from a mail or a cluster's disk."""

import html
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from maya.pages import document
from maya.score.curve import chart, read_metrics, series
from maya.score.report import GroupScore, Report, ScoredUtterance, percent, score_utterances, span

WORST = 20  # utterances shown per language
FREQUENT = 15  # confusions shown per language

_STYLE = """
:root { --sub: #d9703c; --del: #c0392b; --ins: #2f7d4f; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } .charts svg { flex: 1 1 420px; max-width: 520px; }
.pairs { display: flex; flex-wrap: wrap; gap: 2.5rem; align-items: flex-start; }
.utterance { margin: .7rem 0; } .utterance p { margin: .1rem 0; }
del { color: var(--del); } ins { color: var(--ins); text-decoration: none; border-bottom: 2px solid; }
.sub del { color: var(--sub); } .sub ins { color: var(--sub); }
"""


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
        '<p class="note">Worst utterances first. <span class="sub"><del>said</del> <ins>heard</ins></span>: '
        "a word taken for another; <del>said</del>: not heard; <ins>heard</ins>: not said.</p>",
    ]
    for score in report.languages:
        parts.append(_language(score, [s for s in scored if s.utterance.language == score.code]))
    Path(path).write_text(document(title, parts, _STYLE), encoding="utf-8")


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
    rows = [_table_row(score) for score in report.languages]
    if len(report.languages) > 1:
        rows.append(_table_row(report.pooled, "total"))
    macro = [percent(report.macro_wer), span(report.macro_wer_interval)]
    macro += [percent(report.macro_cer), span(report.macro_cer_interval)]
    rows.append(_cells(["macro average", "", "", "", *macro, "", "", ""], "total"))
    titles = "".join(f"<th>{h}</th>" for h in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def _table_row(score: GroupScore, style: str = "") -> str:
    w, c = score.words, score.characters
    cells = [f"{score.name} ({score.code})", f"{score.hours:.2f}", w.utterances, w.ref_length]
    cells += [percent(w.rate), span(score.wer_interval), percent(c.rate), span(score.cer_interval)]
    return _cells([*cells, w.substitutions, w.deletions, w.insertions], style)


def _cells(values: Iterable[object], style: str = "") -> str:
    row = "".join(f"<td>{html.escape(str(v))}</td>" for v in values)
    return f'<tr class="{style}">{row}</tr>' if style else f"<tr>{row}</tr>"


def _curves(metrics: str | Path | None) -> str:
    rows = read_metrics(metrics) if metrics else []
    errors = {name.upper(): series(rows, "valid", name) for name in ("wer", "cer")}
    charts = [
        chart(
            {"train": series(rows, "train", "loss"), "dev": series(rows, "valid", "loss")},
            title="Loss by step",
        ),
        chart(
            {k: [(x, 100 * y) for x, y in v] for k, v in errors.items()}, title="Dev error rate, % by step"
        ),
    ]
    drawn = "\n".join(c for c in charts if c)
    return f'<h2>Training</h2>\n<div class="charts">{drawn}</div>' if drawn else ""


def _language(score: GroupScore, scored: list[ScoredUtterance]) -> str:
    wrong = [s for s in scored if s.words.errors]
    share = f"{len(wrong)} of {len(scored)} utterances with errors"
    name = html.escape(f"{score.name} ({score.code})")
    found = confusions(scored)
    pairs = [
        _frequent("taken for another", {k: n for k, n in found.items() if k[0] and k[1]}, ("said", "heard")),
        _frequent("not heard", {(k[0],): n for k, n in found.items() if not k[1]}, ("said",)),
        _frequent("not said", {(k[1],): n for k, n in found.items() if not k[0]}, ("heard",)),
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
    titles = "".join(f'<th class="left">{h}</th>' for h in head) + "<th>times</th>"
    body = "".join(
        "<tr>" + "".join(f'<td class="left">{html.escape(w)}</td>' for w in words) + f"<td>{n}</td></tr>"
        for words, n in rows
    )
    return f"<div><b>{title}</b><table><tr>{titles}</tr>{body}</table></div>"


def _utterance(scored: ScoredUtterance) -> str:
    words = " ".join(_marked(ref, hyp) for ref, hyp in scored.pairs)
    u = scored.utterance
    rates = f"WER {percent(scored.words.rate)} %, CER {percent(scored.characters.rate)} %"
    facts = f"{u.id}: {rates}, {u.seconds:.1f} s"
    text = f'<p lang="{html.escape(u.language)}">{words}</p>'  # lang: the browser picks a font of its script
    return f'<div class="utterance"><p class="note">{html.escape(facts)}</p>{text}</div>'


def _marked(ref: str, hyp: str) -> str:
    if ref == hyp:
        return html.escape(ref)
    said = f"<del>{html.escape(ref)}</del>" if ref else ""
    heard = f"<ins>{html.escape(hyp)}</ins>" if hyp else ""
    return f'<span class="sub">{said} {heard}</span>' if said and heard else said or heard
