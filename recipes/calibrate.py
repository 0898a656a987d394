"""Measure on dev how late a model emits words and how far its confidences can be trusted; later words are
corrected by it."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import maya
from maya.align.aligner import choose_head
from maya.align.confidence import Reliability, cross_fitted, isotonic, reliability
from maya.align.reference import AlignedRow, decode_and_align, word_differences
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.calibration import MethodCalibration, write_calibration
from maya.decode.methods import AUTO
from maya.decode.recognizer import Recognizer
from maya.decode.words import Aggregation, WordRules, make_words
from maya.errors import MayaError
from maya.recipes.arguments import add_device, add_finished_run
from maya.recipes.decode import make_method
from maya.recipes.experiment import DecodeConfig, Experiment
from maya.recipes.plan_text import text_table
from maya.recipes.recorded import finished_run
from maya.recipes.training_texts import training_texts
from maya.score.measures.normalizers import normal_form
from maya.score.wer import MISSING, align
from maya.train.checkpoints.checkpoint import find_checkpoint


def arguments(p: argparse.ArgumentParser) -> None:
    add_finished_run(p)
    text = "decoding methods to measure; each has its own offset and curve; default: that of the experiment"
    p.add_argument("--method", nargs="+", default=[], metavar="METHOD", help=text)
    p.add_argument("--checkpoint", type=Path, help="a .pt file; default: the averaged one, else the best")
    p.add_argument("--split", default="dev", help="prepared part to measure on; default: dev")
    p.add_argument(
        "--check", default="", metavar="SPLIT", help="also apply the result to this part, and show"
    )
    text = "how the tokens of a word make its confidence: min (the default), mean or product"
    p.add_argument("--aggregation", default="min", choices=get_args(Aggregation), help=text)
    text = "the head whose forced alignment gives the reference times; default: the first CTC head"
    p.add_argument("--align-by", default="", metavar="HEAD", help=text)
    add_device(p)


def run(args: argparse.Namespace) -> None:
    experiment, data, folder = finished_run(args)
    if data is None:
        raise MayaError(
            "calibration reads prepared data: name the folder that `maya prepare` wrote with --data"
        )
    checkpoint = find_checkpoint(args.checkpoint or folder)
    options = CalibrateOptions(
        split=args.split, check=args.check, aggregation=args.aggregation, align_by=args.align_by
    )
    for method in args.method or [experiment.decode.method]:
        calibrate(experiment, data, checkpoint, method=method, options=options, device=args.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateOptions:
    """split: the prepared part to measure on. check: another one that the result is applied to, or "".
    aggregation: of tokens to words. align_by: the head whose forced alignment gives the reference times, ""
    for the default of `choose_head`."""

    split: str = "dev"
    check: str = ""
    aggregation: Aggregation = "min"
    align_by: str = ""


@dataclass(frozen=True, slots=True)
class JudgedWords:
    """The confidences of words, whether each is right, and the utterance of each."""

    confidences: list[float]
    right: list[bool]
    utterances: list[str]


def calibrate(
    experiment: Experiment, data: Path, checkpoint: Path, *, method: str = AUTO,
    options: CalibrateOptions | None = None, device: str = "auto",
) -> MethodCalibration:  # fmt: skip
    """Decode and align a part of `data`; write the calibration of the method beside the checkpoint, and print
    tables of times and confidences.

    Raises MayaError for a method without word times, for a model that cannot align, and for a part without a
    decoded word.
    """
    options = options or CalibrateOptions()
    split, check, aggregation = options.split, options.check, options.aggregation
    recognizer = maya.load(checkpoint, device, places=experiment.model)
    recognizer.calibration = None  # measure what the model does, not what an earlier measurement made of it
    cfg = DecodeConfig(method=method, methods=experiment.decode.methods)
    decoder, facts = make_method(cfg, recognizer, training_texts(data, recognizer.tokenizer))
    if decoder is None:
        raise MayaError(f"{checkpoint} has no text head to calibrate")
    head = choose_head(recognizer, options.align_by)
    rows = decoded_rows(recognizer, data, split, decoder, head)
    differences, judged = (
        word_differences(rows, recognizer),
        judge(rows, data, split, recognizer, aggregation),
    )
    if not judged.confidences:
        raise MayaError(f"{data}/{split}.parquet gives no words with a confidence to calibrate on")
    curve = isotonic(judged.confidences, judged.right)
    before = reliability(judged.confidences, judged.right)
    after = reliability(cross_fitted(*_columns(judged)), judged.right)
    lines = [(split, "before", before), (split, "after, by halves", after)]
    measured = MethodCalibration(
        offset_seconds=differences.offset, aggregation=aggregation, curve=curve,
        facts={
            "split": split, "head": head, "measure": str(getattr(decoder.cfg, "confidence", "")),
            "words": before.words, "wrong": before.wrong,
            "confidence": {"before": asdict(before), "after": asdict(after)},
            "times": {"before": differences.facts(), "after": differences.facts(differences.offset)},
        },
    )  # fmt: skip
    path = write_calibration(checkpoint, {facts["method"]: measured})
    time_lines = [(split, differences.facts(), differences.facts(differences.offset))]
    if check:
        others = decoded_rows(recognizer, data, check, decoder, head)
        unseen, words = (
            word_differences(others, recognizer),
            judge(others, data, check, recognizer, aggregation),
        )
        time_lines.append((check, unseen.facts(), unseen.facts(differences.offset)))
        lines.append((check, "before", reliability(words.confidences, words.right)))
        lines.append((check, "after", reliability([curve(c) for c in words.confidences], words.right)))
    print(_report(facts["method"], head, differences.offset, time_lines, lines))
    print(f"calibrate: {path}; maya.load applies it, and deleting the file undoes it")
    return measured


def decoded_rows(recognizer: Recognizer, data: Path, split: str, decoder: Any, head: str) -> list[AlignedRow]:
    """The utterances of a prepared part, decoded and aligned."""
    part = Table.open(part_path(data, split))
    if not len(part):
        raise MayaError(f"{data} has no {split} set to calibrate on: {part.path.name} has no rows")
    utterances = Utterances.from_table(part, recognizer.tokenizer, recognizer.model.cfg.languages)
    return list(decode_and_align(recognizer, utterances, decoder, head))


def judge(
    rows: Sequence[AlignedRow], data: Path, split: str, recognizer: Recognizer, aggregation: Aggregation
) -> JudgedWords:
    """Which decoded words are right, by an alignment with the reference in normal form. Words without a
    letter or digit are left out."""
    entries = {entry.id: entry for entry in Table.open(part_path(data, split)).entries()}
    judged, rules = JudgedWords([], [], []), WordRules(aggregation=aggregation)
    for row in rows:
        entry = entries[row.id]
        words = make_words(row.hypothesis, recognizer.tokenizer, rules, seconds=row.seconds)
        texts = [normal_form(word.text, entry.language) for word in words]
        confidences = [w.confidence for w, text in zip(words, texts, strict=True) if text]
        pairs = align(normal_form(entry.text, entry.language).split(), [text for text in texts if text])
        right = [ref == text for ref, text in pairs if text != MISSING]
        for confidence, is_right in zip(confidences, right, strict=True):
            if confidence is not None:
                judged.confidences.append(confidence)
                judged.right.append(is_right)
                judged.utterances.append(row.id)
    return judged


def _columns(judged: JudgedWords) -> tuple[list[float], list[bool], list[str]]:
    return judged.confidences, judged.right, judged.utterances


def _report(
    method: str, head: str, offset: float, times: list[tuple[str, dict[str, float], dict[str, float]]],
    confidences: list[tuple[str, str, Reliability]],
) -> str:  # fmt: skip
    names = ("start_median", "start_p95", "end_median", "end_p95")
    time_rows = [
        [split, kind, *(f"{1000 * facts[name]:.0f}" if name in facts else "" for name in names)]
        for split, before, after in times
        for kind, facts in (("before", before), ("after", after))
    ]
    rows = [
        [split, kind, str(r.words), str(r.wrong), f"{r.auc:.3f}", f"{100 * r.ece:.2f}", f"{r.nce:+.3f}"]
        for split, kind, r in confidences
    ]
    lines = [
        f"{method}: words are emitted {1000 * offset:+.0f} ms after forced alignment by {head} begins them"
    ]
    lines += text_table(("set", "", "start: median ms", "95 %", "end: median ms", "95 %"), time_rows)
    lines += ["confidence of words; AUC: wrong words are the positives; NCE: 0 is a constant confidence"]
    lines += text_table(("set", "", "words", "wrong", "AUC", "ECE %", "NCE"), rows)
    return "\n".join(lines)
