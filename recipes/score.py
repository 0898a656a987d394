"""Stage 6: hypotheses → error rates per language with intervals, as a table, JSON, and a page."""

import json
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.recipes.markers import content, earlier_inputs, is_done, mark_done, table_identity
from maya.recipes.tokenizer import require
from maya.score.page import write_page
from maya.score.report import Report, Utterance, make_report, table, write_errors, write_result
from maya.score.samples import sample_table
from maya.text.languages import get_language
from maya.text.normalize import normalize
from maya.text.tokenizer import UNKNOWN
from maya.train.runlog import git_state

SPLIT_NOTES = "splits.json"


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
