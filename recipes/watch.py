"""`maya watch`: bring a run's checkpoints and logs to object storage while it trains."""

import argparse
import logging
import os
import signal
import threading
from pathlib import Path

from maya.config import override
from maya.errors import MayaError
from maya.files import read_json, try_lock
from maya.recipes.arguments import add_run
from maya.storage.s3 import Place, connect
from maya.storage.watcher import Watcher, WatchOptions
from maya.train.checkpoints.checkpoint import damage

log = logging.getLogger("maya.watch")
LOCK = "watch.lock"
NICE = 19  # the training comes first
ENOUGH = 1_000_000  # train.keep with which a training deletes nothing


def arguments(p: argparse.ArgumentParser) -> None:
    add_run(p)
    p.add_argument(
        "--to", required=True, metavar="URL", help="the storage: s3://bucket/folder of this run alone"
    )
    p.add_argument("--once", action="store_true", help="upload what is there, verify it, and end")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="an option of the watcher, such as keep_local=3 or upload.max_mb_per_second=50; repeatable",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    options = WatchOptions()
    for assignment in args.overrides:
        override(options, assignment)
    place = Place.of(args.to)
    if not args.run_dir.is_dir():
        raise MayaError(f"{args.run_dir} is not a run folder")
    lock = try_lock(args.run_dir / LOCK)
    if lock.holder:
        raise MayaError(f"{args.run_dir} is watched by {lock.holder}")
    for handler in logging.getLogger("maya").handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s watch: %(message)s"))
    if hasattr(os, "nice"):
        os.nice(NICE)
    stop = threading.Event()
    before = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGTERM, signal.SIGINT)}
    warn_of_keep(args.run_dir)
    client = connect(threads=options.upload.threads + 2)
    watcher = Watcher(args.run_dir, place, client, options, stop=stop, damage=damage)
    try:
        if not args.once:
            watcher.watch()
        elif reasons := watcher.finish():
            raise MayaError(f"not all of {args.run_dir} is in {place}: {'; '.join(reasons)}")
    finally:
        lock.release()
        for number, previous in before.items():
            signal.signal(number, previous)
    return 0


def warn_of_keep(run: Path) -> None:
    """Log a warning where the training deletes checkpoints by itself, uploaded or not."""
    keep = read_json(run / "config.json").get("train", {}).get("keep", 0)
    if 0 < keep < ENOUGH:
        log.warning(
            "the training keeps its newest %d checkpoints and deletes older ones, uploaded or not; give "
            "train.keep=%d, so that only the watcher deletes", keep, ENOUGH,
        )  # fmt: skip
