"""Adaptation at test time (maya.decode.adapt): WER against noise and seconds of speech, with the cost.

    python -m tools.bench.adaptation RUN... --data DATA --out adaptation   # adds to adaptation/rows.jsonl
    python -m tools.bench.adaptation --out adaptation                      # table and picture of those rows

Each speaker of the test table is a stream of utterances with noise. A method begins anew with each speaker;
"per utterance" it begins anew with each utterance. A seed draws the order, the noise and the search. What
is in the file already is not computed again, so the command may be stopped; seeds come outermost, so that
what is there can be read. The statistics for E-BATS are of training data without noise.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import maya
from maya.data.loading.acoustics import add_noise
from maya.data.measure.entry import Entry
from maya.data.table.table import Table, part_path
from maya.decode.adapt import (
    Adaptation,
    AdaptConfig,
    CarriedConfig,
    DSUTAConfig,
    EBATSConfig,
    PseudoLabelsConfig,
    SourceStatistics,
    SUTAConfig,
    measure_source,
)
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.kernels.lact.traffic import Counter
from maya.recipes.evaluation.noise import NoiseMaker
from maya.recipes.figure import figure_class, save_figure
from maya.score.wer import ErrorStats, compare, interval, wer
from tools.bench.common import parser_of

PLAIN = "as trained"
_SOURCE = 60  # training utterances that the statistics are of
_BINS = (0.0, 10.0, 20.0, 40.0, 80.0, 1e9)  # seconds of the speaker before the utterance


def methods(seed: int) -> dict[str, AdaptConfig | None]:
    """The methods by their name in the tables."""
    return {
        PLAIN: None,
        "SUTA": SUTAConfig(),
        "SUTA, continual": SUTAConfig(continual=True, steps=1),
        "DSUTA": DSUTAConfig(domain=20),
        "E-BATS": EBATSConfig(seed=seed),
        "E-BATS, continual": EBATSConfig(seed=seed, continual=True, generations=3),
        "LoRA, own labels": PseudoLabelsConfig(seed=seed),
        "LoRA, own labels, continual": PseudoLabelsConfig(seed=seed, continual=True, steps=1),
        "LaCT, carried": CarriedConfig(),
    }


@dataclass(frozen=True, slots=True)
class Stream:
    """The utterances of a speaker, (N,) with noise each, their texts, and the language's index."""

    speaker: str
    audio: list[Tensor]
    texts: list[str]
    lang: Tensor


def streams(
    recognizer: Recognizer, data: Path, snr: float | None, seed: int, limit: int, noise: str
) -> list[Stream]:
    """A stream for each speaker of the test table, of `limit` utterances at most."""
    entries = list(Table.open(part_path(data, "test")).entries())
    maker = NoiseMaker(noise, entries, recognizer.sample_rate)
    made = []
    for speaker in sorted({e.speaker for e in entries}):
        own = sorted((e for e in entries if e.speaker == speaker), key=lambda e: e.id)
        random.Random(f"{seed} {speaker}").shuffle(own)
        own = own[:limit]
        audio = [e.load_audio(recognizer.sample_rate) for e in own]
        if snr is not None:
            pairs = zip(audio, own, strict=True)
            audio = [add_noise(x, maker.noise(f"{e.id} {seed}", len(x)), snr) for x, e in pairs]
        lang = _language(recognizer, own[0])
        made.append(Stream(speaker, audio, [e.text for e in own], torch.tensor([lang])))
    return made


def _language(recognizer: Recognizer, entry: Entry) -> int:
    languages = recognizer.model.cfg.languages
    return languages.index(entry.language) if entry.language in languages else -1


def source_of(recognizer: Recognizer, head: str, data: Path) -> SourceStatistics:
    """Statistics of training utterances, drawn over the whole table."""
    entries = list(Table.open(part_path(data, "train")).entries())
    chosen = random.Random(0).sample(entries, min(_SOURCE, len(entries)))
    pairs = ((e.load_audio(recognizer.sample_rate), _language(recognizer, e)) for e in chosen)
    return measure_source(recognizer.model, head, pairs)


def hypotheses(recognizer: Recognizer, head: str, stream: Stream, adapter: Adaptation | None) -> list[str]:
    """The greedy CTC texts of a stream, one utterance after the other."""
    texts = []
    for audio in stream.audio:
        lens = torch.tensor([len(audio)])
        with torch.inference_mode():
            if adapter is None:
                encoded = recognizer.model.encode_audio(audio[None], lens)
            else:
                encoded = adapter.encode(audio[None], lens, stream.lang)
            (hyp,) = greedy(recognizer.model, encoded, head, stream.lang)
        texts.append(recognizer.tokenizer.decode(hyp.tokens))
    return texts


def cost(recognizer: Recognizer, head: str, stream: Stream, adapter: Adaptation | None) -> dict[str, float]:
    """FLOPs a second of audio, peak bytes of tensors beside the model, and the real-time factor."""
    single = replace(stream, audio=stream.audio[:1])
    seconds = len(single.audio[0]) / recognizer.sample_rate
    hypotheses(recognizer, head, single, adapter)
    began = time.process_time()
    hypotheses(recognizer, head, single, adapter)
    busy = time.process_time() - began
    with FlopCounterMode(display=False) as flops:
        hypotheses(recognizer, head, single, adapter)
    with Counter() as memory:
        hypotheses(recognizer, head, single, adapter)
    kept = 0 if adapter is None else sum(p.numel() * p.element_size() for p in adapter.parameters)
    return {
        "gflops_per_second": flops.get_total_flops() / 1e9 / seconds,
        "peak_mb": (memory.parts[""].peak + kept) / 1e6, "cpu_seconds_per_second": busy / seconds,
    }  # fmt: skip


def measure(args: argparse.Namespace) -> None:
    """Add the missing rows to the file."""
    args.out.mkdir(parents=True, exist_ok=True)
    path, done = args.out / "rows.jsonl", {_key(row) for row in read(args.out)}
    loaded = {}
    for run in args.runs:
        recognizer = maya.load(run, "cpu")
        head = recognizer.choose_method("ctc").heads[0]
        loaded[run.name] = (recognizer, head, source_of(recognizer, head, args.data))
    cells = ((s, snr, name) for s in range(1, args.seeds + 1) for snr in (None, *args.snr) for name in loaded)
    with path.open("a", encoding="utf-8") as file:
        for seed, snr, name in cells:
            recognizer, head, source = loaded[name]
            made = streams(recognizer, args.data, snr, seed, args.utterances, args.noise)
            for method, cfg in methods(seed).items():
                if (args.methods and method not in args.methods) or (name, method, snr, seed) in done:
                    continue
                if isinstance(cfg, CarriedConfig) and not recognizer.model.encoder.adapts:
                    continue
                row = {"run": name, "method": method, "snr": snr, "seed": seed}
                row |= _measured(recognizer, head, cfg, source, made, with_cost=seed == 1)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                print(
                    f"{name}, {method}, {snr} dB, seed {seed}: WER {100 * _stats([row]).rate:.1f} %",
                    flush=True,
                )


def _measured(
    recognizer: Recognizer, head: str, cfg: AdaptConfig | None, source: SourceStatistics,
    made: Sequence[Stream], *, with_cost: bool,
) -> dict[str, Any]:  # fmt: skip
    """The texts of all streams by one method, and its cost."""
    adapter: Adaptation | None = None if cfg is None else cfg.build(recognizer.model, head, source)
    utterances = []
    for stream in made:
        if adapter is not None:
            adapter.reset()
        seconds, texts = 0.0, hypotheses(recognizer, head, stream, adapter)
        for audio, ref, hyp in zip(stream.audio, stream.texts, texts, strict=True):
            utterances.append({"speaker": stream.speaker, "before": seconds, "ref": ref, "hyp": hyp})
            seconds += len(audio) / recognizer.sample_rate
    row: dict[str, Any] = {"utterances": utterances}
    if with_cost:
        row["cost"] = cost(recognizer, head, made[0], adapter)
    if adapter is not None:
        adapter.close()
    return row


def read(out: Path) -> list[dict[str, Any]]:
    """The rows so far. Raises MayaError for a file of something else."""
    path = out / "rows.jsonl"
    try:
        rows = (
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if path.exists()
            else []
        )
        for row in rows:
            _key(row)
            _stats([row])
    except (ValueError, KeyError, TypeError) as error:
        raise MayaError(f"{path} is no file of this benchmark ({error!r}): remove it") from None
    return rows


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["run"], row["method"], row["snr"], row["seed"]


def _stats(rows: Sequence[dict[str, Any]], low: float = 0.0, high: float = 1e9) -> ErrorStats:
    """Word errors of the utterances with so many seconds of their speaker before them."""
    own = [u for row in rows for u in row["utterances"] if low <= u["before"] < high]
    return wer([u["ref"] for u in own], [u["hyp"] for u in own])


def _speakers(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of each utterance of `_stats`. They are the blocks of the bootstrap: an utterance comes again with each
    seed and level, and what a method learns from one changes the next of its speaker."""
    return [u["speaker"] for row in rows for u in row["utterances"]]


def report(out: Path) -> str:
    """adaptation.md and adaptation.png of the rows; returns the text."""
    rows = read(out)
    if not rows:
        raise MayaError(f"{out} has no rows yet: name runs to measure")
    lines = []
    for run in dict.fromkeys(r["run"] for r in rows):
        own = [r for r in rows if r["run"] == run]
        levels = list(dict.fromkeys(r["snr"] for r in own))
        heads = ["clean" if s is None else f"{s:g} dB" for s in levels]
        heads += ["all levels, less as trained", "GFLOP a second", "peak MB", "CPU s a second"]
        lines += [f"### {run}", "", f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for method in dict.fromkeys(r["method"] for r in own):
            lines.append(f"| {method} | {' | '.join(_cells(own, method, levels))} |")
        lines.append("")
    text = "\n".join(lines)
    (out / "adaptation.md").write_text(text, encoding="utf-8")
    draw(rows, out / "adaptation.png")
    return text


def _cells(rows: Sequence[dict[str, Any]], method: str, levels: Sequence[float | None]) -> Iterator[str]:
    own = [r for r in rows if r["method"] == method]
    for level in levels:
        at_level = [r for r in own if r["snr"] == level]
        yield _rate(at_level) if at_level else ""
    keys = {(r["snr"], r["seed"]) for r in own}
    plain = [r for r in rows if r["method"] == PLAIN and (r["snr"], r["seed"]) in keys]
    order = sorted(keys, key=str)
    if method == PLAIN or len(plain) < len(keys):
        yield ""
    else:
        pairs = [sorted(part, key=lambda r: order.index((r["snr"], r["seed"]))) for part in (plain, own)]
        change = compare(_stats(pairs[0]), _stats(pairs[1]), blocks=_speakers(pairs[0]))
        low, high = 100 * change.interval.low, 100 * change.interval.high
        yield f"{100 * change.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    costs = [r["cost"] for r in own if "cost" in r]
    for name, digits in (("gflops_per_second", 2), ("peak_mb", 0), ("cpu_seconds_per_second", 3)):
        yield f"{sum(c[name] for c in costs) / len(costs):.{digits}f}" if costs else ""


def _rate(rows: Sequence[dict[str, Any]]) -> str:
    stats = _stats(rows)
    bounds = interval(stats, blocks=_speakers(rows))
    return f"{100 * stats.rate:.1f} [{100 * bounds.low:.1f}, {100 * bounds.high:.1f}]"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """For each run, WER against the level of the noise and against seconds of speech."""
    runs = list(dict.fromkeys(r["run"] for r in rows))
    figure = figure_class()(figsize=(12, 4.2 * len(runs)), layout="constrained")
    for number, run in enumerate(runs):
        own = [r for r in rows if r["run"] == run]
        by_level, by_time = (figure.add_subplot(len(runs), 2, 2 * number + side) for side in (1, 2))
        for place, method in enumerate(dict.fromkeys(r["method"] for r in own)):
            look: dict[str, Any] = {"color": f"C{place}", "marker": "osD^v*<>p"[place], "markersize": 4}
            of_method = [r for r in own if r["method"] == method]
            levels = sorted({r["snr"] for r in of_method if r["snr"] is not None})
            rates = [100 * _stats([r for r in of_method if r["snr"] == level]).rate for level in levels]
            by_level.plot(levels, rates, label=method, **look)
            bins = [(low, _stats(of_method, low, high)) for low, high in zip(_BINS, _BINS[1:], strict=False)]
            filled = [(low, 100 * stats.rate) for low, stats in bins if stats.ref_length]
            by_time.plot(*zip(*filled, strict=True), **look)
        by_level.set_xlabel("signal over noise, dB")
        by_time.set_xlabel("seconds of the speaker before the utterance, all levels")
        by_level.set_title(run)
        for axes in (by_level, by_time):
            axes.set_ylabel("WER, %")
            axes.grid(alpha=0.3)
        by_level.legend(fontsize=7)
    save_figure(figure, path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("runs", type=Path, nargs="*", help="run folders of models with a CTC head, of one corpus")
    add("--data", type=Path, help="the prepared data of the runs")
    add("--out", type=Path, required=True, help="folder of rows.jsonl, adaptation.md and adaptation.png")
    add("--snr", type=float, nargs="+", default=[20.0, 15.0, 10.0, 5.0, 0.0])
    add("--noise", default="pink", help="white, pink, babble, or a folder of recordings")
    add("--seeds", type=int, default=3)
    add("--utterances", type=int, default=40, help="of each speaker at most")
    add("--methods", nargs="+", choices=methods(1), help="only these")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        if args.runs:
            if args.data is None:
                raise MayaError("name the prepared data of the runs with --data")
            measure(args)
        print(report(args.out))
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
