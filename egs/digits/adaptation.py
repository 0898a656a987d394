"""Adaptation to a speaker: WER against seconds of that speaker's speech.

    python -m egs.digits.adaptation --run-dir exp/digits/digits/lact1 exp/digits/digits/lact2 \
        --data exp/digits/digits/data --out exp/digits/digits/adaptation
    python -m maya.recipes.adaptation_report exp/digits/digits/adaptation/adaptation.json

The speakers are not in the training data. Half of the recordings of each are used for adaptation, the other
half for evaluation; both become strings of digits. The ways to adapt (maya.recipes.adaptation) are compared
on the same utterances, after 0, 5, 10 ... seconds. The learning rate of each kind of tuning is the best on
the dev speakers, with the first model.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import maya
from maya.audio.load import resample
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.recipes.adaptation import WAYS, Speaker, SpeakerModel, choose_rates, compare
from maya.recipes.adaptation_report import Answer, table
from maya.recipes.corpus_writer import SAMPLE_RATE

from .data import assign, draw_strings, joined, plan_item, read_source

_STRINGS = {"adaptation": 24, "evaluation": 40}  # of each speaker; 24 are about a minute


def read_speakers(
    source: Path, split: str, trained: set[str], seed: int, sample_rate: int = SAMPLE_RATE
) -> list[Speaker]:
    """The speakers of test or dev that are not among `trained`, the training speakers, at `sample_rate` Hz.
    The same arguments give the same speech. MayaError where there are none."""
    rows = read_source(source)
    speakers = []
    for language in sorted({r["language"] for r in rows}):
        of_language = [r for r in rows if r["language"] == language]
        held = assign(of_language, random.Random(f"{seed} {language} speakers"))[split]
        for name in sorted({r["speaker"] for r in held} - trained):
            rng = random.Random(f"{seed} {language} {name} adaptation")
            drawn = [r for r in held if r["speaker"] == name]
            rng.shuffle(drawn)
            halves = {"adaptation": drawn[: len(drawn) // 2], "evaluation": drawn[len(drawn) // 2 :]}
            utterances = {
                part: _say(source, rows, draw_strings(half, _STRINGS[part], rng), rng, sample_rate)
                for part, half in halves.items()
            }
            speakers.append(Speaker(name=name, language=language, sample_rate=sample_rate, **utterances))
    if not speakers:
        raise MayaError(f"every speaker of {split} is in the training data; give the --seed of the corpus")
    return speakers


def _say(
    source: Path,
    rows: list[dict[str, Any]],
    strings: list[list[dict[str, Any]]],
    rng: random.Random,
    sample_rate: int,
) -> list[tuple[Tensor, str]]:
    plan = [plan_item(str(i), "", recordings, rng) for i, recordings in enumerate(strings)]
    return [
        (
            resample(torch.from_numpy(np.asarray(u.audio, np.float32) / 32768), SAMPLE_RATE, sample_rate),
            u.text,
        )
        for u in joined(source, rows, plan)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m egs.digits.adaptation", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--run-dir", type=Path, nargs="+", required=True, help="runs of one corpus, each a model to compare")
    add("--data", type=Path, required=True, help="the prepared data of the runs, for the training speakers")
    add("--source", type=Path, default=Path("../shared/corpora/digits"), help="the single digits")
    add("--seed", type=int, default=1, help="seed of the corpus")
    add(
        "--seconds",
        type=float,
        nargs="+",
        default=[5.0, 10.0, 20.0, 40.0],
        help="amounts of adaptation speech",
    )
    text = "ways to adapt beside the model as trained (default: all)"
    add("--ways", nargs="+", choices=WAYS, default=WAYS, help=text)
    add("--method", default="transducer", choices=("transducer", "ctc"))
    add("--out", type=Path, required=True, help="folder for adaptation.json")
    options = parser.parse_args(arguments)
    try:
        train = Table.open(part_path(options.data, "train"))
        trained = {entry.speaker for entry in train.entries()}
        answers: list[Answer] = []
        rates: dict[tuple[str, bool], float] = {}
        for run in options.run_dir:
            recognizer = maya.load(run, "cpu")
            test, dev = (
                read_speakers(options.source, split, trained, options.seed, recognizer.sample_rate)
                for split in ("test", "dev")
            )
            if "tuning" in options.ways:
                rates = rates or choose_rates(recognizer, dev, max(options.seconds), options.method)
            for speaker in test:
                model = SpeakerModel(recognizer, speaker, options.method)
                answers += compare(model, run.name, options.seconds, rates, options.ways)
                print(f"{run.name}: {speaker.name} done", flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        chosen = [{"weights": w, "labelled": labelled, "lr": lr} for (w, labelled), lr in rates.items()]
        facts = {"method": options.method, "rates": chosen, "answers": [asdict(a) for a in answers]}
        (options.out / "adaptation.json").write_text(json.dumps(facts, ensure_ascii=False) + "\n")
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
