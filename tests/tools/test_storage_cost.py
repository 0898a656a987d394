"""The figures of a long run in docs/guides/production.md follow from its parameters and its time a step."""

from pathlib import Path

from tools.storage_cost import BEGIN, END, figures, text


def test_the_page_has_the_figures(repo: Path) -> None:
    """The plan in short: what `maya plan --json` writes for the flagship and 150 000 h."""
    report = {
        "parameters": {"all": 1_144_725_139},
        "config": {"train": {"steps": 200_000, "save_every": 5_000}},
        "time": {"step_seconds": 0.28391333, "hours": 150_000, "padded_seconds_per_step": 6144.0},
    }
    run = figures(report)
    assert run.checkpoint == 22_894_502_780 and run.count == 40 and run.requests == 683 + 3
    page = (repo / "docs" / "guides" / "production.md").read_text()
    assert page.split(BEGIN)[1].split(END)[0].strip() == text(run, 410)
