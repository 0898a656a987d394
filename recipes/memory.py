"""The memory cap of a run: measured once, by rank 0, and the same for all ranks and after every restart."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from maya.config import from_dict, to_dict
from maya.data.plan import MemoryConfig, PlanConfig
from maya.data.plan.caps import Caps
from maya.data.utterances import Utterances
from maya.errors import MayaError
from maya.recipes.experiment import Experiment
from maya.train.checkpoint import step_checkpoints
from maya.train.distributed import gather_objects, rank, world_size
from maya.train.memory_probe import with_memory


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
    seconds = float(utterances.durations.max()) / min(experiment.data.speed_perturb)
    tokens = int(utterances.token_counts.max())
    print(f"train: measuring memory for up to {seconds:.1f} s and {tokens} tokens", flush=True)
    measured = with_memory(
        plan, experiment.model, experiment.train, run / "memory", seconds=seconds, tokens=tokens,
        device=accelerator.device, bf16=accelerator.mixed_precision == "bf16", world_size=world_size(),
    )  # fmt: skip
    used.write_text(json.dumps(to_dict(measured.memory), indent=1) + "\n")
    assert measured.memory.max_bytes is not None
    most = int(Caps(measured).memory_room(seconds, tokens))
    print(f"train: memory: {measured.memory.max_bytes / 1e9:.2f} GB hold {most} of the longest utterances")
    return measured.memory
