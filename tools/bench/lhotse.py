"""Reading batches from lhotse cuts beside our table, on the same utterances: start-up, time a batch, padding.

    python -m tools.bench.lhotse --corpus ../shared/corpora/indic12 --out exp/bench/lhotse

Some of the corpus is written as FLAC and prepared. Its training utterances are then written as a manifest of
cuts and as Shar. Rounds alternate between the ways of reading; OUT/lhotse.json and docs/benchmarks/lhotse.md
get the medians.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import lhotse
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from maya.data.loading.batch import Batch
from maya.data.plan import Position
from maya.data.table.table import Table, part_path
from maya.recipes import presets
from maya.recipes.cuts import batches_from, open_batches
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer as tokenizer_stage
from maya.recipes.train import Utterances, batch_plan, shared_tokens, train_batches, usable
from maya.text.load import load_tokenizer

SHAR_FUNCTION = """
from pathlib import Path
from lhotse import CutSet

def train_cuts():
    return CutSet.from_shar(in_dir=Path(__file__).parent / "shar")
"""
TABLE = "table, our plan"
COLUMNS = {"start": "start-up, s", "batch": "s a batch", "resume": "resume in mid-pass, s"}  # wall and CPU
MORE = {"padding": "padding", "sampling_ms": "sampling, ms a step", "sampling_8_ms": "the same, 8 ranks"}


def experiment(source: Literal["table", "lhotse"], max_seconds: float, **options: Any) -> Experiment:
    """The same model and caps for every way of reading."""
    exp = Experiment(
        name="bench/lhotse", model=presets.fastconformer_tdt_ctc(d_model=64, n_layers=2, n_heads=4)
    )
    exp.tokenizer.vocab_size, exp.data.source = 1000, source
    exp.data.plan.max_seconds, exp.data.plan.temperature = max_seconds, 1.0
    for name, value in options.items():
        setattr(exp.data, name, value)
    return exp


def as_flac(corpus: Path, out: Path, count: int) -> Path:
    """A copy of `count` utterances of a corpus with manifest.jsonl, drawn at random, as FLAC: lhotse writes
    Shar as FLAC, and every way shall decode the same."""
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    rows = random.Random(0).sample(rows, min(count, len(rows)))
    out.mkdir(parents=True)
    for number, row in enumerate(rows):
        samples, rate = soundfile.read(corpus / row["audio"])
        row["audio"] = f"{number:06d}.flac"
        soundfile.write(out / row["audio"], samples, rate)
    (out / "manifest.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return out


def write_cuts(data: Path, out: Path) -> None:
    """The utterances of `data`/train.parquet as cuts.jsonl.gz and shar/."""
    rows = Table.open(part_path(data, "train")).read("id", "path", "text", "language")
    cuts = []
    for name, path, text, language in rows:
        recording = Recording.from_file(path, recording_id=name)
        supervision = SupervisionSegment(name, name, 0.0, recording.duration, text=text, language=language)
        cuts.append(
            MonoCut(name, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])
        )
    CutSet.from_cuts(cuts).to_file(out / "cuts.jsonl.gz")
    (out / "shar").mkdir()
    CutSet.from_cuts(cuts).to_shar(out / "shar", fields={"recording": "flac"}, shard_size=500)
    (out / "mine.py").write_text(SHAR_FUNCTION)


Open = Callable[[tuple[int, int]], Callable[[Position], Iterator[tuple[Position, Batch]]]]
"""(rank, world size) -> this rank's batches from a position on."""


def ways(data: Path, out: Path, max_seconds: float) -> dict[str, tuple[Open, Callable[..., Iterator[Any]]]]:
    """By name: what opens the batches, and what yields (position after it, ...) without reading audio."""
    made = load_tokenizer(out / "tokenizer.model")

    def by_table(ranks: tuple[int, int]) -> Any:
        exp = experiment("table", max_seconds)
        table = Table.open(part_path(data, "train"))
        tokens = shared_tokens(out, table, made)
        rows, _ = usable(table, tokens, exp)
        u = Utterances.from_table(table, tokens, exp.languages, rows)
        return exp, u, batch_plan(exp, u).for_rank(*ranks)

    def open_table(ranks: tuple[int, int]) -> Any:
        exp, u, plan = by_table(ranks)
        return train_batches(exp, u, made, out, plan)

    def sample_table(ranks: tuple[int, int]) -> Iterator[Any]:
        _, _, plan = by_table(ranks)
        for position in plan.positions(Position(0, 0)):
            yield plan.advance(position), plan.take(position)

    opened: dict[str, tuple[Open, Callable[..., Iterator[Any]]]] = {TABLE: (open_table, sample_table)}
    names = {"cuts.jsonl.gz": "manifest", "shar": "Shar", "mine.py:train_cuts": "CutSet.from_shar"}
    for name, sampler in [
        ("cuts.jsonl.gz", "plan"), ("cuts.jsonl.gz", "stream"), ("cuts.jsonl.gz", "dynamic_bucketing"),
        ("shar", "plan"), ("shar", "stream"), ("mine.py:train_cuts", "dynamic_bucketing"),
    ]:  # fmt: skip
        exp = experiment("lhotse", max_seconds, cuts=(str(out / name),), sampler=sampler)

        def open_cuts(ranks: tuple[int, int], exp: Experiment = exp) -> Any:
            return batches_from(exp, open_batches(exp, made, out, ranks), made, out)

        def sample_cuts(ranks: tuple[int, int], exp: Experiment = exp) -> Iterator[Any]:
            for job in open_batches(exp, made, out, ranks).jobs(Position(0, 0)):
                yield job.position, job.cuts

        opened[f"{names[name]}, {sampler}"] = (open_cuts, sample_cuts)
    return opened


class Laps:
    """Wall and CPU seconds since the last lap."""

    def __init__(self) -> None:
        self._marks = time.perf_counter(), time.process_time()

    def lap(self, name: str, steps: int = 1) -> dict[str, float]:
        now = time.perf_counter(), time.process_time()
        wall, cpu = ((b - a) / steps for a, b in zip(self._marks, now, strict=True))
        self._marks = now
        return {f"{name}_seconds": wall, f"{name}_cpu_seconds": cpu}


def measure(open_way: Open, sample: Callable[..., Iterator[Any]]) -> dict[str, float]:
    """One pass with audio, the sampling of one pass with 1 and 8 ranks, and a resume from its middle."""
    clock = Laps()
    stream = open_way((0, 1))(Position(0, 0))
    position, batch = next(stream)
    result = clock.lap("start")
    places, seconds, padded = [position], batch.seconds, batch.audio.numel() / batch.sample_rate
    while position.epoch == 0:
        position, batch = next(stream)
        places.append(position)
        seconds, padded = seconds + batch.seconds, padded + batch.audio.numel() / batch.sample_rate
    steps = len(places) - 1
    result |= clock.lap("batch", steps) | {"padding": 1 - seconds / padded, "batches": len(places)}
    stream.close()  # type: ignore[attr-defined]
    for ranks, name in ((1, "sampling_ms"), (8, "sampling_8_ms")):
        result[name] = 1000 * sampling_seconds(sample((0, ranks)))
    clock.lap("")
    stream = open_way((0, 1))(places[len(places) // 2])
    next(stream)
    result |= clock.lap("resume")
    stream.close()  # type: ignore[attr-defined]
    return result


def sampling_seconds(sampled: Iterator[Any]) -> float:
    """CPU seconds a step of a pass, after the first batch."""
    times = []
    for position, _ in sampled:
        times.append(time.process_time())
        if position.epoch:
            break
    return statistics.fmean(b - a for a, b in pairwise(times)) if len(times) > 1 else 0.0


def page(results: dict[str, Any], command: str) -> str:
    """The Markdown page."""
    rows = results["medians"]
    head = ["way of reading", *COLUMNS.values(), *MORE.values()]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, values in rows.items():
        cells = [f"{values[f'{k}_seconds']:.3g} / {values[f'{k}_cpu_seconds']:.3g}" for k in COLUMNS]
        cells += [f"{100 * values[k]:.1f} %" if k == "padding" else f"{values[k]:.3g}" for k in MORE]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    ratio = rows["manifest, plan"]["batch_cpu_seconds"] / rows[TABLE]["batch_cpu_seconds"]
    versions = f"{platform.machine()}, Python {platform.python_version()}, lhotse {lhotse.__version__}"
    load = [f"{value:.1f}" for value in results["load"]]
    return f"""# Training from lhotse cuts, beside our table

`{command}` on {results["cpus"]} CPUs, {versions}.
Load average: {load[0]} at the beginning, {load[1]} at the end.

{results["utterances"]} utterances, {results["hours"]:.2f} h, at most {results["max_seconds"]:g} s of padded
audio a batch ({rows[TABLE]["batches"]:g} batches a pass). No data workers: a thread reads ahead.
Medians of {results["rounds"]} rounds; each round takes every way of reading once.

{chr(10).join(lines)}

Where two times are given they are wall / CPU: on a busy machine only the second can be compared.
Start-up is the time from opening the data to the first batch, without imports. Padding is the share of a
batch's samples that no utterance fills. Sampling chooses the cuts of a step; it takes CPU time on every rank,
and a sampler of a stream reads the cuts of all ranks. A resume of a stream samples the pass again up to its
position. With the same plan, a batch takes {ratio:.2f} times the CPU from a manifest as from our table.
Our plan divides a corpus of this size into few buckets, so that the same utterances do not meet again in each
pass; with ten million utterances it pads 3.8 % ([plan.md](plan.md)).
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpora/indic12"))
    parser.add_argument("--out", type=Path, default=Path("exp/bench/lhotse"))
    parser.add_argument(
        "--utterances", type=int, default=3000, help="of the corpus; the training part is used"
    )
    parser.add_argument("--max-seconds", type=float, default=120.0, help="padded audio of a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks/lhotse.md"))
    args = parser.parse_args()
    out, data, corpus = args.out, args.out / "data", args.out / "corpus"
    if not (corpus / "manifest.jsonl").is_file():
        as_flac(args.corpus, corpus, args.utterances)
    prepare(experiment("table", args.max_seconds), corpus, data)
    tokenizer_stage(experiment("table", args.max_seconds), data, out)
    if not (out / "mine.py").is_file():
        write_cuts(data, out)
    table, begin = Table.open(part_path(data, "train")), os.getloadavg()[0]
    rounds: dict[str, list[dict[str, float]]] = {}
    for number in range(args.rounds):
        for name, way in ways(data, out, args.max_seconds).items():
            rounds.setdefault(name, []).append(measure(*way))
            print(number, name, {k: round(v, 4) for k, v in rounds[name][-1].items()}, flush=True)
    medians = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in rounds.items()}
    results = {
        "utterances": len(table), "hours": float(table.durations.sum()) / 3600, "rounds": args.rounds,
        "max_seconds": args.max_seconds, "cpus": os.cpu_count(), "load": [begin, os.getloadavg()[0]],
        "medians": medians, "all": rounds,
    }  # fmt: skip
    (out / "lhotse.json").write_text(json.dumps(results, indent=1) + "\n")
    command = f"python -m tools.bench.lhotse --corpus {args.corpus} --max-seconds {args.max_seconds:g}"
    args.page.write_text(page(results, command))


if __name__ == "__main__":
    main()
