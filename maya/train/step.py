"""One optimizer step: forward, backward, the sums over ranks, the update."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from maya.data.loading.batch import Batch
from maya.encoders.zipformer.regularizers import set_loss_scale
from maya.models.speech_model import SpeechModel
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.distributed import all_reduce_sum
from maya.train.failure import Tally, stop_unless_finite
from maya.train.optimizers import schedule
from maya.train.optimizers.optim import clip, gradient_norm, largest_gradient
from maya.train.optimizers.scaled_adam import ScaledAdam
from maya.train.sharding import average_whole_gradients


@dataclass(kw_only=True, slots=True)
class Clock:
    """Seconds by activity since the last reset: where a step's time goes. last: the activity that ended last;
    laps: their number."""

    seconds: dict[str, float] = field(default_factory=dict)
    mark: float = field(default_factory=time.perf_counter)
    last: str = ""
    laps: int = 0

    def lap(self, activity: str) -> float:
        """Count the time since the last lap as this activity's, and return it."""
        now = time.perf_counter()
        spent = now - self.mark
        self.seconds[activity] = self.seconds.get(activity, 0.0) + spent
        self.mark, self.last, self.laps = now, activity, self.laps + 1
        return spent


@dataclass(kw_only=True, slots=True)
class StepStats:
    """Sums over ranks and accumulated batches of one optimizer step."""

    loss: float
    parts: dict[str, float]
    count: float
    tokens: float
    utterances: float
    audio_seconds: float
    grad_norm: float
    clipped: str  # ScaledAdam's description of its clipping in this step; else empty
    stop: bool
    objective: str = ""  # what heads drew in place of their usual objective, see `LossStep`
    largest: tuple[str, float] = ("", 0.0)  # in steps that are logged, see `largest_gradient`


@dataclass(frozen=True, slots=True)
class Step:
    """The tools of an optimizer step. model: as the accelerator wrapped it. folder: the run's."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    folder: Path
    clock: Clock = field(default_factory=Clock)


def train_step(
    tools: Step, group: list[Batch], cfg: TrainConfig, state: State, stop: bool = False
) -> StepStats:
    """One optimizer step over `group`, this rank's batches.

    The objective is the sum of all losses over all ranks and batches, divided by the global count of tokens
    or utterances: the gradient does not depend on how the work was split. DDP averages over ranks, hence the
    factor `num_processes`.
    """
    model, optimizer, accelerator, clock = tools.model, tools.optimizer, tools.accelerator, tools.clock
    bare: SpeechModel = accelerator.unwrap_model(model)
    device, per = accelerator.device, cfg.per if bare.cfg.text_heads else "utterance"
    model.train()
    set_rates(optimizer, cfg, state)
    sizes = [(count(b, per), int(b.token_lens.clamp(min=1).sum()), b.size, b.seconds) for b in group]
    local = [*map(sum, zip(*sizes, strict=True)), stop]
    total, tokens, utterances, audio_seconds, stops = all_reduce_sum([float(x) for x in local], device)
    scale = accelerator.num_processes / max(total, 1.0)
    set_loss_scale(model, scale)
    # The draw of TDT's omega depends on (seed, step) alone: alike on all ranks, and nothing to save.
    generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + state.step)
    names, objectives = ("", *bare.parts), set[str]()  # the total first; no head is named ""
    sums, tallies = torch.zeros(len(names), device=device, dtype=torch.float64), list[Tally]()
    clock.lap("other")
    for i, batch in enumerate(group):
        last = i == len(group) - 1
        sync: AbstractContextManager = nullcontext() if last else accelerator.no_sync(model)
        tallies.append(Tally.before(batch, generator, device))
        with sync:
            with accelerator.autocast():
                losses = model(batch.to(device, non_blocking=True), generator)
            clock.lap("forward")
            feasible = losses.total.isfinite()
            (losses.total.masked_fill(~feasible, 0.0).sum() * scale).backward()
            clock.lap("backward")
        tallies[-1].losses = losses.total.detach()
        objectives.add(losses.objective)
        values = losses.parts | {"": losses.total}
        for j, name in enumerate(names):
            if name in values:
                sums[j] += values[name].detach().masked_fill(~feasible, 0.0).sum()
    average_whole_gradients(bare)
    norm = gradient_norm(model)
    infeasible, grad_norm = stop_unless_finite(tallies, norm, state.step, tools.folder, device, scale)
    state.infeasible += infeasible
    logged = cfg.log_every > 0 and (state.step + 1) % cfg.log_every == 0
    largest = largest_gradient(bare) if logged else ("", 0.0)
    grad_norm, clipped = update(model, optimizer, cfg, norm, grad_norm)
    clock.lap("optimizer")
    loss, *parts = all_reduce_sum(sums.tolist(), device)
    return StepStats(
        loss=loss, parts=dict(zip(names[1:], parts, strict=True)), count=total, tokens=tokens,
        utterances=utterances, audio_seconds=audio_seconds, grad_norm=grad_norm, clipped=clipped,
        stop=stops > 0, objective=" ".join(sorted(objectives)).strip(), largest=largest,
    )  # fmt: skip


def set_rates(optimizer: torch.optim.Optimizer, cfg: TrainConfig, state: State) -> None:
    """The learning rates of the coming step."""
    for g in optimizer.param_groups:
        rate = schedule.encoder_rate if g.get("encoder") else schedule.head_rate
        g["lr"] = rate(cfg, state.step, schedule.epoch(cfg, state.position)) * g.get("scale", 1.0)


def update(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, cfg: TrainConfig, norm: Tensor, length: float
) -> tuple[float, str]:
    """A step of the optimizer with gradients of this norm, as a tensor and as a number. Returns the norm
    for the log and, where ScaledAdam clipped, which measures other norms, its description."""
    clip(model, optimizer, cfg, norm)
    optimizer.step()
    clipped = ""
    if isinstance(optimizer, ScaledAdam):
        clippings = optimizer.clippings()
        length = sum(c.norm**2 for c in clippings) ** 0.5
        clipped = "; ".join(str(c) for c in clippings if c.factor < 1)
    optimizer.zero_grad(set_to_none=True)
    return length, clipped


def count(batch: Batch, per: str) -> int:
    """The divisor of the loss. An empty transcript counts as one token: its blanks are work too."""
    return int(batch.token_lens.clamp(min=1).sum()) if per == "token" else batch.size
