"""Training state other than weights and optimizer; saving all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from maya.config import to_dict
from maya.data.plan import Position
from maya.files import read_json, write_json
from maya.models.speech_model import SpeechModel
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints.averaging import RunningAverage
from maya.train.checkpoints.writer import CheckpointWriter
from maya.train.config import TrainConfig
from maya.train.distributed import barrier, gather_objects
from maya.train.heads import describe, head_notes, scores_by_head
from maya.train.optimizers import schedule
from maya.train.runlog import RunLog
from maya.train.sharding import is_sharded, whole_weights

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
    ema: RunningAverage | None = None  # see train.ema
    skipped: list[int] = field(default_factory=list)  # steps left out, see maya.train.failure
    stopped_at: list[int] = field(default_factory=list)  # steps whose losses stopped the run earlier
    waited: int = 0  # validations in a row without a clear improvement, see maya.train.verdict

    def update_averages(self, weights: dict[str, torch.Tensor]) -> None:
        """One more sample of the weights."""
        for average in (self.average, self.ema):
            if average is not None:
                average.update(weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The things of a training that stay the same from step to step."""

    folder: Path
    model: SpeechModel
    optimizer: torch.optim.Optimizer
    tokenizer: Tokenizer
    experiment: Any
    log: RunLog
    writer: CheckpointWriter = field(default_factory=CheckpointWriter)

    @property
    def cfg(self) -> TrainConfig:
        """The options of training."""
        return self.experiment.train

    def checkpoint(
        self, state: State, notes: dict[str, Any], training: dict | None = None
    ) -> ckpt.Checkpoint:
        """The weights of this step with notes. Of a sharded model all ranks must call this: `training` state
        goes with the weights as each rank holds them, and without it rank 0 has them whole."""
        weights = self.model.state_dict() if training else whole_weights(self.model)
        return ckpt.Checkpoint(
            model_config=self.model.cfg, tokenizer=self.tokenizer, weights=weights,
            step=state.step, notes=notes, training=training,
        )  # fmt: skip


def keep_best(run: Run, state: State, scores: Mapping[str, float]) -> None:
    """Log a validation and keep the weights with the lowest error as best.pt, and those of the
    `train.keep_best` lowest as checkpoints/best-0000100.pt ..."""
    log, heads, count = run.log, tuple(run.model.heads), run.cfg.keep_best
    log.metrics("valid", state.step, scores)
    better, state.dev = scores["error"] < state.best, scores_by_head(scores, heads)
    log.say(f"valid step {state.step}  {describe(scores, heads)}" + ("  (best so far)" if better else ""))
    state.best = min(state.best, scores["error"])
    if not better and count == 1:
        return
    notes = {"valid": dict(scores)} | head_notes(run.cfg, run.model, state.step, scores)
    of_step = run.checkpoint(state, notes)
    if better and log.main:
        run.writer.write(run.folder / "best.pt", of_step)
    if count > 1 and log.main:
        errors = {int(step): row["error"] for step, row in _validations(run.folder).items()}
        errors |= {state.step: scores["error"]}
        kept = {step for step, _ in ckpt.best_checkpoints(run.folder)} | {state.step}
        lowest = sorted(kept, key=lambda step: (errors.get(step, float("inf")), step))[:count]
        if state.step in lowest:
            path = ckpt.best_path(run.folder, state.step)
            run.writer.write(path, of_step, lambda: _keep_only(run.folder, lowest))


def _keep_only(run_dir: Path, steps: Sequence[int]) -> None:
    for step, path in ckpt.best_checkpoints(run_dir):
        if step not in steps:
            path.unlink(missing_ok=True)


def record_validation(run_dir: Path, state: State, main: bool, error: float = float("inf")) -> None:
    """Record that this step has been validated, its error, and what follows from the validations so far: the
    checkpoint of the step is saved before its validation."""
    state.validated = state.step
    if main:
        rows = {step: row for step, row in _validations(run_dir).items() if int(step) < state.step}
        row = {"best": state.best, "error": error, "waited": state.waited}
        write_json(run_dir / VALIDATIONS, rows | {str(state.step): row})


def restore_validation(run_dir: Path, state: State) -> None:
    """What was recorded at the last validation up to the state's step, which may be that of this step."""
    rows = {int(step): row for step, row in _validations(run_dir).items() if int(step) <= state.step}
    if rows:
        state.waited = rows[max(rows)]["waited"]
    if state.step in rows:
        state.best, state.validated = rows[state.step]["best"], state.step


def _validations(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What was recorded, by the step of each validation."""
    rows = read_json(run_dir / VALIDATIONS).items()
    return {step: row for step, row in rows if step.isdecimal() and isinstance(row, dict)}


def save(run: Run, state: State, *, passed: bool = False, keep_others: bool = False) -> None:
    """Write the training checkpoint of this step (rank 0, or all ranks of a sharded model), with every rank's
    random state; then drop old ones.

    With `passed`, at the end of an epoch, also keep the weights and their average as epoch-0001.pt ...: any
    two of these give the mean over the epochs between them. Training does not continue from them. With
    `keep_others` no older one is dropped.
    """
    experiment, folder, keep = run.experiment, run.folder, run.cfg.keep
    rngs = gather_objects(ckpt.rng_state())
    notes = {"experiment": experiment.name} | head_notes(run.cfg, run.model, state.step)

    def drop_old() -> None:
        if keep and not keep_others and run.log.main:
            for _, old in ckpt.step_checkpoints(folder)[:-keep]:
                ckpt.remove(old)

    if run.log.main or is_sharded(run.model):
        training = {
            "experiment": to_dict(experiment),
            "optimizer": run.optimizer.state_dict(),
            "average": state.average.state_dict(),
            "position": state.position.saved(),
            "best": state.best,
            "infeasible": state.infeasible,
            "skipped": state.skipped,
            "rng": rngs,
            "history": state.history,
        }
        training |= {"ema": state.ema.state_dict()} if state.ema else {}
        path = ckpt.step_path(folder, state.step)
        run.writer.write(path, run.checkpoint(state, notes, training), drop_old)
        if passed:
            epoch = schedule.epoch(run.cfg, state.position)
            average = {"average": training["average"]}
            of_epoch = run.checkpoint(state, notes | {"epoch": epoch}, average)
            run.writer.write(ckpt.epoch_path(folder, epoch), of_epoch)
    barrier()


# Fields that change the output of training, not its result: a run may continue with other values.
FREE = frozenset(
    [f"train.{name}" for name in ("log_every", "valid_every", "save_every", "keep", "keep_best", "threads")]
    + [f"train.{name}" for name in ("samples_every", "samples", "save_in_background", "damaged", "trackers")]
    + [f"train.{name}" for name in ("skip_non_finite", "skip_in_row", "spike", "stall_seconds")]
    + ["train.parallel", "train.compile", "train.timeout_seconds"]
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
