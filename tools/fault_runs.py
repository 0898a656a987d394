"""Trainings of the fault campaign: starting and ending them, and what they have lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from maya.train.checkpoints.checkpoint import damage, load_checkpoint, step_checkpoints
from tools.fault_injections import EVERY, STEPS, steps_taken

REPO = Path(__file__).resolve().parents[1]
SECONDS = 600.0  # for a process to do what is expected of it


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a fault did. happened: in words. steps, size: lost. equal: the result is that of an undisturbed
    training; None where it cannot be, because steps were left out or other data were read."""

    fault: str
    injected: str
    happened: str
    steps: int
    size: int
    equal: bool | None

    @property
    def good(self) -> bool:
        """Nothing that was complete is lost, at most the steps since the last checkpoint were repeated, and
        the result is right."""
        said = "NOTHING WAS SAID" not in self.happened
        return said and self.size == 0 and self.equal is not False and self.steps <= EVERY


@dataclass(slots=True)
class FaultRuns:
    """A prepared corpus, and the run folders of a campaign. plain: the run that nothing disturbs, by the
    number of processes."""

    top: Path
    plain: dict[int, Path] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, name: str) -> Path:
        """A fresh run folder with the tokenizer."""
        shutil.copytree(self.top / "run", self.top / name)
        return self.top / name

    def command(
        self, run: Path, function: str, *options: str, processes: int = 1, data: str = "data"
    ) -> list[str]:
        """A training in `run`, in which `function` of tools.fault_injections breaks something."""
        launch = ["-m", "maya.recipes.cli"]
        if processes > 1:
            launch = ["-m", "maya.recipes.launch", "--standalone", "--nproc-per-node", str(processes)]
        where = ["--run-dir", str(run), "--data", str(self.top / data), "--cpu"]
        settings = [word for option in options for word in ("--set", option)]
        name = f"tools.fault_injections:{function}"
        return [sys.executable, *launch, "train", "--experiment", name, *where, *settings]

    def start(self, run: Path, function: str, *options: str, **placing: object) -> subprocess.Popen[str]:
        """A training that runs."""
        command = self.command(run, function, *options, **placing)  # type: ignore[arg-type]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=REPO, text=True, env=environment, start_new_session=True, preexec_fn=_hears_hangups,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self) -> None:
        """End what still runs."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def finish(
        self, run: Path, function: str = "experiment", *options: str, **placing: object
    ) -> tuple[int, str]:
        """Exit status and output of a training that is waited for."""
        process = self.start(run, function, *options, **placing)
        return ended(process), said(process)

    def undisturbed(self, processes: int = 1) -> Path:
        """The run folder of a training that nothing disturbed."""
        if processes not in self.plain:
            run = self.run(f"plain-{processes}")
            status, out = self.finish(run, processes=processes)
            assert status == 0, out
            self.plain[processes] = run
        return self.plain[processes]


def _hears_hangups() -> None:
    """In a new process: undo what `nohup` does to a campaign."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


_OUTPUT: dict[int, str] = {}


def ended(process: subprocess.Popen[str]) -> int:
    """The exit status of a process, which is killed if it takes too long."""
    try:
        _OUTPUT[process.pid], _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _OUTPUT[process.pid], _ = process.communicate()
    return process.returncode


def said(process: subprocess.Popen[str]) -> str:
    """The output of a process that has ended."""
    return _OUTPUT.pop(process.pid, "")


def wait_for(process: subprocess.Popen[str], ready: Callable[[], object]) -> None:
    """Wait until something holds, or the process has ended."""
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and not ready() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ready(), f"the training ended too early: {ended(process)} {said(process)}"


def losses(run: Path) -> dict[int, float]:
    """The logged loss of each step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def complete(run: Path) -> dict[Path, int]:
    """The bytes of each checkpoint that is complete."""
    return {path: path.stat().st_size for _, path in step_checkpoints(run) if not damage(path)}


def same(run: Path, other: Path) -> bool:
    """Whether two runs have the same losses at all steps, and the same last weights, to the bit."""
    a, b = (load_checkpoint(step_checkpoints(r)[-1][1]) for r in (run, other))
    equal = all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())
    return equal and a.step == b.step == STEPS and losses(run) == losses(other)


def lost(run: Path, before: dict[Path, int]) -> tuple[int, int]:
    """(steps that were taken twice, bytes of complete checkpoints that are gone or damaged)."""
    taken, after = steps_taken(run), complete(run)
    return len(taken) - len(set(taken)), sum(size for path, size in before.items() if path not in after)


def sentence(out: str, *words: str) -> str:
    """The line of an output that holds one of some words, shortened."""
    for line in out.splitlines():
        if any(word in line for word in words):
            text = line.strip().replace("|", "/")
            text = re.sub(rf"{tempfile.gettempdir()}/\w+/", "", text).replace(f"{REPO}/", "")
            return text if len(text) <= 160 else text[:157] + "..."
    return "NOTHING WAS SAID: " + out[-300:].replace("\n", " ")


def outcome(
    runs: FaultRuns, run: Path, before: dict[Path, int], injected: str, happened: str, status: int,
    processes: int = 1,
) -> Outcome:  # fmt: skip
    """What a fault did to a run that has ended since, with this exit status."""
    if status:
        happened += f"; NOT FINISHED, exit status {status}"
    steps, size = lost(run, before)
    equal = not status and same(run, runs.undisturbed(processes))
    return Outcome(fault=run.name, injected=injected, happened=happened, steps=steps, size=size, equal=equal)


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank below a launcher."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(
                b"\0"
            ):
                return int(folder.name)
    raise LookupError(f"process {launcher} has no rank {rank}")


def children(parent: int) -> list[str]:
    """The processes below a process."""
    return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()


def same_weights(run: Path, other: Path) -> bool:
    a, b = (load_checkpoint(step_checkpoints(r)[-1][1]).weights for r in (run, other))
    return all(torch.equal(value, b[name]) for name, value in a.items())
