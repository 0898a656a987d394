"""CPU time of a training step outside data, forward pass, backward pass and optimizer: sums over ranks, the
running average of the weights, the log, decisions. A tiny model shows it best.

    python -m tools.bench.overhead --experiment egs.digits.digits --data exp/digits/digits/data

Time is that of the process on one thread, which other programs disturb less than the wall clock.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from maya.recipes.experiment import load_experiment
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.train import loop
from tools.bench.common import parser_of

WORK = ("data", "forward", "backward", "optimizer")


def arguments() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("--experiment", default="tests.tiny")
    parser.add_argument("--data", type=Path, required=True, help="prepared data")
    parser.add_argument("--steps", type=int, default=200)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    sets = [f"train.steps={args.steps}", "train.valid_every=0", "train.log_every=20", "train.threads=1"]
    experiment = load_experiment(
        args.experiment, [*sets, "train.average_every=20", f"train.save_every={args.steps}"]
    )
    windows: list[dict[str, float]] = []
    real, begun = loop.report, [time.process_time()]

    def report(run: Any, state: Any, window: Any, clock: Any, *rest: Any) -> None:
        steps, seconds = window.steps, dict(clock.seconds)
        real(run, state, window, clock, *rest)
        now = time.process_time()  # all of the time since the last line, with that of the line
        outside = now - begun[0] - sum(seconds.get(name, 0.0) for name in WORK)
        windows.append({"outside_ms": 1e3 * outside / steps, "step_ms": 1e3 * (now - begun[0]) / steps})
        begun[0] = now

    cpu = mock.patch.object(time, "perf_counter", time.process_time)  # which the loop's clock reads
    with tempfile.TemporaryDirectory() as folder, cpu, mock.patch.object(loop, "report", report):
        tokenizer(experiment, args.data, Path(folder))
        train(experiment, args.data, Path(folder), cpu=True)
    kept = windows[1:]  # the first has the start of training
    result = {name: round(statistics.median(w[name] for w in kept), 3) for name in kept[0]}
    print(json.dumps({"experiment": args.experiment, "steps": args.steps} | result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
