"""What a long run takes of disks and of object storage, on paper: sizes, times, money.

    maya plan --experiment egs.indic12.fastconformer_tdt_ctc_1b --hours 150000 --gpus 8 --json plan.json
    python -m tools.storage_cost plan.json            the tables of docs/guides/production.md, written there
    python -m tools.storage_cost plan.json --print    only printed

Sizes follow from the model (`maya plan`). Prices are those of the providers' pages in 2026, in US dollars;
give yours. Nothing of it was measured on the machines that it is about, but for the share of a core that
digests take (see --hash).
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maya.recipes.ready import LOGS, TRAINING, WEIGHTS
from maya.storage.digest import MIB, part_size_for
from maya.storage.upload import UploadOptions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "production.md"
BEGIN, END = "<!-- figures: python -m tools.storage_cost -->", "<!-- end of figures -->"
GB, MONTH_SECONDS = 1e9, 30 * 86_400
RATES = (50, 200, 1000)  # MB/s of an upload


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Dollars: a GB and month, a million writing and reading requests, a GB that leaves."""

    name: str
    stored: float
    writes: float
    reads: float
    leaving: float


PROVIDERS = (
    Provider(name="Cloudflare R2", stored=0.015, writes=4.50, reads=0.36, leaving=0.0),
    Provider(name="Amazon S3", stored=0.023, writes=5.00, reads=0.40, leaving=0.09),
)
# Bytes of an hour of speech in one channel of 16 kHz.
AUDIO = {
    "wav (16 bit)": 16_000 * 2 * 3600,
    "flac (about 55 %)": 16_000 * 2 * 3600 * 0.55,
    "opus (24 kbit/s)": 3_000 * 3600,
}
ROW_BYTES = 67  # of the table and its statistics in Parquet, dev set of egs/digits; 41 in its training table


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """Of one run. Bytes, seconds; `checkpoint`: a training checkpoint."""

    parameters: int
    step_seconds: float
    steps: int
    save_every: int
    padded_per_step: float
    hours: float

    @property
    def checkpoint(self) -> int:
        return self.parameters * TRAINING

    @property
    def weights(self) -> int:
        return self.parameters * WEIGHTS

    @property
    def interval(self) -> float:
        return self.step_seconds * self.save_every

    @property
    def count(self) -> int:
        return self.steps // self.save_every

    @property
    def requests(self) -> int:
        """Writing requests of a checkpoint: its parts, beginning and joining them, and the manifest."""
        wanted = UploadOptions().part_mib * MIB
        return -(-self.checkpoint // part_size_for(self.checkpoint, wanted)) + 3

    def disk(self, keep_local: int, away_seconds: float) -> float:
        """The run folder: those that stay, the best one, one being written, what gathers while the storage
        is away, the weights in best.pt, averaged.pt and one being written, and the logs."""
        waiting = -(-away_seconds // self.interval)
        return (keep_local + 2 + waiting) * self.checkpoint + 3 * self.weights + LOGS


def figures(report: dict[str, Any]) -> RunFigures:
    """Those of what `maya plan --json` wrote."""
    train, time = report["config"]["train"], report["time"]
    return RunFigures(
        parameters=sum(report["parameters"].values()), step_seconds=time["step_seconds"],
        steps=train["steps"], save_every=train["save_every"], hours=time["hours"],
        padded_per_step=time["padded_seconds_per_step"],
    )  # fmt: skip


def run_table(run: RunFigures, hash_rate: float) -> list[str]:
    """Checkpoints: sizes, times and the disk."""
    upload = [f"{run.checkpoint / 1e6 / rate:.0f} s at {rate} MB/s" for rate in RATES]
    rows = [
        ("parameters P", "`maya plan`", f"{run.parameters / 1e6:.0f} M"),
        ("training checkpoint C", f"{TRAINING} B × P", f"{run.checkpoint / GB:.1f} GB"),
        ("best.pt, averaged.pt", f"{WEIGHTS} B × P", f"{run.weights / GB:.1f} GB"),
        ("between checkpoints", "train.save_every × seconds a step", f"{run.interval / 60:.0f} min"),
        ("checkpoints", "train.steps ÷ train.save_every", f"{run.count}"),
        ("upload of one", "C ÷ rate", ", ".join(upload)),
        ("rate that keeps pace", "C ÷ time between them", f"{run.checkpoint / 1e6 / run.interval:.0f} MB/s"),
        ("digests of one", f"C ÷ {hash_rate:.0f} MB/s of one core, at nice 19",
         f"{run.checkpoint / 1e6 / hash_rate:.0f} s of a core"),
        ("local disk", "(keep_local + 2) C + 3 weights + logs", f"{run.disk(2, 0) / GB:.0f} GB"),
        ("the same, storage away 12 h", "+ C for each interval", f"{run.disk(2, 12 * 3600) / GB:.0f} GB"),
        ("lost when the machine is lost", "time between checkpoints + upload",
         f"at most {(run.interval + run.checkpoint / 1e6 / RATES[1]) / 60:.0f} min of training"),
        ("return on a fresh machine", "C ÷ rate + digests",
         f"{run.checkpoint / 1e6 / RATES[1] + run.checkpoint / 1e6 / hash_rate:.0f} s at {RATES[1]} MB/s"),
    ]  # fmt: skip
    return ["| figure | formula | value |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]


def money_table(run: RunFigures) -> list[str]:
    """What the checkpoints cost."""
    lines = [
        "| checkpoints in the storage | TB | " + " | ".join(p.name for p in PROVIDERS) + " |",
        "|---|---|---|---|",
    ]
    for text, kept in (("all (keep_remote=0)", run.count), ("keep_remote=5", 5)):
        size = (kept * run.checkpoint + 2 * run.weights) / GB
        costs = [
            f"${size * p.stored:.2f} a month + ${run.count * run.requests / 1e6 * p.writes:.2f} of requests; "
            f"${run.checkpoint / GB * p.leaving:.2f} to read one back"
            for p in PROVIDERS
        ]
        lines.append(f"| {text} | {size / 1000:.2f} | " + " | ".join(costs) + " |")
    return lines


def audio_table(run: RunFigures) -> list[str]:
    """What the audio takes: its size, the rate that feeds the GPUs, and its price."""
    speed = run.padded_per_step / run.step_seconds / 3600  # hours of audio a second
    head = " | ".join(f"{p.name}, a month; one pass read from outside" for p in PROVIDERS)
    lines = [
        f"| audio of {run.hours:,.0f} h | TB | MB/s that feed the GPUs | {head} |",
        "|---|---|---|---|---|",
    ]
    for name, rate in AUDIO.items():
        size = rate * run.hours / GB
        costs = [f"${size * p.stored:,.0f}; ${size * p.leaving:,.0f}" for p in PROVIDERS]
        lines.append(f"| {name} | {size / 1000:.1f} | {rate * speed / 1e6:.0f} | " + " | ".join(costs) + " |")
    return lines


def text(run: RunFigures, hash_rate: float) -> str:
    """All tables."""
    rows = run.hours * 3600 / 6
    table = f"Tables: {ROW_BYTES} B a row; {rows * ROW_BYTES / GB:.1f} GB for {rows / 1e6:.0f} M rows of 6 s."
    parts = [run_table(run, hash_rate), money_table(run), audio_table(run), [table]]
    return "\n\n".join("\n".join(lines) for lines in parts)


def main() -> int:
    p = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n")[0])
    p.add_argument("plan", type=Path, help="the file that `maya plan --hours N --json FILE` wrote")
    p.add_argument("--hash", type=float, default=410, help="MB/s of SHA-256 and MD5 together on one core")
    p.add_argument("--print", action="store_true", help="print the tables and write nothing")
    args = p.parse_args()
    tables = text(figures(json.loads(args.plan.read_text())), args.hash)
    if args.print:
        print(tables)
        return 0
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
