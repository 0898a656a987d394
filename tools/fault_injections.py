"""Experiments of `python -m tools.fault_campaign`: a small training in which something breaks at a step.

`maya train --experiment tools.fault_injections:nan_in_activations ...`. Each function patches what breaks and
returns the same experiment. Every step that a process takes is noted in steps.txt of the run folder.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from maya.encoders import FastConformer
from maya.recipes.experiment import Experiment
from maya.train import loop, validate
from maya.train.checkpoints import checkpoint, unbuffered
from tests import tiny  # type: ignore[import-not-found]

STEPS, EVERY, BREAKS_AT = 20, 5, 12
NOTES = "steps.txt"


def experiment() -> Experiment:
    """20 steps of a small FastConformer with batch normalisation, a checkpoint every 5 steps."""
    before_each_step(lambda step: None)
    exp = tiny.experiment()
    exp.name = "faults"
    exp.train.steps, exp.train.log_every, exp.train.threads = STEPS, 1, 1
    exp.train.save_every, exp.train.valid_every, exp.train.keep = EVERY, 10, 10
    exp.train.average_every = 1
    return exp


def before_each_step(act: Callable[[int], None]) -> None:
    """Call `act` with the number of each step before it, and note the step after it."""
    real = loop.train_step

    def step(tools: Any, group: Any, cfg: Any, state: Any, *rest: Any) -> Any:
        act(state.step)
        stats = real(tools, group, cfg, state, *rest)
        if tools.accelerator.is_main_process and real.__module__ == "maya.train.step":
            with (tools.folder / NOTES).open("a") as file:
                file.write(f"{os.getpid()} {state.step}\n")
        return stats

    loop.train_step = step  # type: ignore[assignment]


def slow() -> Experiment:
    """A step takes at least 0.2 s, so that signals arrive in time."""
    before_each_step(lambda step: time.sleep(0.2))
    return experiment()


def very_slow() -> Experiment:
    """A step takes at least 1 s, so that a second process can start meanwhile."""
    before_each_step(lambda step: time.sleep(1.0))
    return experiment()


def slow_disk() -> Experiment:
    """Each checkpoint takes 2 s to write."""

    def fsync(number: int) -> None:
        time.sleep(2)
        os.fsync(number)

    checkpoint.os = _Replaced(os, fsync=fsync)  # type: ignore[assignment]
    return slow()


def full_disk() -> Experiment:
    """No byte can be written for a checkpoint from step 10 on."""
    step = [0]

    def write(number: int, data: Any) -> int:
        if step[0] >= 2 * EVERY - 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(number, data)

    unbuffered.os = _Replaced(os, write=write)  # type: ignore[assignment]
    before_each_step(lambda number: step.__setitem__(0, number))
    return experiment()


class _Replaced:
    """A module with some functions replaced."""

    def __init__(self, module: Any, **functions: Any) -> None:
        self._module, self._functions = module, functions

    def __getattr__(self, name: str) -> Any:
        return self._functions.get(name) or getattr(self._module, name)


def nan_in_activations() -> Experiment:
    """The encoder's output holds a NaN at one step; batch normalisation sees NaN, too."""
    real, step = FastConformer.forward, _step_now()

    def forward(self: FastConformer, features: torch.Tensor, *rest: Any) -> Any:
        if self.training and step[0] == BREAKS_AT:
            features = features.clone()
            features[0, :4] = torch.nan
        return real(self, features, *rest)

    FastConformer.forward = forward  # type: ignore[method-assign, assignment]
    return experiment()


def nan_in_gradients() -> Experiment:
    """The losses of a step are finite, and its gradients are not."""
    real, step = FastConformer.forward, _step_now()

    def forward(self: FastConformer, *inputs: Any) -> Any:
        encoded = real(self, *inputs)
        if self.training and step[0] == BREAKS_AT:
            encoded.frames.register_hook(lambda gradient: gradient * torch.nan)
        return encoded

    FastConformer.forward = forward  # type: ignore[method-assign, assignment]
    return experiment()


def _step_now() -> list[int]:
    """A list whose only entry is the running step."""
    step = [-1]
    before_each_step(lambda number: step.__setitem__(0, number))
    return step


def clock_jumps() -> Experiment:
    """The clock goes back by a day at step 7, and forward by a year at step 13."""
    real, shift = time.time, [0.0]

    def act(step: int) -> None:
        shift[0] = {7: -86400.0, 13: 365 * 86400.0}.get(step, shift[0])

    time.time = lambda: real() + shift[0]
    before_each_step(act)
    return experiment()


def validation_without_memory() -> Experiment:
    """The first validation finds no memory."""
    real, calls = validate._add, list[int]()  # noqa: SLF001

    def add(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        real(*arguments)

    validate._add = add  # type: ignore[assignment]  # noqa: SLF001
    return experiment()


def workers() -> Experiment:
    """Slow, with a worker process that reads the data."""
    exp = slow()
    exp.data.num_workers = 1
    return exp


def unreadable() -> Experiment:
    """Up to a quarter of the recordings may be unreadable."""
    exp = experiment()
    exp.data.max_skipped = 0.25
    return exp


def steps_taken(run: Path) -> list[int]:
    """The number of every step that was taken in a run folder, in order, repeated ones included."""
    notes = run / NOTES
    return [int(line.split()[1]) for line in notes.read_text().splitlines()] if notes.is_file() else []
