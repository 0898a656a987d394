"""Training state other than weights and optimizer; saving all of it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from maya.config import to_dict
from maya.data.plan import Position
from maya.files import write_json
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints.averaging import RunningAverage
from maya.train.config import TrainConfig
from maya.train.distributed import barrier, gather_objects
from maya.train.heads import describe, head_notes, scores_by_head
from maya.train.optimizers import schedule
from maya.train.runlog import RunLog

VALIDATIONS = "validations.json"


@dataclass(kw_only=True, slots=True)
class State:
    """Training state other than weights and optimizer."""

    step: int = 0
    position: Position = Position(0, 0)  # where the data plan continues
    best: float = float("inf")  # lowest validation error so far
    average: RunningAverage = field(default_factory=RunningAverage)
    infeasible: int = 0  # utterances too short for their text, so far, on all ranks
    validated: int = -1  # the step of the last validation
    history: list[dict[str, Any]] = field(default_factory=list)  # from which step: train.steps, epochs, data
    dev: dict[str, dict[str, float]] = field(default_factory=dict)  # each head's last scores; not saved


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The things of a training that stay the same from step to step."""

    folder: Path
    model: SpeechModel
    optimizer: torch.optim.Optimizer
    tokenizer: Tokenizer
    experiment: Any
    log: RunLog

    @property
    def cfg(self) -> TrainConfig:
        """The options of training."""
        return self.experiment.train

    def checkpoint(
        self, state: State, notes: dict[str, Any], training: dict | None = None
    ) -> ckpt.Checkpoint:
        """The weights of this step with notes."""
        return ckpt.Checkpoint(
            model_config=self.model.cfg, tokenizer=self.tokenizer, weights=self.model.state_dict(),
            step=state.step, notes=notes, training=training,
        )  # fmt: skip


def keep_best(run: Run, state: State, scores: dict[str, float]) -> None:
    """Log a validation and keep the weights with the lowest error as best.pt."""
    log, heads = run.log, tuple(run.model.heads)
    log.metrics("valid", state.step, scores)
    better, state.dev = scores["error"] < state.best, scores_by_head(scores, heads)
    log.say(f"valid step {state.step}  {describe(scores, heads)}" + ("  (best so far)" if better else ""))
    state.best = min(state.best, scores["error"])
    if better and log.main:
        notes = {"valid": scores} | head_notes(run.cfg, run.model, state.step, scores)
        ckpt.save_checkpoint(run.folder / "best.pt", run.checkpoint(state, notes))


def record_validation(run_dir: Path, state: State, main: bool) -> None:
    """Record that this step has been validated, and the lowest error so far: the checkpoint of the step is
    saved before its validation."""
    state.validated = state.step
    if main:
        best = _validations(run_dir)
        best = {step: error for step, error in best.items() if int(step) < state.step}
        write_json(run_dir / VALIDATIONS, best | {str(state.step): state.best})


def read_validations(run_dir: Path, step: int) -> tuple[float | None, int]:
    """(the lowest error after the validation of `step`, `step`), or (None, -1) where it was not validated."""
    best = _validations(run_dir).get(str(step))
    return (None, -1) if best is None else (best, step)


def _validations(run_dir: Path) -> dict[str, float]:
    """The lowest error so far by the step of each validation."""
    try:
        recorded = json.loads((run_dir / VALIDATIONS).read_text())
        return {str(int(step)): float(error) for step, error in recorded.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save(run: Run, state: State, *, passed: bool = False, keep_others: bool = False) -> None:
    """Write the training checkpoint of this step (rank 0), with every rank's random state; drop old ones.

    With `passed`, at the end of an epoch, also keep the weights and their average as epoch-0001.pt ...: any
    two of these give the mean over the epochs between them. Training does not continue from them. With
    `keep_others` no older one is dropped.
    """
    experiment, folder = run.experiment, run.folder
    rngs = gather_objects(ckpt.rng_state())
    notes = {"experiment": experiment.name} | head_notes(run.cfg, run.model, state.step)
    if run.log.main:
        training = {
            "experiment": to_dict(experiment),
            "optimizer": run.optimizer.state_dict(),
            "average": state.average.state_dict(),
            "position": state.position.saved(),
            "best": state.best,
            "infeasible": state.infeasible,
            "rng": rngs,
            "history": state.history,
        }
        ckpt.save_checkpoint(ckpt.step_path(folder, state.step), run.checkpoint(state, notes, training))
        if passed:
            epoch = schedule.epoch(run.cfg, state.position)
            average = {"average": training["average"]}
            of_epoch = run.checkpoint(state, notes | {"epoch": epoch}, average)
            ckpt.save_checkpoint(ckpt.epoch_path(folder, epoch), of_epoch)
        if run.cfg.keep and not keep_others:
            for _, old in ckpt.step_checkpoints(folder)[: -run.cfg.keep]:
                old.unlink()
    barrier()


# Fields that change the output of training, not its result: a run may continue with other values.
FREE = frozenset(
    [f"train.{name}" for name in ("log_every", "valid_every", "save_every", "keep", "threads")]
    + ["train.samples_every", "train.samples"]
    + [f"data.{name}" for name in ("num_workers", "cache_gb", "max_skipped", "timeout_seconds")]
    + ["data.cuts", "data.cuts_weights", "data.dev_cuts"]  # names; the cuts themselves are compared
    + ["prepare.split.fresh"]
)


def is_free(name: str) -> bool:
    """Whether a field may change without making it another training: those in FREE, and of decoding."""
    return name in FREE or name.startswith("decode.")


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted names."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
