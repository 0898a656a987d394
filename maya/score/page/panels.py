"""The parts of the report page that need no script: tables with bars, and WER by length and by noise."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maya.pages import Html, escaped, html_table
from maya.score.page.bars import bar, bin_chart, bins, difference_bar, widest
from maya.score.page.facts import ScoredSystem, details_of, shown_seconds, shown_snr
from maya.score.report import GroupScore, Report, Utterance, percent, span
from maya.score.wer import Comparison, ErrorStats, Interval, compare, interval, macro_compare

MOST_SPEAKERS = 12
Order = NDArray[np.int64]


def summary(report: Report) -> str:
    """The macro averages in a sentence, and how the intervals were computed."""
    return (
        f"<p>Macro average over {len(report.languages)} language(s): WER <b>{percent(report.macro_wer)} %</b>"
        f" {span(report.macro_wer_interval)}, CER {percent(report.macro_cer)} %"
        f" {span(report.macro_cer_interval)}. {report.pooled.words.utterances:,} utterances,"
        f" {report.pooled.hours:.2f} hours.</p>"
        f'<p class="note">{intervals_note(report)}</p>'
    )


def system_table(systems: Sequence[ScoredSystem]) -> str:
    """A row for each system with a bar of its macro-averaged WER."""
    reports = [s.report for s in systems]
    most = widest([r.macro_wer for r in reports], [r.macro_wer_interval for r in reports])
    head = ["system", "utterances", "WER %", "95 %", "", "CER %", "95 %", "sub", "del", "ins"]
    rows = []
    for system, r in zip(systems, reports, strict=True):
        cells: list[object] = [system.name, r.pooled.words.utterances, percent(r.macro_wer)]
        cells += [span(r.macro_wer_interval), bar(r.macro_wer, r.macro_wer_interval, most)]
        cells += [percent(r.macro_cer), span(r.macro_cer_interval)]
        words = r.pooled.words
        rows.append([*cells, words.substitutions, words.deletions, words.insertions])
    note = f"Macro averages over {len(reports[0].languages)} language(s). {intervals_note(reports[0])}"
    return html_table(head, rows) + f'<p class="note">{note}</p>'


def intervals_note(report: Report) -> str:
    """How the intervals were computed, and what is counted."""
    over = "speakers" if report.by_speaker else "utterances"
    return (
        f"Intervals: 95 %, bootstrap over {over}, {report.replicates} draws. CER counts code points, spaces "
        "included. sub, del, ins: words."
    )


def language_table(report: Report) -> str:
    """A row for each language with a bar of its WER."""
    head = ["language", "hours", "utterances", "words", "WER %", "95 %", "", "CER %", "95 %"]
    head += ["sub", "del", "ins"]
    every = [*report.languages, report.pooled]
    most = widest([s.words.rate for s in every], [s.wer_interval for s in every])
    macro: list[object] = [percent(report.macro_wer), span(report.macro_wer_interval)]
    macro.append(bar(report.macro_wer, report.macro_wer_interval, most))
    macro += [percent(report.macro_cer), span(report.macro_cer_interval)]
    pooled = [_row(report.pooled, most)] if len(report.languages) > 1 else []
    totals: list[list[object]] = [*pooled, ["macro average", "", "", "", *macro, "", "", ""]]
    return html_table(head, (_row(score, most) for score in report.languages), totals)


def _row(score: GroupScore, most: float) -> list[object]:
    w, c = score.words, score.characters
    name = f"{score.name} ({score.code})"
    cells: list[object] = [name if score.code == "all" else pick("language", score.code, name)]
    cells += [f"{score.hours:.2f}", w.utterances, w.ref_length]
    cells += [percent(w.rate), span(score.wer_interval), bar(w.rate, score.wer_interval, most)]
    cells += [percent(c.rate), span(score.cer_interval)]
    return [*cells, w.substitutions, w.deletions, w.insertions]


def pick(field: str, value: str, text: str) -> Html:
    """A button that filters the list by a value of a field."""
    return Html(
        f'<button type="button" class="pick" data-field="{field}" data-value="{escaped(value)}">'
        f"<bdi>{escaped(text)}</bdi></button>"
    )


def speaker_section(report: Report) -> str:
    """The speakers with the highest WER, or the reason why speakers are not compared."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, u in enumerate(report.utterances):
        if u.speaker is not None:
            rows[u.speaker].append(i)
    title = "<h2>Speakers</h2>"
    if not rows:
        return f'{title}<p class="note">No utterance names its speaker.</p>'
    if len(rows) == 1 or all(len(r) == 1 for r in rows.values()):
        reason = (
            "All utterances have the same speaker" if len(rows) == 1 else "Every speaker has one utterance"
        )
        return f'{title}<p class="note">{reason}, so speakers are not compared.</p>'
    pooled = report.pooled.words.counts
    scored = [(name, ErrorStats(counts=pooled[places])) for name, places in rows.items()]
    scored = [(name, stats) for name, stats in scored if stats.ref_length]
    # The intervals of all speakers of a large set would take minutes: first the speakers with most errors.
    candidates = sorted(scored, key=lambda item: -item[1].rate)[: 10 * MOST_SPEAKERS]
    table = [
        (name, stats, interval(stats, replicates=report.replicates, seed=report.seed))
        for name, stats in candidates
    ]
    # By the lower end, so that a speaker with a few words is not first by chance.
    table.sort(key=lambda item: (-item[2].low if math.isfinite(item[2].low) else 0.0, -item[1].rate, item[0]))
    table = table[:MOST_SPEAKERS]
    most = widest([stats.rate for _, stats, _ in table], [bounds for *_, bounds in table])
    cells = [
        [pick("speaker", name, name), stats.utterances, stats.ref_length, percent(stats.rate), span(bounds),
         bar(stats.rate, bounds, most), stats.substitutions, stats.deletions, stats.insertions]
        for name, stats, bounds in table
    ]  # fmt: skip
    head = ["speaker", "utterances", "words", "WER %", "95 %", "", "sub", "del", "ins"]
    note = f"{len(table)} of {len(rows)} speakers, highest lower end of the interval first."
    return f'{title}<p class="note">{note} Intervals: bootstrap over utterances.</p>' + html_table(
        head, cells
    )


def condition_section(systems: Sequence[ScoredSystem], orders: Sequence[Order]) -> str:
    """WER against length and against the signal-to-noise ratio, where they are known."""
    first = systems[0]
    utterances = first.report.utterances
    stats = [ErrorStats(counts=s.report.pooled.words.counts[o]) for s, o in zip(systems, orders, strict=True)]
    names, replicates = [s.name for s in systems], first.report.replicates
    seconds = np.array([shown_seconds(u) or np.nan for u in utterances], np.float64)
    snr = np.array([_snr(systems, u) for u in utterances], np.float64)
    charts, notes = [], []
    if len(parts := bins(seconds, stats, 1, replicates)) > 1:
        charts.append(bin_chart(parts, title="WER % by length", unit="s", field="seconds", names=names))
    elif len(parts := bins(stats[0].utterance_ref_lengths.astype(np.float64), stats, 0, replicates)) > 1:
        title = "WER % by length of the reference"  # durations are unknown
        charts.append(bin_chart(parts, title=title, unit="words", field="words", names=names))
    else:
        notes.append("WER by length is left out: the utterances are too few, or equally long.")
    if len(parts := bins(snr, stats, 0, replicates)) > 1:
        charts.append(
            bin_chart(parts, title="WER % by signal-to-noise ratio", unit="dB", field="snr", names=names)
        )
    else:
        notes.append(
            "WER by signal-to-noise ratio is left out: the prepared data have no measured ratios, or too few."
        )
    drawn = f'<div class="charts">{"".join(charts)}</div>' if charts else ""
    lines = "".join(f'<p class="note">{note}</p>' for note in notes)
    return f"<h2>Length and noise</h2>{drawn}{lines}"


def _snr(systems: Sequence[ScoredSystem], utterance: Utterance) -> float:
    value = shown_snr(utterance, details_of(systems, utterance.id))
    return math.nan if value is None else value


def comparison_table(systems: Sequence[ScoredSystem], orders: Sequence[Order]) -> str:
    """WER of each system by language, and the differences from the first system with their intervals."""
    names = [s.name for s in systems]
    stats = [ErrorStats(counts=s.report.pooled.words.counts[o]) for s, o in zip(systems, orders, strict=True)]
    utterances = systems[0].report.utterances
    places = {
        score.code: np.array([i for i, u in enumerate(utterances) if u.language == score.code])
        for score in systems[0].report.languages
    }
    groups = [{code: ErrorStats(counts=s.counts[p]) for code, p in places.items()} for s in stats]
    labels = {code: [_label(systems[0], utterances[i]) for i in p] for code, p in places.items()}
    report = systems[0].report
    options = {"replicates": report.replicates, "seed": report.seed}
    rows: list[tuple[object, list[float], list[Comparison]]] = []
    for score in report.languages:
        code = score.code
        differences = [compare(groups[0][code], g[code], blocks=labels[code], **options) for g in groups[1:]]
        name = pick("language", code, f"{score.name} ({code})")
        rows.append((name, [g[code].rate for g in groups], differences))
    blocks = {code: (group, group) for code, group in labels.items()}
    total = [macro_compare(groups[0], g, blocks=blocks, **options) for g in groups[1:]]
    rows.append(("macro average", [s.report.macro_wer for s in systems], total))
    return _comparison_rows(names, rows)


def _comparison_rows(
    names: Sequence[str], rows: Sequence[tuple[object, list[float], list[Comparison]]]
) -> str:
    every = [c for *_, comparisons in rows for c in comparisons]
    most = widest([c.difference for c in every], [c.interval for c in every])
    head = ["language", *(f"{name}: WER %" for name in names)]
    for name in names[1:]:
        head += [f"{name} − {names[0]}, points", "95 %", "", "p"]
    lines = []
    for language, rates, comparisons in rows:
        line: list[object] = [language, *map(percent, rates)]
        for c in comparisons:
            p = f"{c.p_value:.3f}" if math.isfinite(c.p_value) else "-"
            drawn = difference_bar(c.difference, c.interval, most)
            line += [f"{100 * c.difference:+.2f}", _signed(c.interval), drawn, p]
        lines.append(line)
    note = "A difference below zero: fewer errors than the first system. Paired bootstrap, 95 % intervals."
    return f'<h2>Differences</h2><p class="note">{note}</p>' + html_table(head, lines[:-1], lines[-1:])


def _label(system: ScoredSystem, utterance: Utterance) -> tuple[str, str]:
    """What the bootstrap draws together: the utterances of a speaker, or the utterance alone."""
    if system.report.by_speaker and utterance.speaker is not None:
        return ("speaker", utterance.speaker)
    return ("id", utterance.id)


def _signed(bounds: Interval) -> str:
    if not (math.isfinite(bounds.low) and math.isfinite(bounds.high)):
        return "-"
    return f"[{100 * bounds.low:+.2f}, {100 * bounds.high:+.2f}]"
