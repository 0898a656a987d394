"""What training an experiment takes, before anything is started: size, work, memory, time, batches."""

import argparse
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maya.config import to_dict
from maya.data.plan import BatchPlan
from maya.data.plan.caps import Caps
from maya.data.report.page import write_run_page
from maya.data.table.table import Table, part_path
from maya.data.table.token_table import open_tokens, token_path
from maya.errors import MayaError
from maya.files import write_json
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.sizing import (
    Flops,
    Gpu,
    Training,
    TrainingMemory,
    count_frames,
    flops,
    gpu_named,
    is_checkpointed,
    largest_batch,
    memory,
    meta_model,
    parameters,
    with_checkpointing,
)
from maya.recipes.arguments import add_experiment, add_json
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.plan_text import plan_text
from maya.recipes.ready import LOGS, TRAINING, WEIGHTS
from maya.recipes.recorded import experiment_of
from maya.recipes.train import outside_limits, usable
from maya.text.load import load_tokenizer
from maya.train.sharding import sharding_wanted

_BATCHES = 2000  # of the data's plan, of which the memory is computed
_GB, _DAY = 1e9, 86400.0
_FLAC = 140_000 / 8  # bytes a second of 16 kHz speech, about 55 % of its samples
_TABLES = 400  # bytes of an utterance in the tables, with its findings
_SHARDS = 250  # bytes of an utterance while it is prepared: shards and measurements
_PREPARED = 700  # hours of audio that one core checks in an hour: Opus, utterances of 3 s
_MERGED = 20_000  # utterances a second that one core compares and writes


def arguments(p: argparse.ArgumentParser) -> None:
    text = "name of an experiment under egs/, such as mini, or a run folder"
    p.add_argument("name", nargs="?", help=text)
    add_experiment(p, required=False, default="NAME")
    p.add_argument("--gpu", default="h200", help="h200 (default), h100, a100-80, l40s, rtx4090, v100 ...")
    p.add_argument("--gpus", type=int, default=8, metavar="N", help="number of GPUs (default: 8)")
    p.add_argument("--memory-gb", type=float, metavar="GB", help="memory of each GPU, if not as published")
    text = "share of the GPU's peak rate that training reaches (default: 0.4)"
    p.add_argument("--utilisation", type=float, default=0.4, metavar="SHARE", help=text)
    text = "without --data: length of an utterance (default: 12)"
    p.add_argument("--seconds", type=float, default=12.0, help=text)
    text = "without --data: tokens in a second of speech (default: 4)"
    p.add_argument("--tokens-per-second", type=float, default=4.0, metavar="N", help=text)
    text = "hours of audio, for the time of one epoch, the disk and the preparation"
    p.add_argument("--hours", type=float, help=text)
    p.add_argument("--price", type=float, metavar="P", help="price of one GPU for an hour, for the cost")
    p.add_argument("--data", type=Path, help="the folder that `maya prepare` wrote: plan its batches")
    p.add_argument("--run-dir", type=Path, help="the run folder: use its tokenizer")
    add_json(p, "write everything as JSON, too")


def run(args: argparse.Namespace) -> None:
    if (args.name is None) == (args.experiment is None):
        raise MayaError("name the experiment once: by its file name alone, or with --experiment")
    setup = Setup(
        gpu=args.gpu, gpus=args.gpus, memory_gb=args.memory_gb, utilisation=args.utilisation,
        seconds=args.seconds, tokens_per_second=args.tokens_per_second, hours=args.hours, price=args.price,
    )  # fmt: skip
    name, folder = args.name or args.experiment, args.run_dir
    if args.experiment is None and (Path(name) / "config.json").is_file():
        experiment, folder = experiment_of(Path(name), None, args.overrides), folder or Path(name)
    else:
        experiment = load_experiment(name, args.overrides)
    plan(experiment, setup, data=args.data, run=folder, json_file=args.json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What it runs on, and what is assumed.

    memory_gb: in place of the GPU's. utilisation: share of its peak rate that training reaches.
    seconds, tokens_per_second: the utterance that stands for the data where there are none.
    hours: of audio, to say how long one pass takes. price: of one GPU for an hour, in any currency.
    """

    gpu: str = "h200"
    gpus: int = 8
    memory_gb: float | None = None
    utilisation: float = 0.4
    seconds: float = 12.0
    tokens_per_second: float = 4.0
    hours: float | None = None
    price: float | None = None


def plan(
    experiment: Experiment, setup: Setup, *, data: Path | None = None, run: Path | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Print what training takes, and return it; the weights of the model are never made.

    data: a prepared folder, whose batches are planned too; run: the folder of its tokenizer, without which
    tokens are estimated. json_file: gets all that is printed. Raises MayaError for an unknown GPU, numbers
    that make no sense, a language model as head, or where one utterance does not fit.
    """
    _check(setup)
    if placed := experiment.model.heads.keys() - experiment.model.without_places().heads.keys():
        raise MayaError(f"`maya plan` does not know the size of the head {placed.pop()}; remove this head")
    gpu = gpu_named(setup.gpu)
    cfg = _complete(experiment, run)
    report: dict[str, Any] = {"experiment": experiment.name, "setup": asdict(setup), "gpu": asdict(gpu)}
    batches = None
    if data is not None:
        batches = _batches(experiment, setup, data, run)
        setup = replace(setup, seconds=batches["mean_padded_seconds"])
        setup = replace(setup, tokens_per_second=batches["mean_most_tokens"] / setup.seconds)
        setup = replace(setup, hours=setup.hours or sum(batches["hours"].values()))
    allowed = (setup.memory_gb or gpu.memory_gb) * _GB * experiment.data.plan.memory.safety
    report |= _on_paper(experiment, cfg, setup, gpu, allowed)
    report["resources"] = _resources(experiment, setup, report)
    if batches is not None:
        training = _training(experiment, setup, gpu, sum(report["parameters"].values()))
        batches |= _memory_of_batches(batches.pop("shapes"), cfg, training, allowed)
        report["data"] = batches
    print(plan_text(report, setup, gpu, cfg))
    if json_file is not None:
        write_json(json_file, report | {"config": to_dict(experiment)})
    return report


def _training(experiment: Experiment, setup: Setup, gpu: Gpu, parameters_of: int) -> Training:
    hold = experiment.train.accumulate > 1 or setup.gpus > 1
    shards = setup.gpus if sharding_wanted(experiment.train, parameters_of) else 1
    return Training(cuda=True, bf16=gpu.precision == "bf16", hold_gradients=hold, shards=shards)


def _on_paper(
    experiment: Experiment, cfg: SpeechModelConfig, setup: Setup, gpu: Gpu, allowed: float
) -> dict[str, Any]:
    """All that follows from sizes. allowed: bytes of a GPU that training may take."""
    model = meta_model(cfg)
    training = _training(experiment, setup, gpu, sum(parameters(model).values()))
    seconds, tokens = setup.seconds, max(1, round(setup.seconds * setup.tokens_per_second))
    frames = count_frames(cfg, seconds)[1]
    largest = largest_batch(memory(cfg, training, model), allowed, frames, tokens, seconds=seconds)
    batch = max(1, min(largest, int(Caps(experiment.data.plan).size(seconds, tokens))))
    work = flops(cfg, seconds, tokens, batch=batch)
    sides: dict[str, Any] = {}
    for name, on in (("checkpointing", True), ("no checkpointing", False)):
        side = memory(with_checkpointing(cfg, on), training, model)
        sides[name] = _memory_at(side, batch, frames, tokens, allowed)
    used = "checkpointing" if is_checkpointed(cfg) else "no checkpointing"
    return {
        "parameters": parameters(model),
        "flops_per_audio_second": {
            kind: {name: value / seconds for name, value in getattr(work, kind).items()}
            for kind in ("forward", "training")
        },
        "batch": {"seconds": seconds, "tokens": tokens, "frames": frames, "utterances": batch},
        "memory": sides | {"used": used, "shards": training.shards},
        "largest_batch": {"utterances": largest, "padded_seconds": largest * seconds},
        "time": _time(experiment, setup, gpu, work, batch),
    }


def _check(setup: Setup) -> None:
    numbers = {k: v for k, v in asdict(setup).items() if isinstance(v, (int, float))}
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise MayaError(f"--{name.replace('_', '-')} must be a positive number, not {value:g}")
    if setup.utilisation > 1:
        raise MayaError(f"--utilisation is a share of the peak rate, at most 1, not {setup.utilisation:g}")


def _complete(experiment: Experiment, run: Path | None) -> SpeechModelConfig:
    """The model with the vocabulary of the run's tokenizer, or of the one that would be trained."""
    vocab = experiment.model.vocab_size or experiment.tokenizer.vocab_size
    if run is not None and (run / "tokenizer.model").is_file():
        vocab = load_tokenizer(run / "tokenizer.model").vocab_size
    return with_vocabulary(experiment.model, vocab, experiment.languages)


def _memory_at(side: TrainingMemory, batch: int, frames: int, tokens: int, allowed: float) -> dict[str, Any]:
    """Bytes by component, and the moment at which they are most."""
    peaks = {name: terms.bytes(batch, frames, tokens) for name, terms in side.peaks().items()}
    highest = max(peaks, key=lambda name: peaks[name])

    def at_batch(parts: dict[str, Any]) -> dict[str, float]:
        return {name: terms.bytes(batch, frames, tokens) for name, terms in parts.items()}

    states, kept = at_batch(side.states), at_batch(side.kept)
    rest = peaks[highest] - sum(states.values()) - sum(kept.values())
    return {
        "states": states,
        "kept": kept,
        "highest_at": highest,
        "beside_kept": rest,
        "total": peaks[highest],
        "host": at_batch(side.host),
        "largest_batch": side.room(allowed, frames, tokens),
    }


def _time(experiment: Experiment, setup: Setup, gpu: Gpu, work: Flops, batch: int) -> dict[str, float]:
    rate = gpu.tflops * 1e12 * setup.utilisation
    step = experiment.train.accumulate * batch * work.total / rate
    audio = experiment.train.accumulate * batch * setup.gpus * setup.seconds  # padded seconds of a step
    per_day = audio / step * _DAY / 3600
    times = {
        "step_seconds": step,
        "padded_seconds_per_step": audio,
        "hours_per_day": per_day,
        "steps": experiment.train.steps,
        "days_for_steps": experiment.train.steps * step / _DAY,
        "hours_in_steps": experiment.train.steps * audio / 3600,
    }
    if setup.hours:
        times |= {"hours": setup.hours, "days_per_pass": setup.hours / per_day}
    return times


def _resources(experiment: Experiment, setup: Setup, report: dict[str, Any]) -> dict[str, float]:
    """Disk, preparation and GPU hours, with the constants above: how much to order before it begins."""
    parameters_of = sum(report["parameters"].values())
    gpu_hours = 24 * setup.gpus * report["time"]["days_for_steps"]
    facts = {
        "checkpoints_gb": (
            parameters_of * (TRAINING * (experiment.train.keep + 1) + WEIGHTS * 3) + LOGS
        ) / _GB,
        "gpu_hours": gpu_hours,
    }  # fmt: skip
    if setup.price:
        facts["price"] = setup.price * gpu_hours
    if setup.hours:
        rows = setup.hours * 3600 / setup.seconds
        facts |= {
            "audio_gb": setup.hours * 3600 * _FLAC / _GB,
            "utterances": rows,
            "tables_gb": rows * _TABLES / _GB,
            "preparing_gb": rows * _SHARDS / _GB,
            "preparing_core_hours": setup.hours / _PREPARED,
            "merging_hours": rows / _MERGED / 3600,
        }
    return facts


class _Columns(NamedTuple):
    """See `maya.data.plan.speaker_rows.PlannedUtterances`."""

    ids: list[str]
    durations: NDArray[np.float64]
    langs: NDArray[np.int32]
    token_counts: NDArray[np.integer]
    speakers: NDArray[np.int32]


def _batches(experiment: Experiment, setup: Setup, data: Path, run: Path | None) -> dict[str, Any]:
    """The plan of the first epoch of prepared data over all GPUs; `run` shows it on its page."""
    table = Table.open(part_path(data, "train"))
    codes, languages = table.codes("language")
    tokens, rows, source = _tokens(table, experiment, setup, run)
    if not len(rows):
        limits = "data.min_seconds, data.max_seconds and the frames that CTC needs"
        raise MayaError(f"{table.path}: training would leave out every utterance; see {limits}")
    durations, tokens = table.durations[rows], tokens[rows]
    ids, speakers = [table.ids[row] for row in rows.tolist()], table.labels.codes("speaker")[rows]
    columns = _Columns(ids, durations, codes[rows], tokens, speakers)
    plan = BatchPlan.of(
        columns, experiment.data.plan, world_size=setup.gpus, speeds=experiment.data.speed_perturb
    )
    stats = plan.stats(0)
    facts = stats.as_dict(languages)
    if run is not None and run.is_dir():
        write_json(run / "plan.json", facts)
        write_run_page(data, run)
    shapes = []
    for index in np.linspace(0, plan.num_batches(0) - 1, min(_BATCHES, plan.num_batches(0))).astype(int):
        batch, speeds = plan.batch(0, int(index)), plan.batch_speeds(0, int(index))
        played = durations[batch] / np.asarray(speeds)
        shapes.append((len(batch), float(played.max()), int(tokens[batch].max())))
    sizes = np.array([s[0] for s in shapes], np.float64)
    return {
        "tokens_from": source,
        "utterances": len(rows),
        "left_out": len(table) - len(rows),
        "steps_per_epoch": stats.steps,
        "batches_per_epoch": stats.batches,
        "padding": 1 - stats.efficiency,
        "cost_imbalance_median": stats.imbalance_median,
        "cost_imbalance_p95": stats.imbalance_p95,
        "over_cap": stats.over_cap,
        "max_utterances": stats.max_utterances,
        "max_padded_seconds": stats.max_padded_seconds,
        "mean_padded_seconds": stats.padded_seconds / stats.utterances,
        "mean_most_tokens": float((sizes * [s[2] for s in shapes]).sum() / sizes.sum()),
        **{name: facts[name] for name in ("hours", "repeated", "skipped")},
        "shapes": shapes,
    }


def _tokens(
    table: Table, experiment: Experiment, setup: Setup, run: Path | None
) -> tuple[NDArray[np.integer], NDArray[np.int64], str]:
    """Tokens of each row, the rows that training uses, and where the numbers are from. Without a tokenizer
    the rows are those within `data.min_seconds` and `max_seconds`."""
    if run is not None and (run / "tokenizer.model").is_file():
        tokens = open_tokens(token_path(run, "train"), table, load_tokenizer(run / "tokenizer.model"))
        rows, _ = usable(table, tokens, experiment)
        return tokens.counts, np.arange(len(table)) if rows is None else rows, f"the tokenizer of {run}"
    estimated = np.ceil(table.durations * setup.tokens_per_second).astype(np.int32)
    source = f"{setup.tokens_per_second:g} per second, an estimate: --run-dir names a tokenizer's"
    return estimated, np.flatnonzero(~outside_limits(table, experiment.data)), source


def _memory_of_batches(
    shapes: list[tuple[int, float, int]], cfg: SpeechModelConfig, training: Training, allowed: float
) -> dict[str, Any]:
    """The memory that the plan's batches take on paper."""
    paper = memory(cfg, training)
    taken = np.array([paper.bytes(n, count_frames(cfg, s)[1], u) for n, s, u in shapes])
    return {
        "memory_median_gb": float(np.median(taken)) / _GB,
        "memory_max_gb": float(taken.max()) / _GB,
        "batches_too_large": float((taken > allowed).mean()),
    }
