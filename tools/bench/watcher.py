"""What a watcher that uploads without a pause costs a training on the same CPU.

    python -m tools.bench.watcher [--windows 20]

One process times steps of a small network; the watcher and the S3 server beside it are stopped (SIGSTOP) and
continued in turn, so that both medians come from the same minutes. The server is moto's, on this machine,
which real storage is not: the figure is an upper bound.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import torch

from tools import s3_server

_WINDOW_SECONDS = 3.0
_MEGABYTES = 200


def step_seconds(model: torch.nn.Module, x: torch.Tensor, until: float) -> list[float]:
    """The time of each training step until then."""
    times = []
    while time.monotonic() < until:
        began = time.perf_counter()
        model(x).square().mean().backward()
        times.append(time.perf_counter() - began)
    return times


def measure(run: Path, windows: int) -> tuple[float, float, int]:
    """(median seconds of a step alone, beside the watcher, steps)."""
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.SiLU(), torch.nn.Linear(2048, 512))
    x = torch.randn(256, 512)
    place = f"s3://{s3_server.BUCKET}/bench"
    command = [sys.executable, "-m", "maya.recipes.cli", "watch", str(run), "--to", place]
    command += ["--set", "every_seconds=0.01", "--set", "keep_local=1"]
    watcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    times: dict[bool, list[float]] = {True: [], False: []}
    try:
        for window in range(2 * windows):
            beside = bool(window % 2)
            watcher.send_signal(signal.SIGCONT if beside else signal.SIGSTOP)
            if beside:
                write(run, window)
            times[beside] += step_seconds(model, x, time.monotonic() + _WINDOW_SECONDS)
    finally:
        watcher.kill()
        watcher.wait()
    count = sum(map(len, times.values()))
    return statistics.median(times[False]), statistics.median(times[True]), count


def write(run: Path, step: int) -> None:
    """A new checkpoint for the watcher."""
    path = run / "checkpoints" / f"step-{step:07d}.pt"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", os.urandom(_MEGABYTES * 1_000_000))


def main() -> int:
    p = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n")[0])
    p.add_argument("--windows", type=int, default=20, help="pairs of windows of 3 s")
    windows = p.parse_args().windows
    with tempfile.TemporaryDirectory() as folder, s3_server.serve() as port:
        os.environ |= s3_server.environment(f"http://{s3_server.HOST}:{port}")
        alone, beside, count = measure(Path(folder), windows)
    times = f"step alone {alone * 1e3:.2f} ms, beside the watcher {beside * 1e3:.2f} ms"
    print(f"{times}: ratio {beside / alone:.3f} ({count} steps)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
