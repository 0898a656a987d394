"""Checks without preparing, and of what was prepared: what is wrong, by reason and language."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maya.config import override
from maya.data.prepare.data_checks import check_data
from maya.data.prepare.prepare import examine
from maya.data.report.findings import Findings, findings_text
from maya.data.report.page import Page, read_page, write_page
from maya.data.report.text_table import table
from maya.errors import MayaError
from maya.files import write_json
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.prepare import require_corpus


def validate(
    experiment: str | None,
    overrides: list[str],
    corpus: Path | None,
    data: Path | None,
    sample: int | None,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    """The `maya validate` command: of `corpus` with the options of an experiment, or of `data`."""
    if data is not None:
        validate_data(data, sample=sample, json_path=json_path, html_path=html_path)
    elif corpus is not None:
        if experiment:
            chosen = load_experiment(experiment, overrides)
        else:
            chosen = Experiment(name="validate")
            for assignment in overrides:
                override(chosen, assignment)
        # Without an experiment no language is left out.
        every = not experiment and not any(name.startswith("languages=") for name in overrides)
        validate_corpus(
            chosen, corpus, languages=() if every else None, json_path=json_path, html_path=html_path
        )


def validate_corpus(
    experiment: Experiment,
    corpus: Path,
    *,
    languages: Sequence[str] | None = None,
    json_path: Path | None = None,
    html_path: Path | None = None,
) -> None:
    """Print everything that `maya prepare` would drop or flag, and write it where asked; nothing else is
    written. languages: those to look at, all if empty; None: the experiment's. MayaError where `maya prepare`
    would refuse the corpus."""
    require_corpus(corpus)
    codes = experiment.languages if languages is None else languages
    found = examine(corpus, languages=codes, cfg=experiment.prepare)
    page = found.page(found.entries(), experiment.prepare.audio_checks)
    print(table(page.summary["languages"], page.summary["splits"]))
    for note in found.notes:
        print(note)
    _tell(page, page.findings, found.rows, found.refusal, json_path, html_path)


def validate_data(
    data: Path,
    *,
    sample: int | None = 200,
    json_path: Path | None = None,
    html_path: Path | None = None,
) -> None:
    """Look at prepared data again (see data_checks) and print what is wrong; MayaError if anything
    is. sample: utterances of each part to decode; all if None."""
    broken = check_data(data, sample=sample)
    findings = Findings()
    findings.add("broken", broken)
    refusal = None
    if broken:
        count = len({one.id for one in broken})
        first = broken[0]
        refusal = f"{data}: {count} utterances are not as they were prepared; the first is {first.id!r}: "
        refusal += f"{first.detail}; put the files back, or prepare the data again"
    page = read_page(data, f"Data {data.resolve().name}")
    found = findings.as_json({})
    page.findings = [*found, *page.findings]
    utterances = sum(n["utterances"] for n in page.summary["languages"].values())
    _tell(page, found, utterances, refusal, json_path, html_path)


def _tell(
    page: Page,
    findings: Sequence[Mapping[str, Any]],
    utterances: int,
    refusal: str | None,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    print(findings_text(findings) or "no problems found")
    if json_path is not None:
        result: dict[str, Any] = {"utterances": utterances, "refusal": refusal, "findings": findings}
        write_json(json_path, result)
    if html_path is not None:
        write_page(page, html_path)
    if refusal is not None:
        raise MayaError(refusal)
    print(f"{utterances} utterances: OK")
