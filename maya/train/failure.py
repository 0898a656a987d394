"""Steps that fail: a loss or gradient that is not a number, or too little memory. The former's batches are
kept, so that `maya diagnose RUN` can repeat the step."""

import logging
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maya.config import leaves
from maya.data.loading.batch import Batch
from maya.errors import MayaError
from maya.files import replacing, write_json
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints.resume import STOPPED_AT
from maya.train.checkpoints.state import Run, State
from maya.train.config import TrainConfig
from maya.train.distributed import all_reduce_sum, barrier, rank, world_size

log = logging.getLogger(__name__)

FOLDER, MODEL, FORMAT = "not-a-number", "model.pt", "maya-not-a-number-1"
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "ALLOC_FAILED",
    "could not create a primitive",
)


@dataclass(kw_only=True, slots=True)
class Tally:
    """A batch of a step, the random states before its forward pass, and its losses (B,).

    random: the state of torch's generator on the CPU, and of the GPU's where there is one. omega: that of the
    generator that the model is given.
    """

    batch: Batch
    random: list[Tensor]
    omega: Tensor
    losses: Tensor

    @classmethod
    def before(cls, batch: Batch, generator: torch.Generator, device: torch.device) -> "Tally":
        """Of a batch that is about to be trained on."""
        return cls(
            batch=batch, random=random_state(device), omega=generator.get_state(), losses=torch.zeros(0)
        )


class NotFinite(MayaError):
    """Losses or gradients that are not numbers. what: which of them; scale: of the loss in that step."""

    def __init__(self, sentence: str, what: str, tallies: list[Tally], scale: float) -> None:
        super().__init__(sentence)
        self.what, self.tallies, self.scale = what, tallies, scale


class OutOfMemory(MayaError):
    """A step that ran out of memory. batch: a clause on its largest batch. padded_seconds: of that batch."""

    def __init__(self, group: list[Batch], step: int, experiment: Any, device: torch.device) -> None:
        worst = max(group, key=lambda b: b.audio.numel())
        seconds = worst.audio.shape[1] / worst.sample_rate
        self.padded_seconds = worst.audio.numel() / worst.sample_rate
        on = f" on rank {rank()}" if world_size() > 1 else ""
        of = f" (the largest of {len(group)} accumulated ones)" if len(group) > 1 else ""
        utterances = f"{worst.size} utterance" + "s" * (worst.size > 1)
        self.batch = (
            f"out of memory at step {step}{on}, with a batch of {utterances} × {seconds:.1f} s, "
            f"{worst.tokens.shape[1]} tokens{of}"
        )
        if worst.size == 1:
            off = dict(leaves(experiment.model)).get("encoder.activation_checkpointing") is False
            super().__init__(
                f"{self.batch}: {worst.ids[0]!r} cannot be divided; leave such utterances out with "
                "data.max_seconds" + (", or set model.encoder.activation_checkpointing=true" if off else "")
            )
            return
        plan, cuda = experiment.data.plan, device.type == "cuda"
        limit = f"data.plan.memory.limit={'auto' if cuda else 'GB'}, which measures first what fits"
        if plan.memory.limit != "off":
            limit = f"a data.plan.memory.safety below {plan.memory.safety:g}"
        half = 0.55 * self.padded_seconds  # a batch seldom reaches its cap
        options = smaller_batches(plan.max_seconds or self.padded_seconds, experiment.train.accumulate, half)
        super().__init__(f"{self.batch}; halve it with {options}, or give {limit}")


def smaller_batches(max_seconds: float, accumulate: int, fits: float) -> str:
    """The options that make batches of at most `fits` seconds, and as much audio a step as there was, with
    what they keep."""
    parts = max(1, math.ceil(max_seconds / fits - 1e-6))
    cap = math.floor(10 * max_seconds / parts + 1e-6) / 10
    processes = f" × {world_size()} processes" if world_size() > 1 else ""
    return (
        f"data.plan.max_seconds={cap:g} train.accumulate={accumulate * parts} (still "
        f"{max_seconds * accumulate * world_size():.0f} s of audio a step: {cap:g} × {accumulate * parts}"
        f"{processes})"
    )


@dataclass(kw_only=True, slots=True)
class Failure:
    """The facts about a failed step that one rank keeps. The weights of heads follow from `step`."""

    step: int
    what: str  # "loss" or "gradient"
    rank: int
    device: str  # its type
    bf16: bool
    scale: float  # of the loss
    batch_count: float  # see maya.encoders.zipformer.regularizers
    frozen: list[str]  # parts
    tallies: list[Tally]


def random_state(device: torch.device) -> list[Tensor]:
    """Of the generators that a forward pass draws from. Waits for nothing."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def restore_random(states: list[Tensor], device: torch.device) -> None:
    """The reverse; a GPU's state is of no use on a CPU."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def stop_unless_finite(
    tallies: list[Tally], norm: Tensor, step: int, run_dir: Path, device: torch.device, scale: float
) -> tuple[int, float]:
    """Name the utterances that gave no usable loss; return how many of all ranks were infeasible, and the
    gradients' norm as a number. What has to be read from the device is read at once.

    An infinite loss means a text its audio cannot carry: the row had no gradient and goes into
    infeasible.txt. A loss or a norm that is not a number stops every rank before the optimizer moves, ids
    written first.
    """
    flags = [t.losses.isfinite().all().to(device, torch.float64) for t in tallies]
    *usable, length = torch.stack([*flags, norm.detach().to(device, torch.float64)]).tolist()
    infeasible, broken = [], []
    for tally, fine in zip(tallies, usable, strict=True):
        if not fine:
            ids, losses = tally.batch.ids, tally.losses
            infeasible += [i for i, hit in zip(ids, losses.isinf().tolist(), strict=True) if hit]
            broken += [i for i, hit in zip(ids, losses.isnan().tolist(), strict=True) if hit]
    for name, ids in (("infeasible.txt", infeasible), ("not-a-number.txt", broken)):
        if ids:
            with (run_dir / name).open("a") as f:
                f.writelines(f"{step}\t{i}\n" for i in ids)
    counts = [float(len(broken)), float(not math.isfinite(length)), float(len(infeasible))]
    everywhere, anywhere, skipped = all_reduce_sum(counts, device)
    look = f"`maya diagnose {run_dir}` says which module it is; lower train.lr or train.clip, or"
    if everywhere:
        failed = [t for t in tallies if t.losses.isnan().any()]
        raise NotFinite(
            f"{run_dir}: the loss of {int(everywhere)} utterance(s) is not a number at step {step}; their "
            f"ids are in not-a-number.txt, and {look} look at the audio", "loss", failed, scale,
        )  # fmt: skip
    if anywhere:
        raise NotFinite(
            f"{run_dir}: the gradients of step {step} are not finite, while its losses are; the weights are "
            f"as they were, and {look} mend the backward pass of that module", "gradient", tallies, scale,
        )  # fmt: skip
    return int(skipped), length


@contextmanager
def watched(run: Run, state: State, group: list[Batch], batch_count: float, bf16: bool) -> Iterator[None]:
    """Around a training step: keeps the batches of a NotFinite in `run.folder`/not-a-number, and turns an
    allocator's error into OutOfMemory.

    A NotFinite stops the run, or leaves the step out (see `refusal`): weights, statistics and optimizer are
    then as they were before it.
    """
    model = run.model
    may_skip = run.cfg.skip_non_finite > 0 or state.step in state.stopped_at
    buffers = [buffer.clone() for buffer in model.buffers()] if may_skip else []
    try:
        yield
    except NotFinite as error:
        failure = Failure(
            step=model.step, what=error.what, rank=rank(), device=next(model.parameters()).device.type,
            bf16=bf16, scale=error.scale, batch_count=batch_count, frozen=sorted(model.frozen),
            tallies=error.tallies,
        )  # fmt: skip
        reason = refusal(run.cfg, state)
        try:
            keep(run, failure, f"rank-{rank():05d}" + ("" if reason else f"-step-{state.step:07d}"))
        except (OSError, RuntimeError, MayaError) as why:
            if reason:
                raise MayaError(f"{error} (the batch itself could not be kept: {why})") from error
            log.warning("the batch of step %d could not be kept: %s", state.step, why)
        if not reason:
            leave_out(run, state, error, buffers)
            return
        if run.log.main:
            write_json(run.folder / STOPPED_AT, {"steps": sorted({*state.stopped_at, state.step})})
        barrier()  # the launcher ends all ranks after the first one; rank 0 may still write the weights
        error.args = (f"{error}{worst_gradients(model)}; {reason}",)
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        device = next(model.parameters()).device
        raise OutOfMemory(group, model.step, run.experiment, device) from None


def refusal(cfg: TrainConfig, state: State) -> str:
    """Why a step whose losses or gradients are not finite stops the run; "" where it is left out.

    It is left out while `train.skip_non_finite` allows so many, or if the run stopped at this very step
    before: without that, each resumed run would meet the same batch again. After `train.skip_in_row` such
    steps in a row it is the model that is broken, not a batch.
    """
    in_row = 0
    while state.step - 1 - in_row in state.skipped:
        in_row += 1
    if in_row >= cfg.skip_in_row:
        return (
            f"the {in_row} step(s) before it were left out as well (train.skip_in_row): the model has "
            "diverged; start a run with a lower train.lr, or remove the newest checkpoints to go further back"
        )
    if state.step in state.stopped_at or len(state.skipped) < cfg.skip_non_finite:
        return ""
    return "the same command leaves this step out if it fails again"


def leave_out(run: Run, state: State, error: NotFinite, buffers: list[Tensor]) -> None:
    """Undo the step: statistics as they were, no gradients; count it and say so."""
    with torch.no_grad():
        for buffer, before in zip(run.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    run.log.say(f"step {state.step} is left out: {error}{worst_gradients(run.model)}")
    run.optimizer.zero_grad(set_to_none=True)
    state.skipped.append(state.step)
    run.log.metrics("skipped", state.step, {"steps_left_out": len(state.skipped)})


def worst_gradients(model: torch.nn.Module) -> str:
    """A clause that names parameters whose gradients are not finite, nearest to the input first."""
    gradients = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    names = [name for name, grad in gradients if not grad.isfinite().all()]
    return f"; {len(names)} gradients are not finite, such as that of {names[0]}" if names else ""


def keep(run: Run, failure: Failure, name: str) -> None:
    """Write the weights (rank 0) and the batches of this rank that failed, if there are any, as NAME.pt."""
    folder = run.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = run.checkpoint(State(step=failure.step), {"experiment": run.experiment.name})
    if failure.rank == 0:
        ckpt.save_checkpoint(folder / MODEL, checkpoint)
    if not failure.tallies:
        return
    saved: dict[str, Any] = {f.name: getattr(failure, f.name) for f in fields(failure)}
    saved["tallies"] = [
        {
            "batch": {f.name: _cpu(getattr(t.batch, f.name)) for f in fields(t.batch) if f.name != "host"},
            "random": t.random, "omega": t.omega, "losses": t.losses.cpu(),
        }
        for t in failure.tallies
    ]  # fmt: skip
    with replacing(folder / f"{name}.pt") as partial:
        torch.save(saved | {"format": FORMAT}, partial)


def kept(run_dir: Path) -> list[Failure]:
    """The failure that `run_dir` ended with, as each rank kept it, in order. MayaError for a damaged file, a
    file of Maya 0.2, or none."""
    checkpoint = ckpt.load_checkpoint(run_dir / FOLDER / MODEL)
    if checkpoint.older:
        raise MayaError(f"{run_dir / FOLDER} was written by Maya 0.2, whose failed steps cannot be repeated")
    failures = []
    for path in sorted((run_dir / FOLDER).glob("rank-*.pt")):
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if saved.pop("format") != FORMAT:
                raise KeyError("format")
            tallies = [Tally(**t | {"batch": Batch(**t["batch"])}) for t in saved.pop("tallies")]
            failures.append(Failure(**saved, tallies=tallies))
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as e:
            raise MayaError(f"{path} is damaged; train on from the last checkpoint to meet it again") from e
    # Other ranks may have left files of an earlier failure.
    return [failure for failure in failures if failure.step == checkpoint.step]


def _cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch's allocator, or a library in need of a workspace, ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )
