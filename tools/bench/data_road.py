"""The whole road of the data, measured: pack → prepare → validate → tokenizer → plan → one epoch of reading.

    python -m tools.bench.data_road --corpus ../shared/corpora/indic12 --work exp/data-road

The corpus is packed into one tar a language; everything after it reads from those tars. The epoch is read by
the loader that training uses, for each number of workers and by two ranks one after the other, and every
utterance must come once. While batches are decoded, this process computes their log-mel features, the first
thing that a step of training does; what it waits beside that is the waiting share. Writes data-road.md and
.json into docs/benchmarks (--out).
"""

import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from maya.data.loading.loader import TrainLoader
from maya.data.plan import BatchPlan, PlanConfig
from maya.data.report.page import write_run_page
from maya.data.table.table import Table, part_path
from maya.data.table.token_table import open_tokens, token_path
from maya.data.table.utterances import Utterances
from maya.features import LogMel, LogMelConfig
from maya.recipes.experiment import Experiment
from maya.recipes.pack import pack
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.recipes.validate import validate_data
from maya.text.load import load_tokenizer
from maya.text.tokenizer import Tokenizer
from tools.bench.common import PAGES, machine, markdown, parser_of, write_pages


class EpochFigures(NamedTuple):
    """One epoch as it was read. seconds: of audio; padded: with its padding; took, waited: by the clock;
    spent: processor seconds of this process and its workers; extra: utterances that came other than once."""

    workers: int
    ranks: int
    clips: int
    batches: int
    seconds: float
    padded: float
    took: float
    waited: float
    spent: float
    extra: int


def make_data(corpus: Path, work: Path, vocab_size: int = 1000, take: int | None = None) -> Experiment:
    """Everything up to the plan, into `work`: packed, data, run. Returns the experiment."""
    experiment = Experiment(name="data-road")
    experiment.tokenizer.vocab_size = vocab_size
    experiment.data.plan = PlanConfig(max_seconds=120.0, max_utterances=64, temperature=1.0)
    packed = pack(corpus, work / "packed", take=take)
    prepare(experiment, packed, work / "data")
    validate_data(work / "data")
    tokenizer(experiment, work / "data", work / "run")
    return experiment


def open_data(experiment: Experiment, work: Path) -> tuple[Utterances, Tokenizer]:
    """The training part with its tokens."""
    made = load_tokenizer(work / "run" / "tokenizer.model")
    table = Table.open(part_path(work / "data", "train"))
    tokens = open_tokens(token_path(work / "run", "train"), table, made)
    return Utterances.from_table(table, tokens, experiment.languages), made


def read_epoch(
    experiment: Experiment, utterances: Utterances, made: Tokenizer, workers: int, ranks: int
) -> EpochFigures:
    """Read epoch 0 with every rank in turn. AssertionError where a batch is not that of the plan."""
    features = LogMel(LogMelConfig())
    rate = features.cfg.sample_rate
    seen: Counter[str] = Counter()
    spent = _spent()
    batches, seconds, padded, waited, took = 0, 0.0, 0.0, 0.0, 0.0
    for rank in range(ranks):
        plan = BatchPlan(
            utterances.durations, utterances.token_counts, utterances.langs, experiment.data.plan,
            rank=rank, world_size=ranks,
        )  # fmt: skip
        loader = TrainLoader(
            utterances, made, experiment.languages, plan, sample_rate=rate, num_workers=workers
        )
        started = idle_since = time.perf_counter()
        batches_of_plan = iter(loader)
        for index in range(plan.num_batches(0)):
            _, batch = next(batches_of_plan)
            waited += time.perf_counter() - idle_since
            assert batch.ids == [utterances.ids[i] for i in plan.batch(0, index)], "not the plan's"
            seen.update(batch.ids)
            batches += 1
            seconds += batch.seconds
            padded += batch.audio.numel() / batch.sample_rate
            with torch.no_grad():
                features(batch.audio, batch.audio_lens)
            idle_since = time.perf_counter()
        took += time.perf_counter() - started
        batches_of_plan.close()  # type: ignore[attr-defined]
    extra = len(set(utterances.ids) - seen.keys()) + sum(n - 1 for n in seen.values())
    spent = _spent() - spent
    return EpochFigures(
        workers, ranks, sum(seen.values()), batches, seconds, padded, took, waited, spent, extra
    )


def plan_facts(experiment: Experiment, utterances: Utterances, ranks: int) -> dict[str, Any]:
    """Statistics of the plan of epoch 0, its languages by code; for the page."""
    plan = BatchPlan(
        utterances.durations, utterances.token_counts, utterances.langs, experiment.data.plan,
        world_size=ranks,
    )  # fmt: skip
    return plan.stats(0).as_dict(experiment.languages)


def page(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["# The road of the data", "", result["about"], "", f"`{result['command']}`", ""]
    stages = [[name, f"{took:.1f}", f"{spent:.1f}"] for name, took, spent in result["stages"]]
    lines += markdown(["stage", "seconds", "processor seconds"], stages)
    lines += ["", "One epoch of training data, every utterance exactly once:", ""]
    head = ["workers", "ranks", "utterances", "other than once", "clips/s", "processor ms/clip", "hours/hour"]
    head += ["padding", "waiting share"]
    rows = []
    for epoch in (EpochFigures(**epoch) for epoch in result["epochs"]):
        row = [epoch.workers, epoch.ranks, epoch.clips, epoch.extra, f"{epoch.clips / epoch.took:,.0f}"]
        row += [f"{1000 * epoch.spent / epoch.clips:.1f}", f"{epoch.seconds / epoch.took:,.0f}"]
        row += [f"{1 - epoch.seconds / epoch.padded:.1%}", f"{epoch.waited / epoch.took:.0%}"]
        rows.append(row)
    return "\n".join([*lines, *markdown(head, rows), "", NOTES])


NOTES = """Ranks are read one after the other, so clips/s is that of one rank; rates count the time in which
this process computes log-mel features, and the start of the workers. The waiting share is what it waits for
data beside that, with one core for features and as many as there are workers for decoding.
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=PAGES)
    args = parser.parse_args(argv)
    computer = machine()
    torch.set_num_threads(1)
    stages = []

    def staged(name: str, began: tuple[float, float]) -> tuple[float, float]:
        now = time.perf_counter(), _spent()
        stages.append([name, now[0] - began[0], now[1] - began[1]])
        return now

    began = time.perf_counter(), _spent()
    experiment = make_data(args.corpus, args.work, args.vocab_size)
    began = staged("pack, prepare, validate, tokenizer", began)
    utterances, made = open_data(experiment, args.work)
    facts = plan_facts(experiment, utterances, args.ranks)
    began = staged("open and plan", began)
    (args.work / "run" / "plan.json").write_text(json.dumps(facts, indent=1))
    write_run_page(args.work / "data", args.work / "run")
    epochs = []
    for workers in args.workers:
        epochs.append(read_epoch(experiment, utterances, made, workers, args.ranks))
        began = staged(f"one epoch, {workers} workers", began)
    about = (
        f"{len(utterances)} training utterances, {float(utterances.durations.sum()) / 3600:.2f} h, of "
        f"{args.corpus.name}, packed into one tar a language. {computer}."
    )
    command = f"python -m tools.bench.data_road --corpus {args.corpus.name} --work exp/data-road"
    result = {"about": about, "command": command, "stages": stages, "plan": facts,
              "epochs": [epoch._asdict() for epoch in epochs]}  # fmt: skip
    write_pages(args.out / "data-road", result, page(result))
    print(page(result))
    return 1 if any(epoch.extra for epoch in epochs) else 0


def _spent() -> float:
    """Processor seconds of this process and of those that ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    raise SystemExit(main())
