"""`maya supervise`: check everything, bring back what the storage has, train, and upload until the end."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maya.errors import MayaError
from maya.recipes import ready
from maya.recipes.arguments import COUNT, add_experiment
from maya.recipes.watch import ENOUGH
from maya.storage import layout
from maya.storage.check import check_storage
from maya.storage.download import restore
from maya.storage.s3 import Place, connect
from maya.storage.watcher import backoff
from maya.train.checkpoints.checkpoint import step_checkpoints

LOG = "watch.log"
_POLL_SECONDS = 1.0
_STOP_SECONDS = 60  # for the watcher to end, before it is killed: it loses nothing


def arguments(p: argparse.ArgumentParser) -> None:
    add_experiment(p)
    p.add_argument("--data", type=Path, required=True, help="the folder that `maya prepare` wrote")
    p.add_argument("--run-dir", type=Path, required=True, help="the run folder; it is made if missing")
    p.add_argument("--to", required=True, metavar="URL", help="s3://bucket/folder of this run alone")
    text = "GPUs of this machine that the run will use; 0: the CPU (default: 8)"
    p.add_argument("--gpus", type=COUNT, default=8, metavar="N", help=text)
    text = "an option of `maya watch`, such as keep_local=3; repeatable"
    p.add_argument("--watch", action="append", default=[], metavar="NAME=VALUE", help=text)


def run(args: argparse.Namespace) -> int:
    place = Place.of(args.to)
    client = connect()
    for result in check_storage(client, place):
        if not result.passed:
            raise MayaError(f"{place} cannot be used ({result.topic}): {result.text}")
    if not step_checkpoints(args.run_dir) and layout.read_object(client, place, place.key(layout.RUN)):
        restore(client, place, args.run_dir)
    if ready.run(argparse.Namespace(**vars(args) | {"storage": ""})):
        raise MayaError("the run is not started; see the lines that begin with NOT READY")
    return supervise(training_command(args), watch_command(args), args.run_dir / LOG)


def training_command(args: argparse.Namespace) -> list[str]:
    """`maya train` in so many processes. It deletes no checkpoint: the watcher does."""
    launch = [sys.executable, "-m", "maya.recipes.cli"]
    if args.gpus > 1:
        launch = [
            sys.executable,
            "-m",
            "maya.recipes.launch",
            "--standalone",
            "--nproc-per-node",
            str(args.gpus),
        ]
    sets = [part for text in [*args.overrides, f"train.keep={ENOUGH}"] for part in ("--set", text)]
    where = ["--data", str(args.data), "--run-dir", str(args.run_dir)]
    cpu = [] if args.gpus else ["--cpu"]
    return [*launch, "train", "--experiment", args.experiment, *where, *sets, *cpu]


def watch_command(args: argparse.Namespace) -> list[str]:
    """`maya watch` of the run folder."""
    sets = [part for text in args.watch for part in ("--set", text)]
    return [sys.executable, "-m", "maya.recipes.cli", "watch", str(args.run_dir), "--to", args.to, *sets]


def supervise(training: list[str], watch: list[str], log: Path) -> int:
    """Train, and keep a watcher alive beside it, whose words go to `log`. After the training has ended,
    however it did, the rest is uploaded. Returns the training's status, or 1 if not all could be uploaded.

    SIGINT and SIGTERM go to the training, which saves its state.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    trainer = subprocess.Popen(training)
    watcher, deaths, again_at = _start(watch, log), 0, 0.0
    with _passing_signals(trainer):
        while trainer.poll() is None:
            time.sleep(_POLL_SECONDS)
            if watcher.poll() is None:
                continue
            if not again_at:
                deaths += 1
                again_at = time.monotonic() + backoff(deaths)
                print(f"supervise: the watcher ended ({watcher.returncode}); see {log}", file=sys.stderr)
            elif time.monotonic() >= again_at:
                watcher, again_at = _start(watch, log), 0.0
        _end(watcher)
        final = subprocess.run([*watch, "--once"], check=False).returncode
    if final:
        print(f"supervise: not all is uploaded; run `maya watch {log.parent} --once` again", file=sys.stderr)
    status = trainer.returncode
    return 128 - status if status < 0 else status or final


def _start(command: list[str], log: Path) -> subprocess.Popen:
    """A watcher in a session of its own, so that Ctrl-C reaches the training alone."""
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def _end(watcher: subprocess.Popen) -> None:
    watcher.terminate()
    try:
        watcher.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        watcher.kill()
        watcher.wait()


@contextmanager
def _passing_signals(trainer: subprocess.Popen) -> Iterator[None]:
    """Pass SIGTERM on to the training. The terminal sends SIGINT to it by itself."""

    def pass_on(number: int, _: Any) -> None:
        if number == signal.SIGTERM and trainer.poll() is None:
            trainer.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
