"""The files that a run writes about itself: config.json, environment.json, git.diff, metrics.jsonl,
samples.jsonl, TensorBoard. Tools read these files; the lines on the terminal are for people."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from maya.config import leaves, to_dict
from maya.files import replacing, write_json
from maya.kernels.bench.machine import cpu_model, version_of
from maya.train.trackers import Trackers

PACKAGES = ("maya", "torch", "torchaudio", "triton", "numpy", "lhotse", "sentencepiece", "accelerate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The model's output for one utterance at some step. head: the one that wrote hyp. ref: the text in
    normal form, or the label that the head predicts. wer: a fraction, None where ref is empty or a label."""

    id: str
    language: str
    head: str = ""
    ref: str
    hyp: str
    wer: float | None


class RunLog:
    """The log of one run. Only the main process writes; on the others every method does nothing."""

    def __init__(
        self, run_dir: Path, *, main: bool, resumed_step: int = 0, trackers: Sequence[str] = ()
    ) -> None:
        self.run_dir, self.main = run_dir, main
        if not main:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        self._trackers = Trackers(trackers, run_dir)
        for name in ("metrics.jsonl", "samples.jsonl", "spikes.jsonl"):
            _drop_rows_after(run_dir / name, resumed_step)
        self._metrics = (run_dir / "metrics.jsonl").open("a", encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  not for those who read checkpoints

        self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resumed_step or None)

    def start(self, experiment: Any, command: list[str], facts: dict[str, Any]) -> None:
        """Write the configuration, the code, the machine and the command of the run."""
        if not self.main:
            return
        write_json(self.run_dir / "config.json", to_dict(experiment))
        commit, diff = git_state()
        write_json(
            self.run_dir / "environment.json", environment() | {"commit": commit, "command": command} | facts
        )
        (self.run_dir / "git.diff").write_text(diff, encoding="utf-8")
        self._trackers.start(dict(leaves(experiment)))

    def metrics(self, kind: str, step: int, values: Mapping[str, float | str | list[float]]) -> None:
        """One line of metrics.jsonl; numbers also go to TensorBoard and the trackers under `kind/`."""
        if not self.main:
            return
        row = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()
        numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, (int, float))}
        for name, value in numbers.items():
            self._tensorboard.add_scalar(name, value, step)
        self._trackers.log(numbers, step)

    def event(self, kind: str, row: Mapping[str, Any]) -> None:
        """One line of KIND.jsonl."""
        if self.main:
            with (self.run_dir / f"{kind}.jsonl").open("a", encoding="utf-8") as f:
                f.write(json.dumps(row, ensure_ascii=False) + "\n")

    def phase(self, step: int, changes: Mapping[str, str]) -> None:
        """The changes of the schedule at `step`: on the terminal, in metrics.jsonl and TensorBoard."""
        if not self.main or not changes:
            return
        row = {"kind": "phase", "step": step, "time": round(time.time(), 3), **changes}
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()
        for name, phase in changes.items():
            self._tensorboard.add_text(f"phase/{name}", phase, step)
        self.say(f"phase step {step}  " + "  ".join(f"{name}: {phase}" for name, phase in changes.items()))

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """The model's output for some utterances: on the terminal, in samples.jsonl and TensorBoard."""
        if not self.main:
            return
        with (self.run_dir / "samples.jsonl").open("a", encoding="utf-8") as f:
            f.writelines(json.dumps({"step": step} | asdict(s), ensure_ascii=False) + "\n" for s in samples)
        for s in samples:
            rate = "" if s.wer is None else f"wer {s.wer:.2f}"
            facts = "  ".join(fact for fact in (s.id, s.language, s.head, rate) if fact)
            self.say(f"sample step {step}  {facts}\n  ref {s.ref}\n  hyp {s.hyp}")
            self._tensorboard.add_text(f"sample/{s.id}", f"ref {s.ref}\n\nhyp {s.hyp}\n\n{rate}", step)

    def say(self, text: str) -> None:
        """Print a line. Training continues when nobody reads it any more (a closed terminal, a pipe that
        ended): the results are in the run folder, and the state is not saved yet."""
        if not self.main:
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it may lack letters of a sample
        try:
            print(text.encode(encoding, "replace").decode(encoding), flush=True)
        except OSError:
            stop_printing()

    def close(self) -> None:
        if self.main:
            self._metrics.close()
            self._tensorboard.close()
            self._trackers.finish()


def stop_printing() -> None:
    """Send standard output nowhere, so that its buffer does not fail again at the end."""
    with suppress(OSError, ValueError):  # it may have no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def git_state() -> tuple[str, str]:
    """The commit of the source tree and its uncommitted difference; empty outside a git checkout."""
    top = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(top), *args], capture_output=True, timeout=20,
                encoding="utf-8", errors="replace",
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""

    return git("rev-parse", "HEAD").strip(), git("diff", "HEAD")


def environment() -> dict[str, Any]:
    """Package versions and hardware, as far as they explain a number."""
    versions = {name: version_of(name) or "absent" for name in PACKAGES}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": versions,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "platform": platform.platform(),
        "executable": Path(sys.executable).name,
    }


def _drop_rows_after(path: Path, step: int) -> None:
    """Rows written after the checkpoint that a run resumes from will be written again; so will a change of
    phase at that very step, which comes before the next step."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
            if row["step"] < step or (row["step"] == step and row.get("kind") != "phase"):
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # the last line of a run that was killed while writing
    with replacing(path) as partial:
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
