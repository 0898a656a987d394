"""The training loop, read top to bottom: batches → losses → gradients → optimizer, with validation,
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
from maya.models.speech_model import SpeechModel
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
from maya.train.state import Position, State, keep_best, record_validation, save
from maya.train.training_data import TrainingData
from maya.train.validate import Validate

__all__ = ["Interrupted", "TrainConfig", "make_accelerator", "train", "train_step"]

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
    utterances: float
    audio_seconds: float
    grad_norm: float
    clipped: str  # what ScaledAdam has to say of its clipping in this step; else empty
    stop: bool


class StopRequest:
    """Ctrl-C, SIGTERM and SIGHUP (a terminal that was closed) ask for a checkpoint and a clean end after the
    running step; a second Ctrl-C means now. A SIGHUP that `nohup` has turned off stays off."""

    def __init__(self) -> None:
        self.asked = False
        self.since = 0.0  # when it was first asked for, by time.monotonic()

    def __enter__(self) -> "StopRequest":
        wanted = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
            wanted.append(hangup)
        self._previous = {number: signal.signal(number, self._ask) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # A terminal sends SIGINT to launcher and worker, and the launcher passes its own on at once: only a
        # later one is a person insisting.
        now = time.monotonic()
        if self.asked and number == signal.SIGINT and now - self.since > INSISTING_SECONDS:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.since = True, now


class Interrupted(KeyboardInterrupt):
    """Training stopped on request, with its state saved at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; run the same command again to continue there")
        self.step = step


def make_accelerator(cfg: TrainConfig, *, cpu: bool = False) -> Accelerator:
    """Places, wraps and casts. It never sees the data loader or the schedule, and never scales the loss."""
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    bf16 = cfg.precision == "bf16" or (
        cfg.precision == "auto" and not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    if cpu or not torch.cuda.is_available():
        keep_freed_memory()
    # DDP compares strides of axes of size 1 too, as a depthwise convolution's weight has; they mean nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=True)
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=cpu, kwargs_handlers=[ddp])


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks rather than return them: every activation of a CPU step would be paged in
    anew, which costs about 10 % of a small model's step. Other C libraries are left alone."""
    m_trim_threshold, m_mmap_threshold, gigabyte = -1, -3, 1 << 30
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(m_mmap_threshold, gigabyte)
        mallopt(m_trim_threshold, gigabyte)


def train(
    experiment: Any, model: SpeechModel, tokenizer: Tokenizer, batches: Batches, validate: Validate | None,
    run_dir: Path, *, accelerator: Accelerator, facts: dict[str, Any] | None = None,
    samples: Samples | None = None, data: TrainingData | None = None,
) -> State:  # fmt: skip
    """Train `model` for `experiment.train.steps` or `epochs`, resuming from the newest checkpoint.

    `batches(position)` yields this rank's (next position, Batch) for ever; `validate` returns scores with the
    key "error" to keep the best by, None without a dev set; `samples` is shown every `train.samples_every`
    steps; `data` is compared with what the checkpoint was trained on. A step is saved before it is validated.
    Raises Interrupted after a requested stop, NotFinite when losses or gradients are not numbers, and
    OutOfMemory.
    """
    cfg: TrainConfig = experiment.train
    check(cfg, model)
    model.to(accelerator.device)
    optimizer = make_optimizer(model, cfg)
    state = resume(run_dir, model, optimizer, experiment, tokenizer, data)
    model.freeze_encoder(schedule.encoder_frozen(cfg, state.step))
    wrapped = accelerator.prepare_model(model)
    steps_in_all = Forecast(cfg, data.batches_per_pass if data is not None else 0)
    log = open_log(run_dir, experiment, state, accelerator, facts or {}, steps_in_all)
    stream, clock, window, pace = batches(state.position), Clock(), Window(), Pace(first=state.step)
    bf16, wanted = accelerator.mixed_precision == "bf16", experiment.decode.head
    write = partial(save, run_dir, state, model, optimizer, tokenizer, experiment, log.main)
    on_dev = partial(check_on_dev, log, state, validate, model, tokenizer, run_dir, cfg) if validate else None
    if on_dev and state.step and state.validated != state.step and validation_due(cfg, state):
        on_dev()  # the step was saved, and its validation interrupted
    with StopRequest() as stop:
        while not schedule.is_over(cfg, state.step, schedule.epoch(cfg, state.position)):
            if model.encoder_frozen != schedule.encoder_frozen(cfg, state.step):
                del wrapped  # with its hooks
                model.freeze_encoder(not model.encoder_frozen)
                wrapped = wrap_again(model, accelerator)
            log.phase(state.step, schedule.phase_changes(cfg, state.step, full=model.ctc_weight))
            if begins(cfg, model, state.step, wanted):
                state.best = float("inf")  # errors so far were those of a head that decoding will not use
            seen = batches_seen(experiment, state.step, accelerator.num_processes)
            model.begin_step(state.step, seen)
            before, group = schedule.epoch(cfg, state.position), take(stream, cfg.accumulate, state)
            waited = clock.lap("data")
            with watched(group, run_dir, model, tokenizer, experiment, seen, bf16):
                stats = train_step(wrapped, optimizer, group, cfg, state, accelerator, clock, run_dir,
                                   stop.asked)  # fmt: skip
            state.step += 1
            epoch, heads = schedule.epoch(cfg, state.position), trained_heads(cfg, model, state.step)
            over, passed = schedule.is_over(cfg, state.step, epoch), cfg.epochs > 0 and epoch > before
            window.add(stats, waited)
            if accelerator.is_main_process and due(state.step, cfg.average_every):
                state.average.update(model.state_dict())
                clock.lap("average")
            if due(state.step, cfg.log_every) or over:
                report(log, state, model, cfg, window, clock, pace, steps_in_all)
            save_and_check(cfg, log, state, write, on_dev, stop=stats.stop, over=over, passed=passed)
            if samples and log.main and due(state.step, cfg.samples_every):
                log.samples(state.step, samples(model, head_to_show(heads, wanted, state.dev)))
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


def check_on_dev(
    log: RunLog, state: State, validate: Validate, model: SpeechModel, tokenizer: Tokenizer, run_dir: Path,
    cfg: TrainConfig,
) -> None:  # fmt: skip
    """Validate the weights of this step, keep them as best.pt if they are the best, and write down that they
    were validated."""
    heads = trained_heads(cfg, model, state.step)
    keep_best(log, state, validate(model, heads), model, tokenizer, run_dir, cfg)
    record_validation(run_dir, state, log.main)


def save_and_check(
    cfg: TrainConfig, log: RunLog, state: State, write: Callable[..., None],
    on_dev: Callable[[], None] | None, *, stop: bool, over: bool, passed: bool,
) -> None:  # fmt: skip
    """Save this step if that is due, then validate it (`on_dev`) if that is due: a validation that fails
    loses nothing. Raises Interrupted after a requested stop, with the step saved; the validation is then done
    on resuming."""
    saved = stop or due(state.step, cfg.save_every) or over or passed
    if saved:
        write(passed)
    if stop and not over:
        log.close()
        raise Interrupted(state.step)
    if on_dev and validation_due(cfg, state):
        with nullcontext() if saved else saved_meanwhile(write, log, state.step):
            on_dev()


@contextmanager
def saved_meanwhile(write: Callable[..., None], log: RunLog, step: int) -> Iterator[None]:
    """A checkpoint of this step for as long as something that may fail is done, so that a failure does not
    lose the steps since the last one; removed if all goes well."""
    write(keep_others=True)
    yield
    if log.main:
        step_path(log.run_dir, step).unlink(missing_ok=True)


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
    more = {"world_size": accelerator.num_processes, "history": state.history}
    log.start(experiment, sys.argv, facts | more)
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

    DDP waits for a gradient from each parameter that could learn when it was made. Let go of the old wrapper
    first: its buffers and hooks go with it. One process has no wrapper.
    """
    if accelerator.num_processes == 1:
        return model
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    accelerator.free_memory()
    return accelerator.prepare_model(model)


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    group: list[Batch],
    cfg: TrainConfig,
    state: State,
    accelerator: Accelerator,
    clock: Clock,
    run_dir: Path,
    stop: bool,
) -> StepStats:
    """One optimizer step over `group`, this rank's batches.

    The objective is the sum of all losses over all ranks and batches, divided by the global count of tokens
    or utterances: the gradient does not depend on how the work was split. DDP averages over ranks, hence the
    factor `num_processes`.
    """
    device = accelerator.device
    model.train()
    set_rates(optimizer, cfg, state)
    sizes = [(count(b, cfg.per), b.size, b.seconds) for b in group]
    mine = [*map(sum, zip(*sizes, strict=True)), stop]
    total, utterances, audio_seconds, stops = all_reduce_sum([float(x) for x in mine], device)
    scale = accelerator.num_processes / max(total, 1.0)
    set_loss_scale(model, scale)
    # The draw of TDT's omega depends on (seed, step) alone: alike on all ranks, and nothing to save.
    generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + state.step)
    bare: SpeechModel = accelerator.unwrap_model(model)
    ctc_weight = schedule.ctc_weight(cfg, state.step, full=bare.ctc_weight)
    names = ("total", *bare.parts, *(["language"] if bare.tells_language else []))
    sums, tallies = torch.zeros(len(names), device=device, dtype=torch.float64), list[Tally]()
    clock.lap("other")
    for i, batch in enumerate(group):
        last = i == len(group) - 1
        sync: AbstractContextManager = nullcontext() if last else accelerator.no_sync(model)
        tallies.append(Tally.before(batch, generator, device))
        with sync:
            with accelerator.autocast():
                losses = model(batch.to(device), generator, ctc_weight)
            clock.lap("forward")
            feasible = losses.total.isfinite()
            (losses.total.masked_fill(~feasible, 0.0).sum() * scale).backward()
            clock.lap("backward")
        tallies[-1].losses = losses.total.detach()
        for j, name in enumerate(names):
            if (value := getattr(losses, name)) is not None:
                sums[j] += value.detach().masked_fill(~feasible, 0.0).sum()
    norm = gradient_norm(model)
    infeasible, grad_norm = stop_unless_finite(tallies, norm, state.step, run_dir, device, scale)
    state.infeasible += infeasible
    grad_norm, clipped = update(model, optimizer, cfg, norm, grad_norm)
    clock.lap("optimizer")
    loss, *parts = all_reduce_sum(sums.tolist(), device)
    return StepStats(
        loss=loss, parts=dict(zip(names[1:], parts, strict=True)), count=total, utterances=utterances,
        audio_seconds=audio_seconds, grad_norm=grad_norm, clipped=clipped, stop=stops > 0,
    )  # fmt: skip


def set_rates(optimizer: torch.optim.Optimizer, cfg: TrainConfig, state: State) -> None:
    """The learning rates of the coming step."""
    for g in optimizer.param_groups:
        rate = schedule.encoder_rate if g.get("encoder") else schedule.head_rate
        g["lr"] = rate(cfg, state.step, schedule.epoch(cfg, state.position)) * g.get("scale", 1.0)


def update(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, cfg: TrainConfig, norm: Tensor, length: float
) -> tuple[float, str]:
    """A step of the optimizer, by gradients of this norm: a tensor, and as a number. Returns it as it is
    logged and, where ScaledAdam clipped, which knows other norms, what it says of it."""
    clip(model, optimizer, cfg, norm)
    optimizer.step()
    clipped = ""
    if isinstance(optimizer, ScaledAdam):
        found = optimizer.clippings()
        length = sum(c.norm**2 for c in found) ** 0.5
        clipped = "; ".join(str(c) for c in found if c.factor < 1)
    optimizer.zero_grad(set_to_none=True)
    return length, clipped


def count(batch: Batch, per: str) -> int:
    """What the loss is divided by. An empty transcript still counts as one token: its blanks are work too."""
    return int(batch.token_lens.clamp(min=1).sum()) if per == "token" else batch.size


SUMMED = ("loss", "count", "utterances", "audio_seconds", "grad_norm")


@dataclass(kw_only=True, slots=True)
class Window:
    """Step statistics summed since the last log line."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)  # seconds of each step in which there were no data yet
    clipped: list[str] = field(default_factory=list)  # what ScaledAdam said of each step that it clipped

    def add(self, stats: StepStats, waited: float) -> None:
        self.steps += 1
        self.waits.append(round(waited, 4))
        self.clipped += [stats.clipped] if stats.clipped else []
        for name, value in ({name: getattr(stats, name) for name in SUMMED} | stats.parts).items():
            self.sums[name] = self.sums.get(name, 0.0) + value


WORK = ("forward", "backward", "optimizer")


def report(
    log: RunLog, state: State, model: SpeechModel, cfg: TrainConfig, window: Window, clock: Clock, pace: Pace,
    total: Forecast,
) -> None:  # fmt: skip
    """One line on the terminal, one in metrics.jsonl; then a new window."""
    sums, last, epoch = window.sums, state.step - 1, schedule.epoch(cfg, state.position)
    step_seconds = {k: v for k, v in clock.seconds.items() if k not in ("validate", "checkpoint")}
    spent = sum(step_seconds.values())
    shares = {f"share_{k}": round(v / spent, 4) for k, v in step_seconds.items()}
    values: dict[str, Any] = {
        "epoch": epoch,
        "loss": sums["loss"] / sums["count"],
        **{f"{part}_loss": sums[part] / sums["count"] for part in model.parts},
        "lr": schedule.head_rate(cfg, last, epoch),
        "encoder_lr": schedule.encoder_rate(cfg, last, epoch),
        "ctc_weight": schedule.ctc_weight(cfg, last, full=model.ctc_weight),
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
    if model.tells_language:
        values["language_loss"] = sums["language"] / sums["utterances"]
    parts = ", ".join(f"{part} {values[f'{part}_loss']:.3f}" for part in model.parts)
    log.metrics("train", state.step, values | shares)
    remaining = (total.total(state) - state.step) * pace.seconds_a_step(state.step)
    log.say(
        f"step {state.step}/{total.shown(state)}  epoch {total.epoch(state)}  loss {values['loss']:.3f} "
        + (f"({parts})  " if parts else " ")
        + f"{_rates(values)}  "
        f"grad {values['grad_norm']:.2f}  {values['seconds_per_step']:.2f} s/step  "
        f"{values['speed']:.0f}x real time  work {values['share_work']:.0%}  left {_minutes(remaining)}"
    )
    if window.clipped:
        steps = len(window.clipped)
        log.say(f"  {steps} step{'s' * (steps > 1)} clipped, the last: {window.clipped[-1]}")
    window.steps, window.sums, window.waits, window.clipped, clock.seconds = 0, {}, [], [], {}


def _rates(values: dict[str, Any]) -> str:
    heads, encoder = values["lr"], values["encoder_lr"]
    return f"lr {heads:.2e}" + (f" (encoder {encoder:.2e})" if encoder != heads else "")


def _minutes(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
