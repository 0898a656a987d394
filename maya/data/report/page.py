"""The report of a corpus as one HTML file. It fetches nothing, so it opens from a mail or a cluster's disk.

It is drawn from the numbers that preparation leaves, `summary.json` and `report.json`, so that it can be
drawn again when more is known: how a tokenizer cuts each language, and what a plan makes of an epoch.
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maya.data.corpus.manifest import PARTS
from maya.data.measure.reasons import MEANING
from maya.data.report.charts import (
    PART_COLOURS,
    bar_window,
    histogram_chart,
    number,
    part_bars,
    strips,
    value_bars,
)
from maya.data.report.statistics import EDGES, Histogram, histogram
from maya.errors import MayaError
from maya.files import writing
from maya.pages import escaped, html_table
from maya.pages import page as html_page
from maya.text.languages import Language, language_name, language_of_texts

_RARE = 3  # occurrences, up to which a letter is looked at with suspicion
_LETTERS = 400  # shown per language; Indic scripts have some 70
_UNSEEN = {"\u200c": "ZWNJ", "\u200d": "ZWJ"}
_CLIPPED = ("none", "under 0.001 %", "to 0.01 %", "to 0.1 %", "to 1 %", "more")


@dataclass(kw_only=True)
class Page:
    """What is drawn. summary: `summary.json`; statistics, findings, limits: those of `report.json` (see
    maya.data.report.statistics and findings; limits: of a quantity, beyond which utterances are flagged);
    tokenizer: `tokenizer.json` of a run; plan: fields of PlanStats, its languages by code."""

    title: str
    summary: Mapping[str, Any]
    statistics: Mapping[str, Any]
    findings: Sequence[Mapping[str, Any]]
    limits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None


def read_page(data: Path, title: str) -> Page:
    """The page of prepared data; MayaError where its numbers are missing or not what was written."""
    try:
        summary = json.loads((data / "summary.json").read_text(encoding="utf-8"))
        report = json.loads((data / "report.json").read_text(encoding="utf-8"))
        return Page(title=title, summary=summary, **report)
    except (OSError, ValueError, TypeError) as error:
        raise MayaError(f"{data} has no numbers to draw ({error}); prepare the data again") from None


def write_run_page(data: Path, run: Path) -> Path | None:
    """Draw the page of prepared data with what a run adds, `tokenizer.json` and `plan.json` (fields of
    PlanStats, its languages by code) where they are, into `run`/data.html; its path, None where the data were
    prepared without numbers to draw."""
    if not (data / "report.json").is_file():
        return None
    page = read_page(data, f"Data of {run.resolve().name}")
    for name in ("tokenizer", "plan"):
        path = run / f"{name}.json"
        if path.is_file():
            setattr(page, name, json.loads(path.read_text(encoding="utf-8")))
    write_page(page, run / "data.html")
    return run / "data.html"


def write_page(page: Page, path: Path) -> None:
    """Draw the page into a file. The same numbers give the same bytes."""
    with writing(path) as partial:
        partial.write_text(draw(page), encoding="utf-8")


def draw(page: Page) -> str:
    """The page as HTML."""
    parts = [
        _overview(page),
        _hours(page),
        _durations(page),
        _texts(page),
        _sound(page),
        _findings(page),
        _splits(page),
        _speakers(page),
        _labels(page),
        _letters(page),
        _tokenizer(page.tokenizer),
        _plan(page.plan),
    ]
    return html_page(page.title, parts)


def _overview(page: Page) -> str:
    languages = page.summary["languages"]
    hours = sum(n["hours"] for n in languages.values())
    kept = sum(n["utterances"] for n in languages.values())
    dropped, flagged = (_count(page.findings, kind) for kind in ("dropped", "flagged"))
    notes = "".join(f"<li>{escaped(note)}</li>" for note in page.summary.get("notes", ()))
    return (
        f"<p><b>{number(hours)} hours</b>, {kept:,} utterances in {len(languages)} language(s); "
        f'<span class="dropped">{dropped:,} dropped</span> of {page.summary["rows"]:,}, '
        f"{flagged:,} remarks on what was kept.</p>" + (f"<ul>{notes}</ul>" if notes else "")
    )


def _hours(page: Page) -> str:
    languages = page.summary["languages"]
    order = sorted(languages, key=lambda code: -languages[code]["hours"])
    most = max((n["hours"] for n in languages.values()), default=0.0)
    scale, unit = (1, "h") if most >= 1 else (60, "min")
    rows = [(_name(c), {part: scale * languages[c]["parts"][part]["hours"] for part in PARTS}) for c in order]
    keys = "".join(f'<span class="key" style="background:{PART_COLOURS[p]}"></span>{p}' for p in PARTS)
    head = ["language", "utterances", "hours", *PARTS, "longest s", "speakers", "texts", "characters"]

    def cells(name: str, some: Sequence[Mapping[str, Any]], longest: str) -> list[object]:
        sums = {key: sum(n[key] for n in some) for key in ("utterances", "speakers", "texts", "characters")}
        parts = [sum(n["parts"][part]["utterances"] for n in some) for part in PARTS]
        hours = f"{sum(n['hours'] for n in some):.2f}"
        return [name, sums.pop("utterances"), hours, *parts, longest, *sums.values()]

    lines = [cells(_named(code), [n], f"{n['longest_seconds']:.1f}") for code, n in languages.items()]
    total = cells("all", list(languages.values()), "")
    return f"<h2>Hours</h2><p class='note'>{keys}</p>{part_bars(rows, unit)}" + html_table(
        head, lines, [total]
    )


def _durations(page: Page) -> str:
    histograms = _histograms(page, "seconds")
    window = bar_window([histogram for _, histogram in histograms]) if histograms else None
    charts = [
        histogram_chart(histogram, f"{_named(c)}: median {number(histogram.quantile(0.5))} s", "s", window)
        for c, histogram in histograms
    ]
    return f'<h2>Durations</h2><div class="grid3">{"".join(charts)}</div>' if charts else ""


def _texts(page: Page) -> str:
    charts = [
        _strips(page, "characters_per_second", "Characters per second", "/s"),
        _strips(page, "characters", "Characters of an utterance", ""),
    ]
    note = "Thin line: 5th to 95th percentile; box: the middle half; stroke and number: the median."
    return f'<h2>Texts against audio</h2><p class="note">{note}</p>' + _grid(charts)


def _sound(page: Page) -> str:
    charts = [
        _strips(page, "level", "Level of the speech", "dBFS"),
        _strips(page, "snr", "Signal-to-noise ratio, estimated", "dB"),
        _strips(page, "high_band", "Power above 5 kHz", "dB of all"),
        _strips(page, "silence", "Silence before or after, the longer", "s"),
    ]
    clipped = _histograms(page, "clipped")
    if not any(charts) and not clipped:
        return "<h2>Sound</h2><p class='note'>Not measured: the audio was not decoded.</p>"
    head = ["share of samples that are clipped", *_CLIPPED]
    rows = [[_named(code), *histogram.counts] for code, histogram in clipped]
    note = "Dashed: limits beyond which an utterance is flagged."
    return f'<h2>Sound</h2><p class="note">{note}</p>{_grid(charts)}' + html_table(head, rows)


def _findings(page: Page) -> str:
    if not page.findings:
        return "<h2>Dropped and flagged</h2><p>Nothing.</p>"
    codes = sorted({code for finding in page.findings for code in finding["languages"]})
    head = ["reason", *(code or "?" for code in codes), "all"]
    rows = []
    for finding in page.findings:
        counts = [finding["languages"].get(code, {}).get("count", 0) for code in codes]
        rows.append([f"{finding['kind']}: {finding['reason']}", *counts, sum(counts)])
    examples = "".join(_examples(finding) for finding in page.findings)
    note = "All of them are in dropped.jsonl and flagged.jsonl; flagged utterances were kept."
    return f'<h2>Dropped and flagged</h2><p class="note">{note}</p>{html_table(head, rows)}{examples}'


def _examples(finding: Mapping[str, Any]) -> str:
    count = sum(facts["count"] for facts in finding["languages"].values())
    meaning = MEANING.get(finding["reason"], "")
    shown = [
        f'<div class="example"><p><bdi lang="{escaped(code)}">{escaped(example["text"])}</bdi></p>'
        f'<p class="note"><bdi>{escaped(example["id"])}</bdi>: <bdi>{escaped(example["detail"])}</bdi></p>'
        "</div>"
        for code, facts in finding["languages"].items()
        for example in facts["examples"]
    ]
    title = f"<b>{escaped(finding['reason'])}</b>, {escaped(finding['kind'])} {count:,}"
    note = f'<span class="note">: {escaped(meaning)}</span>' if meaning else ""
    return f"<details><summary>{title}{note}</summary>{''.join(shown)}</details>"


def _splits(page: Page) -> str:
    head = ["language", "drawn by", *(f"{p} {what}" for p in PARTS for what in ("min", "speakers"))]
    head += [f"{what} of {p} in training" for what in ("texts", "speakers") for p in ("dev", "test")]
    rows = []
    for code, facts in page.summary["splits"].items():
        row: list[object] = [_named(code), facts["method"]]
        for part in PARTS:
            row += [number(facts["parts"][part]["seconds"] / 60), facts["parts"][part]["speakers"]]
        row += [
            _percent(facts[what][p]) for what in ("text_overlap", "speaker_overlap") for p in ("dev", "test")
        ]
        rows.append(row)
    return "<h2>Splits</h2>" + html_table(head, rows) if rows else ""


def _speakers(page: Page) -> str:
    head = [
        "language",
        "speakers named",
        "median, min",
        "the most of one, min",
        "its share",
        "utterances of none",
    ]
    rows = []
    for code, numbers in page.statistics.items():
        speakers, hours = numbers["speakers"], page.summary["languages"][code]["hours"]
        share = speakers["largest_seconds"] / 3600 / hours if hours else 0.0
        minutes = [number(speakers[name] / 60) for name in ("median_seconds", "largest_seconds")]
        rows.append(
            [_named(code), speakers["named"], *minutes, _percent(share), speakers["unnamed_utterances"]]
        )
    return "<h2>Speakers</h2>" + html_table(head, rows)


def _labels(page: Page) -> str:
    rows = [
        [_named(code), name, counts["utterances"], counts["values"]]
        + [", ".join(f"{value} {count:,}" for value, count in counts["common"])]
        for code, numbers in page.statistics.items()
        for name, counts in numbers.get("labels", {}).items()  # older numbers have none
    ]
    return (
        "<h2>Labels</h2>" + html_table(["language", "label", "utterances", "values", "commonest"], rows)
        if rows
        else ""
    )


def _letters(page: Page) -> str:
    blocks = []
    for code, numbers in page.statistics.items():
        letters = [(char, count, first) for char, count, first in numbers["letters"] if char != " "]
        rare = sum(count <= _RARE for _, count, _ in letters)
        # A letter as often as it occurs, so that the script is that of most letters.
        language = language_of_texts(code, (char * min(count, 1000) for char, count, _ in letters))
        chips = "".join(_chip(language, *letter) for letter in letters[:_LETTERS])
        blocks.append(
            f"<details><summary><b>{escaped(_named(code))}</b>: {len(letters)} characters, {rare} of them "
            f'at most {_RARE} times</summary><div class="letters">{chips}</div></details>'
        )
    note = (
        "With how often each occurs. Red: rare, so perhaps a mistake (hold the pointer on it for the first "
        "utterance that has it); yellow: not of the language's script."
    )
    return f'<h2>Characters</h2><p class="note">{note}</p>' + "".join(blocks)


def _chip(language: Language, char: str, count: int, first: str) -> str:
    category = unicodedata.category(char)
    unseen = "" if char.isprintable() else _UNSEEN.get(char, f"U+{ord(char):04X}")
    shown = f"\u25cc{char}" if category[0] == "M" else unseen or char
    foreign = category[0] == "L" and not language.owns(char)
    style = " ".join([*(["rare"] if count <= _RARE else []), *(["foreign"] if foreign else [])])
    tip = f"U+{ord(char):04X} {unicodedata.name(char, '')}, {count} times, first in {first}"
    return f'<span class="{style}" title="{escaped(tip)}">{escaped(shown)}<small>{count:,}</small></span>'


def _tokenizer(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return ""
    languages = report["languages"]
    head = ["language", "words", "share of text", "of training", "pieces per word", "per character"]
    head += ["unknown characters", "of dev", "in bytes", "left out"]
    rows = []
    for code, facts in languages.items():
        left_out = " ".join(list(facts["left_out"])[:12])
        row = [
            _named(code),
            facts["words"],
            _percent(facts["share_of_text"]),
            _percent(facts["share_of_training"]),
        ]
        row += [f"{facts['pieces_per_word']:.2f}", f"{facts['pieces_per_character']:.2f}"]
        row += [_percent(facts["unknown_characters"], 3)]
        row += [_percent(report.get("unknown_characters_of_dev", {}).get(code, 0.0), 3)]
        rows.append([*row, _percent(facts["byte_pieces"], 3), left_out])
    bars = value_bars([(_name(c), n["pieces_per_word"]) for c, n in languages.items()], "Pieces per word")
    about = f"{report['vocab_size']:,} pieces, {report['model_type']}."
    return f'<h2>Tokenizer</h2><p class="note">{escaped(about)}</p>{bars}' + html_table(head, rows)


def _plan(plan: Mapping[str, Any] | None) -> str:
    if plan is None:
        return ""
    padding = _percent(1 - plan["efficiency"], 1)
    facts = [
        ["steps of an epoch", f"{plan['steps']:,}"],
        ["batches, over all ranks", f"{plan['batches']:,}"],
        ["utterances drawn", f"{plan['utterances']:,}"],
        ["padding", padding],
        ["longest batch, padded seconds", number(plan["max_padded_seconds"])],
        ["most utterances in a batch", plan["max_utterances"]],
        ["slowest rank ÷ mean cost, median step", f"{plan['imbalance_median']:.3f}"],
        ["slowest rank ÷ mean cost, 95th percentile of steps", f"{plan['imbalance_p95']:.3f}"],
    ]
    head = ["language", "hours of an epoch", "draws that repeat an utterance", "utterances left out"]
    rows = [
        [_named(code), f"{hours:.2f}", _percent(plan["repeated"][code]), _percent(plan["skipped"][code])]
        for code, hours in plan["hours"].items()
    ]
    return "<h2>Plan of an epoch</h2>" + html_table(["", ""], facts) + html_table(head, rows)


def _histograms(page: Page, name: str) -> list[tuple[str, Histogram]]:
    made = ((code, histogram(numbers, name)) for code, numbers in page.statistics.items())
    return [(code, chart) for code, chart in made if chart is not None]


def _strips(page: Page, name: str, title: str, unit: str) -> str:
    rows = [(_name(code), chart) for code, chart in _histograms(page, name)]
    inside = [limit for limit in page.limits.get(name, ()) if EDGES[name][0] <= limit <= EDGES[name][-1]]
    return strips(rows, title, unit, inside)


def _grid(charts: Iterable[str]) -> str:
    return f'<div class="grid3">{"".join(f"<div>{chart}</div>" for chart in charts if chart)}</div>'


def _count(findings: Iterable[Mapping[str, Any]], kind: str) -> int:
    return sum(
        n["count"] for finding in findings if finding["kind"] == kind for n in finding["languages"].values()
    )


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _name(code: str) -> str:
    return language_name(code)


def _named(code: str) -> str:
    name = language_name(code)
    return name if name == code else f"{name} ({code})"
