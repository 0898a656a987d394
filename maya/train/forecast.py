"""How many steps a training will take, and how long."""

import time
from dataclasses import dataclass, field

from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.optimizers import schedule


@dataclass(kw_only=True, slots=True)
class Pace:
    """Since when, and from which step on, this process trains."""

    first: int
    started: float = field(default_factory=time.perf_counter)

    def seconds_a_step(self, step: int) -> float:
        return (time.perf_counter() - self.started) / max(1, step - self.first)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The step that training will end at. batches_per_pass: see schedule.expected_steps."""

    cfg: TrainConfig
    batches_per_pass: int

    def total(self, state: State) -> int:
        return schedule.expected_steps(self.cfg, state.step, state.position, self.batches_per_pass)

    def shown(self, state: State) -> str:
        """The number of steps, with ~ where it is estimated from the epochs."""
        total = self.total(state)
        return f"~{total}" if self.cfg.epochs and total < self.cfg.steps else str(total)

    def epoch(self, state: State) -> str:
        """The epochs done, of how many where these end the training."""
        epoch = schedule.epoch(self.cfg, state.position)
        return f"{epoch} of {self.cfg.epochs}" if self.cfg.epochs else str(epoch)
