"""Stage 6: hypotheses → error rates per language with intervals, as a table, JSON, and a page."""

import argparse
import json
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.recipes.arguments import add_force, add_num_samples, add_run
from maya.recipes.experiment import METHODS
from maya.recipes.markers import content, earlier_inputs, is_done, mark_done, table_identity
from maya.recipes.recorded import data_of
from maya.recipes.tokenizer import require
from maya.score.page import write_page
from maya.score.report import Report, Utterance, make_report, table, write_errors, write_result
from maya.score.samples import sample_table
from maya.text.languages import get_language
from maya.text.normalize import normalize
from maya.text.tokenizer import UNKNOWN
from maya.train.runlog import git_state

SPLIT_NOTES = "splits.json"


def arguments(p: argparse.ArgumentParser) -> None:
    add_run(p)
    p.add_argument(
        "--data", type=Path, help="the prepared data, for notes on the splits; default: of training"
    )
    text = "the decoded split (default: test); all: one table of all"
    p.add_argument("--split", default="test", help=text)
    text = "compute the intervals over speakers, not utterances"
    p.add_argument("--by-speaker", action="store_true", help=text)
    add_num_samples(p)
    add_force(p)


def run(args: argparse.Namespace) -> None:
    try:
        data = data_of(args.run_dir, args.data)
    except MayaError:  # without them the notes on the splits are left out
        data = None
    options = {"data": data, "by_speaker": args.by_speaker, "force": args.force}
    if args.split != "all":
        score(args.run_dir, split=args.split, num_samples=args.num_samples, **options)
        return
    if args.num_samples:
        raise MayaError("--num-samples shows utterances of one split: name it with --split")
    score_all(args.run_dir, **options)


def score(
    run: Path,
    *,
    split: str = "test",
    data: Path | None = None,
    by_speaker: bool = False,
    force: bool = False,
    show: bool = True,
    num_samples: int = 0,
) -> Report:
    """Score `run`/decode/{split}/hyps.jsonl, write result.json, errors.txt, report.html; `show` the table,
    and so many utterances, reference against hypothesis."""
    out = run / "decode" / split
    hyps = require(out / "hyps.jsonl", "run stage 5 (decode) first")
    report = make_report(read_hypotheses(hyps), by_speaker=by_speaker)
    decoding = json.loads((out / "decode.json").read_text())
    inputs = {
        "hyps": content(hyps),
        "decoding": decoding,
        "by_speaker": by_speaker,
        "metrics": content(run / "metrics.jsonl"),  # the curve on the page
    }
    complete = all((out / name).is_file() for name in ("result.json", "errors.txt", "report.html"))
    if not is_done(out / "stage-score.json", inputs) or not complete or force:
        commit, _ = git_state()
        write_result(report, out / "result.json", decoding | {"split": split, "commit": commit})
        write_errors(report, out / "errors.txt")
        method = f", decoded by {decoding['method']}" if "method" in decoding else ""
        title = f"{run.name}: {split}{method}"
        write_page(report, out / "report.html", title=title, metrics=run / "metrics.jsonl")
        mark_done(out / "stage-score.json", inputs)
    if show:
        _show(report, run, out, decoding, data)
    if num_samples:
        print("\n" + sample_table(report, num_samples))
    return report


def _show(report: Report, run: Path, out: Path, decoding: dict[str, Any], data: Path | None) -> None:
    """The table, what a reader must know, and where everything lies."""
    print()
    print(table(report))
    for line in split_notes(data):
        print(line)
    if data is not None and _outdated(out, data):
        print(f"these hypotheses are of other data than {data} holds now: run stage 5 (decode) again")
    if "language_accuracy" in decoding:
        print(_identified(decoding))
    print(f"real-time factor {decoding['real_time_factor']:.4f} "
          f"({decoding['audio_seconds'] / 3600:.2f} h decoded in {decoding['seconds']:.1f} s)")  # fmt: skip
    if "method" in decoding:
        print(f"method      {decoding['method']} ({decoding['method_reason']})")
    print(f"report      {out / 'report.html'}")
    print(f"checkpoint  {decoding['checkpoint']}")
    print(f"TensorBoard tensorboard --logdir {run / 'tensorboard'}")


def _outdated(out: Path, data: Path) -> bool:
    """Whether a set was prepared again, with other rows, since it was decoded into `out`."""
    decoded = earlier_inputs(out / "stage.json").get("data")
    rows = table_identity(data, out.name)
    return isinstance(decoded, list) and rows != "absent" and decoded[0] != rows


def _identified(decoding: dict[str, Any]) -> str:
    """How often the encoder told the language of an utterance."""
    prefix = "language_accuracy_"
    each = "  ".join(f"{k.removeprefix(prefix)} {v:.1%}" for k, v in decoding.items() if k.startswith(prefix))
    return f"language identified in {decoding['language_accuracy']:.1%} (macro average; {each})"


def read_hypotheses(path: Path) -> list[Utterance]:
    """The utterances of a hyps.jsonl, texts in normal form. MayaError names a line that is no hypothesis."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            ref, hyp = (normal_form(row[side], row["language"]) for side in ("ref", "text"))
            rows.append(Utterance(id=row["id"], language=row["language"], ref=ref, hyp=hyp,
                                  seconds=row["duration"], speaker=row["speaker"]))  # fmt: skip
        except (json.JSONDecodeError, KeyError) as e:
            raise MayaError(f"{path}, line {number}, is not a hypothesis ({e}); decode again") from e
    return rows


def normal_form(text: str, language: str) -> str:
    """`text` as transcripts are trained on, so that a system is not charged for case, punctuation or a
    spelling that looks the same. Words with an unknown piece (⁇) stay as they are: they are errors to count.

    A text without a language is left alone.
    """
    try:
        get_language(language)
    except MayaError:
        return text
    if UNKNOWN not in text:
        return normalize(text, language)
    return " ".join(word if UNKNOWN in word else normalize(word, language) for word in text.split())


def split_notes(data: Path | None) -> list[str]:
    """What a reader must know about the splits: languages whose test speakers were also trained on."""
    if data is None or not (data / SPLIT_NOTES).is_file():
        return []
    languages = json.loads((data / SPLIT_NOTES).read_text())
    shared = [code for code, facts in languages.items() if facts["speaker_overlap"]["test"]]
    if not shared:
        return []
    return [
        f"test speakers are heard in training too (too few speakers to part them): {' '.join(sorted(shared))}"
    ]


def score_all(run: Path, *, data: Path | None = None, by_speaker: bool = False, force: bool = False) -> str:
    """Score everything that lies under `run`/decode and print the table of all of it, which is also left in
    `run`/decode/wer.md. MayaError when nothing has been decoded."""
    top = run / "decode"
    found = sorted(path.parent.relative_to(top) for path in top.rglob("hyps.jsonl"))
    if not found:
        raise MayaError(f"{top} holds no hypotheses; run stage 5 (decode) first")
    reports = {
        folder: score(run, split=str(folder), data=data, by_speaker=by_speaker, force=force, show=False)
        for folder in found
    }
    table = wer_table({(str(f.parent) if len(f.parts) > 1 else "", f.name): r for f, r in reports.items()})
    (top / "wer.md").write_text(table)
    print(table, end="")
    print(f"WER %, 95 % interval by bootstrap; reports and errors: {top}/*/*/{{report.html,errors.txt}}")
    return table


def wer_table(reports: dict[tuple[str, str], Report]) -> str:
    """Markdown, by (method, set): a row for each method with the WER in % of each set and its interval. Rates
    are macro averages where there are several languages."""
    sets = sorted({name for _, name in reports})
    methods = [m for m in ("", *METHODS) if m in {method for method, _ in reports}]
    methods += sorted({method for method, _ in reports} - set(methods))
    lines = ["| method | " + " | ".join(sets) + " |", "|---|" + "---|" * len(sets)]
    for method in methods:
        cells = [_cell(reports.get((method, name))) for name in sets]
        lines.append(f"| {method or 'as configured'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(report: Report | None) -> str:
    if report is None:
        return ""
    spread = report.macro_wer_interval
    return f"{100 * report.macro_wer:.2f} [{100 * spread.low:.2f}, {100 * spread.high:.2f}]"
