"""The report page: static parts, the utterances as JSON, and the script that lists them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.files import writing
from maya.pages import page
from maya.score.page.audio import CLIP_TYPE, clips
from maya.score.page.curves import training_section
from maya.score.page.details import UtteranceDetails
from maya.score.page.facts import (
    ScoredSystem,
    details_of,
    display_order,
    json_element,
    page_facts,
    same_order,
)
from maya.score.page.panels import (
    comparison_table,
    condition_section,
    language_table,
    speaker_section,
    summary,
    system_table,
)
from maya.score.report import Report

CLIPS = 100  # utterances whose audio is embedded
STATIC = Path(__file__).with_name("static")
SCRIPTS = ("data.js", "align.js", "rows.js", "frequent.js", "filters.js", "main.js")


def write_page(
    report: Report,
    path: str | Path,
    *,
    title: str,
    metrics: str | Path | None = None,
    details: Mapping[str, UtteranceDetails] | None = None,
    embedded_clips: int = CLIPS,
) -> None:
    """Write the report as a self-contained HTML page.

    metrics: a run's metrics.jsonl; its training curve is drawn when the file exists. details: by id of the
    utterance, see `table_details`; without them there is no audio and no noise. embedded_clips: utterances,
    the worst first, whose audio is embedded; others link to their audio file where a browser can play it.
    """
    system = ScoredSystem(name=title, report=report, details=details or {})
    parts = [summary(report), language_table(report), speaker_section(report)]
    _write([system], Path(path), title, parts, training_section(metrics), embedded_clips)


def write_comparison_page(
    systems: Sequence[ScoredSystem], path: str | Path, *, title: str, embedded_clips: int = CLIPS
) -> None:
    """Write several systems on one page: differences from the first with intervals, and the utterances side
    by side, those first where the systems differ most.

    Raises MayaError if the systems were scored on different utterances.
    """
    orders = same_order(systems)
    parts = [system_table(systems), comparison_table(systems, orders)]
    _write(systems, Path(path), title, parts, "", embedded_clips)


def _write(
    systems: Sequence[ScoredSystem], path: Path, title: str, parts: Sequence[str], last: str, embedded: int
) -> None:
    orders = same_order(systems)
    shown = display_order(systems, orders)
    facts = page_facts(systems, orders, shown, path.parent.resolve())
    utterances = systems[0].report.utterances
    details = [details_of(systems, utterances[i].id) for i in shown[:embedded]]
    audio = clips((place, d.audio) for place, d in enumerate(details) if d.audio is not None)
    facts |= {"clips": [int(place) for place in audio], "clipType": CLIP_TYPE}
    body = [*parts, condition_section(systems, orders), last, _browser(facts)]
    # The clips come last: the script needs them only when one is played.
    scripts = [json_element("data", facts), f"<script>{script()}</script>", json_element("clips", audio)]
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    text = page(title, [*body, *scripts], style)
    with writing(path) as partial:
        # A half of a surrogate pair in a title or a speaker's name has no UTF-8.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def script() -> str:
    """The page's script: the files of `SCRIPTS` in one function, so that they share names with no other."""
    files = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{files}\n}})();'


def _browser(facts: Mapping[str, Any]) -> str:
    """The controls and the empty list that the script fills."""
    several = len(facts["systems"]) > 1
    template = (STATIC / "browser.html").read_text(encoding="utf-8")
    lacking = [] if facts["audio"] or facts["clips"] else ["no audio is known for these utterances"]
    if not any(result["confidence"] for result in facts["results"]):
        lacking.append("the hypotheses have no word confidences")
    note = f"<p class='note'>Left out: {'; '.join(lacking)}.</p>" if lacking else ""
    return template.replace("<!--note-->", note).replace("data-several", f'data-several="{int(several)}"')
