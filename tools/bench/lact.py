"""What LaCT costs as audio gets longer, beside FastConformer with full and with windowed attention.

    python -m tools.bench.lact --out docs/benchmarks/lact         # lact.json, lact.md, lact.png
    python -m tools.bench.lact --lengths 10 30 60 --rounds 1      # a quick look

Encoders of about the same number of parameters, one utterance, no gradients, on the CPU. Each measurement is
a fork of this process that first encodes 10 s, so that libraries and thread pools are not counted; memory is
the peak of the resident set above what stood before, features not counted. In each round all encoders take
their turns; times are medians of processor seconds, which with one thread are those of a clock on a machine
without other work. The picture needs matplotlib: pip install 'maya-asr[plot]'.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maya.encoders import FastConformer, FastConformerConfig, LaCT
from maya.errors import MayaError
from maya.kernels.bench.peak import forget_the_peak, forked, resident
from maya.recipes.figure import figure_class
from maya.recipes.lact_presets import LACT_PRESETS
from tools.bench.common import command_of, cores, markdown, parser_of

FRAMES_PER_SECOND = 100
WINDOW = 32  # encoder frames to each side, of LaCT's attention and of the windowed FastConformer
LENGTHS = (10.0, 30.0, 60.0, 300.0, 600.0, 1800.0)
Rows = list[dict[str, Any]]


def fastconformer(size: str, context: tuple[int, int]) -> FastConformer:
    """A FastConformer with as many layers, channels and heads as the LaCT preset of that size has."""
    cfg = LACT_PRESETS[f"lact_{size}"]()
    return FastConformer(
        FastConformerConfig(
            feat_in=cfg.feat_in,
            d_model=cfg.d_model,
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            subsampling_channels=cfg.subsampling_channels,
            ff_expansion=max(1, round(cfg.ff_dim / cfg.d_model)),
            att_context_size=(context,),
        )
    )


def lact(size: str, **options: Any) -> LaCT:
    return LaCT(LACT_PRESETS[f"lact_{size}"](window=(WINDOW, WINDOW), **options))


ENCODERS: dict[str, Callable[[str], nn.Module]] = {
    "LaCT, one step": lact,
    "LaCT, passes of 64": partial(lact, order="passes", chunk=64),
    "FastConformer, full attention": partial(fastconformer, context=(-1, -1)),
    "FastConformer, window": partial(fastconformer, context=(WINDOW, WINDOW)),
}


@torch.inference_mode()
def measure(name: str, size: str, seconds: float) -> dict[str, Any]:
    """Processor seconds and peak bytes of one forward pass over one utterance."""
    torch.manual_seed(0)
    model = ENCODERS[name](size).eval()
    features: int = model.cfg.feat_in  # type: ignore[union-attr, assignment]
    warm = torch.randn(1, 10 * FRAMES_PER_SECOND, features)
    model(warm, torch.tensor([warm.shape[1]]))
    frames = int(seconds * FRAMES_PER_SECOND)
    x, lens = torch.randn(1, frames, features), torch.tensor([frames])
    forget_the_peak()
    before, began = resident("VmRSS"), time.process_time()
    enc, _ = model(x, lens)
    took, peak = time.process_time() - began, resident("VmHWM") - before
    if not enc.isfinite().all():
        raise MayaError(f"{name}: the output for {seconds:g} s is not finite")
    return {"seconds": took, "bytes": peak, "frames": enc.shape[1]}


def measure_all(size: str, lengths: Sequence[float], rounds: int, encoders: Sequence[str]) -> Rows:
    """Medians of time and peaks of memory for every length and encoder."""
    rows = []
    for seconds in lengths:
        measurements: dict[str, Rows] = {name: [] for name in encoders}
        for turn in range(rounds):
            for name in list(encoders)[:: -1 if turn % 2 else 1]:
                result, status = forked(partial(measure, name, size, seconds))
                if result is None:
                    raise MayaError(f"{name}: the measurement of {seconds:g} s ended with status {status}")
                measurements[name].append(result)
        for name, results in measurements.items():
            rows.append(
                {
                    "encoder": name,
                    "audio": seconds,
                    "frames": results[0]["frames"],
                    "seconds": statistics.median(r["seconds"] for r in results),
                    "bytes": statistics.median(r["bytes"] for r in results),
                }
            )
            print(row_text(rows[-1]), flush=True)
    return rows


def row_text(row: dict[str, Any]) -> str:
    return f"{row['audio']:6g} s  {row['encoder']:32} {row['seconds']:8.2f} s {row['bytes'] / 1e6:8.0f} MB"


def parameters(size: str, name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ENCODERS[name](size).parameters())


def table(result: dict[str, Any]) -> str:
    """The page: what was measured, with what, seconds and MB of each encoder at each length."""
    names, rows = list(result["parameters"]), result["rows"]
    lines = ["# LaCT: cost against length", "", "```bash", result["command"], "```", ""]
    lines.append(
        "One utterance, forward without gradients, {threads} thread(s) of {machine}, torch {torch}, commit "
        "{commit}; medians of {rounds} round(s); load average at the start {load:.1f}. Processor "
        "seconds grow too where others use the same core. Memory: peak of the resident set above model and "
        "features. Windows are of {window} encoder frames to each side.".format(window=WINDOW, **result)
    )
    sizes = [[name, f"{count / 1e6:.2f} M"] for name, count in result["parameters"].items()]
    lines += ["", *markdown(["encoder", "parameters"], sizes)]
    for title, key, unit in (("Processor seconds", "seconds", 1.0), ("Peak memory, MB", "bytes", 1e-6)):
        table_rows = []
        for audio in dict.fromkeys(row["audio"] for row in rows):
            cells = {r["encoder"]: r[key] * unit for r in rows if r["audio"] == audio}
            table_rows.append([f"{audio:g} s", *(f"{cells[name]:.3g}" for name in names)])
        lines += ["", *markdown([title, *names], table_rows)]
    return "\n".join([*lines, "", "![seconds and memory against length](lact.png)", ""])


def plot(result: dict[str, Any], path: Path) -> None:
    """Seconds and memory against length, both axes logarithmic. MayaError without matplotlib."""
    figure = figure_class()(figsize=(11, 4.2), layout="constrained")
    panels = (("seconds", 1.0, "processor seconds"), ("bytes", 1e-6, "peak MB"))
    for place, (key, unit, label) in enumerate(panels):
        axes = figure.add_subplot(1, 2, place + 1)
        for name, marker in zip(result["parameters"], "osD^v", strict=False):
            points = [(r["audio"], r[key] * unit) for r in result["rows"] if r["encoder"] == name]
            axes.plot(*zip(*points, strict=True), marker=marker, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("seconds of audio")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--size", choices=[n.removeprefix("lact_") for n in LACT_PRESETS], default="small")
    parser.add_argument("--lengths", type=float, nargs="+", default=LENGTHS, help="seconds of audio")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="path without ending: .json, .md and .png")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    try:
        rows = measure_all(options.size, options.lengths, options.rounds, options.encoders)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        result = {
            "rows": rows,
            "parameters": {name: parameters(options.size, name) for name in options.encoders},
            "command": command_of("lact", arguments),
            "rounds": options.rounds,
            "threads": options.threads,
            "load": load,
            "torch": torch.__version__,
            "machine": f"{cores()}, {platform.machine()}",
            "commit": commit.stdout.strip() or "unknown",
        }
        if options.out is not None:
            options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
            options.out.with_suffix(".md").write_text(table(result))
            plot(result, options.out.with_suffix(".png"))
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
