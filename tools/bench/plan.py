"""The batch plan at full scale, and beside lhotse's DynamicBucketingSampler: tables and a picture.

    python -m tools.bench.plan               # into docs/benchmarks/plan.{md,json,png}, about 10 minutes
    python -m tools.bench.plan --rows 100000 200000 --cuts 5000 --steps 20 --out exp/bench

Each measurement has a process of its own. Needs matplotlib: pip install 'maya-asr[plot]'.
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
from maya.recipes.figure import figure_class
from tools.bench.common import PAGES, REPO, command_of, cores, markdown

SCALE = {"max_seconds": 200.0, "max_utterances": 128, "max_tokens": 6000, "max_lattice": 300_000}
BESIDE = {"max_seconds": 200.0, "max_utterances": 256, "temperature": 1.0, "too_long": "alone"}
RANKS = (2, 8)
NAMES = {"maya": "plan", "lhotse": "lhotse, as icefall", "lhotse-default": "lhotse, default"}
COMPUTED = 100_000_000
GB = 1e9
PARTS = ("scale", "huge", "samplers")


def measure(part: str, **options: Any) -> dict[str, Any]:
    """The result of one measurement, in a fresh process."""
    command = [sys.executable, "-m", "tools.bench.plan", "--measure", json.dumps({"part": part, **options})]
    print(f"bench_plan: {part} {options}", flush=True)
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measured(options: dict[str, Any]) -> dict[str, Any]:
    part, cfg = options.pop("part"), from_dict(PlanConfig, options.pop("cfg"))
    if part == "scale":
        from tools.bench.plan_measure import scale

        return scale(options["rows"], cfg, prove=options["prove"])
    from tools.bench.plan_samplers import sampler  # not before: lhotse and torch take memory

    return sampler(options["kind"], Path(options["path"]), options["ranks"], options["steps"], cfg)


def scales(rows: Sequence[int]) -> dict[str, Any]:
    """Plans of `rows` utterances, the last also with temperature 1."""
    load = os.getloadavg()[0]
    settings = [(n, 0.3) for n in rows] + [(rows[-1], 1.0)]
    results = [
        measure("scale", rows=n, prove=True, cfg=to_dict(PlanConfig(**SCALE, temperature=t)))  # type: ignore[arg-type]
        for n, t in settings
    ]
    return {
        "scale": results,
        "computed": computed(results),
        "scale_load": [load, os.getloadavg()[0]],
    }


def beside(cuts: int, steps: int) -> dict[str, Any]:
    """The samplers over so many cuts, for so many steps."""
    from tools.bench.plan_samplers import write_cuts

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cuts.jsonl"
        write_cuts(path, cuts)
        cfg = to_dict(PlanConfig(**BESIDE))  # type: ignore[arg-type]
        results = [
            measure("sampler", kind=kind, path=str(path), ranks=ranks, steps=steps, cfg=cfg)
            for ranks in RANKS
            for kind in NAMES
        ]
    return {"samplers": results, "cuts": cuts, "samplers_load": [load, os.getloadavg()[0]]}


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


def bars(scale: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    """(what, bar, measured, met) of the largest plan. Times are held against the bar as CPU time: a plan is
    made by one thread, which on an idle machine has a core for itself."""
    mixed, natural = scale[-2:]

    def worst(name: str, key: str = "cpu") -> float:
        return max(s[name][key] if isinstance(s[name], dict) else s[name] for s in (mixed, natural))

    times = [
        ("build", 60.0, "build_s", "s"),
        ("mean time per step and rank, 8 ranks", 1.0, "step_ms", "ms"),
        ("seek to any step of another epoch", 1.0, "seek_s", "s"),
    ]
    results = [
        ("memory, columns included, GB", 2.0, worst("peak_bytes") / GB),
        ("padding, share of seconds", 0.06, worst("padding")),
        ("cost of a step, max/mean over 8 ranks, median", 1.05, worst("imbalance_median")),
        ("batches over a cap", 0, worst("over_caps")),
        ("uses of an utterance, most - least in a language", 1, mixed["uses_spread"]),
        ("share of hours against the weight, largest error", 0.01, mixed["share_error"]),
    ]
    rows = [
        (
            what,
            f"≤ {bar:g} {unit}",
            f"{worst(name):.3g} {unit} CPU, {worst(name, 'wall'):.3g} wall",
            worst(name) <= bar,
        )
        for what, bar, name, unit in times
    ]
    rows += [(what, f"≤ {bar:g}", f"{value:.4g}", value <= bar) for what, bar, value in results]
    once = natural["uses_once"]
    return [*rows, ("each utterance once, T = 1", "yes", "yes" if once else "no", once)]


INTRODUCTION = """# The batch plan

`{command}` on {machine}. Where two times are given they are wall / CPU: on a busy machine only the second
can be compared. Load average when the plans were measured: {scale_load}; the samplers: {samplers_load}.

## {rows:,} utterances

12 languages with hours as k^-1.5, log-normal durations of 1 to 35 s, about 4 tokens per second; {caps};
8 ranks. Worse of temperature 0.3 and 1. Every batch of every rank of an epoch was read and measured.
"""
GROWTH = """
A line through the smallest and the largest size gives {bytes_per_row:.0f} bytes per utterance, 10 of them
the columns given to the plan, and misses the sizes between them by at most {error:.0f} %. For {computed:,}
utterances it gives {gigabytes:.1f} GB per process and {build_cpu_s:.0f} s of CPU to build. An epoch, a seek
and a step look at cells and at one bucket: they grow with the data only through the size of a bucket.
{huge}
Languages of the largest plan at T = 0.3, hours and shares of one epoch:
"""
HUGE = """
Measured with {rows:,}: {peak:.1f} GB, {columns:.1f} of them the columns; build {build} s, slowest of the
seeks {seek} s, {step} ms per step of the first {walked:,}, in which each bucket is shuffled.
"""
BESIDE_TEXT = """
## Beside lhotse's DynamicBucketingSampler: {cuts:,} cuts, {steps} steps

One lazy JSON-lines manifest, max_duration 200 s, max_cuts 256, 30 buckets, shuffled; one rank of the given
number in a process of its own. icefall sets lhotse's buffer to 150 000 cuts, by default it is 20 000. Start:
from the manifest to the first batch; the plan reads the whole manifest, so that it knows every batch. Resume:
from a saved state to the next batch, after the sampler is made. Memory: above that of the imports. Cost is
that of the plan's default cost model.
"""


def page(result: dict[str, Any], command: str) -> str:
    caps = ", ".join(f"{name} {value:g}" for name, value in SCALE.items())
    c, samplers = result["computed"], result["samplers"]
    met = [[w, bar, value, "yes" if ok else "NO"] for w, bar, value, ok in bars(result["scale"])]
    return "\n".join(
        [
            INTRODUCTION.format(
                command=command, machine=result["machine"], caps=caps,
                scale_load=_load(result["scale_load"]), samplers_load=_load(result["samplers_load"]),
                rows=result["scale"][-1]["rows"],
            ),
            *markdown(["", "bar", "measured", "met"], met),
            "",
            *_scale_table(result["scale"]),
            GROWTH.format(
                bytes_per_row=c["bytes_per_row"], error=100 * c["largest_error_between"], computed=COMPUTED,
                huge=_huge(result.get("huge")), gigabytes=c["bytes"] / GB, build_cpu_s=c["build_cpu_s"],
            ),
            *_language_table(result["scale"][-2]),
            BESIDE_TEXT.format(cuts=result["cuts"], steps=samplers[0]["steps"]),
            *_sampler_table(samplers),
            "",
            "![](plan.png)",
            "",
        ]
    )  # fmt: skip


def _huge(s: dict[str, Any] | None) -> str:
    if s is None:
        return ""
    return HUGE.format(
        rows=s["rows"], peak=s["peak_bytes"] / GB, columns=s["columns_bytes"] / GB,
        build=_times(s["build_s"], 0), seek=_times(s["seek_s"], 2), step=_times(s["step_ms"], 2),
        walked=s["walked"],
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
    return markdown([*header, "padding", "cost max/mean: median / p95", "over caps"], rows)


def _language_table(s: dict[str, Any]) -> list[str]:
    rows = [
        [str(k + 1), f"{hours:,.0f}", f"{used:,.0f}", f"{100 * repeated:.0f} %", f"{100 * skipped:.0f} %"]
        for k, (hours, used, repeated, skipped) in enumerate(
            zip(s["hours"], s["hours_used"], s["repeated"], s["skipped"], strict=True)
        )
    ]
    return markdown(["language", "hours", "hours used", "draws repeated", "utterances skipped"], rows)


def _sampler_table(samplers: Sequence[dict[str, Any]]) -> list[str]:
    def balance(s: dict[str, Any]) -> str:
        return _balance(_quantile(s["imbalance"], 0.5), _quantile(s["imbalance"], 0.95))

    rows = [
        [
            NAMES[s["kind"]], str(s["ranks"]), _times(s["start_s"], 1), _times(s["step_ms"], 2),
            f"{s['bytes'] / 1e6:.0f}", f"{100 * s['padding']:.1f} %", f"{100 * s['fill']:.0f} %",
            balance(s), _times(s["resume_s"], 3),
        ]
        for s in samplers
    ]  # fmt: skip
    header = ["sampler", "ranks", "start s", "ms/step", "memory MB", "padding", "of max seconds"]
    return markdown([*header, "cost max/mean: median / p95", "resume s"], rows)


def _times(took: dict[str, float], digits: int) -> str:
    return f"{took['wall']:.{digits}f} / {took['cpu']:.{digits}f}"


def _load(averages: Sequence[float]) -> str:
    return " to ".join(f"{load:.1f}" for load in averages)


def _balance(median: float, p95: float) -> str:
    return f"{median:.3f} / {p95:.3f}"


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def plot(result: dict[str, Any], path: Path) -> None:
    figure = figure_class()(figsize=(12, 8), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    colours = dict(zip(NAMES, ("tab:blue", "tab:orange", "tab:green"), strict=True))
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
    panels = {
        "ms per step": lambda s: s["step_ms"]["wall"],
        "seconds to start": lambda s: s["start_s"]["wall"],
        "seconds to resume": lambda s: s["resume_s"]["wall"],
        "memory, GB": lambda s: s["bytes"] / GB,
        "padding, %": lambda s: 100 * s["padding"],
    }
    axes = figure.add_subplot(grid[1, :])
    for bar, (kind, ranks) in enumerate([(k, r) for r in RANKS for k in NAMES]):
        s = next(s for s in result["samplers"] if (s["kind"], s["ranks"]) == (kind, ranks))
        heights = [float(of(s)) for of in panels.values()]
        places = [i + 0.14 * (bar - 2.5) for i in range(len(panels))]
        drawn = axes.bar(places, heights, 0.13, color=colours[kind], alpha=0.5 if ranks == 2 else 1.0,
                         label=f"{NAMES[kind]}, {ranks} ranks")  # fmt: skip
        axes.bar_label(drawn, [f"{height:.2g}" for height in heights], fontsize=7)
    axes.set_xticks(range(len(panels)), list(panels))
    axes.set(yscale="log", title=f"{result['cuts']:,} cuts, lower is better")
    axes.margins(y=0.15)
    axes.legend(ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m tools.bench.plan", description="Measure the batch plan."
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[2_500_000, 5_000_000, 10_000_000],
                        help="sizes of plans, ascending, at least two")  # fmt: skip
    parser.add_argument("--cuts", type=int, default=200_000, help="cuts for the samplers side by side")
    parser.add_argument("--steps", type=int, default=150, help="steps of each sampler")
    parser.add_argument("--out", type=Path, default=PAGES, help="folder of plan.{md,json,png}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["scale", "samplers"],
                        help="what to measure; others stay as in plan.json; huge: 10^8 rows")  # fmt: skip
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(_measured(json.loads(options.measure))))
        return 0
    figure_class()  # says what to install before the work, not after
    saved = options.out / "plan.json"
    result = json.loads(saved.read_text()) if saved.exists() else {}
    result["machine"] = f"{cores()}, {platform.machine()}, Python {platform.python_version()}"
    if "scale" in options.parts:
        result |= scales(options.rows)
    if "huge" in options.parts:
        cfg = to_dict(PlanConfig(**SCALE))  # type: ignore[arg-type]
        result["huge"] = measure("scale", rows=COMPUTED, prove=False, cfg=cfg)
    if "samplers" in options.parts:
        result |= beside(options.cuts, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    saved.write_text(json.dumps(result) + "\n")
    text = page(result, command_of("plan", arguments))
    (options.out / "plan.md").write_text(text, encoding="utf-8")
    plot(result, options.out / "plan.png")
    print(text)
    return 0 if all(met for _, _, _, met in bars(result["scale"])) else 1


if __name__ == "__main__":
    sys.exit(main())
