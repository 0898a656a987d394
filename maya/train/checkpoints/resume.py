"""Resuming a training from its newest readable checkpoint. Changes that make it another training are refused;
changes that a reader of the results should know give a warning."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from maya.config import from_dict, to_dict
from maya.data.plan import Position
from maya.errors import MayaError
from maya.files import read_json, sha256
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints.averaging import RunningAverage
from maya.train.checkpoints.state import State, flat, is_free, restore_validation
from maya.train.config import TrainConfig
from maya.train.distributed import gather_objects, rank, world_size
from maya.train.heads import trained_names
from maya.train.optimizers import schedule
from maya.train.sharding import is_sharded, mesh_of, spread, spread_state
from maya.train.training_data import TrainingData

log = logging.getLogger(__name__)

# The fields that set the end of training. They may change: see `say_other_end`.
ENDS = frozenset(["train.steps", "train.epochs", "train.patience"])
STOPPED_AT = "stopped-at.json"


def resume(
    run_dir: Path, model: SpeechModel, optimizer: torch.optim.Optimizer, experiment: Any,
    tokenizer: Tokenizer, data: TrainingData | None = None,
) -> State:  # fmt: skip
    """Restore the newest training checkpoint of `run_dir` that can be read; without one, a fresh State.

    Raises MayaError if no checkpoint can be read, if the experiment or the tokenizer is another one, and if
    the run has ended and `data` are not those it was trained on. Other data in a run that goes on are said in
    a warning, and the running pass begins anew.
    """
    path = newest_readable(run_dir, experiment.train.damaged == "go_back")
    now = {"steps": experiment.train.steps, "epochs": experiment.train.epochs}
    present = now | {"data": asdict(data) if data is not None else None}
    if path is None:
        torch.manual_seed(experiment.train.seed + 7919 * rank())
        state = State(history=[{"step": 0} | present], ema=fresh_ema(experiment.train))
        state.stopped_at = steps_stopped_at(run_dir)
        return state
    loaded = ckpt.load_checkpoint(path, training=True, verify=False, mesh=mesh_of(model))
    if loaded.training is None:
        raise MayaError(
            f"{path} holds weights only, training cannot continue from it; move it away to start anew"
        )
    if loaded.older:
        raise MayaError(
            f"{path} was written by Maya 0.2, whose training cannot be continued exactly; start a new run "
            f"with train.init_from={path}"
        )
    saved = with_new_fields(loaded.training["experiment"], type(experiment))
    refuse_other_tokenizer(path, loaded.tokenizer, tokenizer)
    refuse_other_experiment(path, saved, to_dict(experiment))
    state = _restore(loaded, model, optimizer, experiment)
    model.initial_heads = trained_names(loaded)
    before = state.history[-1] if state.history else {}
    state.stopped_at = steps_stopped_at(run_dir)
    restore_validation(run_dir, state)
    if data is not None:
        compare_data(path, state, before.get("data"), data, experiment.train)
    say_other_end(state, saved["train"], experiment.train)
    if {k: v for k, v in before.items() if k != "step"} != present:
        state.history.append({"step": state.step} | present)
    return state


def fresh_ema(cfg: TrainConfig) -> RunningAverage | None:
    """The average that `train.ema` asks for. A sample stands for `train.average_every` steps."""
    return RunningAverage(decay=cfg.ema**cfg.average_every) if cfg.ema and cfg.average_every else None


def steps_stopped_at(run_dir: Path) -> list[int]:
    """The steps at which losses that are not finite stopped this run before, alike on every rank."""
    steps = read_json(run_dir / STOPPED_AT).get("steps", []) if rank() == 0 else []
    return list(gather_objects(steps)[0])


def newest_readable(run_dir: Path, go_back: bool = True) -> Path | None:
    """The newest training checkpoint whose bytes are those that were written, alike on every rank; None
    where the run has no checkpoint.

    Rank 0 reads them. A damaged one is named in a warning and renamed to step-….pt.damaged. Raises MayaError
    where none of them can be read: training never begins anew by itself; without `go_back` also where the
    newest is damaged. Parts of files that a killed process left are removed.
    """
    outcome: tuple[str, str] = ("", "")  # (path, error)
    if rank() == 0:
        for partial in (*run_dir.glob("*.pt.partial"), *run_dir.glob("checkpoints/*.pt.partial")):
            ckpt.remove(partial)
        outcome = _newest_readable(run_dir, go_back)
    path, error = gather_objects(outcome)[0]
    if error:
        raise MayaError(error)
    return Path(path) if path else None


def _newest_readable(run_dir: Path, go_back: bool) -> tuple[str, str]:
    checkpoints = ckpt.step_checkpoints(run_dir)
    damaged: list[tuple[Path, str]] = []
    for _, path in reversed(checkpoints):
        reason = ckpt.damage(path)
        if not reason:
            for broken, why in damaged:
                aside = broken.with_name(broken.name + ".damaged")
                broken.replace(aside)
                log.warning(
                    "%s is damaged: %s; it is now %s, and training goes back to %s",
                    broken, why, aside.name, path.name,
                )  # fmt: skip
            return str(path), ""
        damaged.append((path, reason))
        if not go_back:
            return "", (
                f"{path} is damaged: {reason}; restore it from a copy, or set train.damaged=go_back to train "
                "on from the checkpoint before it"
            )
    if damaged:
        path, reason = damaged[0]
        return "", (
            f"{run_dir}: none of its {len(damaged)} training checkpoint(s) can be read, the newest, {path}: "
            f"{reason}; restore one from a copy, or move {path.parent} away to start anew"
        )
    return "", ""


def _restore(
    loaded: ckpt.Checkpoint, model: SpeechModel, optimizer: torch.optim.Optimizer, experiment: Any
) -> State:
    """Weights, optimizer and random states of a training checkpoint, and the rest as a State."""
    training = loaded.training
    assert training is not None
    rngs = training["rng"]
    model.load_state_dict(spread(loaded.weights, model))
    optimizer.load_state_dict(training["optimizer"])
    spread_state(optimizer)
    if len(rngs) == world_size():
        ckpt.restore_rng(rngs[rank()])
    else:  # other ranks share the work from here on: their random numbers begin anew, the data go on
        torch.manual_seed(experiment.train.seed + 7919 * rank() + loaded.step)
    state = State(
        step=loaded.step,
        position=Position.of(training["position"]),
        best=training["best"],
        infeasible=training["infeasible"],
        history=list(training.get("history", [])),
        skipped=list(training.get("skipped", [])),
        ema=fresh_ema(experiment.train),
    )
    state.average.load_state_dict(training["average"])
    if state.ema is not None and "ema" in training:
        state.ema.load_state_dict(training["ema"])
    for kept in (state.average, state.ema) if is_sharded(model) else ():
        if kept is not None:
            kept.mean = {k: v.cpu() for k, v in spread(kept.mean, model).items()}
    return state


def refuse_other_tokenizer(path: Path, saved: Tokenizer, tokenizer: Tokenizer) -> None:
    """MayaError if the checkpoint was trained with another tokenizer, be it of the same size."""
    if saved.model_bytes == tokenizer.model_bytes:
        return
    then, now = (f"{t.vocab_size} pieces, digest {sha256(t.model_bytes)[:8]}" for t in (saved, tokenizer))
    raise MayaError(
        f"{path} was trained with another tokenizer ({then}) than the run folder's tokenizer.model ({now}), "
        "so its outputs would mean other pieces; give this run another folder (--run-dir, --name of run.sh), "
        "or remove the old run's folder"
    )


def compare_data(
    path: Path, state: State, saved: dict[str, Any] | None, data: TrainingData, cfg: TrainConfig
) -> None:
    """Warn where the training data are not those of the checkpoint, and begin the running pass anew: a
    position in a pass over other data has no meaning. MayaError if the run has already ended."""
    if saved is None:
        say(f"{path} does not record its training data, so they are not compared with the present ones")
        return
    then = TrainingData.of(saved)
    over = schedule.is_over(cfg, state.step, schedule.epoch(cfg, state.position))
    if then.digest != data.digest and over:
        raise MayaError(
            f"{path.parent.parent} has ended at step {state.step} with other training data ({then}) than "
            f"those given now ({data}), which it has never seen; give this run another folder (--run-dir, "
            "--name of run.sh), or raise train.steps (or train.epochs) to train on with them"
        )
    if then.digest != data.digest:
        passes = state.position.epoch
        state.position = Position(passes, 0)
        say(
            f"THE TRAINING DATA DIFFER from those of {path.name}: {then} then, {data} now. Training goes on "
            f"at step {state.step} with the present data, from the beginning of pass {passes + 1}"
        )
    elif then.table != data.table:
        say("the training utterances are those before; their audio files were moved or written again")
    if then.dev != data.dev:
        say("the dev set is not the one before" + ("" if over else ": best.pt is chosen anew from here on"))
        if not over:
            state.best, state.validated = float("inf"), state.step


def say_other_end(state: State, saved: dict[str, Any], cfg: TrainConfig) -> None:
    """Warn where `train.steps` changed and the cosine with it, of which the steps so far followed another."""
    steps = int(saved["steps"])
    if steps == cfg.steps or not schedule.depends_on_steps(cfg) or state.step >= cfg.steps:
        return
    then, now = (
        schedule.head_rate(cfg_of(cfg, n), state.step, schedule.epoch(cfg, state.position))
        for n in (steps, cfg.steps)
    )
    say(
        f"train.steps was {steps} and is {cfg.steps}: the cosine now ends there, so the rate of step "
        f"{state.step} is {now:.2e} in place of {then:.2e}; the run differs from one that was planned for "
        f"{cfg.steps} steps from the start"
    )


def cfg_of(cfg: TrainConfig, steps: int) -> TrainConfig:
    """The same options with another number of steps."""
    return from_dict(TrainConfig, to_dict(cfg) | {"steps": steps})


def say(text: str) -> None:
    """A warning, from one rank."""
    if rank() == 0:
        log.warning("%s", text)


def with_new_fields(saved: dict, kind: type) -> dict:
    """A saved experiment with the fields that its type has got since; their defaults keep what was."""
    try:
        return to_dict(from_dict(kind, saved))
    except (MayaError, TypeError):  # a field is gone or of another type: it will be named as the difference
        return saved


def refuse_other_experiment(path: Path, saved: dict, asked: dict) -> None:
    """MayaError if the checkpoint belongs to an experiment that would have learnt something else."""
    was, now = flat(saved), flat(asked)
    names = sorted((was.keys() | now.keys()) - ENDS)
    differing = [k for k in names if was.get(k) != now.get(k) and not is_free(k)]
    if differing:
        k = differing[0]
        others = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise MayaError(
            f"{path} belongs to another experiment: {k} was {was.get(k)!r}, now {now.get(k)!r}{others}; give "
            "this run another folder (--run-dir, --name of run.sh), or remove the old run's folder"
        )
