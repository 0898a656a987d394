"""Whether a long run may begin: what would stop it hours or days later is looked at first."""

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
from maya.models.speech_model import SpeechModel, build_model, count_parameters
from maya.recipes.convert import open_checkpoint
from maya.recipes.experiment import Experiment
from maya.recipes.markers import content, is_done
from maya.recipes.tokenizer import tokenizer_inputs
from maya.recipes.train import drop_infeasible, shared_tokens
from maya.text.load import load_tokenizer
from maya.train.checkpoint import load_checkpoint, step_checkpoints, weights_for
from maya.train.resume import refuse_other_experiment, refuse_other_tokenizer, with_new_fields

WEIGHTS, TRAINING = 4, 20  # bytes a parameter: fp32; with Adam's two moments and the average in fp64
LOGS = 2e9  # bytes for metrics, TensorBoard, hypotheses and reports of a long run
BUSY = 0.1  # share of a GPU's memory that may be taken when a run begins
UNKNOWN = 0.005  # share of a language's characters that the tokenizer may not know
SAMPLED = 64  # audio files or objects that are looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is ready, and why not, or what it is."""

    topic: str
    ready: bool
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU as far as it matters; memory in bytes."""

    name: str
    free: int
    total: int
    bf16: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A run that someone means to start: its experiment, folders, GPUs a machine, and, where the data are not
    prepared yet, an object (s3://bucket/key) to try the storage with."""

    experiment: Experiment
    data: Path
    run: Path
    gpus: int
    storage: str = ""


def look(wanted: Wanted) -> list[Finding]:
    """Every finding; nothing is raised for what is missing, it is a finding. Writes nothing but the tokens
    beside the tokenizer that training would write."""
    checks: dict[str, Callable[[Wanted], Iterator[Finding | str]]] = {
        "disk": _disk,
        "gpus": _gpus,
        "tokenizer": _tokenizer,
        "plan": _plan,
        "checkpoint": _checkpoint,
        "storage": _storage,
    }
    found = []
    for topic, check in checks.items():
        try:
            for one in check(wanted):
                found.append(one if isinstance(one, Finding) else Finding(topic=topic, ready=True, text=one))
        except MayaError as e:
            found.append(Finding(topic=topic, ready=False, text=str(e)))
    return found


def _refused(topic: str, text: str) -> Finding:
    return Finding(topic=topic, ready=False, text=text)


def _disk(wanted: Wanted) -> Iterator[Finding | str]:
    there = next(p for p in (wanted.run, *wanted.run.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK):
        yield _refused("disk", f"{there} cannot be written to; choose another --run-dir")
        return
    parameters = count_parameters(_shape(wanted.experiment))
    # Beside those that are kept: one that is being written, best.pt, averaged.pt and one of these being made.
    needed = parameters * (TRAINING * (wanted.experiment.train.keep + 1) + WEIGHTS * 3) + LOGS
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:.0f} GB free at {there}, {needed / 1e9:.0f} GB needed for checkpoints and logs"
    if free < needed:
        yield _refused("disk", f"{text}; make room, or keep fewer with --train.keep")
    else:
        yield text


def find_gpus() -> list[Gpu]:
    """This machine's GPUs, as torch sees them."""
    found = []
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name, capability = torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)
        found.append(Gpu(name=name, free=free, total=total, bf16=capability >= (8, 0)))
    return found


def _gpus(wanted: Wanted) -> Iterator[Finding | str]:
    found = find_gpus()
    if len(found) < wanted.gpus:
        yield _refused("gpus", f"{len(found)} of {wanted.gpus} GPUs are there; look at nvidia-smi")
    for i, gpu in enumerate(found[: wanted.gpus]):
        what = f"GPU {i} ({gpu.name})"
        if gpu.free < (1 - BUSY) * gpu.total:
            used = (gpu.total - gpu.free) / 1e9
            yield _refused("gpus", f"{what} is in use: {used:.0f} of {gpu.total / 1e9:.0f} GB are taken")
        if wanted.experiment.train.precision == "bf16" and not gpu.bf16:
            yield _refused("gpus", f"{what} has no bf16; give --train.precision fp32")
    if len({gpu.name for gpu in found[: wanted.gpus]}) > 1:
        names = ", ".join(sorted({gpu.name for gpu in found}))
        yield _refused("gpus", f"the GPUs differ ({names}): each step would wait for the slowest")
    if wanted.gpus and len(found) >= wanted.gpus:
        yield f"{wanted.gpus} × {found[0].name}, {found[0].total / 1e9:.0f} GB"
    elif not wanted.gpus:
        yield "none asked for: the CPU"


def _tokenizer(wanted: Wanted) -> Iterator[Finding | str]:
    cfg, path = wanted.experiment.tokenizer, wanted.run / "tokenizer.model"
    if not path.is_file():
        raise MayaError(f"{path} is missing; run stage 2 (tokenizer)")
    made = load_tokenizer(path)
    if made.vocab_size != cfg.vocab_size:
        yield _refused("tokenizer", f"{path} has {made.vocab_size} pieces, {cfg.vocab_size} are asked for")
    inputs = tokenizer_inputs(wanted.experiment, wanted.data) | {"model": content(path)}
    if not is_done(wanted.run / "stage-tokenizer.json", inputs):
        yield _refused("tokenizer", f"{path} is of other data or options; run stage 2 (tokenizer) again")
    report = wanted.run / "tokenizer.json"
    shares = json.loads(report.read_text())["unknown_characters_of_dev"] if report.is_file() else {}
    for code, share in shares.items():
        if share > UNKNOWN:
            yield _refused(
                "tokenizer", f"{share:.1%} of the characters of {code} have no piece: see {report}"
            )
    yield f"{made.vocab_size} pieces"


def _plan(wanted: Wanted) -> Iterator[Finding | str]:
    exp = wanted.experiment
    table = Table.open(part_path(wanted.data, "train"))
    dev = set(Table.open(part_path(wanted.data, "dev")).codes("language")[1])
    tokenizer = load_tokenizer(wanted.run / "tokenizer.model")
    tokens = shared_tokens(wanted.run, table, tokenizer)
    model = with_vocabulary(exp.model, tokenizer.vocab_size, exp.languages)
    rows, dropped = drop_infeasible(table, tokens, model, max(exp.data.speed_perturb))
    utterances = Utterances.from_table(table, tokens, exp.languages, rows)
    heard = {exp.languages[i] for i in set(utterances.langs.tolist()) if i >= 0}
    for code in exp.languages:
        if code not in heard:
            yield _refused("plan", f"{wanted.data} has no training utterance in {code}; set languages=...")
        elif code not in dev:
            yield _refused("plan", f"{wanted.data} has no dev utterance in {code} to validate on")
    if len(dropped) > 0.01 * len(table):
        text = f"{len(dropped)} of {len(table)} training texts are too long for their audio: see stage 2"
        yield _refused("plan", text)
    world = max(1, wanted.gpus)
    plan = BatchPlan(utterances.durations, utterances.token_counts, utterances.langs, exp.data.plan,
                     world_size=world, speeds=exp.data.speed_perturb, ids=utterances.ids)  # fmt: skip
    batches = plan.num_batches(0)
    if batches < exp.train.accumulate:
        yield _refused("plan", f"an epoch has {batches} batches a rank, a step takes {exp.train.accumulate}")
        return
    hours, steps = float(utterances.durations.sum()) / 3600, batches / exp.train.accumulate
    yield (
        f"{len(utterances)} utterances, {hours:.1f} h in {len(heard)} languages, {steps:.0f} steps an epoch "
        f"on {world} rank(s), {exp.train.steps / steps:.1f} epochs in {exp.train.steps} steps"
    )


def _checkpoint(wanted: Wanted) -> Iterator[Finding | str]:
    exp, cfg = wanted.experiment, wanted.experiment.train
    begun = step_checkpoints(wanted.run)
    if begun:
        step, path = begun[-1]
        loaded = load_checkpoint(path, training=True)
        if loaded.training is None:
            raise MayaError(f"{path} holds weights only, training cannot continue from it; move it away")
        model = with_vocabulary(exp.model, loaded.tokenizer.vocab_size, exp.languages)
        if (tokenizer := wanted.run / "tokenizer.model").is_file():
            refuse_other_tokenizer(path, loaded.tokenizer, load_tokenizer(tokenizer))
        saved = with_new_fields(loaded.training["experiment"], type(exp))
        refuse_other_experiment(path, saved, to_dict(replace(exp, model=model)))
        yield f"{path}: the run continues at step {step}"
    elif cfg.init_from:
        fresh = _shape(wanted.experiment)
        taken = weights_for(fresh, Path(cfg.init_from), cfg.init_modules, open_checkpoint)
        count = sum(t.numel() for t in taken.values()) / 1e6
        yield f"{cfg.init_from} fits: {count:.1f} M values ({', '.join(cfg.init_modules)})"
    elif ENCODER in cfg.freeze:
        text = "train.freeze would freeze an encoder that is not trained; give train.init_from"
        yield _refused("checkpoint", text)
    else:
        yield "none: training begins with fresh weights"


def _storage(wanted: Wanted) -> Iterator[Finding | str]:
    table = part_path(wanted.data, "train")
    if wanted.storage:
        yield f"{wanted.storage}: {file_stamp(wanted.storage).size} bytes, readable"
        read_range(wanted.storage, 0, 1)
    if not table.is_file():
        if not wanted.storage:
            text = f"unknown: {table} is missing; run stage 1 (prepare), or name an object with --storage"
            yield _refused("storage", text)
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
        text = f"{len(missing)} of {len(rows)} recordings looked at cannot be read; the first: {missing[0]}"
        yield _refused("storage", text)
    else:
        where = f"{remote} of them in object storage" if remote else "all in files"
        yield f"{len(rows)} recordings looked at can be read, {where}"


def _shape(experiment: Experiment) -> SpeechModel:
    """The experiment's model without memory for its weights."""
    cfg = with_vocabulary(experiment.model, experiment.tokenizer.vocab_size, experiment.languages)
    with torch.device("meta"):
        return build_model(cfg)
