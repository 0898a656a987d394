"""The memory cap of a run: measured once, by rank 0, and the same for all ranks and after every restart. And
the advice after a step that ran out of memory."""

import gc
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from maya.config import from_dict, to_dict
from maya.data.plan import MemoryConfig, PlanConfig
from maya.data.plan.caps import Caps
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.files import write_json
from maya.models.sizing import meta_model, parameters
from maya.recipes.experiment import Experiment
from maya.recipes.experiment_file import import_recorded
from maya.train.checkpoints.checkpoint import step_checkpoints
from maya.train.distributed import gather_objects, rank, world_size
from maya.train.failure import OutOfMemory, smaller_batches
from maya.train.memory.probe import with_memory
from maya.train.memory.steps import Order
from maya.train.sharding import sharding_wanted


def plan_within_memory(
    experiment: Experiment, utterances: Utterances, run: Path, accelerator: Accelerator
) -> PlanConfig:
    """The experiment's plan with the cap that `data.plan.memory.limit` asks for.

    What was measured lies in `run`/memory, the cap in use in `run`/memory.json: a run that has checkpoints
    keeps it, on whatever device it goes on, because its place in the data is a place in this very plan.
    Raises MayaError, on all ranks, where rank 0 could not measure or one utterance does not fit.
    """
    plan = experiment.data.plan
    if plan.memory.limit == "off":
        return plan
    outcome: dict[str, Any] | str = ""
    if rank() == 0:
        try:
            outcome = to_dict(_cap(experiment, utterances, run, accelerator))
        except MayaError as e:
            outcome = str(e)
    outcome = gather_objects(outcome)[0]
    if isinstance(outcome, str):
        raise MayaError(outcome)
    return replace(plan, memory=from_dict(MemoryConfig, outcome))


def _cap(experiment: Experiment, utterances: Utterances, run: Path, accelerator: Accelerator) -> MemoryConfig:
    plan, used = experiment.data.plan, run / "memory.json"
    if used.is_file() and step_checkpoints(run):
        try:
            return from_dict(MemoryConfig, json.loads(used.read_text()))
        except (ValueError, TypeError) as e:
            raise MayaError(f"{used} is damaged; restore it, or give the run a new --name") from e
    measured, seconds, tokens = _measured(experiment, plan, utterances, run, accelerator)
    write_json(used, to_dict(measured.memory))
    assert measured.memory.max_bytes is not None
    most = int(Caps(measured).memory_room(seconds, tokens))
    print(f"train: memory: {measured.memory.max_bytes / 1e9:.2f} GB hold {most} of the longest utterances")
    return measured.memory


def _measured(
    experiment: Experiment, plan: PlanConfig, utterances: Utterances, run: Path, accelerator: Accelerator
) -> tuple[PlanConfig, float, int]:
    """The plan with what was measured, and the longest utterance as it is played, and the most tokens."""
    seconds = float(utterances.durations.max()) / min(experiment.data.speed_perturb)
    tokens = int(utterances.token_counts.max())
    print(f"train: measuring memory for up to {seconds:.1f} s and {tokens} tokens", flush=True)
    if world_size() > 1 and sharding_wanted(
        experiment.train, sum(parameters(meta_model(experiment.model)).values())
    ):
        print("train: memory is measured without FSDP2, in which each GPU holds less: the cap is low")
    bf16 = accelerator.mixed_precision == "bf16"
    order = Order.of(
        experiment.model, experiment.train, accelerator.device, bf16=bf16, world_size=world_size(),
        own_code=(f"{import_recorded.__module__}:{import_recorded.__name__}", str(run)),
    )  # fmt: skip
    return with_memory(plan, order, run / "memory", seconds=seconds, tokens=tokens), seconds, tokens


def advice(
    experiment: Experiment, utterances: Utterances, run: Path, accelerator: Accelerator, error: OutOfMemory
) -> str:
    """The sentence of an OutOfMemory; on a GPU with the batch that fits, measured now, where that can be.

    The model must be gone from the device: nobody may hold it, or the error's traceback, any more.
    """
    reason = ""
    if step_checkpoints(run):
        reason = (
            "; its checkpoints belong to the plan as it was: with another, give the run a --name of its own"
        )
    plan = experiment.data.plan
    if accelerator.device.type != "cuda" or plan.memory.limit != "off":
        return f"{error}{reason}"
    gc.collect()
    torch.cuda.empty_cache()
    try:
        auto = replace(plan, memory=replace(plan.memory, limit="auto"))
        measured, _, _ = _measured(experiment, auto, utterances, run, accelerator)
    except MayaError as why:  # as a rule that one utterance alone does not fit
        return f"{error}; measured since: {why}{reason}"
    cap, fits = plan.max_seconds or error.padded_seconds, fitting_seconds(measured, experiment, utterances)
    if fits >= cap:
        return (
            f"{error}; by itself, as measured since, such a batch fits: is something else on the GPU?{reason}"
        )
    options = smaller_batches(cap, experiment.train.accumulate, fits)
    return f"{error.batch}; {fits:.0f} s fit, as measured since: train with {options}{reason}"


def fitting_seconds(measured: PlanConfig, experiment: Experiment, utterances: Utterances) -> float:
    """The largest `max_seconds` with which all batches of these utterances fit into what was measured."""
    seconds = utterances.durations / min(experiment.data.speed_perturb)
    room = Caps(measured).memory_room(seconds, utterances.token_counts)
    bound = room < (measured.max_utterances or math.inf)  # of the others, that cap holds first
    return float(np.min(np.maximum(room, 1) * seconds, initial=math.inf, where=bound))
