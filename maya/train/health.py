"""Watching a training from step to step: losses that jump, steps that do not end, memory."""

import faulthandler
import logging
import statistics
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from maya.data.loading.batch import Batch
from maya.train.checkpoints.state import Run, State
from maya.train.distributed import gather_objects, rank
from maya.train.step import StepStats

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

STAYS = 10  # steps in a row with a raised loss, after which this is the normal loss


@dataclass(kw_only=True, slots=True)
class SpikeDetector:
    """Finds losses far above those of the last `window` steps.

    The distance is counted in deviations: 1.4826 times the median absolute deviation (of normal noise its
    standard deviation), and at least 2 % of the median. Nothing is judged before `least` steps.
    """

    limit: float  # deviations
    window: int = 200
    least: int = 50
    losses: deque[float] = field(default_factory=deque)
    in_row: int = 0

    def see(self, loss: float) -> float:
        """Take in the loss of a step. Returns its distance from the median if a spike begins here, else 0."""
        distance = 0.0
        if self.limit and len(self.losses) >= self.least:
            middle = self.median()
            least = max(0.02 * abs(middle), 1e-6)
            if loss - middle > self.limit * least:  # seldom, so the deviations are seldom computed
                spread = 1.4826 * statistics.median(abs(value - middle) for value in self.losses)
                distance = (loss - middle) / max(spread, least)
        self.in_row = self.in_row + 1 if distance > self.limit else 0
        if self.in_row == STAYS:
            self.losses.clear()
        self.losses.append(loss)
        if len(self.losses) > self.window:
            self.losses.popleft()
        return distance if self.in_row == 1 else 0.0

    def median(self) -> float:
        """The median of recent losses; NaN where there are none."""
        return statistics.median(self.losses) if self.losses else float("nan")


class StallDetector(threading.Thread):
    """Reports where the process stands if `beat` is not called for `seconds`, and again after twice that
    time; 0: never. The stacks of all threads go to `file`."""

    def __init__(self, seconds: float, file: Path) -> None:
        super().__init__(name="stall detector", daemon=True)
        self._seconds, self._file = seconds, file
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._step, self._since, self._reports = 0, time.monotonic(), 0
        self.patience = 1.0  # times `seconds`

    def beat(self, step: int) -> float:
        """A step has ended. Returns the seconds it took if they were reported as a stall, else 0."""
        now = time.monotonic()
        stalled = now - self._since if self._reports else 0.0
        self._step, self._since, self._reports = step, now, 0
        return stalled

    def run(self) -> None:
        while not self._ended.wait(min(10.0, self._seconds / 4)):
            if time.monotonic() - self._since > self.patience * self._seconds * 2**self._reports:
                self._reports += 1
                self._report()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _report(self) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} no step after step {self._step}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        log.warning(
            "stall on rank %d: no step for %.0f s after step %d; it stands in %s; all stacks are in %s",
            rank(), time.monotonic() - self._since, self._step, place_of(self._watched), self._file,
        )  # fmt: skip


def place_of(thread: int) -> str:
    """The innermost place of our own code that a thread is in, and what it called there."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  the only way to another thread's stack
    innermost, called = frame, frame.f_code.co_name if frame else ""
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("maya."):
        called, frame = frame.f_code.co_name, frame.f_back
    frame = frame or innermost
    if frame is None:
        return "an unknown place"
    code = frame.f_code
    inside = f" in {called}" if called != code.co_name else ""
    return f"{frame.f_globals.get('__name__')}:{frame.f_lineno} ({code.co_name}{inside})"


class Health:
    """What is watched during a training, as a context. Every rank has one."""

    def __init__(self, run: Run, state: State) -> None:
        self._run, seconds = run, run.cfg.stall_seconds
        # By objective: the RNN-T loss that TDT's omega draws is ten times as high.
        self._spikes = defaultdict[str, SpikeDetector](lambda: SpikeDetector(limit=run.cfg.spike))
        file = run.folder / f"stall-rank-{rank():05d}.txt"
        self._stalls = StallDetector(seconds, file) if seconds else None
        if self._stalls:
            self._stalls.beat(state.step)

    def __enter__(self) -> "Health":
        if self._stalls:
            self._stalls.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._stalls:
            self._stalls.end()

    @property
    def loss(self) -> float:
        """The median of recent losses, of the usual objective; NaN where there are none."""
        return self._spikes[""].median()

    @contextmanager
    def validating(self) -> Iterator[None]:
        """A validation may take ten times as long as a step."""
        if self._stalls:
            self._stalls.patience = 10.0
        yield
        if self._stalls:
            self._stalls.patience = 1.0

    def after(self, state: State, stats: StepStats | None, group: list[Batch]) -> None:
        """After a step, whose number is now `state.step`, with its batches on this rank. stats: None for a
        step that was left out. Raises the error of a checkpoint that could not be written."""
        self._run.writer.check()
        if self._stalls and (stalled := self._stalls.beat(state.step)):
            self._run.log.say(f"the stall has ended after {stalled:.0f} s, at step {state.step}")
            self._run.log.metrics("stall", state.step, {"seconds": round(stalled, 1)})
        if stats is None:
            return
        spikes = self._spikes[stats.objective]
        loss, usual = stats.loss / max(stats.count, 1.0), spikes.median()
        if distance := spikes.see(loss):
            ids = gather_objects([name for batch in group for name in batch.ids])
            spike = {"loss": loss, "median": usual, "deviations": distance, "grad_norm": stats.grad_norm}
            self._run.log.event("spikes", {"step": state.step} | spike | {"ids": ids})
            self._run.log.metrics("spike", state.step, spike)
            self._run.log.say(
                f"loss spike at step {state.step}: {loss:.3f}, {distance:.0f} deviations above the median "
                f"{usual:.3f}; gradient {stats.grad_norm:.2f}; its utterances are in spikes.jsonl"
            )


def peak_memory() -> dict[str, float]:
    """The most memory that this process has used so far, in GB: `memory_gb` of a GPU if it uses one, with
    what torch reserved, else of the process."""
    if torch.cuda.is_initialized():
        reserved = torch.cuda.max_memory_reserved() / 1e9
        return {
            "memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3),
            "memory_reserved_gb": round(reserved, 3),
        }
    if resource is None:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)}
