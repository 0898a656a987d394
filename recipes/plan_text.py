"""The report of `maya plan`, for a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

from maya.models.config import SpeechModelConfig
from maya.models.sizing import Gpu
from maya.pages import columns

_GB = 1e9


def plan_text(report: dict[str, Any], setup: Any, gpu: Gpu, cfg: SpeechModelConfig) -> str:
    """All tables. report: what maya.recipes.plan has put together; setup: its Setup."""
    memory_gb = setup.memory_gb or gpu.memory_gb
    given = "given" if setup.memory_gb else "published"
    batch = report["batch"]
    head = [
        f"{report['experiment']} on {setup.gpus} × {gpu.name}",
        f"{memory_gb:g} GB ({given}), {gpu.tflops:g} TFLOP/s dense {gpu.precision} (published), of which "
        f"{setup.utilisation:.0%} is assumed",
        f"one utterance: {batch['seconds']:.1f} s, {batch['tokens']} tokens, {batch['frames']} encoder "
        f"frames; vocabulary {cfg.vocab_size}",
    ]
    parts = [head, _parameters(report), _flops(report), _memory(report), _time(report), _resources(report)]
    if "data" in report:
        parts.append(_data(report["data"]))
    parts.append([
        "on paper: products at the assumed share of the peak rate, memory by docs/benchmarks/sizing.md;",
        "memory of the encoder is counted on small encoders of its kind on this CPU, an estimate;",
        "nothing of it was measured on this GPU. Training measures with data.plan.memory.limit=auto.",
    ])  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts)


def _parameters(report: dict[str, Any]) -> list[str]:
    counts: dict[str, int] = report["parameters"]
    total = sum(counts.values())
    rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in counts.items()]
    return text_table(("parameters", "", ""), [*rows, ("all", f"{total:,}", "")])


def _flops(report: dict[str, Any]) -> list[str]:
    work = report["flops_per_audio_second"]
    total = sum(work["training"].values())
    rows = [
        (name, f"{work['forward'][name] / 1e9:,.2f}", f"{n / 1e9:,.2f}", f"{n / total:.1%}")
        for name, n in work["training"].items()
    ]
    forward = sum(work["forward"].values())
    last = ("all", f"{forward / 1e9:,.2f}", f"{total / 1e9:,.2f}", "")
    return text_table(("GFLOP per second of audio", "forward", "training", "share"), [*rows, last])


def _memory(report: dict[str, Any]) -> list[str]:
    memory, batch = report["memory"], report["batch"]
    used = memory["used"]
    sides = [memory["no checkpointing"], memory["checkpointing"]]
    rows = []
    for group in ("states", "kept"):
        for name in sides[0][group]:
            rows.append((name, *(f"{side[group].get(name, 0.0) / _GB:.2f}" for side in sides)))
    rows.append(("beside what is kept, at the peak", *(f"{side['beside_kept'] / _GB:.2f}" for side in sides)))
    rows.append(("all", *(f"{side['total'] / _GB:.2f}" for side in sides)))
    for name in sides[0]["host"]:
        rows.append((f"in host memory: {name}", *(f"{side['host'][name] / _GB:.2f}" for side in sides)))
    rows.append(("largest batch, utterances", *(str(side["largest_batch"]) for side in sides)))
    seconds = [side["largest_batch"] * batch["seconds"] for side in sides]
    rows.append(("largest batch, padded seconds", *(f"{s:,.0f}" for s in seconds)))
    size = f"{batch['utterances']} utterances, {batch['utterances'] * batch['seconds']:.0f} s"
    lines = text_table((f"GB at {size}", "all kept", "checkpointed"), rows)
    lines.append(f"peak: {memory[used]['highest_at']}; the experiment trains with {used}")
    if memory["shards"] > 1:
        lines.append(
            f"FSDP2 divides weights, gradients and optimizer among {memory['shards']} GPUs (train.parallel); "
            "this was not measured"
        )
    return lines


def _time(report: dict[str, Any]) -> list[str]:
    time, batch = report["time"], report["batch"]
    size, days = batch["utterances"] * batch["seconds"], f"{time['days_for_steps']:.1f} days"
    rows = [
        ("batch", f"{batch['utterances']} utterances, {size:.0f} padded s a GPU"),
        ("step", f"{time['step_seconds']:.2f} s for {time['padded_seconds_per_step']:,.0f} s on all GPUs"),
        ("audio", f"{time['hours_per_day']:,.0f} h a day"),
        ("training", f"{time['steps']:,} steps, {time['hours_in_steps']:,.0f} h: {days}"),
    ]
    if "days_per_pass" in time:
        rows.append(("one pass", f"{time['hours']:,.0f} h: {time['days_per_pass']:.1f} days"))
    return text_table(("time", ""), rows, right=False)


def _resources(report: dict[str, Any]) -> list[str]:
    facts = report["resources"]
    cost = f", {facts['price']:,.0f} at the price that was given" if "price" in facts else ""
    rows = [
        ("disk, checkpoints and logs", f"{facts['checkpoints_gb']:,.0f} GB"),
        ("GPUs", f"{facts['gpu_hours']:,.0f} hours of one GPU{cost}"),
    ]
    if "utterances" in facts:
        core_hours = facts["preparing_core_hours"]
        rows[:0] = [
            ("disk, audio", f"{facts['audio_gb']:,.0f} GB as FLAC at 16 kHz, 140 kbit/s"),
            ("disk, tables", f"{facts['tables_gb']:,.1f} GB of {facts['utterances']:,.0f} utterances, "
             f"{facts['preparing_gb']:,.1f} GB more while they are prepared"),
            ("preparation", f"{core_hours:,.1f} core hours in any number of parts, then "
             f"{facts['merging_hours']:,.1f} h on one machine"),
        ]  # fmt: skip
    return text_table(("resources, on paper", ""), rows, right=False)


def _data(data: dict[str, Any]) -> list[str]:
    left_out = data["left_out"]
    rows = [
        ("utterances", f"{data['utterances']:,}" + (f", {left_out:,} left out" if left_out else "")),
        ("steps an epoch", f"{data['steps_per_epoch']:,} ({data['batches_per_epoch']:,} batches)"),
        ("padding", f"{data['padding']:.1%} of seconds"),
        ("cost, max/mean over GPUs", f"{data['cost_imbalance_median']:.3f} median, "
         f"{data['cost_imbalance_p95']:.3f} at 95 %"),
        ("largest batch", f"{data['max_utterances']} utterances, {data['max_padded_seconds']:.0f} padded s"),
        ("memory on paper", f"{data['memory_median_gb']:.1f} GB median, {data['memory_max_gb']:.1f} at most, "
         f"{data['batches_too_large']:.0%} of the batches too large"),
        ("tokens", data["tokens_from"]),
    ]  # fmt: skip
    languages = [
        (language, f"{hours:,.2f}", f"{data['repeated'][language]:.0%}", f"{data['skipped'][language]:.0%}")
        for language, hours in sorted(data["hours"].items())
    ]
    by_language = text_table(("language", "hours used", "draws repeated", "utterances skipped"), languages)
    return [*text_table(("data", ""), rows, right=False), "", *by_language]


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: bool = True) -> list[str]:
    """Columns under a rule. The first is aligned to the left, the others to the right, or all to the left."""
    lines = columns([head, *rows], aligned_left={0} if right else range(len(head)))
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
