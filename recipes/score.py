"""Stage 6: hypotheses → error rates by language, accuracies by label, intervals; tables, JSON, a page."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from maya.data.table.table import Table, part_path
from maya.decode.methods import METHODS
from maya.errors import MayaError
from maya.files import write_json, writing
from maya.recipes.arguments import add_force, add_num_samples, add_run
from maya.recipes.evaluation.files import add_files, score_files
from maya.recipes.evaluation.options import (
    add_measures,
    add_normalizer,
    list_language,
    measure_options,
    scoring_options,
)
from maya.recipes.evaluation.pages import read_details
from maya.recipes.markers import content, earlier_inputs, is_done, mark_done, table_identity
from maya.recipes.recorded import data_of
from maya.recipes.tokenizer import require
from maya.score.labels import (
    LabelledUtterance,
    LabelReport,
    NumberReport,
    label_page,
    label_result,
    label_table,
    number_result,
    number_table,
    score_label,
    score_numbers,
)
from maya.score.measures.normalizers import DEFAULT, DROPS_EMPTY, make_normalizer
from maya.score.measures.summary import measure, measures_result, measures_table
from maya.score.measures.word_lists import count_words
from maya.score.page import UtteranceDetails, write_page
from maya.score.report import (
    Report,
    Utterance,
    make_report,
    percent,
    span,
    table,
    write_errors,
    write_result,
)  # fmt: skip
from maya.score.samples import sample_table
from maya.score.wer import Interval
from maya.train.runlog import git_state

T = TypeVar("T")
SPLIT_NOTES = "splits.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The error rates of one decoding, None for a model without a text head; and the accuracy of each label
    that the model predicts and the data holds, or the agreement where it is a number."""

    report: Report | None
    labels: list[LabelReport]
    numbers: list[NumberReport]


def arguments(p: argparse.ArgumentParser) -> None:
    run_or_files = add_run(p)
    p.add_argument(
        "--data", type=Path, help="the prepared data, for notes on the splits; default: of training"
    )
    text = "the decoded split (default: test); all: one table of all"
    p.add_argument("--split", default="test", help=text)
    text = "compute the intervals over speakers, not utterances"
    p.add_argument("--by-speaker", action="store_true", help=text)
    add_normalizer(p)
    add_measures(p)
    add_num_samples(p)
    add_force(p)
    add_files(p, run_or_files)


def run(args: argparse.Namespace) -> None:
    if args.hyp is not None:
        score_files(args)
        return
    if args.ref is not None:
        raise MayaError("--ref belongs to --hyp, the hypotheses of any tool; a run has its references")
    try:
        data = data_of(args.run_dir, args.data)
    except MayaError:  # without them the notes on the splits are left out
        data = None
    options = {"data": data, "by_speaker": args.by_speaker, "force": args.force}
    if args.split != "all":
        options |= {"num_samples": args.num_samples, "normalizer": args.normalizer}
        scores = score(args.run_dir, split=args.split, **options)
        if scores.report is not None:
            _show_measures(scores.report, args, data)
        return
    if args.num_samples or args.normalizer != DEFAULT:
        raise MayaError("--num-samples and --normalizer are for one split: name it with --split")
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
    normalizer: str = DEFAULT,
) -> Scores:
    """Score `run`/decode/{split}/hyps.jsonl and write result.json, and for texts errors.txt and report.html.
    `show` prints the tables; `num_samples` utterances are printed, reference against hypothesis. normalizer:
    one of `maya.score.measures.normalizers.NORMALIZERS`.

    Raises MayaError when nothing was decoded, and when neither texts nor labels can be scored.
    """
    out = run / "decode" / split
    hyps = require(out / "hyps.jsonl", "run stage 5 (decode) first")
    texts, labels = read_hypotheses(hyps, normalizer), read_labels(hyps)
    if not texts and not labels:
        raise MayaError(f"{hyps} holds neither texts nor labels with known values; there is nothing to score")
    scores = Scores(
        report=make_report(texts, by_speaker=by_speaker) if texts else None,
        labels=[
            score_label(name, rows, by_speaker=by_speaker)
            for name, rows in labels.items()
            if not rows[0].is_number
        ],
        numbers=[
            score_numbers(name, rows, by_speaker=by_speaker)
            for name, rows in labels.items()
            if rows[0].is_number
        ],
    )
    decoding = json.loads(require(out / "decode.json", "run stage 5 (decode) again").read_text())
    inputs = {
        "hyps": content(hyps),
        "decoding": decoding,
        "by_speaker": by_speaker,
        "normalizer": normalizer,
        "metrics": content(run / "metrics.jsonl"),  # the curve on the page
        "table": table_identity(data, out.name) if data is not None else "",  # audio and noise on the page
    }
    names = ("result.json", "errors.txt", "report.html") if texts else ("result.json",)
    complete = all((out / name).is_file() for name in names)
    if not is_done(out / "stage-score.json", inputs) or not complete or force:
        details = read_details(hyps, data, make_normalizer(normalizer)) if texts else {}
        _write(scores, run, out, decoding, details)
        mark_done(out / "stage-score.json", inputs)
    if show:
        _show(scores, run, out, decoding, data)
    if num_samples and scores.report is not None:
        print("\n" + sample_table(scores.report, num_samples))
    return scores


def _write(
    scores: Scores, run: Path, out: Path, decoding: dict[str, Any], details: dict[str, UtteranceDetails]
) -> None:
    """result.json, and for texts errors.txt and report.html. details: of utterances, for the page."""
    split = str(out.relative_to(run / "decode"))
    facts = decoding | {"split": split, "commit": git_state()[0]}
    results = {report.label: label_result(report) for report in scores.labels}
    results |= {report.label: number_result(report) for report in scores.numbers}
    if results:
        facts["labels"] = results
    if scores.labels:
        with writing(out / "labels.html") as partial:
            partial.write_text(label_page(scores.labels, f"{run.name}: {split}"), encoding="utf-8")
    if scores.report is None:
        write_json(out / "result.json", facts)
        return
    write_result(scores.report, out / "result.json", facts)
    write_errors(scores.report, out / "errors.txt")
    method = f", decoded by {decoding['method']}" if "method" in decoding else ""
    title = f"{run.name}: {split}{method}"
    write_page(
        scores.report, out / "report.html", title=title, metrics=run / "metrics.jsonl", details=details
    )


def _show(scores: Scores, run: Path, out: Path, decoding: dict[str, Any], data: Path | None) -> None:
    """The tables, the notes that a reader needs, and the places of all files."""
    tables = [table(scores.report)] if scores.report is not None else []
    for text in (*tables, *map(label_table, scores.labels), *map(number_table, scores.numbers)):
        print(f"\n{text}")
    for line in split_notes(data):
        print(line)
    if data is not None and _outdated(out, data):
        print(f"these hypotheses are of other data than {data} holds now: run stage 5 (decode) again")
    print(f"real-time factor {decoding['real_time_factor']:.4f} "
          f"({decoding['audio_seconds'] / 3600:.2f} h decoded in {decoding['seconds']:.1f} s)")  # fmt: skip
    if decoding.get("method"):
        print(f"method      {decoding['method']} ({decoding['method_reason']})")
    print(f"report      {out / ('report.html' if scores.report is not None else 'result.json')}")
    print(f"checkpoint  {decoding['checkpoint']}")
    print(f"TensorBoard tensorboard --logdir {run / 'tensorboard'}")


def _show_measures(report: Report, args: argparse.Namespace, data: Path | None) -> None:
    """Print the lenient score and the other measures, and write them to measures.json beside result.json."""
    counts = None
    if args.rare_below is not None and args.training_texts is None and data is not None:
        texts = Table.open(part_path(data, "train")).read("text")
        counts = count_words(text for (text,) in texts)
    language = list_language(u.language for u in report.utterances)
    measures = measure(report, measure_options(scoring_options(args), language, counts))
    print("\n" + measures_table(measures, groups=args.groups))
    write_json(args.run_dir / "decode" / args.split / "measures.json", measures_result(measures))


def _outdated(out: Path, data: Path) -> bool:
    """Whether a set was prepared again, with other rows, since it was decoded into `out`."""
    decoded = earlier_inputs(out / "stage.json").get("data")
    rows = table_identity(data, out.name)
    return isinstance(decoded, list) and rows != "absent" and decoded[0] != rows


def read_hypotheses(path: Path, normalizer: str = DEFAULT) -> list[Utterance]:
    """The utterances of a hyps.jsonl that have a text, in normal form. MayaError names a damaged line."""
    normal = make_normalizer(normalizer)

    def utterance(row: dict[str, Any]) -> Utterance | None:
        if "text" not in row and "predictions" in row:
            return None
        ref, hyp = (normal(row[side], row["language"]) for side in ("ref", "text"))
        return Utterance(
            id=row["id"], language=row["language"], ref=ref, hyp=hyp, seconds=row["duration"],
            speaker=row["speaker"], snr=row.get("snr"),
        )  # fmt: skip

    rows = [row for row in _read_lines(path, utterance) if row is not None]
    return [row for row in rows if row.ref] if normalizer in DROPS_EMPTY else rows


def read_labels(path: Path) -> dict[str, list[LabelledUtterance]]:
    """By label the utterances of a hyps.jsonl whose value is known and predicted."""
    labels: dict[str, list[LabelledUtterance]] = {}

    def add(row: dict[str, Any]) -> None:
        for label, prediction in row.get("predictions", {}).items():
            if (value := row["labels"].get(label)) is not None:
                utterance = LabelledUtterance(
                    id=row["id"], value=value, predicted=prediction["label"], speaker=row["speaker"],
                    is_number=prediction.get("probability", 1.0) is None,
                )  # fmt: skip
                labels.setdefault(label, []).append(utterance)

    _read_lines(path, add)
    return labels


def _read_lines(path: Path, read: Callable[[dict[str, Any]], T]) -> list[T]:
    """The result of `read` for each line of a hyps.jsonl. MayaError names a damaged line."""
    rows = []
    lines = path.read_text().removesuffix("\n").split("\n")  # a text may hold other ends of lines
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            rows.append(read(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
            raise MayaError(f"{path}, line {number}, is not a hypothesis ({e}); decode again") from e
    return rows


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
    """Score everything that lies under `run`/decode and print a table of the error rates, and one of the
    accuracies of predicted labels. Both are also written to `run`/decode/wer.md. Raises MayaError when
    nothing has been decoded."""
    top = run / "decode"
    folders = sorted(path.parent.relative_to(top) for path in top.rglob("hyps.jsonl"))
    if not folders:
        raise MayaError(f"{top} holds no hypotheses; run stage 5 (decode) first")
    reports: dict[tuple[str, str], Report] = {}
    labels: dict[tuple[str, str], list[LabelReport]] = {}
    for folder in folders:
        scores = score(run, split=str(folder), data=data, by_speaker=by_speaker, force=force, show=False)
        key = (str(folder.parent) if len(folder.parts) > 1 else "", folder.name)
        if scores.report is not None:
            reports[key] = scores.report
        if scores.labels:
            labels[key] = scores.labels
    text = "\n".join([wer_table(reports)] * bool(reports) + [accuracy_table(labels)] * bool(labels))
    (top / "wer.md").write_text(text)
    print(text, end="")
    if reports:
        print(f"WER %, 95 % interval by bootstrap; reports and errors: {top}/*/*/{{report.html,errors.txt}}")
    return text


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


def accuracy_table(labels: dict[tuple[str, str], list[LabelReport]]) -> str:
    """Markdown, by (method, set): a row for each predicted label with its accuracy, a macro average over
    classes, and its interval."""
    lines = ["| method | set | label | utterances | accuracy % |", "|---|---|---|---|---|"]
    for (method, name), reports in sorted(labels.items()):
        for report in reports:
            cells = (method or "as configured", name, report.label, str(report.pooled.utterances))
            lines.append(f"| {' | '.join(cells)} | {_rate(report.macro, report.macro_interval)} |")
    return "\n".join(lines) + "\n"


def _cell(report: Report | None) -> str:
    return "" if report is None else _rate(report.macro_wer, report.macro_wer_interval)


def _rate(rate: float, bounds: Interval) -> str:
    return f"{percent(rate)} {span(bounds)}"
