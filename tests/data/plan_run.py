"""A run that can be killed: it reads batches as training does, saves its position and writes the ids.

    python -m tests.data.plan_run FOLDER --by loader --rank 0 --ranks 2 --workers 4 --count 9 --start '[0, 0]'

FOLDER holds cuts.jsonl.gz, the same cuts as train.parquet, and tokenizer.model (see `prepare`). Rank 0 writes
its position to FOLDER/state.json after every third batch. Each rank writes a line to
FOLDER/batches-RANK.jsonl for each batch.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from torch.utils.data import DataLoader

from maya.audio.byte_ranges import file_stamp
from maya.data.loading.loader import TrainLoader
from maya.data.measure.entry import Entry
from maya.data.plan import BatchPlan, PlanConfig
from maya.data.plan.sampler import PlanSampler
from maya.data.table.table import Table, part_path, write_table
from maya.data.table.utterances import Utterances
from maya.text.load import load_tokenizer
from tests.data.making import make_cuts, make_entry, make_tokenizer
from tests.data.test_plan_sampler import Names

CFG = PlanConfig(max_seconds=3.0, max_tokens=100, temperature=0.5, num_buckets=3)
SPEEDS = (0.9, 1.0, 1.1)
SAVE_EVERY = 3


def prepare(folder: Path) -> Path:
    """Write a corpus of 40 short utterances in two languages."""
    rng = np.random.default_rng(0)
    cuts = [
        *make_cuts(folder, rng.uniform(0.1, 0.8, 28).round(3).tolist()),
        *make_cuts(folder, rng.uniform(0.1, 0.8, 12).round(3).tolist(), "hi"),
    ]
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    write_table(part_path(folder, "train"), map(entry, cuts))
    make_tokenizer().save(folder / "tokenizer.model")
    return folder


def entry(cut: Cut) -> Entry:
    """The entry of a cut of a whole file."""
    (supervision,), path = cut.supervisions, cut.recording.sources[0].source
    stamp = file_stamp(path)
    return make_entry(
        cut.id, supervision.text, cut.duration, path=path, file_size=stamp.size, file_mtime=stamp.mtime,
        num_samples=cut.num_samples, language=supervision.language, speaker=supervision.speaker,
    )  # fmt: skip


def batches(
    folder: Path, by: str, rank: int, ranks: int, workers: int, state: Sequence[Any]
) -> Iterator[tuple[Sequence[Any], list[str]]]:
    """Yields (position after the batch, ids of the batch) from a position on, without end."""
    cuts = CutSet.from_file(folder / "cuts.jsonl.gz").to_eager()
    if by == "sampler":
        sampler = PlanSampler(cuts, CFG, rank=rank, world_size=ranks, speeds=SPEEDS)
        sampler.load_state_dict({"position": state})
        loader = DataLoader(Names(), sampler=sampler, batch_size=None, num_workers=workers)
        while True:
            for names in sampler.follow(loader):
                yield sampler.state_dict()["position"], names
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    if by == "table":  # as training does
        u = Utterances.from_table(Table.open(part_path(folder, "train")), tokenizer, ("en", "hi"))
    else:
        u = Utterances.from_cuts(cuts, tokenizer, ("en", "hi"))
    plan = BatchPlan(u.durations, u.token_counts, u.langs, CFG, rank=rank, world_size=ranks, speeds=SPEEDS)
    train = TrainLoader(u, tokenizer, ("en", "hi"), plan, sample_rate=16000, num_workers=workers, start=state)
    for position, batch in train:
        yield position, batch.ids


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--by", choices=["loader", "sampler", "table"], required=True)
    for name in ("rank", "ranks", "workers", "count"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--start", type=json.loads, required=True)
    options = parser.parse_args()
    saved = options.folder / "state.json"
    planned = batches(options.folder, options.by, options.rank, options.ranks, options.workers, options.start)
    with (options.folder / f"batches-{options.rank}.jsonl").open("w") as out:
        for number, (position, ids) in enumerate(islice(planned, options.count), 1):
            print(json.dumps(ids), file=out, flush=True)
            if options.rank == 0 and number % SAVE_EVERY == 0:
                partial = saved.with_suffix(".partial")
                partial.write_text(json.dumps(position))
                os.replace(partial, saved)


if __name__ == "__main__":
    main()
