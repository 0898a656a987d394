"""What moves during training besides weights and optimizer, and how all of it is saved and restored."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from maya.config import from_dict, to_dict
from maya.data.plan import Position
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer
from maya.train import checkpoint as ckpt
from maya.train import schedule
from maya.train.averaging import RunningAverage
from maya.train.distributed import barrier, gather_objects, rank, world_size
from maya.train.runlog import RunLog


@dataclass(kw_only=True, slots=True)
class State:
    """What moves during training, apart from the weights and the optimizer."""

    step: int = 0
    position: Position = Position(0, 0)  # where the data plan continues
    best: float = float("inf")  # lowest validation error so far
    average: RunningAverage = field(default_factory=RunningAverage)
    infeasible: int = 0  # utterances whose text their audio cannot carry, met so far on this rank


def keep_best(
    log: RunLog,
    state: State,
    scores: dict[str, float],
    model: SpeechModel,
    tokenizer: Tokenizer,
    run_dir: Path,
) -> None:
    """Log a validation and keep the weights with the lowest error as best.pt."""
    log.metrics("valid", state.step, scores)
    better, shown = scores["error"] < state.best, ("loss", "wer", "cer", "language_accuracy")
    log.say(
        f"valid step {state.step}  "
        + "  ".join(f"{k} {v:.3f}" for k, v in scores.items() if k in shown)
        + ("  (best so far)" if better else "")
    )
    state.best = min(state.best, scores["error"])
    if better and log.main:
        best = ckpt.Checkpoint(
            model_config=model.cfg,
            tokenizer=tokenizer,
            weights=model.state_dict(),
            step=state.step,
            notes={"valid": scores},
        )
        ckpt.save_checkpoint(run_dir / "best.pt", best)


def save(
    run_dir: Path, state: State, model: SpeechModel, optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer, experiment: Any, main: bool, passed: bool = False,
) -> None:  # fmt: skip
    """Write the training checkpoint of this step (rank 0), with every rank's random state; drop old ones.

    With `passed`, at the end of an epoch, also keep the weights and their average as epoch-0001.pt ...: any
    two of these give the mean over the epochs between them. Training does not continue from them.
    """
    rngs = gather_objects(ckpt.rng_state())
    if main:
        training = {
            "experiment": to_dict(experiment),
            "optimizer": optimizer.state_dict(),
            "average": state.average.state_dict(),
            "position": list(state.position),
            "best": state.best,
            "infeasible": state.infeasible,
            "rng": rngs,
        }
        ckpt.save_checkpoint(ckpt.step_path(run_dir, state.step), ckpt.Checkpoint(
            model_config=model.cfg, tokenizer=tokenizer, weights=model.state_dict(), step=state.step,
            notes={"experiment": experiment.name}, training=training,
        ))  # fmt: skip
        if passed:
            epoch = schedule.epoch(experiment.train, state.position)
            ckpt.save_checkpoint(ckpt.epoch_path(run_dir, epoch), ckpt.Checkpoint(
                model_config=model.cfg, tokenizer=tokenizer, weights=model.state_dict(), step=state.step,
                notes={"experiment": experiment.name, "epoch": epoch},
                training={"average": training["average"]},
            ))  # fmt: skip
        for _, old in ckpt.step_checkpoints(run_dir)[: -experiment.train.keep]:
            old.unlink()
    barrier()


# Fields that change what is printed or when, not what is learnt: a run may continue with others.
FREE = frozenset(
    [f"train.{name}" for name in ("log_every", "valid_every", "save_every", "keep", "threads")]
    + ["train.samples_every", "train.samples"]
    + [f"data.{name}" for name in ("num_workers", "cache_gb", "max_skipped", "timeout_seconds")]
    + ["prepare.split.fresh"]
)


def resume(run_dir: Path, model: SpeechModel, optimizer: torch.optim.Optimizer, experiment: Any) -> State:
    """Restore the newest training checkpoint of `run_dir`; without one, a fresh State."""
    found = ckpt.step_checkpoints(run_dir)
    if not found:
        torch.manual_seed(experiment.train.seed + 7919 * rank())
        return State()
    path = found[-1][1]
    loaded = ckpt.load_checkpoint(path, training=True)
    if loaded.training is None:
        raise MayaError(
            f"{path} holds weights only, training cannot continue from it; move it away to start anew"
        )
    saved = with_new_fields(loaded.training["experiment"], type(experiment))
    refuse_other_experiment(path, saved, to_dict(experiment))
    rngs = loaded.training["rng"]
    model.load_state_dict(loaded.weights)
    optimizer.load_state_dict(loaded.training["optimizer"])
    if len(rngs) == world_size():
        ckpt.restore_rng(rngs[rank()])
    else:  # other ranks share the work from here on: their random numbers begin anew, the data go on
        torch.manual_seed(experiment.train.seed + 7919 * rank() + loaded.step)
    state = State(
        step=loaded.step,
        position=Position.of(loaded.training["position"]),
        best=loaded.training["best"],
        infeasible=loaded.training["infeasible"],
    )
    state.average.load_state_dict(loaded.training["average"])
    return state


def is_free(name: str) -> bool:
    """Whether a field may change without making it another training: those in FREE, and how to decode."""
    return name in FREE or name.startswith("decode.")


def with_new_fields(saved: dict, kind: type) -> dict:
    """A saved experiment with the fields that its type has got since; their defaults keep what was."""
    try:
        return to_dict(from_dict(kind, saved))
    except (MayaError, TypeError):  # a field is gone or of another type: it will be named as the difference
        return saved


def refuse_other_experiment(path: Path, saved: dict, asked: dict) -> None:
    """MayaError if the checkpoint belongs to an experiment that would have learnt something else."""
    was, now = flat(saved), flat(asked)
    differing = [k for k in sorted(was.keys() | now.keys()) if was.get(k) != now.get(k) and not is_free(k)]
    if differing:
        k = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise MayaError(
            f"{path} belongs to another experiment: {k} was {was.get(k)!r}, now {now.get(k)!r}{more}; give "
            "this run a --name of its own, or remove the old run's folder"
        )


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted names."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
