"""Stage 4: average the weights over the end of training; the dev set chooses the stretch."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from maya.config import to_dict
from maya.data.table.table import Table, part_path
from maya.decode.head_choice import TrainedHeads
from maya.decode.recognizer import choose_device
from maya.errors import MayaError
from maya.files import replacing, write_json
from maya.models.speech_model import SpeechModel
from maya.recipes.arguments import POSITIVE, add_finished_run, add_force
from maya.recipes.cut_sources import dev_source, require_data
from maya.recipes.experiment import Experiment
from maya.recipes.markers import audio_identity, is_done, mark_done, stamp, table_identity
from maya.recipes.recorded import finished_run
from maya.recipes.train import dev_validation
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints.averaging import RunningAverage, average_between
from maya.train.heads import RATES, describe, noted_steps, notes_of, scores_by_head, trained_names
from maya.train.validate import Validate

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the epochs so far, over which means are offered by default
_TEST = "test"


def arguments(p: argparse.ArgumentParser) -> None:
    add_finished_run(p)
    text = "the last epoch of the average; needs a run with train.epochs"
    p.add_argument("--epoch", type=POSITIVE, nargs="+", default=[], metavar="N", help=text)
    text = "average over N epochs, or without --epoch over N steps"
    p.add_argument("--avg", type=POSITIVE, nargs="+", default=[], metavar="N", help=text)
    text = "the plain mean of the weights of the N newest training checkpoints"
    p.add_argument("--last", type=POSITIVE, metavar="N", help=text)
    p.add_argument("--select", action="store_true", help="choose among several --epoch and --avg on dev")
    add_force(p)


def run(args: argparse.Namespace) -> None:
    experiment, data, folder = finished_run(args)
    if args.select:
        select(experiment, data, folder, epochs=args.epoch, avgs=args.avg, force=args.force)
        return
    if max(len(args.epoch), len(args.avg)) > 1:
        raise MayaError("to choose between several values of --epoch or --avg, add --select")
    epoch, avg = (next(iter(values), None) for values in (args.epoch, args.avg))
    if args.last and avg:
        raise MayaError("--last names checkpoints and --avg steps or epochs: give one of them")
    if args.last:
        average_newest(folder, args.last)
        return
    average(experiment, data, folder, epoch=epoch, avg=avg, force=args.force)


@dataclass(kw_only=True, slots=True)
class Candidate:
    """Weights that dev may choose."""

    name: str
    step: int  # at which they, or the last of those averaged, were reached
    weights: dict[str, Tensor]
    trained: tuple[str, ...]  # heads, by that step
    steps: dict[str, int]  # the number of steps that trained each head, where known


def average(
    experiment: Experiment,
    data: Path | None,
    run: Path,
    *,
    step: int | None = None,
    epoch: int | None = None,
    avg: int | None = None,
    ends: int = 1,
    force: bool = False,
) -> None:
    """Write `run`/averaged.pt: the best on dev of best.pt, the mean of those that train.keep_best kept, the
    last weights, their EMA (train.ema), and means over stretches that end at one of the `ends` newest
    checkpoints and begin at an earlier one. The test set is not used. Each is scored on all of dev, by the
    head that `decode.method` names, or with "auto" by its best trained head, and then weights from before
    another head was trained come last.

    With `avg`, no choice: the mean over the last `avg` epochs up to `epoch` (icefall's --epoch and --avg),
    which needs what the two ends left (see train.epochs); without `epoch`, over the `avg` steps before
    `step`, by default the newest checkpoint's. Without a dev set nothing is chosen: the last weights, or the
    mean that `avg` names. A damaged checkpoint is named and offers nothing. With data.source=lhotse the dev
    set is data.dev_cuts.
    """
    require_data(experiment, data)
    if epoch is not None and avg is None:
        raise MayaError("--epoch needs --avg, the number of epochs to average over")
    epochs = ckpt.epoch_checkpoints(run)
    checkpoints = ckpt.step_checkpoints(run)
    if not checkpoints:
        raise MayaError(f"{run} holds no training checkpoint; run stage 3 (train) first")
    inputs = {
        "checkpoints": [f"{p.name}:{stamp(p)}" for p in [*(p for _, p in checkpoints), *epochs.values()]],
        "best": [stamp(run / "best.pt"), *(stamp(p) for _, p in ckpt.best_checkpoints(run))],
        "choice": [step, epoch, avg, ends],
        **_validated(experiment, data, ["dev"]),
    }
    if is_done(run / "stage-average.json", inputs) and (run / "averaged.pt").is_file() and not force:
        print(f"average: {run / 'averaged.pt'} is up to date")
        return
    last, damaged = ckpt.load_newest([path for _, path in checkpoints], training=True)
    for error in damaged:
        print(f"average: {error}; the one before it is taken")
    if avg is None:
        offered = candidates(run, checkpoints, last, ends)
    else:
        offered = iter([stretch(checkpoints, step, avg) if epoch is None else passes(epochs, epoch, avg)])
    languages = last.model_config.languages
    validate = dev_validation(experiment, data, last.tokenizer, languages, whole=True)
    if validate is not None:
        chosen, dev, scores = _best(experiment, validate, last, offered)
    else:
        chosen, dev, scores = next(offered), {}, {}  # the last weights, or the mean that `avg` names
        advice = "; --avg names a mean" if avg is None else ""
        place = "data.dev_cuts names" if experiment.data.source == "lhotse" else f"{data} has"
        print(f"average: {place} no dev set to choose on: {chosen.name} is taken{advice}")
    _write(run, last, chosen, dev, {"dev": scores})
    mark_done(run / "stage-average.json", inputs)


def average_newest(run: Path, count: int) -> None:
    """Write `run`/averaged.pt: the plain mean of the weights of the `count` newest training checkpoints."""
    checkpoints = ckpt.step_checkpoints(run)
    mean = _plain_mean(f"mean of the {count} newest", count, checkpoints)
    (run / "stage-average.json").unlink(missing_ok=True)
    _write(run, ckpt.load_checkpoint(checkpoints[-1][1]), mean, {}, {})


def _best(
    experiment: Experiment, validate: Validate, last: ckpt.Checkpoint, offered: Iterator[Candidate]
) -> tuple[Candidate, dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """(the candidate with the lowest error on dev, its scores by head, the scores of all by name)."""
    model, heads = SpeechModel(last.model_config).to(choose_device("auto")), tuple(last.model_config.heads)
    by_head = {f"{head}_{rate}" for head in heads for rate in RATES}
    chosen, best, scores, dev = None, (True, float("inf")), {}, {}
    wanted: set[str] = set()
    for candidate in offered:
        name = candidate.name
        model.load_state_dict(candidate.weights)
        result = validate(model, candidate.trained)
        scores[name] = {k: v for k, v in result.items() if k in {"loss", "wer", "cer"} | by_head}
        print(f"average: {name:<28} {describe(result, heads)}", flush=True)
        # Weights in which the head that decodes was not trained come last; with "auto" any of the heads.
        decodes = experiment.decoding_head
        wanted = wanted or ({decodes} if decodes else set(candidate.trained))  # the last weights are first
        rank = (not wanted.issubset(candidate.trained), result["error"])
        if chosen is None or rank < best:
            chosen, best, dev = candidate, rank, scores_by_head(result, heads)
    assert chosen is not None  # the last weights are always a candidate
    return chosen, dev, scores


def select(
    experiment: Experiment,
    data: Path | None,
    run: Path,
    *,
    epochs: Sequence[int] = (),
    avgs: Sequence[int] = (),
    sets: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Write `run`/averaged.pt: of the means over the last `avgs` epochs up to one of `epochs`, that with the
    lowest WER on the dev sets, each set counting the same; the table of all is select.json and select.md. The
    WER is that of the head that `decode.method` names, or with "auto" of the best trained head.

    Args:
        epochs: by default the last, and those at 80 and 90 % of it, of which there are checkpoints.
        avgs: by default 10 to 50 % of the epoch. Those that begin where no checkpoint was kept are left out.
        sets: of what `maya prepare` wrote; by default each dev set that the corpus has, or dev. All of their
            utterances are decoded, greedily.

    Without a dev set the weights are those of `average`. Raises MayaError when the run has no checkpoints of
    epochs, nothing can be chosen from, or a set holds utterances of the test set.
    """
    epoch_paths = ckpt.epoch_checkpoints(run)
    if not epoch_paths:
        raise MayaError(
            f"{run} has no checkpoints of epochs to select from: train with train.epochs, or average without "
            "--select, over steps"
        )
    if data is None:
        raise MayaError("--select compares averages on the dev sets of prepared data: name them with --data")
    sets = list(sets) or dev_sets(data)
    check_sets(data, sets)
    if not all(len(Table.open(part_path(data, name))) for name in sets):
        average(experiment, data, run, force=force)
        return
    pairs = list(choices(sorted(epoch_paths), epochs, avgs))
    if not pairs:
        kept = ", ".join(map(str, epoch_paths))
        raise MayaError(f"{run} keeps the epochs {kept}: none of the averages asked for lies between two")
    inputs = {
        "checkpoints": [f"{p.name}:{stamp(p)}" for p in epoch_paths.values()],
        "pairs": [list(pair) for pair in pairs],
        **_validated(experiment, data, sets),
    }
    if is_done(run / "stage-average.json", inputs) and (run / "averaged.pt").is_file() and not force:
        print(f"average: {run / 'averaged.pt'} is up to date")
        return
    newest = ckpt.load_checkpoint(epoch_paths[max(epoch_paths)])
    rows = _rated(experiment, data, newest, epoch_paths, pairs, sets)
    best = min(rows, key=lambda row: (row["mean"], row["epoch"], row["avg"]))
    chosen = passes(epoch_paths, best["epoch"], best["avg"])
    dev = {head: rates for head, rates in best["heads"].items() if head in chosen.trained}
    write_json(run / "select.json", {"sets": sets, "chosen": best, "rows": rows})
    with replacing(run / "select.md") as partial:
        partial.write_text(select_table(rows, sets, best))
    _write(run, newest, chosen, dev, {"selected": best})
    mark_done(run / "stage-average.json", inputs)


def _validated(experiment: Experiment, data: Path | None, sets: Sequence[str]) -> dict[str, Any]:
    """The inputs of the scores on some sets besides the weights, for a marker."""
    identities: Any
    if data is None or experiment.data.source == "lhotse":
        dev = dev_source(experiment)
        identities = dev.identity() if dev is not None else None
    else:
        identities = {name: [table_identity(data, name), audio_identity(data, name)] for name in sets}
    return {"sets": identities, "decode": to_dict(experiment.decode)}


def _rated(
    experiment: Experiment,
    data: Path,
    of: ckpt.Checkpoint,
    epoch_paths: dict[int, Path],
    pairs: Sequence[tuple[int, int]],
    sets: Sequence[str],
) -> list[dict[str, Any]]:
    """For each (epoch, avg) the head that is used, its WER on each set, their mean, and by head the means of
    WER and CER."""
    model = SpeechModel(of.model_config).to(choose_device("auto"))
    languages, text = of.model_config.languages, tuple(of.model_config.text_heads)
    validations: dict[str, Validate] = {}
    for name in sets:
        validate = dev_validation(experiment, data, of.tokenizer, languages, part=name, whole=True)
        if validate is None:
            raise MayaError(f"{data} has no {name} set to choose the average on: name the average with --avg")
        validations[name] = validate
    rows = []
    for epoch, avg in pairs:
        candidate = passes(epoch_paths, epoch, avg)
        model.load_state_dict(candidate.weights)
        results = {name: validate(model, candidate.trained) for name, validate in validations.items()}
        heads, head = mean_by_head(list(results.values()), text), experiment.decoding_head
        if text and head not in heads:
            head = TrainedHeads(heads=text, trained=tuple(heads), dev=heads).best().head
        rates = {name: result[f"{head}_wer" if text else "error"] for name, result in results.items()}
        mean = sum(rates.values()) / len(rates)
        row = {"epoch": epoch, "avg": avg, "head": head, "wer": rates, "mean": mean, "heads": heads}
        rows.append(row)
        shown = "  ".join(f"{name} {rate:.2%}" for name, rate in rates.items())
        print(f"average: epoch {epoch} avg {avg}: {f'{head} WER' if text else 'error'} {shown}", flush=True)
    return rows


def mean_by_head(results: Sequence[Mapping[str, float]], heads: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each text head the mean of its WER and of its CER over validations of the same weights."""
    by_head = [scores_by_head(result, heads) for result in results]
    return {
        head: {rate: sum(scores[head][rate] for scores in by_head) / len(by_head) for rate in ("wer", "cer")}
        for head in by_head[0]
    }


def choices(kept: Sequence[int], epochs: Sequence[int], avgs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The pairs (epoch, avg) to choose from, with a checkpoint at both ends; 0, the beginning, needs none."""
    last = kept[-1]
    for epoch in sorted(set(epochs) or {last, round(0.9 * last), round(0.8 * last)}):
        for avg in sorted(set(avgs) or {max(1, round(share * epoch)) for share in _SHARES}):
            if epoch in kept and (epoch - avg in kept or epoch == avg):
                yield epoch, avg


def dev_sets(data: Path) -> list[str]:
    """The dev sets of prepared data by name: the corpus's own (dev-clean, dev-other), or dev."""
    if not part_path(data, "dev").is_file():
        raise MayaError(
            f"{data} has no dev set to select an average by; name one with --epoch and --avg, without "
            "--select"
        )
    dev = set(Table.open(part_path(data, "dev")).ids)
    own = [p.stem for p in sorted(data.glob("*.parquet")) if p.stem not in ("train", "dev", _TEST)]
    return [name for name in own if dev.issuperset(Table.open(part_path(data, name)).ids)] or ["dev"]


def check_sets(data: Path, sets: Sequence[str]) -> None:
    """MayaError where weights would be chosen on utterances of the test set."""
    test = set(Table.open(part_path(data, _TEST)).ids)
    for name in sets:
        if not test.isdisjoint(Table.open(part_path(data, name)).ids):
            raise MayaError(
                f"{name} holds utterances of the test set, which cannot test what was chosen on them; choose "
                "on dev sets"
            )


def select_table(rows: Sequence[dict[str, Any]], sets: Sequence[str], best: dict[str, Any]) -> str:
    """Markdown: a row for each pair with its WER in %, the chosen one in bold."""
    lines = [f"| epoch | avg | {' | '.join(sets)} | mean |", "|---|---|" + "---|" * (len(sets) + 1)]
    for row in rows:
        rates = [f"{100 * value:.2f}" for value in (*(row["wer"][name] for name in sets), row["mean"])]
        cells = [str(row["epoch"]), str(row["avg"]), *rates]
        lines.append("| " + " | ".join(f"**{cell}**" if row is best else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def candidates(
    run: Path, checkpoints: list[tuple[int, Path]], last: ckpt.Checkpoint, ends: int = 1
) -> Iterator[Candidate]:
    """The candidates: the last weights, the best, the mean of the kept best, the EMA and, for each of the
    `ends` newest checkpoints, the means from each earlier one."""
    yield _candidate(f"last (step {last.step})", last)
    if (run / "best.pt").is_file():
        best = _undamaged(run / "best.pt")
        if best is not None and best.step != last.step:
            yield _candidate(f"best (step {best.step})", best)
    if (kept := ckpt.best_checkpoints(run))[1:]:
        yield _plain_mean(f"mean of the {len(kept)} best", len(kept), kept)
    if last.training is not None and "ema" in last.training:
        ema = RunningAverage()
        ema.load_state_dict(last.training["ema"])
        yield replace(_candidate(f"EMA (step {last.step})", last), weights=ema.weights(last.weights))
    for end_step, end_path in reversed(checkpoints[-ends:]):
        end = _undamaged(end_path, training=True)
        for start_step, start_path in reversed([pair for pair in checkpoints if pair[0] < end_step]):
            start = _undamaged(start_path, training=True) if end is not None else None
            if start is not None and end is not None and 0 < _running(start).count < _running(end).count:
                yield _mean(f"steps {start_step}–{end.step}", start, end)


def _undamaged(path: Path, *, training: bool = False) -> ckpt.Checkpoint | None:
    """A checkpoint, or None after it was said that it cannot be read."""
    try:
        return ckpt.load_checkpoint(path, training=training)
    except ckpt.Damaged as error:
        print(f"average: {error}; it is left out of the choice")
        return None


def stretch(checkpoints: list[tuple[int, Path]], step: int | None, avg: int) -> Candidate:
    """The mean over the `avg` steps up to `step`; both ends must have been kept."""
    paths = dict(checkpoints)
    end = checkpoints[-1][0] if step is None else step
    missing = [s for s in (end, end - avg) if s not in paths and s != 0]
    if missing or not 0 < avg <= end:
        raise MayaError(
            f"an average of {avg} steps up to step {end} needs the checkpoints of steps {end - avg} and "
            f"{end}; kept are those of {', '.join(str(s) for s in paths)} (train.keep says how many)"
        )
    start = ckpt.load_checkpoint(paths[end - avg], training=True) if end > avg else None
    return _mean(f"steps {end - avg}–{end}", start, ckpt.load_checkpoint(paths[end], training=True))


def passes(paths: dict[int, Path], epoch: int, avg: int) -> Candidate:
    """The mean over the last `avg` epochs up to `epoch`: icefall's --epoch E --avg A."""
    missing = [e for e in (epoch, epoch - avg) if e not in paths and e != 0]
    if missing or not 0 < avg <= epoch:
        kept = ", ".join(str(e) for e in paths) or "none"
        raise MayaError(
            f"an average of {avg} epochs up to epoch {epoch} needs the checkpoints of epochs {epoch - avg} "
            f"and {epoch}; kept are those of {kept} (train.epochs keeps them)"
        )
    start = ckpt.load_checkpoint(paths[epoch - avg], training=True) if epoch > avg else None
    end = ckpt.load_checkpoint(paths[epoch], training=True)
    return _mean(f"epochs {epoch - avg + 1}–{epoch}", start, end)


def _write(
    run: Path,
    of: ckpt.Checkpoint,
    chosen: Candidate,
    dev: dict[str, dict[str, float]],
    notes: dict[str, Any],
) -> None:
    """`run`/averaged.pt with the chosen weights of a model of this kind; dev: scores by head."""
    heads = notes_of(chosen.trained, chosen.steps, dev)
    ckpt.save_checkpoint(
        run / "averaged.pt",
        ckpt.Checkpoint(
            model_config=of.model_config,
            tokenizer=of.tokenizer,
            weights=chosen.weights,
            step=chosen.step,
            notes=of.notes | {"weights": chosen.name} | heads | notes,
        ),
    )
    print(f"average: {chosen.name} → {run / 'averaged.pt'}")


def _plain_mean(name: str, count: int, paths: list[tuple[int, Path]]) -> Candidate:
    """The mean of the weights of the last `count` files, each counting alike."""
    if not 0 < count <= len(paths):
        raise MayaError(
            f"{count} checkpoints cannot be averaged: {len(paths)} are kept (train.keep says how many)"
        )
    mean = RunningAverage()
    for _, path in paths[-count:]:
        loaded = ckpt.load_checkpoint(path)
        mean.update(loaded.weights)
    return replace(_candidate(name, loaded), weights=mean.weights(loaded.weights))


def _mean(over: str, start: ckpt.Checkpoint | None, end: ckpt.Checkpoint) -> Candidate:
    """The mean between two checkpoints."""
    between = average_between(_running(start) if start else None, _running(end), end.weights)
    return replace(_candidate(f"mean of {over}", end), weights=between)


def _candidate(name: str, checkpoint: ckpt.Checkpoint) -> Candidate:
    return Candidate(
        name=name, step=checkpoint.step, weights=checkpoint.weights, trained=trained_names(checkpoint),
        steps=noted_steps(checkpoint),
    )  # fmt: skip


def _running(checkpoint: ckpt.Checkpoint) -> RunningAverage:
    average = RunningAverage()
    if checkpoint.training is not None:
        average.load_state_dict(checkpoint.training["average"])
    return average
