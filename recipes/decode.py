"""Stage 5: a checkpoint and prepared parts → hypotheses with token times, and the real-time factor."""

import argparse
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import maya
from maya.config import to_dict
from maya.data.measure.entry import Entry
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.decode.base import Method, MethodConfig
from maya.decode.head_choice import TrainedHeads
from maya.decode.lm.make_fusion import make_fusion
from maya.decode.methods import AUTO, METHODS, possible_methods
from maya.decode.recognizer import Recognizer
from maya.decode.table import DecodedRow, decode_table
from maya.errors import MayaError
from maya.files import read_json, replacing, write_json
from maya.recipes.arguments import add_finished_run, add_force
from maya.recipes.experiment import DecodeConfig, Experiment
from maya.recipes.markers import (
    audio_identity,
    checkpoint_content,
    content,
    digest,
    is_done,
    mark_done,
    table_identity,
    texts_identity,
)
from maya.recipes.recorded import finished_run
from maya.recipes.training_texts import training_texts
from maya.train.checkpoints.checkpoint import find_checkpoint, load_checkpoint
from maya.train.heads import read_heads

ALL = "all"


def arguments(p: argparse.ArgumentParser) -> None:
    add_finished_run(p)
    text = "train, dev, test (the default), or a set of the corpus, such as dev-clean"
    p.add_argument("--split", nargs="+", default=["test"], metavar="SPLIT", help=text)
    text = "values of decode.method, or all that trained heads allow; results go to decode/METHOD/SPLIT"
    p.add_argument("--method", nargs="+", default=[], metavar="METHOD", help=text)
    p.add_argument("--checkpoint", type=Path, help="a .pt file; default: the averaged one, else the best")
    text = "write to decode/NAME/SPLIT (not with --method)"
    p.add_argument("--into", default="", metavar="NAME", help=text)
    add_force(p)


def run(args: argparse.Namespace) -> None:
    experiment, data, folder = finished_run(args)
    if data is None:
        raise MayaError("decoding reads prepared data: name the folder that `maya prepare` wrote with --data")
    options = {"checkpoint": args.checkpoint, "force": args.force}
    if args.method:
        if args.into:
            raise MayaError("--method writes to decode/METHOD/SPLIT: leave --into out")
        decode_all(experiment, data, folder, splits=args.split, methods=args.method, **options)
        return
    for split in args.split:
        decode(experiment, data, folder, split=split, into=args.into, **options)


def decode(
    experiment: Experiment,
    data: Path,
    run: Path,
    *,
    split: str = "test",
    into: str = "",
    checkpoint: Path | None = None,
    force: bool = False,
    kept: Path | None = None,
) -> None:
    """Decode `data`/{split}.parquet into `run`/decode/{split}/hyps.jsonl, or `run`/decode/{into}/{split}.

    kept: a folder that any runs share; what the same weights, data and options gave there is taken from it,
    and what they give now is left there. Raises MayaError for an empty split, and for a method whose head the
    model lacks or that was not trained.
    """
    table, cfg = Table.open(part_path(data, split)), experiment.decode
    if not len(table):
        raise MayaError(f"{data} has no {split} set to decode: {table.path.name} has no rows")
    table.require_true_texts()
    path = find_checkpoint(checkpoint or run)
    out = run / "decode" / into / split
    inputs = _inputs(cfg, data, split, path)
    complete = all((out / name).is_file() for name in ("hyps.jsonl", "decode.json"))
    if is_done(out / "stage.json", inputs) and complete and not force:
        print(f"decode: {out} is up to date")
        return
    if kept is not None and not force and _taken(kept, inputs, path, out):
        return
    recognizer = maya.load(path, places=experiment.model)
    if not cfg.fast_weight_updates and not recognizer.model.encoder.stop_updates():
        raise MayaError(
            f"{path}: decode.fast_weight_updates=false is for LaCT; this encoder has no fast weights"
        )
    method, facts = make_method(cfg, recognizer, training_texts(data, recognizer.tokenizer))
    print(f"decode: {split} by {facts['method'] or 'no method'} ({facts['method_reason']})", flush=True)
    utterances = Utterances.from_table(table, recognizer.tokenizer, recognizer.model.cfg.languages)
    entries = {entry.id: entry for entry in table.entries()}
    out.mkdir(parents=True, exist_ok=True)
    began, seconds = time.perf_counter(), 0.0
    with replacing(out / "hyps.jsonl") as partial, partial.open("w") as f:
        rows = decode_table(
            recognizer, utterances, method, language=cfg.language, max_seconds=cfg.max_seconds
        )
        for row in rows:
            f.write(json.dumps(as_json(row, entries[row.id]), ensure_ascii=False) + "\n")
            seconds += row.seconds
    facts |= {"checkpoint": str(path), "utterances": len(entries)}
    _report(out, facts, seconds, time.perf_counter() - began)
    mark_done(out / "stage.json", inputs)
    if kept is not None:
        _leave(kept, inputs, out)


def _place(kept: Path, inputs: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Where results are kept whatever the name of the checkpoint, and the inputs of their marker."""
    unnamed = inputs | {"checkpoint": inputs["checkpoint"][1]}
    return kept / digest(unnamed), unnamed


def _taken(kept: Path, inputs: dict[str, Any], checkpoint: Path, out: Path) -> bool:
    """Whether `kept` has the results, which are then copied to `out`."""
    place, unnamed = _place(kept, inputs)
    facts = read_json(place / "decode.json")
    if not is_done(place / "stage.json", unnamed) or not facts or not (place / "hyps.jsonl").is_file():
        return False
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "hyps.jsonl") as partial:
        shutil.copyfile(place / "hyps.jsonl", partial)
    write_json(out / "decode.json", facts | {"checkpoint": str(checkpoint)})
    mark_done(out / "stage.json", inputs)
    print(f"decode: hypotheses of the same weights, data and options are taken from {place}")
    return True


def _leave(kept: Path, inputs: dict[str, Any], out: Path) -> None:
    """Copy results to `kept`, where this process may write there."""
    place, unnamed = _place(kept, inputs)
    with suppress(MayaError, OSError):
        place.mkdir(parents=True, exist_ok=True)
        for name in ("hyps.jsonl", "decode.json"):
            with replacing(place / name) as partial:
                shutil.copyfile(out / name, partial)
        mark_done(place / "stage.json", unnamed)


def make_method(
    cfg: DecodeConfig, recognizer: Recognizer, texts: Callable[[], Iterator[tuple[str, list[int]]]] | None
) -> tuple[Method | None, dict[str, Any]]:
    """The method of a configuration, None with "auto" for a model without a text head; and its name and the
    reason for it, for the log. texts: see `MethodContext`. Raises MayaError for a method whose head the model
    lacks, and for language models and hot words that do not fit, see `make_fusion`."""
    if cfg.method == AUTO and not recognizer.model.cfg.text_heads:
        return None, {"method": "", "method_reason": "the model has no text head; its labels are predicted"}
    choice = recognizer.choose_method(cfg.method)
    fusion = make_fusion(cfg.fusion, recognizer, head=choice.heads[0])
    options: MethodConfig | None = cfg.options(choice.method)
    if cfg.method == AUTO and options == METHODS[choice.method]():
        options = None  # greedy search, which the defaults of an attention decoder are not
    method = recognizer.make_method(choice, options, texts, fusion)
    return method, {"method": choice.method, "method_reason": choice.reason}


def as_json(row: DecodedRow, entry: Entry) -> dict[str, Any]:
    """A line of hyps.jsonl; `language` is that of the transcript."""
    hyp = asdict(row.hypothesis, dict_factory=_public) if row.hypothesis is not None else {}
    facts: dict[str, Any] = {"id": row.id, "language": entry.language, "ref": entry.text}
    facts |= {"speaker": entry.speaker, "snr": entry.snr}
    predictions = {label: asdict(prediction) for label, prediction in row.predictions.items()}
    return hyp | facts | {"duration": entry.duration, "predictions": predictions, "labels": row.labels}


def _public(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if not name.startswith("_")}


def _report(out: Path, facts: dict[str, Any], audio_seconds: float, spent: float) -> None:
    """Write `out`/decode.json and print how long the decoding took."""
    factor = spent / audio_seconds
    timing = {"audio_seconds": audio_seconds, "seconds": spent, "real_time_factor": factor}
    write_json(out / "decode.json", facts | timing)
    amount = f"{facts['utterances']} utterances, {audio_seconds / 3600:.2f} h"
    print(f"decode: {amount} in {spent:.1f} s (real-time factor {factor:.4f}) → {out / 'hyps.jsonl'}")


def _inputs(cfg: DecodeConfig, data: Path, split: str, checkpoint: Path) -> dict[str, Any]:
    """Everything that hypotheses depend on, for the marker of the stage."""
    needs_texts = cfg.method in METHODS and cfg.options(cfg.method).needs_texts
    return {
        "checkpoint": [str(checkpoint), checkpoint_content(checkpoint)],
        "data": [table_identity(data, split), audio_identity(data, split)],
        "options": to_dict(cfg),
        "lm_texts": texts_identity(data, "train") if needs_texts else "",
        "fusion": {str(path): content(path) for path in cfg.fusion.files()},
    }


def decode_all(
    experiment: Experiment,
    data: Path,
    run: Path,
    *,
    splits: Sequence[str],
    methods: Sequence[str],
    checkpoint: Path | None = None,
    force: bool = False,
) -> None:
    """Decode each of `splits` with each of `methods`, or with every method that the model's trained heads
    allow where that is "all", into `run`/decode/{method}/{split}.

    Raises MayaError for an unknown method, and for one whose head the model lacks or that was never trained.
    """
    if list(methods) == [ALL]:
        methods = methods_of_checkpoint(find_checkpoint(checkpoint or run))
    for method in methods:
        options = dataclasses.replace(experiment.decode, method=method)
        one_method = dataclasses.replace(experiment, decode=options)
        for split in splits:
            decode(one_method, data, run, split=split, into=method, checkpoint=checkpoint, force=force)


def methods_of_checkpoint(path: Path) -> list[str]:
    """The methods that a checkpoint's trained heads allow; prints those that read a head never trained."""
    loaded = load_checkpoint(path)
    model, heads = loaded.model_config, read_heads(loaded)
    heads.best()  # raises MayaError where none was trained
    methods = possible_methods(model, heads)
    everything = TrainedHeads(heads=heads.heads, trained=heads.heads)
    if idle := [method for method in possible_methods(model, everything) if method not in methods]:
        untrained = [head for head in heads.heads if head not in heads.trained]
        verb = "was" if len(untrained) == 1 else "were"
        print(f"decode: without {', '.join(idle)}: {' and '.join(untrained)} {verb} never trained")
    return methods
