"""Whether a long run can start: checks of the disk, GPUs, tokenizer, plan, checkpoint and storage.

Each would otherwise stop the run hours or days later.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from maya.audio.byte_ranges import file_stamp, read_range
from maya.config import to_dict
from maya.data.plan import BatchPlan
from maya.data.table.table import Table, part_path
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.models.config import ENCODER, with_vocabulary
from maya.models.sizing import meta_model
from maya.models.speech_model import SpeechModel, count_parameters
from maya.recipes.aliases import add_aliases
from maya.recipes.arguments import COUNT, add_experiment
from maya.recipes.convert import open_checkpoint
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.markers import content, is_done
from maya.recipes.tokenizer import tokenizer_inputs
from maya.recipes.train import check_labels, drop_infeasible, shared_tokens, usable
from maya.storage.check import check_storage
from maya.storage.s3 import Place, connect
from maya.text.load import load_tokenizer
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints, weights_for
from maya.train.checkpoints.resume import refuse_other_experiment, refuse_other_tokenizer, with_new_fields
from maya.train.config import check as check_options

WEIGHTS, TRAINING = 4, 20  # bytes a parameter: fp32; with Adam's two moments and the average in fp64
LOGS = 2e9  # bytes: metrics, TensorBoard, hypotheses and reports of a long run
BUSY = 0.1  # share of a GPU's memory that may be in use when a run starts
UNKNOWN = 0.005  # share of a language's characters that the tokenizer may not know
SAMPLED = 64  # recordings that are tested


def arguments(p: argparse.ArgumentParser) -> None:
    add_experiment(p)
    add_aliases(p)
    p.add_argument("--data", type=Path, required=True, help="the folder that `maya prepare` wrote")
    p.add_argument("--run-dir", type=Path, required=True, help="the run folder")
    text = "GPUs of this machine that the run will use; 0: the CPU (default: 8)"
    p.add_argument("--gpus", type=COUNT, default=8, metavar="N", help=text)
    p.add_argument("--storage", default="", help="an object (s3://bucket/key) to test the storage with")
    p.add_argument("--to", default="", metavar="URL", help="the storage (s3://bucket/folder) of `maya watch`")


def run(args: argparse.Namespace) -> int:
    try:
        experiment = load_experiment(args.experiment, args.overrides)
        if experiment.data.source == "lhotse":
            raise MayaError("`maya ready` checks prepared data, and data.source=lhotse trains without them")
        planned = Planned(experiment=experiment, data=args.data, run=args.run_dir, gpus=args.gpus,
                          storage=args.storage, upload=args.to)  # fmt: skip
        results = checks(planned)
    except MayaError as e:
        results = [_failed("experiment", str(e))]
    for result in results:
        print(f"{'ready    ' if result.ready else 'NOT READY'}  {result.topic:<10}  {result.text}")
    failed = sum(not result.ready for result in results)
    print(f"ready: {failed} check(s) failed" if failed else "ready: all checks passed")
    return 1 if failed else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadinessCheck:
    """The result of one check. text: the reason if it failed, else a description."""

    topic: str
    ready: bool
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuStatus:
    """One GPU as far as it matters; memory in bytes."""

    name: str
    free: int
    total: int
    bf16: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A run that is to start. gpus: number on this machine; storage: an object (s3://bucket/key) to test the
    storage with, while the data are not prepared yet; upload: where the watcher brings checkpoints, if it
    does."""

    experiment: Experiment
    data: Path
    run: Path
    gpus: int
    storage: str = ""
    upload: str = ""


def checks(planned: Planned) -> list[ReadinessCheck]:
    """All results. A failure is a result, nothing is raised. The only file written is the token table beside
    the tokenizer, which training would write."""
    functions: dict[str, Callable[[Planned], Iterator[ReadinessCheck | str]]] = {
        "disk": _disk,
        "gpus": _gpus,
        "tokenizer": _tokenizer,
        "plan": _plan,
        "checkpoint": _checkpoint,
        "storage": _storage,
        "upload": _upload,
    }
    results = []
    for topic, check in functions.items():
        try:
            for result in check(planned):
                if isinstance(result, str):
                    result = ReadinessCheck(topic=topic, ready=True, text=result)  # noqa: PLW2901
                results.append(result)
        except MayaError as e:
            results.append(_failed(topic, str(e)))
    return results


def _failed(topic: str, text: str) -> ReadinessCheck:
    return ReadinessCheck(topic=topic, ready=False, text=text)


def _disk(planned: Planned) -> Iterator[ReadinessCheck | str]:
    folder = next(p for p in (planned.run, *planned.run.absolute().parents) if p.exists())
    if not os.access(folder, os.W_OK):
        yield _failed("disk", f"{folder} cannot be written to; choose another --run-dir")
        return
    parameters = count_parameters(_shape(planned.experiment))
    # Besides the kept ones: one that is being written, best.pt, averaged.pt and one of these being written.
    needed = parameters * (TRAINING * (planned.experiment.train.keep + 1) + WEIGHTS * 3) + LOGS
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.0f} GB free at {folder}, {needed / 1e9:.0f} GB needed for checkpoints and logs"
    if free < needed:
        yield _failed("disk", f"{text}; make room, or keep fewer with --train.keep")
    else:
        yield text


def find_gpus() -> list[GpuStatus]:
    """This machine's GPUs, as torch sees them."""
    gpus = []
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name, capability = torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)
        gpus.append(GpuStatus(name=name, free=free, total=total, bf16=capability >= (8, 0)))
    return gpus


def _gpus(planned: Planned) -> Iterator[ReadinessCheck | str]:
    gpus = find_gpus()
    if len(gpus) < planned.gpus:
        yield _failed("gpus", f"{len(gpus)} of {planned.gpus} GPUs exist; check nvidia-smi")
    for i, gpu in enumerate(gpus[: planned.gpus]):
        what = f"GPU {i} ({gpu.name})"
        if gpu.free < (1 - BUSY) * gpu.total:
            used = (gpu.total - gpu.free) / 1e9
            yield _failed("gpus", f"{what} is in use: {used:.0f} of {gpu.total / 1e9:.0f} GB are taken")
        if planned.experiment.train.precision == "bf16" and not gpu.bf16:
            yield _failed("gpus", f"{what} has no bf16; give --train.precision fp32")
    if len({gpu.name for gpu in gpus[: planned.gpus]}) > 1:
        names = ", ".join(sorted({gpu.name for gpu in gpus}))
        yield _failed("gpus", f"the GPUs differ ({names}): each step would wait for the slowest")
    if planned.gpus and len(gpus) >= planned.gpus:
        yield f"{planned.gpus} × {gpus[0].name}, {gpus[0].total / 1e9:.0f} GB"
    elif not planned.gpus:
        yield "none: the CPU"


def _tokenizer(planned: Planned) -> Iterator[ReadinessCheck | str]:
    cfg, path = planned.experiment.tokenizer, planned.run / "tokenizer.model"
    if not path.is_file():
        raise MayaError(f"{path} is missing; run stage 2 (tokenizer)")
    made, brought = load_tokenizer(path), planned.experiment.model.tokenizer()
    if brought is None and made.vocab_size != cfg.vocab_size:
        yield _failed(
            "tokenizer", f"{path} has {made.vocab_size} pieces; tokenizer.vocab_size is {cfg.vocab_size}"
        )
    inputs = tokenizer_inputs(planned.experiment, planned.data, brought) | {"model": content(path)}
    if not is_done(planned.run / "stage-tokenizer.json", inputs):
        yield _failed("tokenizer", f"{path} is of other data or options; run stage 2 (tokenizer) again")
    report = planned.run / "tokenizer.json"
    shares = json.loads(report.read_text())["unknown_characters_of_dev"] if report.is_file() else {}
    for code, share in shares.items():
        if share > UNKNOWN:
            yield _failed("tokenizer", f"{share:.1%} of the characters of {code} have no piece; see {report}")
    yield f"{made.vocab_size} pieces"


def _plan(planned: Planned) -> Iterator[ReadinessCheck | str]:
    exp = planned.experiment
    table = Table.open(part_path(planned.data, "train"))
    dev = set(Table.open(part_path(planned.data, "dev")).codes("language")[1])
    tokenizer = load_tokenizer(planned.run / "tokenizer.model")
    tokens = shared_tokens(planned.run, table, tokenizer)
    model = with_vocabulary(exp.model, tokenizer.vocab_size, exp.languages)
    check_labels(model, table)
    _, dropped = drop_infeasible(table, tokens, model, max(exp.data.speed_perturb))
    rows, _ = usable(table, tokens, replace(exp, model=model))
    if rows is not None and not len(rows):
        raise MayaError("every training utterance is left out; see data.min_seconds and data.max_seconds")
    utterances = Utterances.from_table(table, tokens, exp.languages, rows)
    languages = {exp.languages[i] for i in set(utterances.langs.tolist()) if i >= 0}
    for code in exp.languages:
        if code not in languages:
            yield _failed("plan", f"{planned.data} has no training utterance in {code}; set languages=...")
        elif code not in dev:
            yield _failed("plan", f"{planned.data} has no dev utterance in {code} to validate on")
    if len(dropped) > 0.01 * len(table):
        text = f"{len(dropped)} of {len(table)} training texts are too long for their audio: see stage 2"
        yield _failed("plan", text)
    world = max(1, planned.gpus)
    plan = BatchPlan.of(utterances, exp.data.plan, world_size=world, speeds=exp.data.speed_perturb)
    batches = plan.num_batches(0)
    if batches < exp.train.accumulate:
        yield _failed("plan", f"an epoch has {batches} batches a rank, a step takes {exp.train.accumulate}")
        return
    hours, steps = float(utterances.durations.sum()) / 3600, batches / exp.train.accumulate
    yield (
        f"{len(utterances)} utterances, {hours:.1f} h in {len(languages)} languages, {steps:.0f} steps an "
        f"epoch on {world} rank(s), {exp.train.steps / steps:.1f} epochs in {exp.train.steps} steps"
    )


def _checkpoint(planned: Planned) -> Iterator[ReadinessCheck | str]:
    check_options(planned.experiment.train, planned.experiment.model)
    exp, cfg = planned.experiment, planned.experiment.train
    begun = step_checkpoints(planned.run)
    if begun:
        step, path = begun[-1]
        loaded = load_checkpoint(path, training=True)
        if loaded.training is None:
            raise MayaError(f"{path} holds weights only, training cannot continue from it; move it away")
        model = with_vocabulary(exp.model, loaded.tokenizer.vocab_size, exp.languages)
        if (tokenizer := planned.run / "tokenizer.model").is_file():
            refuse_other_tokenizer(path, loaded.tokenizer, load_tokenizer(tokenizer))
        saved = with_new_fields(loaded.training["experiment"], type(exp))
        refuse_other_experiment(path, saved, to_dict(replace(exp, model=model)))
        yield f"{path}: the run continues at step {step}"
    elif cfg.init_from:
        fresh = _shape(planned.experiment)
        parts = [part for part in cfg.init_modules if part not in exp.model.heads or part in fresh.heads]
        taken = weights_for(fresh, Path(cfg.init_from), parts, open_checkpoint)
        count = sum(t.numel() for t in taken.values()) / 1e6
        yield f"{cfg.init_from} fits: {count:.1f} M values ({', '.join(cfg.init_modules)})"
    elif ENCODER in cfg.freeze:
        text = "train.freeze would freeze an encoder that is not trained; give train.init_from"
        yield _failed("checkpoint", text)
    else:
        yield "none: training begins with fresh weights"


def _storage(planned: Planned) -> Iterator[ReadinessCheck | str]:
    table = part_path(planned.data, "train")
    if planned.storage:
        yield f"{planned.storage}: {file_stamp(planned.storage).size} bytes, readable"
        read_range(planned.storage, 0, 1)
    if not table.is_file():
        if not planned.storage:
            text = f"unknown: {table} is missing; run stage 1 (prepare), or name an object with --storage"
            yield _failed("storage", text)
        return
    entries = Table.open(table)
    count = len(entries)
    rows = sorted({round(i * (count - 1) / max(1, SAMPLED - 1)) for i in range(min(count, SAMPLED))})
    missing, remote = [], 0
    for entry in entries.entries(rows):
        remote += entry.path.startswith("s3://")
        try:
            read_range(entry.path, entry.offset or 0, 1, None)
        except MayaError as e:
            missing.append(str(e))
    if missing:
        text = f"{len(missing)} of {len(rows)} tested recordings cannot be read; the first: {missing[0]}"
        yield _failed("storage", text)
    else:
        where = f"{remote} of them in object storage" if remote else "all in files"
        yield f"{len(rows)} tested recordings can be read, {where}"


def _upload(planned: Planned) -> Iterator[ReadinessCheck | str]:
    if not planned.upload:
        return
    place = Place.of(planned.upload)
    results = list(check_storage(connect(attempts=2, read_seconds=20), place))
    for result in results:
        if not result.passed:
            yield _failed("upload", f"{place}, {result.topic}: {result.text}")
            return
    size = count_parameters(_shape(planned.experiment)) * TRAINING
    yield f"{place} can be used; a training checkpoint has {size / 1e9:.1f} GB"


def _shape(experiment: Experiment) -> SpeechModel:
    """The experiment's model without memory for its weights, and without language models as heads."""
    model = experiment.model.without_places()
    return meta_model(with_vocabulary(model, experiment.tokenizer.vocab_size, experiment.languages))
