"""The batch plan at full scale, and beside lhotse's DynamicBucketingSampler: tables and a picture.

    python -m tools.bench_plan               # into docs/benchmarks/plan.{md,json,png}, about 10 minutes
    python -m tools.bench_plan --rows 100000 200000 --cuts 5000 --steps 20 --out exp/bench

Each measurement has a process of its own. Needs matplotlib: pip install 'maya[plot]'.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maya.config import from_dict, to_dict
from maya.data.plan import PlanConfig
from tools.plot_metrics import figure_class

REPO = Path(__file__).resolve().parents[1]
SCALE = {"max_seconds": 200.0, "max_utterances": 128, "max_tokens": 6000, "max_lattice": 300_000}
BESIDE = {"max_seconds": 200.0, "max_utterances": 256, "temperature": 1.0, "too_long": "alone"}
RANKS = (2, 8)
NAMES = {"maya": "plan", "lhotse": "lhotse"}
COMPUTED = 100_000_000
GB = 1e9


def measure(part: str, **options: Any) -> dict[str, Any]:
    """The result of one measurement, in a fresh process."""
    command = [sys.executable, "-m", "tools.bench_plan", "--measure", json.dumps({"part": part, **options})]
    print(f"bench_plan: {part} {options}", flush=True)
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measured(options: dict[str, Any]) -> dict[str, Any]:
    part, cfg = options.pop("part"), from_dict(PlanConfig, options.pop("cfg"))
    if part == "scale":
        from tools.bench_plan_measure import scale

        return scale(options["rows"], cfg)
    from tools.bench_plan_samplers import sampler  # not before: lhotse and torch take memory

    return sampler(options["kind"], Path(options["path"]), options["ranks"], options["steps"], cfg)


def run(rows: Sequence[int], cuts: int, steps: int) -> dict[str, Any]:
    """All measurements: plans of `rows` utterances, the last also with temperature 1; samplers of `cuts`."""
    from tools.bench_plan_samplers import write_cuts

    load = os.getloadavg()[0]
    settings = [(n, 0.3) for n in rows] + [(rows[-1], 1.0)]
    scales = [
        measure("scale", rows=n, cfg=to_dict(PlanConfig(**SCALE, temperature=t)))  # type: ignore[arg-type]
        for n, t in settings
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cuts.jsonl"
        write_cuts(path, cuts)
        cfg = to_dict(PlanConfig(**BESIDE))  # type: ignore[arg-type]
        samplers = [
            measure("sampler", kind=kind, path=str(path), ranks=ranks, steps=steps, cfg=cfg)
            for ranks in RANKS
            for kind in ("maya", "lhotse")
        ]
    return {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "load_average": [load, os.getloadavg()[0]],
        "cuts": cuts,
        "scale": scales,
        "samplers": samplers,
        "computed": computed(scales),
    }


def computed(scales: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Memory and time of a plan as a + b * rows, through the first and the last size, and what that gives
    for sizes between them and for 100 million."""
    few, many = scales[0], scales[-2]

    def line(of: Any) -> tuple[float, float]:
        slope = (of(many) - of(few)) / (many["rows"] - few["rows"])
        return of(few) - slope * few["rows"], slope

    memory, seconds = line(lambda s: s["peak_bytes"]), line(lambda s: s["build_s"]["cpu"])
    between = [abs((memory[0] + memory[1] * s["rows"]) / s["peak_bytes"] - 1) for s in scales[1:-2]]
    return {
        "bytes_per_row": memory[1],
        "bytes": memory[0] + memory[1] * COMPUTED,
        "build_cpu_s": seconds[0] + seconds[1] * COMPUTED,
        "largest_error_between": max(between, default=0.0),
    }


def bars(result: dict[str, Any], clock: str = "wall") -> list[tuple[str, str, str, bool]]:
    """(what, bar, measured, met) of the largest plan; by wall clock or "cpu" time."""
    mixed, natural = result["scale"][-2:]
    both = (mixed, natural)

    def worst(name: str) -> float:
        return max(s[name][clock] if isinstance(s[name], dict) else s[name] for s in both)

    found = [
        ("build", 60.0, worst("build_s"), "s"),
        ("memory, columns included", 2.0, worst("peak_bytes") / GB, "GB"),
        ("mean time per step and rank, 8 ranks", 1.0, worst("step_ms"), "ms"),
        ("seek to any step of another epoch", 1.0, worst("seek_s"), "s"),
        ("padding, share of seconds", 0.06, worst("padding"), ""),
        ("cost of a step, max/mean over 8 ranks, median", 1.05, worst("imbalance_median"), ""),
        ("batches over a cap", 0, worst("over_caps"), ""),
        ("uses of an utterance, most - least in a language", 1, mixed["uses_spread"], ""),
        ("share of hours against the weight, largest error", 0.01, mixed["share_error"], ""),
    ]
    rows = [(w, f"≤ {bar:g} {unit}", f"{value:.3g} {unit}", value <= bar) for w, bar, value, unit in found]
    once = natural["uses_once"]
    return [*rows, ("each utterance once, T = 1", "yes", "yes" if once else "no", once)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


INTRODUCTION = """# The batch plan

`{command}` on {machine}; load average {low:.1f} before and {high:.1f} after. Where two times are given
they are wall / CPU: on a busy machine only the second can be compared.

## {rows:,} utterances

12 languages with hours as k^-1.5, log-normal durations of 1 to 35 s, about 4 tokens per second; {caps};
8 ranks. Worse of temperature 0.3 and 1. Every batch of every rank of an epoch was read and measured.
"""
GROWTH = """
A line through the smallest and the largest size gives {bytes_per_row:.0f} bytes per utterance, 10 of them
the columns given to the plan, and misses the sizes between them by at most {error:.0f} %. For {computed:,}
utterances it gives {gigabytes:.1f} GB per process and {build_cpu_s:.0f} s of CPU to build. An epoch, a seek
and a step look at cells and at one bucket: they grow with the data only through the size of a bucket.

Languages of the largest plan at T = 0.3, hours and shares of one epoch:
"""
BESIDE_TEXT = """
## Beside lhotse's DynamicBucketingSampler: {cuts:,} cuts, {steps} steps

One lazy JSON-lines manifest, max_duration 200 s, max_cuts 256, 30 buckets, shuffled; one rank of the given
number in a process of its own. Start: from the manifest to the first batch. Resume: from a saved state to the
next batch, after the sampler is made. Memory: above that of the imports. Cost is that of the plan's default
cost model.
"""


def markdown(result: dict[str, Any], command: str) -> str:
    low, high = result["load_average"]
    caps = ", ".join(f"{name} {value:g}" for name, value in SCALE.items())
    c, samplers = result["computed"], result["samplers"]
    met = [[what, bar, value, "yes" if ok else "NO"] for what, bar, value, ok in bars(result)]
    return "\n".join(
        [
            INTRODUCTION.format(
                command=command, machine=result["machine"], low=low, high=high,
                rows=result["scale"][-1]["rows"], caps=caps,
            ),
            *table(["", "bar", "measured", "met"], met),
            "",
            *_scale_table(result["scale"]),
            GROWTH.format(
                bytes_per_row=c["bytes_per_row"], error=100 * c["largest_error_between"], computed=COMPUTED,
                gigabytes=c["bytes"] / GB, build_cpu_s=c["build_cpu_s"],
            ),
            *_language_table(result["scale"][-2]),
            BESIDE_TEXT.format(cuts=result["cuts"], steps=samplers[0]["steps"]),
            *_sampler_table(samplers),
            "",
            "![](plan.png)",
            "",
        ]
    )  # fmt: skip


def _scale_table(scales: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        [
            f"{s['rows']:,}", f"{s['temperature']:g}", f"{s['steps']:,}", _times(s["build_s"], 1),
            f"{s['peak_bytes'] / GB:.2f}", _times(s["epoch_s"], 2), _times(s["seek_s"], 2),
            _times(s["step_ms"], 3), f"{s['step_ms_p99']:.2f}", f"{100 * s['padding']:.1f} %",
            _balance(s["imbalance_median"], s["imbalance_p95"]), str(s["over_caps"]),
        ]
        for s in scales
    ]  # fmt: skip
    header = ["rows", "T", "steps", "build s", "peak GB", "epoch s", "seek s", "ms/step", "p99 ms"]
    return table([*header, "padding", "cost max/mean: median / p95", "over caps"], rows)


def _language_table(s: dict[str, Any]) -> list[str]:
    rows = [
        [str(k + 1), f"{hours:,.0f}", f"{used:,.0f}", f"{100 * repeated:.0f} %", f"{100 * skipped:.0f} %"]
        for k, (hours, used, repeated, skipped) in enumerate(
            zip(s["hours"], s["hours_used"], s["repeated"], s["skipped"], strict=True)
        )
    ]
    return table(["language", "hours", "hours used", "draws repeated", "utterances skipped"], rows)


def _sampler_table(samplers: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        [
            NAMES[s["kind"]], str(s["ranks"]), f"{s['start_s']:.1f}", _times(s["step_ms"], 2),
            f"{s['bytes'] / 1e6:.0f}", f"{100 * s['padding']:.1f} %", f"{100 * s['fill']:.0f} %",
            _balance(_quantile(s["imbalance"], 0.5), _quantile(s["imbalance"], 0.95)), f"{s['resume_s']:.3f}",
        ]
        for s in samplers
    ]  # fmt: skip
    header = ["sampler", "ranks", "start s", "ms/step", "memory MB", "padding", "of max seconds"]
    return table([*header, "cost max/mean: median / p95", "resume s"], rows)


def _times(took: dict[str, float], digits: int) -> str:
    return f"{took['wall']:.{digits}f} / {took['cpu']:.{digits}f}"


def _balance(median: float, p95: float) -> str:
    return f"{median:.3f} / {p95:.3f}"


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def plot(result: dict[str, Any], path: Path) -> None:
    figure = figure_class()(figsize=(12, 8), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    colours = {"maya": "tab:blue", "lhotse": "tab:orange"}
    axes = figure.add_subplot(grid[0, 0])
    for s in result["samplers"]:
        ordered = sorted(s["imbalance"])
        shares = [100 * (i + 1) / len(ordered) for i in range(len(ordered))]
        style = "-" if s["ranks"] == 8 else "--"
        axes.plot(
            ordered, shares, style, color=colours[s["kind"]], label=f"{NAMES[s['kind']]}, {s['ranks']} ranks"
        )
    axes.set(
        xlabel="cost of a step: highest / mean of the ranks",
        ylabel="steps up to this, %",
        title="Balance of ranks",
    )
    axes.legend()
    axes = figure.add_subplot(grid[0, 1])
    mixed = result["scale"][:-1]
    axes.plot([s["rows"] for s in mixed], [s["peak_bytes"] / GB for s in mixed], "o-", label="measured")
    axes.plot([COMPUTED], [result["computed"]["bytes"] / GB], "x", color="tab:red", label="computed")
    axes.set(
        xlabel="utterances", ylabel="peak memory of a process, GB", xscale="log", yscale="log", title="Memory"
    )
    axes.legend()
    panels = [("ms per step", lambda s: s["step_ms"]["wall"]), ("seconds to start", lambda s: s["start_s"]),
              ("seconds to resume", lambda s: s["resume_s"]), ("memory, GB", lambda s: s["bytes"] / GB),
              ("padding, %", lambda s: 100 * s["padding"])]  # fmt: skip
    axes = figure.add_subplot(grid[1, :])
    for bar, (kind, ranks) in enumerate([(k, r) for r in RANKS for k in NAMES]):
        s = next(s for s in result["samplers"] if (s["kind"], s["ranks"]) == (kind, ranks))
        heights = [float(of(s)) for _, of in panels]
        places = [i + 0.2 * (bar - 1.5) for i in range(len(panels))]
        drawn = axes.bar(places, heights, 0.18, color=colours[kind], alpha=0.5 if ranks == 2 else 1.0,
                         label=f"{NAMES[kind]}, {ranks} ranks")  # fmt: skip
        axes.bar_label(drawn, [f"{height:.2g}" for height in heights], fontsize=8)
    axes.set_xticks(range(len(panels)), [name for name, _ in panels])
    axes.set(yscale="log", title=f"{result['cuts']:,} cuts, lower is better")
    axes.margins(y=0.15)
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_plan", description="Measure the batch plan.")
    parser.add_argument("--rows", type=int, nargs="+", default=[2_500_000, 5_000_000, 10_000_000],
                        help="sizes of plans, ascending, at least two")  # fmt: skip
    parser.add_argument("--cuts", type=int, default=200_000, help="cuts for the samplers side by side")
    parser.add_argument("--steps", type=int, default=150, help="steps of each sampler")
    parser.add_argument(
        "--out", type=Path, default=REPO / "docs" / "benchmarks", help="folder of plan.{md,json,png}"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(_measured(json.loads(options.measure))))
        return 0
    figure_class()  # says what to install before the work, not after
    result = run(options.rows, options.cuts, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    words = sys.argv[1:] if arguments is None else arguments
    (options.out / "plan.json").write_text(json.dumps(result) + "\n")
    text = markdown(result, " ".join(["python -m tools.bench_plan", *words]))
    (options.out / "plan.md").write_text(text, encoding="utf-8")
    plot(result, options.out / "plan.png")
    print(text)
    return 0 if all(met for _, _, _, met in bars(result)) else 1


if __name__ == "__main__":
    sys.exit(main())
