"""The cost of focused linear attention against the length, beside softmax attention of the same size.

    python -m tools.bench.separation --out docs/benchmarks

Operations are counted (torch.utils.flop_counter), and CPU seconds of this process are measured, the least of
several runs: both forward, one row, one thread.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maya.encoders.separation.focused_attention import FocusedLinearAttention
from maya.files import write_json, writing
from maya.recipes.figure import figure_class, save_figure

_CHANNELS, _HEADS, _RUNS = 128, 8, 3
_FRAMES = (500, 1000, 2000, 4000, 8000)  # 2000 a second at 8 kHz and a stride of 4


class SoftmaxAttention(nn.Module):
    """Attention with the scores of all pairs of frames, as SepReformer has it, without positions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        y = F.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@torch.inference_mode()
def measure(module: nn.Module, frames: int) -> dict[str, float]:
    """Operations and CPU seconds of a forward pass."""
    x, valid = torch.randn(1, frames, _CHANNELS), torch.ones(1, frames, 1)
    with FlopCounterMode(display=False) as counter:
        module(x, valid)
    seconds = []
    for _ in range(_RUNS):
        started = time.process_time()
        module(x, valid)
        seconds.append(time.process_time() - started)
    return {"frames": frames, "operations": float(counter.get_total_flops()), "seconds": min(seconds)}


def growth(rows: Sequence[dict[str, float]], key: str) -> float:
    """How often the cost doubles where the length doubles once, over the longest two lengths: 1 is linear."""
    last, before = rows[-1], rows[-2]
    ratio, length = last[key] / before[key], last["frames"] / before["frames"]
    return float(torch.tensor(ratio).log() / torch.tensor(length).log())


def draw(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    figure: Any = figure_class()(figsize=(8, 3), layout="constrained")
    for axis, (key, title) in zip(
        figure.subplots(1, 2),
        (("operations", "operations, forward"), ("seconds", "CPU seconds, forward")),
        strict=True,
    ):
        for name, rows in results.items():
            axis.loglog([r["frames"] for r in rows], [r[key] for r in rows], marker="o", label=name)
        axis.set(xlabel="frames", title=title)
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of separation.json, .md and .png")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    makers: dict[str, Callable[[], nn.Module]] = {
        "focused linear": lambda: FocusedLinearAttention(_CHANNELS, _HEADS),
        "softmax": lambda: SoftmaxAttention(_CHANNELS, _HEADS),
    }
    results = {name: [measure(make(), frames) for frames in _FRAMES] for name, make in makers.items()}
    lines = ["# Attention for separation: cost against length", "", "![cost](separation.png)", ""]
    lines += [
        f"{_CHANNELS} channels, {_HEADS} heads, one row, forward; `python -m tools.bench.separation`.",
        "",
    ]
    lines += ["| attention | frames | operations, 10^9 | CPU seconds |", "|---|---|---|---|"]
    for name, rows in results.items():
        lines += [
            f"| {name} | {r['frames']:.0f} | {r['operations'] / 1e9:.2f} | {r['seconds']:.3f} |" for r in rows
        ]
    exponents = [f"{name} {growth(rows, 'operations'):.2f}" for name, rows in results.items()]
    lines += ["", f"Exponent of the length in the operations, from the longest two: {', '.join(exponents)}."]
    write_json(args.out / "separation.json", results)
    with writing(args.out / "separation.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(results, args.out / "separation.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
