"""The training loop, to read from top to bottom: batches → losses → gradients → optimizer, with validation,
checkpoints and logs when they are due. One loop for every model, from a laptop to many GPUs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from maya.data.loading.batch import Batch
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer
from maya.train.accelerator import wrap, wrap_again
from maya.train.checkpoints.checkpoint import remove, step_path
from maya.train.checkpoints.resume import resume
from maya.train.checkpoints.space import check_space
from maya.train.checkpoints.state import Position, Run, State, keep_best, record_validation, save
from maya.train.checkpoints.writer import CheckpointWriter
from maya.train.compiled import compile_blocks
from maya.train.config import TrainConfig, check
from maya.train.failure import watched
from maya.train.forecast import Forecast, Pace
from maya.train.heads import begins, head_to_show, trained_heads
from maya.train.health import Health
from maya.train.optimizers import schedule
from maya.train.optimizers.eden import adjusted_steps
from maya.train.optimizers.optim import make_optimizer
from maya.train.report import Window, report
from maya.train.runlog import RunLog
from maya.train.samples import Samples
from maya.train.sharding import gathered, is_sharded, shard
from maya.train.step import Clock, Step, StepStats, train_step
from maya.train.stop import Interrupted, StopRequest
from maya.train.training_data import TrainingData
from maya.train.validate import Validate, ValidationOutOfMemory
from maya.train.verdict import ended_early, judge
from maya.train.watchdog import LaunchHooks, Watchdog

__all__ = ["Material", "train"]

_ALONE = LaunchHooks()
Batches = Callable[[Position], Iterator[tuple[Position, Batch]]]


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
    accelerator: Accelerator, launch: LaunchHooks = _ALONE,
) -> State:  # fmt: skip
    """Train `model` for `experiment.train.steps` or `epochs`, resuming from the newest checkpoint.

    A step is saved before it is validated. Raises Interrupted after a requested stop, NotFinite when losses
    or gradients are not numbers, and OutOfMemory.
    """
    cfg: TrainConfig = experiment.train
    check(cfg, model.cfg)
    place(model, cfg, accelerator)
    optimizer, data = make_optimizer(model, cfg), material.data
    state = resume(run_dir, model, optimizer, experiment, tokenizer, data)
    model.freeze(schedule.frozen(cfg, state.step))
    wrapped = wrap(model, accelerator)
    steps_in_all = Forecast(cfg, data.batches_per_pass if data is not None else 0)
    log = open_log(run_dir, experiment, state, accelerator, material.facts, steps_in_all)
    run = Run(folder=run_dir, model=model, optimizer=optimizer, tokenizer=tokenizer, experiment=experiment,
              log=log, writer=CheckpointWriter(background=cfg.save_in_background and log.main))  # fmt: skip
    check_space(run_dir, model, optimizer, cfg)
    health = Health(run, state)
    window, clock, pace, stream = Window(), Clock(), Pace(first=state.step), material.batches(state.position)
    preferred, bf16 = experiment.decoding_head, accelerator.mixed_precision == "bf16"
    on_dev = partial(check_on_dev, run, state, material.validate, health) if material.validate else None
    if on_dev and state.step and state.validated != state.step and validation_due(cfg, state):
        on_dev()  # the step was saved, and its validation interrupted
        clock.lap("validate")
    watchdog = Watchdog(clock, lambda: state.step, cfg.timeout_seconds, launch)
    with run.writer, health, StopRequest() as stop, watchdog:
        while not has_ended(cfg, state):
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
            stats: StepStats | None = None  # of a step that is left out
            with watched(run, state, group, seen, bf16):
                tools = Step(wrapped, optimizer, accelerator, run_dir, clock)
                stats = train_step(tools, group, cfg, state, stop.requested)
            state.step += 1
            health.after(state, stats, group)
            epoch = schedule.epoch(cfg, state.position)
            over, passed = schedule.is_over(cfg, state.step, epoch), cfg.epochs > 0 and epoch > before
            window.add(stats, waited)
            sample_averages(run, state, clock)
            if due(state.step, cfg.log_every) or over:
                report(run, state, window, clock, pace, steps_in_all)
            stop_now = bool(stats and stats.stop)
            save_and_check(run, state, on_dev, stop=stop_now, over=over, passed=passed)
            show_samples(run, state, material.samples, preferred)
            clock.lap("validate")
    log.close()
    return state


def place(model: SpeechModel, cfg: TrainConfig, accelerator: Accelerator) -> None:
    """Bring the model to its device, frozen, compiled and spread over ranks as the options say."""
    model.to(accelerator.device)
    model.freeze(schedule.frozen_throughout(cfg))  # before the optimizer, which leaves them out
    compile_blocks(model, cfg)
    shard(model, cfg, accelerator)


def due(step: int, every: int) -> bool:
    """Whether something done `every` so many steps is done after this one; 0 means never."""
    return every > 0 and step % every == 0


def has_ended(cfg: TrainConfig, state: State) -> bool:
    """Whether training is over: by its steps or epochs, or by `train.patience`."""
    epoch = schedule.epoch(cfg, state.position)
    return ended_early(cfg, state) or schedule.is_over(cfg, state.step, epoch)


def validation_due(cfg: TrainConfig, state: State) -> bool:
    """Whether the weights of this step are validated: every `train.valid_every` steps and at the end."""
    over = schedule.is_over(cfg, state.step, schedule.epoch(cfg, state.position))
    return cfg.valid_every > 0 and (over or due(state.step, cfg.valid_every))


def check_on_dev(run: Run, state: State, validate: Validate, health: Health) -> None:
    """Validate the weights of this step, keep them as best.pt if they are the best, and record it. Without
    the memory for it, that is said, and training continues."""
    anew, error = state.best == float("inf"), float("inf")
    try:
        with gathered(run.model), health.validating():
            scores = validate(run.model, trained_heads(run.cfg, run.model, state.step))
    except ValidationOutOfMemory as failed:
        run.log.say(f"valid step {state.step}  NOT VALIDATED, out of memory: {failed}")
        run.log.metrics("valid_failed", state.step, {"out_of_memory": 1.0})
    else:
        verdict = judge(run, state, scores, health.loss, anew=anew)
        scores.update(verdict.values)
        keep_best(run, state, scores)
        if verdict.text:
            run.log.say(f"  {verdict.text}")
        error = scores["error"]
    record_validation(run.folder, state, run.log.main, error)
    if ended_early(run.cfg, state):
        run.log.say(
            f"training ends at step {state.step}: {state.waited} validations in a row without a clear "
            "improvement (train.patience)"
        )


def sample_averages(run: Run, state: State, clock: Clock) -> None:
    """Add the weights of this step to the averages, if that is due."""
    if due(state.step, run.cfg.average_every):
        if run.log.main or is_sharded(run.model):
            state.update_averages(run.model.state_dict())
        clock.lap("average")


def show_samples(run: Run, state: State, samples: Samples | None, preferred: str | None) -> None:
    """Log the output for some utterances, if that is due. Of a sharded model all ranks must call this."""
    if samples and due(state.step, run.cfg.samples_every):
        trained = trained_heads(run.cfg, run.model, state.step)
        head = head_to_show(run.model, trained, preferred, state.dev)
        with gathered(run.model):
            run.log.samples(state.step, samples(run.model, head) if head and run.log.main else [])


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
        run.writer.flush()
        run.log.close()
        raise Interrupted(state.step)
    if on_dev and validation_due(run.cfg, state):
        with nullcontext() if saved else saved_meanwhile(run, state):
            on_dev()


@contextmanager
def saved_meanwhile(run: Run, state: State) -> Iterator[None]:
    """A checkpoint of this step while something runs that may fail, so that a failure does not lose the steps
    since the last one; removed if all goes well, unless training ends here."""
    save(run, state, keep_others=True)
    yield
    run.writer.flush()
    if run.log.main and not ended_early(run.cfg, state):
        remove(step_path(run.folder, state.step))


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
    log = RunLog(run_dir, main=accelerator.is_main_process, resumed_step=state.step, trackers=cfg.trackers)
    progress = {"world_size": accelerator.num_processes, "history": state.history}
    log.start(experiment, sys.argv, facts | progress)
    if schedule.is_over(cfg, state.step, schedule.epoch(cfg, state.position)):
        log.say(
            f"the run has ended at step {state.step} (train.steps={cfg.steps}, train.epochs={cfg.epochs}): "
            "raise one that ended it to train on"
        )
    elif ended_early(cfg, state):
        log.say(
            f"the run has ended at step {state.step} (train.patience={cfg.patience}): raise it to train on"
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
