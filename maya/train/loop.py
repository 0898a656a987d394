"""The training loop, to read from top to bottom: batches → losses → gradients → optimizer, with validation,
checkpoints and logs when they are due. One loop for every model, from a laptop to many GPUs."""

import ctypes
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from maya.data.loading.batch import Batch
from maya.encoders.zipformer.regularizers import set_loss_scale
from maya.heads import head_weights
from maya.models.config import ENCODER
from maya.models.speech_model import SpeechModel, part_name
from maya.text.tokenizer import Tokenizer
from maya.train import schedule
from maya.train.checkpoint import step_path
from maya.train.config import TrainConfig, check
from maya.train.distributed import all_reduce_sum
from maya.train.eden import adjusted_steps
from maya.train.failure import Tally, stop_unless_finite, watched
from maya.train.forecast import Forecast, Pace
from maya.train.heads import begins, head_to_show, trained_heads
from maya.train.optim import clip, gradient_norm, make_optimizer
from maya.train.resume import resume
from maya.train.runlog import RunLog
from maya.train.samples import Samples
from maya.train.scaled_adam import ScaledAdam
from maya.train.state import Position, Run, State, keep_best, record_validation, save
from maya.train.training_data import TrainingData
from maya.train.validate import Validate

__all__ = ["Interrupted", "Material", "Step", "TrainConfig", "make_accelerator", "train", "train_step"]

INSISTING_SECONDS = 2.0  # between two Ctrl-C of which the second means now
Batches = Callable[[Position], Iterator[tuple[Position, Batch]]]


@dataclass(kw_only=True, slots=True)
class Clock:
    """Seconds by activity since the last reset: where a step's time goes."""

    seconds: dict[str, float] = field(default_factory=dict)
    mark: float = field(default_factory=time.perf_counter)

    def lap(self, activity: str) -> float:
        """Count the time since the last lap as this activity's, and return it."""
        now = time.perf_counter()
        spent = now - self.mark
        self.seconds[activity] = self.seconds.get(activity, 0.0) + spent
        self.mark = now
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


class StopRequest:
    """Ctrl-C, SIGTERM and SIGHUP (a terminal that was closed) request a checkpoint and a clean end after the
    running step; a second Ctrl-C ends at once. A SIGHUP that `nohup` has turned off stays off."""

    def __init__(self) -> None:
        self.requested = False
        self.since = 0.0  # the time of the first request, by time.monotonic()

    def __enter__(self) -> "StopRequest":
        numbers = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
            numbers.append(hangup)
        self._previous = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        # A terminal sends SIGINT to launcher and worker, and the launcher passes its own on at once: only a
        # later one comes from a person who insists.
        now = time.monotonic()
        if self.requested and number == signal.SIGINT and now - self.since > INSISTING_SECONDS:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self.since = True, now


class Interrupted(KeyboardInterrupt):
    """Training stopped on request, with its state saved at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; run the same command again to continue there")
        self.step = step


def make_accelerator(cfg: TrainConfig, *, cpu: bool = False) -> Accelerator:
    """The accelerator places, wraps and casts. It never sees the data loader or the schedule, and never
    scales the loss."""
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    bf16 = cfg.precision == "bf16" or (
        cfg.precision == "auto" and not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    if cpu or not torch.cuda.is_available():
        keep_freed_memory()
    # DDP compares strides of axes of size 1 too, as a depthwise convolution's weight has; they mean nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Views spare a copy of the gradients. DDP moves them after its first step, and where a gradient lies
    # decides how a CPU sums it: a resumed run would differ from an uninterrupted one by rounding.
    views = not cpu and torch.cuda.is_available()
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=views, broadcast_buffers=True)
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=cpu, kwargs_handlers=[ddp])


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks rather than return them: every activation of a CPU step would be paged in
    anew, which costs about 10 % of a small model's step. Other C libraries are left alone."""
    m_trim_threshold, m_mmap_threshold, gigabyte = -1, -3, 1 << 30
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(m_mmap_threshold, gigabyte)
        mallopt(m_trim_threshold, gigabyte)


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """The data of a training.

    batches: `batches(position)` yields this rank's (next position, Batch) for ever. validate: scores with the
    key "error" to keep the best by; None without a dev set. samples: shown every `train.samples_every` steps.
    data: compared with the data of the checkpoint. facts: for the log.
    """

    batches: Batches
    validate: Validate | None = None
    samples: Samples | None = None
    data: TrainingData | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def train(
    experiment: Any, model: SpeechModel, tokenizer: Tokenizer, material: Material, run_dir: Path,
    accelerator: Accelerator,
) -> State:  # fmt: skip
    """Train `model` for `experiment.train.steps` or `epochs`, resuming from the newest checkpoint.

    A step is saved before it is validated. Raises Interrupted after a requested stop, NotFinite when losses
    or gradients are not numbers, and OutOfMemory.
    """
    cfg: TrainConfig = experiment.train
    check(cfg, model.cfg)
    model.to(accelerator.device)
    model.freeze(schedule.frozen_throughout(cfg))  # before the optimizer, which leaves them out
    optimizer, data = make_optimizer(model, cfg), material.data
    state = resume(run_dir, model, optimizer, experiment, tokenizer, data)
    model.freeze(schedule.frozen(cfg, state.step))
    wrapped = accelerator.prepare_model(model)
    steps_in_all = Forecast(cfg, data.batches_per_pass if data is not None else 0)
    log = open_log(run_dir, experiment, state, accelerator, material.facts, steps_in_all)
    run = Run(folder=run_dir, model=model, optimizer=optimizer, tokenizer=tokenizer, experiment=experiment,
              log=log)  # fmt: skip
    window, clock, pace, stream = Window(), Clock(), Pace(first=state.step), material.batches(state.position)
    preferred, bf16 = experiment.decoding_head, accelerator.mixed_precision == "bf16"
    on_dev = partial(check_on_dev, run, state, material.validate) if material.validate else None
    if on_dev and state.step and state.validated != state.step and validation_due(cfg, state):
        on_dev()  # the step was saved, and its validation interrupted
        clock.lap("validate")
    with StopRequest() as stop:
        while not schedule.is_over(cfg, state.step, schedule.epoch(cfg, state.position)):
            if model.frozen != schedule.frozen(cfg, state.step):
                del wrapped  # with its hooks
                model.freeze(schedule.frozen(cfg, state.step))
                wrapped = wrap_again(model, accelerator)
            log.phase(state.step, schedule.phase_changes(cfg, state.step, model.cfg.heads))
            if begins(cfg, model, state.step, preferred):
                state.best = float("inf")  # errors so far were those of a head that decoding will not use
            seen = batches_seen(experiment, state.step, accelerator.num_processes)
            model.begin_step(state.step, seen)
            before, group = schedule.epoch(cfg, state.position), take(stream, cfg.accumulate, state)
            waited = clock.lap("data")
            with watched(run, group, seen, bf16):
                tools = Step(wrapped, optimizer, accelerator, run_dir, clock)
                stats = train_step(tools, group, cfg, state, stop.requested)
            state.step += 1
            epoch = schedule.epoch(cfg, state.position)
            over, passed = schedule.is_over(cfg, state.step, epoch), cfg.epochs > 0 and epoch > before
            window.add(stats, waited)
            if accelerator.is_main_process and due(state.step, cfg.average_every):
                state.average.update(model.state_dict())
                clock.lap("average")
            if due(state.step, cfg.log_every) or over:
                report(run, state, window, clock, pace, steps_in_all)
            save_and_check(run, state, on_dev, stop=stats.stop, over=over, passed=passed)
            if material.samples and log.main and due(state.step, cfg.samples_every):
                head = head_to_show(model, trained_heads(cfg, model, state.step), preferred, state.dev)
                log.samples(state.step, material.samples(model, head) if head else [])
            clock.lap("validate")
    log.close()
    return state


def due(step: int, every: int) -> bool:
    """Whether something done `every` so many steps is done after this one; 0 means never."""
    return every > 0 and step % every == 0


def validation_due(cfg: TrainConfig, state: State) -> bool:
    """Whether the weights of this step are validated: every `train.valid_every` steps and at the end."""
    over = schedule.is_over(cfg, state.step, schedule.epoch(cfg, state.position))
    return cfg.valid_every > 0 and (over or due(state.step, cfg.valid_every))


def check_on_dev(run: Run, state: State, validate: Validate) -> None:
    """Validate the weights of this step, keep them as best.pt if they are the best, and record it."""
    keep_best(run, state, validate(run.model, trained_heads(run.cfg, run.model, state.step)))
    record_validation(run.folder, state, run.log.main)


def save_and_check(
    run: Run, state: State, on_dev: Callable[[], None] | None, *, stop: bool, over: bool, passed: bool
) -> None:
    """Save this step if that is due, then validate it (`on_dev`) if that is due: a validation that fails
    loses nothing. Raises Interrupted after a requested stop, with the step saved; the validation is then done
    on resuming."""
    saved = stop or due(state.step, run.cfg.save_every) or over or passed
    if saved:
        save(run, state, passed=passed)
    if stop and not over:
        run.log.close()
        raise Interrupted(state.step)
    if on_dev and validation_due(run.cfg, state):
        with nullcontext() if saved else saved_meanwhile(run, state):
            on_dev()


@contextmanager
def saved_meanwhile(run: Run, state: State) -> Iterator[None]:
    """A checkpoint of this step while something runs that may fail, so that a failure does not lose the steps
    since the last one; removed if all goes well."""
    save(run, state, keep_others=True)
    yield
    if run.log.main:
        step_path(run.folder, state.step).unlink(missing_ok=True)


def batches_seen(experiment: Any, step: int, processes: int) -> float:
    """The audio of the steps so far, in batches of `train.regularizer_seconds`: by the cap, not by what the
    batches held, so that it is a function of the step. Without a cap, a batch counts as one."""
    cfg: TrainConfig = experiment.train
    cap = (experiment.data.plan.max_seconds or cfg.regularizer_seconds) * processes * cfg.accumulate
    return adjusted_steps(step, batch_seconds=cap, reference_seconds=cfg.regularizer_seconds)


def open_log(
    run_dir: Path, experiment: Any, state: State, accelerator: Accelerator, facts: dict, total: Forecast
) -> RunLog:
    cfg: TrainConfig = experiment.train
    log = RunLog(run_dir, main=accelerator.is_main_process, resumed_step=state.step)
    progress = {"world_size": accelerator.num_processes, "history": state.history}
    log.start(experiment, sys.argv, facts | progress)
    if schedule.is_over(cfg, state.step, schedule.epoch(cfg, state.position)):
        log.say(
            f"the run has ended at step {state.step} (train.steps={cfg.steps}, train.epochs={cfg.epochs}): "
            "raise one that ended it to train on"
        )
    elif state.step:
        epochs = f" (epoch {total.epoch(state)})" if cfg.epochs else ""
        log.say(f"continuing at step {state.step} of {total.shown(state)}{epochs}")
    return log


def take(stream: Iterator[tuple[Position, Batch]], count: int, state: State) -> list[Batch]:
    """The next `count` batches; `state` then stands behind them."""
    group = []
    for _ in range(count):
        state.position, batch = next(stream)
        group.append(batch)
    return group


def wrap_again(model: SpeechModel, accelerator: Accelerator) -> torch.nn.Module:
    """Wrap `model` anew after the set of parameters that learn has changed.

    DDP waits for a gradient from each parameter that required one when it was made. Delete the old wrapper
    first: its buffers and hooks go with it. One process has no wrapper.
    """
    if accelerator.num_processes == 1:
        return model
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    accelerator.free_memory()
    return accelerator.prepare_model(model)


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
    names = ("", *bare.parts)  # the total first; no head is named ""
    sums, tallies = torch.zeros(len(names), device=device, dtype=torch.float64), list[Tally]()
    clock.lap("other")
    for i, batch in enumerate(group):
        last = i == len(group) - 1
        sync: AbstractContextManager = nullcontext() if last else accelerator.no_sync(model)
        tallies.append(Tally.before(batch, generator, device))
        with sync:
            with accelerator.autocast():
                losses = model(batch.to(device), generator)
            clock.lap("forward")
            feasible = losses.total.isfinite()
            (losses.total.masked_fill(~feasible, 0.0).sum() * scale).backward()
            clock.lap("backward")
        tallies[-1].losses = losses.total.detach()
        values = losses.parts | {"": losses.total}
        for j, name in enumerate(names):
            if name in values:
                sums[j] += values[name].detach().masked_fill(~feasible, 0.0).sum()
    norm = gradient_norm(model)
    infeasible, grad_norm = stop_unless_finite(tallies, norm, state.step, tools.folder, device, scale)
    state.infeasible += infeasible
    grad_norm, clipped = update(model, optimizer, cfg, norm, grad_norm)
    clock.lap("optimizer")
    loss, *parts = all_reduce_sum(sums.tolist(), device)
    return StepStats(
        loss=loss, parts=dict(zip(names[1:], parts, strict=True)), count=total, tokens=tokens,
        utterances=utterances, audio_seconds=audio_seconds, grad_norm=grad_norm, clipped=clipped,
        stop=stops > 0,
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


SUMMED = ("loss", "count", "tokens", "utterances", "audio_seconds", "grad_norm")


@dataclass(kw_only=True, slots=True)
class Window:
    """Step statistics summed since the last log line."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)  # seconds that each step waited for data
    clipped: list[str] = field(default_factory=list)  # ScaledAdam's description of each step that it clipped

    def add(self, stats: StepStats, waited: float) -> None:
        self.steps += 1
        self.waits.append(round(waited, 4))
        self.clipped += [stats.clipped] if stats.clipped else []
        values = {name: getattr(stats, name) for name in SUMMED}
        values |= {f"{part}_loss": loss for part, loss in stats.parts.items()}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


WORK = ("forward", "backward", "optimizer")


def part_losses(model: SpeechModel, window: Window, step: int) -> dict[str, float]:
    """The mean loss of each part of the heads that have weight at `step`: of text heads per token, of others
    per utterance."""
    weights = head_weights(model.cfg.heads, step)
    return {
        part_name(name, part): window.sums[f"{part_name(name, part)}_loss"]
        / window.sums["tokens" if name in model.cfg.text_heads else "utterances"]
        for name, head in model.named_heads().items()
        for part in head.parts
        if weights[name]
    }


def report(run: Run, state: State, window: Window, clock: Clock, pace: Pace, total: Forecast) -> None:
    """One line on the terminal, one in metrics.jsonl; then a new window."""
    cfg, log, model = run.cfg, run.log, run.model
    sums, last, epoch = window.sums, state.step - 1, schedule.epoch(cfg, state.position)
    step_seconds = {k: v for k, v in clock.seconds.items() if k != "validate"}
    spent = sum(step_seconds.values())
    shares = {f"share_{k}": round(v / spent, 4) for k, v in step_seconds.items()}
    losses = part_losses(model, window, last)
    rates = {"lr": schedule.head_rate(cfg, last, epoch)}
    if ENCODER not in schedule.frozen_throughout(cfg):
        rates["encoder_lr"] = schedule.encoder_rate(cfg, last, epoch)
    values: dict[str, Any] = {
        "epoch": epoch,
        "loss": sums["loss"] / sums["count"],
        **{f"{part}_loss": loss for part, loss in losses.items()},
        **rates,
        **{f"weight_{head}": w for head, w in schedule.changing_weights(model.cfg.heads, last).items()},
        "grad_norm": sums["grad_norm"] / window.steps,
        "seconds_per_step": spent / window.steps,
        "audio_seconds": sums["audio_seconds"],
        "speed": sums["audio_seconds"] / spent,
        "share_work": round(sum(step_seconds.get(k, 0.0) for k in WORK) / spent, 4),
        "data_wait_max": max(window.waits),
        "data_wait": window.waits,
        "infeasible": state.infeasible,
        "clipped": len(window.clipped),
    }
    parts = ", ".join(f"{part} {loss:.3f}" for part, loss in losses.items())
    log.metrics("train", state.step, values | shares)
    remaining = (total.total(state) - state.step) * pace.seconds_a_step(state.step)
    log.say(
        f"step {state.step}/{total.shown(state)}  epoch {total.epoch(state)}  loss {values['loss']:.3f} "
        f"({parts})  {_rates(rates)}  "
        f"grad {values['grad_norm']:.2f}  {values['seconds_per_step']:.2f} s/step  "
        f"{values['speed']:.0f}x real time  work {values['share_work']:.0%}  left {_minutes(remaining)}"
    )
    if window.clipped:
        steps = len(window.clipped)
        log.say(f"  {steps} step{'s' * (steps > 1)} clipped, the last: {window.clipped[-1]}")
    window.steps, window.sums, window.waits, window.clipped, clock.seconds = 0, {}, [], [], {}


def _rates(rates: dict[str, float]) -> str:
    heads, encoder = rates["lr"], rates.get("encoder_lr", rates["lr"])
    return f"lr {heads:.2e}" + (f" (encoder {encoder:.2e})" if encoder != heads else "")


def _minutes(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
