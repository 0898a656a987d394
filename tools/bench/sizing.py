"""The memory model on paper (maya.models.sizing) beside peaks that were measured, on a CPU in fp32.

    python -m tools.bench.sizing                # into docs/benchmarks/sizing.{md,json}, minutes
    python -m tools.bench.sizing --out exp/bench --case 0 --shape 1
    python -m tools.bench.sizing --compare --against ../old     # estimates of an older checkout beside them

Each peak is the resident set of a process of its own that makes one real training step; see
maya.train.memory.steps.
"""

import contextlib
import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from maya.config import to_dict
from maya.models.sizing import Training, count_frames, memory, meta_model
from maya.models.speech_model import count_parameters
from maya.train.config import TrainConfig
from maya.train.memory.steps import Order, Steps
from tools.bench.checkout import Checkout, model_config
from tools.bench.common import markdown, parser_of

BAR = 0.15


@dataclass(frozen=True, slots=True)
class Case:
    """A model: width, layers (of each stack), heads, subsampling factor and channels, vocabulary, how it is
    trained, and its encoder."""

    width: int
    layers: int
    heads: int
    factor: int
    channels: int
    vocab: int
    checkpointing: bool = False
    accumulate: int = 1
    model: str = "fastconformer"

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `model_config`."""
        shared = {"model": self.model, "vocab": self.vocab, "hidden": self.width}
        shared["activation_checkpointing"] = self.checkpointing
        if self.model == "zipformer":
            first, outer = self.factor // 2, 2 * self.width // 3
            return shared | {
                "downsampling": [first, 2 * first, 4 * first, 2 * first], "output_downsampling": first,
                "layers": [self.layers] * 4, "heads": [self.heads] * 4,
                "dims": [outer, self.width, self.width, outer], "unmasked_dims": [outer] * 4,
                "ff_dims": [3 * self.width] * 4, "front_channels": [8, 32, self.channels],
            }  # fmt: skip
        shared |= {
            "d_model": self.width, "n_layers": self.layers, "n_heads": self.heads,
            "subsampling_factor": self.factor, "subsampling_channels": self.channels,
        }  # fmt: skip
        if self.model == "lact":
            return shared | {"ff_dim": 4 * self.width, "fast_heads": self.heads}
        return shared | {"dropout": 0.1, "dropout_pre_encoder": 0.1, "dropout_att": 0.1, "xscaling": True}


CASES = (
    Case(96, 2, 4, 4, 32, 256),
    Case(128, 4, 4, 8, 64, 1024),
    Case(192, 6, 4, 8, 64, 4096, checkpointing=True),
    Case(256, 4, 8, 8, 32, 2048),
    Case(256, 4, 8, 8, 32, 2048, accumulate=2),
    Case(96, 1, 4, 8, 32, 256, model="zipformer"),
    Case(192, 1, 4, 4, 128, 512, model="zipformer"),
    Case(96, 3, 4, 8, 32, 256, model="lact"),
    Case(192, 6, 4, 8, 64, 1024, model="lact"),
)
SHAPES = ((24, 5.0, 15), (10, 16.0, 50), (5, 30.0, 200))  # utterances, seconds, tokens


def measured(case: Case, shapes: Sequence[tuple[int, float, int]]) -> list[dict[str, Any]]:
    """Peaks of one case, bytes as GB, for each shape."""
    cfg, train = model_config(**case.options), TrainConfig(accumulate=case.accumulate)
    order = Order(
        model=to_dict(cfg), train=to_dict(train), device="cpu", bf16=False, hold_gradients=case.accumulate > 1
    )
    results = []
    with Steps(order) as steps:
        for batch, seconds, tokens in shapes:
            peak = steps.peak(batch, seconds, tokens)
            if peak is None:
                raise SystemExit(f"bench_sizing: out of memory at {case}, {batch} x {seconds} s")
            row = {"case": asdict(case), "batch": batch, "seconds": seconds, "tokens": tokens}
            results.append(row | {"measured_gb": peak / 1e9})
            print(f"bench_sizing: {results[-1]}", flush=True)
    return results


def compared(rows: list[dict[str, Any]], old: Checkout | None) -> list[dict[str, Any]]:
    """The rows with the estimates of this checkout and of an older one; without that, its earlier ones
    stay."""
    results = []
    for row in rows:
        case, size = Case(**row["case"]), (row["batch"], row["seconds"], row["tokens"])
        cfg, held = model_config(**case.options), case.accumulate > 1
        if old is not None:
            answer = old.ask("paper", options=case.options, size=size, hold_gradients=held)
            row |= {"old_gb": answer["bytes"] / 1e9}
        model = meta_model(cfg)
        paper = memory(cfg, Training(cuda=False, bf16=False, hold_gradients=held), model)
        said = paper.bytes(size[0], count_frames(cfg, size[1])[1], size[2]) / 1e9
        # What the batch adds: both without what is there whatever the batch is.
        rest = paper.base.fixed / 1e9
        results.append(row | {
            "parameters": count_parameters(model), "paper_gb": said, "error": said / row["measured_gb"] - 1,
            "batch_error": (said - rest) / (row["measured_gb"] - rest) - 1,
        })  # fmt: skip
    return results


def report(rows: list[dict[str, Any]]) -> str:
    plain = [abs(row["error"]) for row in rows if row["case"]["accumulate"] == 1]
    verdict = "met" if max(plain) <= BAR else "NO"
    accumulating = [row["error"] for row in rows if row["case"]["accumulate"] > 1]
    compares = any("old_gb" in row for row in rows)
    columns = (
        *("encoder",) * compares, "width × layers", "factor", "vocabulary", "parameters",
        "utterances × seconds, tokens", "measured GB", "on paper", "error", "of the batch",
        *("old estimate", "its error") * compares,
    )  # fmt: skip
    lines = [
        "# Memory on paper and measured",
        "",
        f"`python -m tools.bench.sizing` on {platform.machine()}, torch {torch.__version__}, fp32, 1 thread.",
        "",
        f"Largest error without accumulation {max(plain):.1%}, median {statistics.median(plain):.1%} of the "
        f"peak; bar {BAR:.0%}: {verdict}. *Of the batch* compares what is left of both without the process, "
        "weights, optimizer, average and held gradients. That the moments of a step add up in the resident "
        "set (see maya.models.sizing.memory.Memory) was concluded from the first three models; the fourth "
        "checks it.",
        *_about(accumulating),
        *["*Old estimate* is that of the checkout `--against`."] * compares,
        "Nothing here was run on a GPU: there the probe (maya.train.memory.probe) measures instead.",
        "",
    ]
    table_rows = []
    for row in rows:
        case = row["case"]
        old = row.get("old_gb", 0.0)
        kind = " checkpointed" if case["checkpointing"] else " accumulating" if case["accumulate"] > 1 else ""
        table_rows.append([
            *(case.get("model"),) * compares, f"{case['width']} × {case['layers']}{kind}",
            case["factor"], case["vocab"],
            f"{row['parameters'] / 1e6:.1f} M", f"{row['batch']} × {row['seconds']:g}, {row['tokens']}",
            f"{row['measured_gb']:.2f}", f"{row['paper_gb']:.2f}", f"{row['error']:+.1%}",
            f"{row['batch_error']:+.1%}", *(f"{old:.2f}", f"{old / row['measured_gb'] - 1:+.1%}") * compares,
        ])  # fmt: skip
    lines += markdown(columns, table_rows)
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/benchmarks"), help="folder of sizing.{md,json}"
    )
    parser.add_argument("--case", type=int, action="append", help="number of a model; all by default")
    parser.add_argument("--shape", type=int, action="append", help="number of a batch; all by default")
    parser.add_argument("--name", default="sizing", help="name of the files")
    parser.add_argument("--against", type=Path, help="an older checkout whose estimates to put beside")
    parser.add_argument("--compare", action="store_true", help="measure nothing, compare what is there anew")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    cases = [CASES[i] for i in args.case or range(len(CASES))]
    shapes = [SHAPES[i] for i in args.shape or range(len(SHAPES))]
    fresh = [] if args.compare else [row for case in cases for row in measured(case, shapes)]
    file = (args.out / args.name).with_suffix(".json")  # results of other cases and shapes stay
    rows = json.loads(file.read_text())["rows"] if file.is_file() else []
    rows = sorted([row for row in rows if _name(row) not in map(_name, fresh)] + fresh, key=_name)
    file.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    with Checkout(args.against) if args.against else contextlib.nullcontext() as old:
        rows = compared(rows, old)
    file.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    file.with_suffix(".md").write_text(report(rows))
    print(f"bench_sizing: {file.with_suffix('.md')}")
    return 0


def _about(accumulating: list[float]) -> list[str]:
    """What is to be said of batches whose gradients are accumulated."""
    if not accumulating:
        return []
    low, high = min(accumulating), max(accumulating)
    return [
        f"With accumulation the paper is off by {low:+.0%} to {high:+.0%}: the process grows by more than "
        "the gradients that stay. Let the probe measure there, too."
    ]


def _name(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["case"].get("model", "fastconformer"), *row["case"].values(), row["seconds"])


if __name__ == "__main__":
    raise SystemExit(main())
