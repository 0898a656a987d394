"""Leave-one-speaker-out: short trainings that each leave some speakers out, scored on exactly these speakers.

    python -m egs.digits.leave_one_out --out exp/digits/folds --name baseline
    python -m egs.digits.leave_one_out --out exp/digits/folds --name other --set model.noise.probability=0.9
    python -m egs.digits.leave_one_out --out exp/digits/folds --report baseline other

Every speaker of both languages is tested once, so no draw of test speakers can be tuned to. With `--folds 5`
each training leaves out one English and three Gujarati speakers, with `--folds 20` one speaker alone. The
trainings have CTC as their only head and no dev set: the last weights are tested. Each speaker says single
digits as the recipe joins them, the same recordings without margins ("raw"), and strings. Each is decoded
with the language given and without. Intervals are over speakers.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.config import override
from maya.decode.table import LanguageSource
from maya.errors import MayaError
from maya.files import read_json, write_json
from maya.pages import columns
from maya.recipes.arguments import COUNT, POSITIVE
from maya.recipes.corpus_writer import settings_hash, write_corpus
from maya.recipes.decode import decode
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train
from maya.score.wer import wer

from .data import MIXED, TAKES, draw_strings, joined, plan_item, read_source, training_digits
from .start import STEPS, begin_with, ctc_alone, start_model
from .voices import synthetic_digits

KINDS = ("single", "raw", "string")
MODES: tuple[LanguageSource, ...] = ("known", "unknown")  # the language
_CORPUS_OPTIONS = ("strings_per_language", "single_takes", "varied", "mixed", "voices", "voice_strings")
_SINGLES, _STRINGS = 150, 40  # at most, of each speaker that is tested
_DRAWS = 4000
Rows = list[dict[str, Any]]


def speakers_left_out(rows: Rows, count: int, seed: int = 1) -> list[list[str]]:
    """`count` folds of speakers, each speaker in one of them. Every language is dealt out in random order;
    with as many folds as speakers each fold is one speaker."""
    languages = sorted({r["language"] for r in rows})
    by_language = [sorted({r["speaker"] for r in rows if r["language"] == code}) for code in languages]
    total = sum(map(len, by_language))
    if not 2 <= count <= total:
        raise MayaError(f"--folds {count} is out of range: there are {total} speakers; take 2 to {total}")
    folds: list[list[str]] = [[] for _ in range(count)]
    place = 0
    for code, speakers in zip(languages, by_language, strict=True):
        for speaker in random.Random(f"{seed} {code} folds").sample(speakers, len(speakers)):
            folds[place % count].append(speaker)
            place += 1
    return folds


def fold_plan(rows: Rows, synthetic: Rows, out: Sequence[str], args: argparse.Namespace) -> Rows:
    """What a fold trains on (train) and is tested on (test). Ids: language-kind-number."""
    plan, seed, strings = [], 1, args.strings_per_language
    for code in sorted({r["language"] for r in rows}):
        of_language = [r for r in rows if r["language"] == code]
        rng = random.Random(f"{seed} {code} train")
        others = [r for r in of_language if r["speaker"] not in out]
        recordings = training_digits(others, strings, rng, args.single_takes, args.mixed)
        make = partial(plan_item, split="train", rng=rng, varied=args.varied)
        plan += [make(f"{code}-train-{i:05d}", recordings=r) for i, r in enumerate(recordings)]
        if own := [r for r in synthetic if r["language"] == code]:
            make.keywords["rng"] = rng = random.Random(f"{seed} {code} synthetic")
            recordings = training_digits(own, args.voice_strings, rng, 1, args.mixed)
            plan += [make(f"{code}-voice-{i:05d}", recordings=r) for i, r in enumerate(recordings)]
        for speaker in sorted({r["speaker"] for r in of_language} & set(out)):
            rng = random.Random(f"{seed} {code} {speaker} test")  # alike in every grouping of the speakers
            own = [r for r in of_language if r["speaker"] == speaker]
            singles = [[r] for r in rng.sample(own, min(len(own), _SINGLES))]
            spoken = {"single": singles, "raw": singles, "string": draw_strings(own, _STRINGS, rng)}
            for kind, recordings in spoken.items():
                name = f"{code}-{kind}-{speaker.replace(':', '-')}"
                items = [plan_item(f"{name}-{i:03d}", "test", r, rng) for i, r in enumerate(recordings)]
                plan += [bare(item) for item in items] if kind == "raw" else items
    return plan


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """The same recordings with no silence and no noise around them."""
    return item | {"silences": [0] * len(item["silences"]), "noise": 0.0}


def run_fold(args: argparse.Namespace, rows: Rows, number: int) -> dict[str, Any]:
    """Train and test one fold; returns its result, which is kept in result.json."""
    folds = speakers_left_out(rows, args.folds)
    folder = args.out / f"{args.folds}-folds" / f"{number:02d}"
    run = folder / args.name
    if (run / "result.json").is_file():
        return read_json(run / "result.json")
    experiment = ctc_alone(args.experiment, args.steps, args.set)
    if args.start_voices:
        place = args.out / f"start-{args.start_voices}-{args.start_steps}"
        before = ctc_alone(args.experiment, args.start_steps, args.set)
        for assignment in begin_with(start_model(place.absolute(), before, args.start_voices)):
            override(experiment, assignment)
    options = {name: getattr(args, name) for name in _CORPUS_OPTIONS}
    settings = {"corpus": "digits, one fold", "version": 3, "out": folds[number]} | options
    corpus = folder / f"corpus-{settings_hash(settings)[:8]}"
    data = folder / corpus.name.replace("corpus", "data")
    if not (data / "stage.json").is_file():
        languages = experiment.languages if args.voices else ()
        synthetic, spoken = synthetic_digits(languages, args.voices, seed=1)
        plan = fold_plan(rows, synthetic, folds[number], args)
        utterances = joined(args.source, rows + synthetic, plan, spoken)
        write_corpus(corpus, utterances, settings, total=len(plan))
        prepare(experiment, corpus, data)
    tokenizer(experiment, data, run)
    train(experiment, data, run, cpu=True)
    errors: dict[str, Any] = {}
    for mode in MODES:
        experiment.decode = replace(experiment.decode, method="ctc", language=mode)
        decode(experiment, data, run, into=mode)
        errors[mode] = count_errors(run / "decode" / mode / "test" / "hyps.jsonl")
    result = {"speakers": folds[number], "steps": experiment.train.steps, "errors": errors,
              "overrides": args.set, "experiment": args.experiment,
              "start": [args.start_voices, args.start_steps]}  # fmt: skip
    write_json(run / "result.json", result)
    return result


def count_errors(path: Path) -> dict[str, dict[str, list[int]]]:
    """Word errors and words by kind and speaker, from the lines of hyps.jsonl."""
    texts: dict[tuple[str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        row = json.loads(line)
        refs, hyps = texts[row["id"].split("-")[1], f"{row['language']} {row['speaker']}"]
        refs.append(row["ref"])
        hyps.append(row["text"])
    counts: dict[str, dict[str, list[int]]] = {}
    for (kind, speaker), (refs, hyps) in sorted(texts.items()):
        stats = wer(refs, hyps)
        counts.setdefault(kind, {})[speaker] = [stats.errors, stats.ref_length]
    return counts


def pooled(results: Sequence[dict[str, Any]], language: str, kind: str) -> dict[str, NDArray[np.float64]]:
    """By language, (S, 2): errors and words of each speaker of all folds, in the order of names."""
    speakers: dict[str, list[int]] = {}
    for result in results:
        speakers |= result["errors"][language][kind]
    codes = sorted({name.split()[0] for name in speakers})
    return {
        code: np.array([speakers[n] for n in sorted(speakers) if n.startswith(f"{code} ")], np.float64)
        for code in codes
    }


def macro_rates(counts: dict[str, NDArray[np.float64]]) -> tuple[float, NDArray[np.float64]]:
    """Macro average over languages of each language's mean over speakers, and the same for `_DRAWS`
    bootstrap draws of speakers."""
    rng = np.random.default_rng(1)  # the same draws for every system: their differences are paired
    rates = {code: errors[:, 0] / errors[:, 1] for code, errors in counts.items()}
    draws = [rate[rng.integers(len(rate), size=(_DRAWS, len(rate)))].mean(1) for rate in rates.values()]
    return float(np.mean([rate.mean() for rate in rates.values()])), np.mean(draws, axis=0)


def read_results(out: Path, folds: int, name: str) -> list[dict[str, Any]]:
    """The results of a name's folds that are there, by fold."""
    paths = sorted((out / f"{folds}-folds").glob(f"[0-9]*/{name}/result.json"))
    if not paths:
        raise MayaError(f"no result of {name!r} in {out}: run it first, without --report")
    return [read_json(path) for path in paths]


def report(out: Path, folds: int, names: Sequence[str]) -> str:
    """A table of the systems: WER with intervals over speakers, and the ratio to the first on the folds that
    both have."""
    lines = [["system", "folds", "mode", "kind", "WER %", "95 %", "by language", "ratio to first", "95 %"]]
    first = read_results(out, folds, names[0])
    for name in names:
        results = read_results(out, folds, name)
        trained = {tuple(r["speakers"]) for r in results}
        both = [r for r in first if tuple(r["speakers"]) in trained]
        for language in MODES:
            for kind in KINDS:
                counts = pooled(results, language, kind)
                mean, draws = macro_rates(counts)
                by = " ".join(f"{c} {100 * (e[:, 0] / e[:, 1]).mean():.1f}" for c, e in counts.items())
                line = [name, str(len(results)), language, kind, f"{100 * mean:.1f}"]
                line += [_bounds(100 * draws), by]
                if both and len(both) == len(results):
                    base, base_draws = macro_rates(pooled(both, language, kind))
                    ratios = draws / np.where(base_draws > 0, base_draws, np.nan)
                    line += [f"{mean / base:.2f}", _bounds(ratios, 2)]
                lines.append(line + [""] * (len(lines[0]) - len(line)))
    return "\n".join(columns(lines))


def _bounds(draws: NDArray[np.float64], digits: int = 1) -> str:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m egs.digits.leave_one_out",
        description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--source", type=Path, default=Path("../shared/corpora/digits"), help="the single digits")
    add("--out", type=Path, required=True, help="folder of folds and results")
    add("--name", default="baseline", help="of the system, for its results")
    add("--experiment", default="egs.digits.digits", help="what is trained")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="an override of the experiment")
    add("--folds", type=POSITIVE, default=5, help="5 groups of speakers, or 20: one speaker each")
    add("--only", type=int, nargs="+", help="these folds, from 0; default: all")
    add("--steps", type=POSITIVE, default=1200, help="steps of each training")
    add("--strings-per-language", type=POSITIVE, default=2400, help="strings to train on")
    add("--single-takes", type=POSITIVE, default=TAKES, help="times a recording is trained on alone")
    add("--varied", action=argparse.BooleanOptionalAction, default=True, help="training has margins, gaps, "
        "levels and hiss that the test has not")  # fmt: skip
    add("--mixed", type=float, default=MIXED, help="share of training strings with a speaker for each word")
    add("--voices", type=COUNT, default=0, help="synthetic speakers of each language in training")
    add("--voice-strings", type=COUNT, default=2400, help="strings of the synthetic speakers, per language")
    add("--start-voices", type=COUNT, default=0, help="begin with a model trained on so many synthetic "
        "speakers of each language; 0: from nothing")  # fmt: skip
    add("--start-steps", type=POSITIVE, default=STEPS, help="steps of that model's training")
    add("--report", nargs="+", metavar="NAME", help="train nothing; compare these systems with the first")
    args = parser.parse_args(argv)
    try:
        if args.report:
            print(report(args.out, args.folds, args.report))
            return 0
        rows = read_source(args.source)
        for number in args.only if args.only is not None else range(args.folds):
            run_fold(args, rows, number)
        print(report(args.out, args.folds, [args.name]))
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
