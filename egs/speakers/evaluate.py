"""How well a run tells unseen speakers apart, beside Resemblyzer and statistics of MFCC on the same trials.

    python -m egs.speakers.evaluate RUN exp/speakers/voices/corpus/{voices,digits}.txt

The training speakers, whom manifest.jsonl beside the first list names, are the cohort of AS-norm. Of two
lists each is calibrated by the trials of the other, which has other speakers.
Resemblyzer's weights are read from its package, if it is installed (pip install --no-deps resemblyzer).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egs.speakers.cohort import cohort_of
from maya.audio.load import load_audio
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.pages import columns
from maya.recipes.evaluation.verify import TrialScores, embed_all
from maya.recipes.speaker_options import open_voices, voice_weights
from maya.score.report import percent, span
from maya.score.verification import (
    Scores,
    VerificationTrial,
    calibrated,
    calibration_cost,
    read_trials,
    verification_differences,
    verification_rates,
)

_RATE, _CEPSTRA = 16000, 20
OWN = "this run, AS-norm"  # whose differences from the others are given


@torch.inference_mode()
def cepstral_voices(trials: Sequence[VerificationTrial]) -> dict[str, Tensor]:
    """(40,) of length 1 for each recording: mean and deviation of MFCC 1 to 20, each normalised over all of
    them."""
    mel = LogMelConfig(normalize="none", dither=0.0).build().eval()
    steps = torch.arange(80) + 0.5
    cosines = torch.cos(torch.pi / 80 * steps[:, None] * torch.arange(1, _CEPSTRA + 1))
    names = dict.fromkeys(name for trial in trials for name in (trial.enrol, trial.test))
    rows = []
    for name in names:
        audio = load_audio(name, _RATE)
        feats, _ = mel(audio[None], torch.tensor([len(audio)]))
        mfcc = feats[0] @ cosines
        rows.append(torch.cat([mfcc.mean(0), mfcc.std(0)]))
    table = torch.stack(rows)
    table = torch.nn.functional.normalize((table - table.mean(0)) / table.std(0), dim=1)
    return dict(zip(names, table, strict=True))


def systems(
    run: Path, lists: Sequence[Sequence[VerificationTrial]], manifest: Path
) -> Iterator[tuple[str, list[Scores]]]:
    """Names, and the scores of each list of trials."""
    encoder = open_voices(voice_weights(run))
    cohort = cohort_of(encoder, manifest).table()
    measured = [embed_all(encoder, trials, Path()) for trials in lists]
    own = [
        TrialScores(trials, {name: voice.voice for name, voice in voices.items()}, cohort)
        for trials, voices in zip(lists, measured, strict=True)
    ]
    plain = [
        TrialScores(trials, {name: voice.voice for name, voice in voices.items()})
        for trials, voices in zip(lists, measured, strict=True)
    ]
    yield "this run, cosine", [scores.cosines for scores in plain]
    yield "this run, cosine less mean", [scores.cosines for scores in own]
    yield OWN, [scores.normalised() for scores in own]
    if len(lists) == 2:
        tables = [scores.measures(voices) for scores, voices in zip(own, measured, strict=True)]
        same = [np.array([trial.same for trial in trials]) for trials in lists]
        for name, rows in {"": [x[:, 0] for x in tables], ", quality measures": tables}.items():
            scales = [calibrated(rows[1], same[1]), calibrated(rows[0], same[0])]
            ratios = [scale(own_rows) for scale, own_rows in zip(scales, rows, strict=True)]
            costs = [calibration_cost(*pair) for pair in zip(ratios, same, strict=True)]
            print(f"calibrated{name} by the other list: Cllr {costs[0]:.3f}, {costs[1]:.3f} bits")
        yield "this run, AS-norm, quality measures", ratios
    try:
        other = open_voices("")
        yield (
            "Resemblyzer",
            [
                TrialScores(trials, {n: v.voice for n, v in embed_all(other, trials, Path()).items()}).cosines
                for trials in lists
            ],
        )
    except MayaError as error:
        print(f"Resemblyzer is left out: {error}", file=sys.stderr)
    yield "MFCC statistics", [TrialScores(trials, cepstral_voices(trials)).cosines for trials in lists]


def evaluate(run: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Print a table for each list; returns the figures."""
    lists = [read_trials(path) for path in paths]
    scored = dict(systems(run, lists, paths[0].parent / "manifest.jsonl"))
    result: dict[str, Any] = {}
    for number, (path, trials) in enumerate(zip(paths, lists, strict=True)):
        same = np.array([trial.same for trial in trials])
        speakers = [trial.speakers for trial in trials]
        rows = [[path.stem, "EER %", "minDCF 0.05", "minDCF 0.01", f"EER less {OWN}'s"]]
        for name, scores in scored.items():
            rates = verification_rates(scores[number], same, speakers)
            apart = verification_differences(scores[number], scored[OWN][number], same, speakers)["eer"]
            result[f"{path.stem}: {name}"] = {k: [v, b.low, b.high] for k, (v, b) in rates.items()} | {
                "difference": [apart[0], apart[1].low, apart[1].high]
            }
            cells = [
                f"{rates[k][0]:.3f} [{rates[k][1].low:.3f}, {rates[k][1].high:.3f}]"
                for k in ("dcf05", "dcf01")
            ]
            points = "" if name == OWN else f"{percent(apart[0])} {span(apart[1])}"
            rows.append([name, f"{percent(rates['eer'][0])} {span(rates['eer'][1])}", *cells, points])
        count = len({name for pair in speakers for name in pair})
        print(f"{len(trials)} trials ({same.sum()} of one speaker), {count} speakers")
        print("\n".join(columns(rows)))
    return result


def main(argv: Sequence[str] | None = None) -> None:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(
        prog="python -m egs.speakers.evaluate", description=about, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="run folder or checkpoint")
    parser.add_argument("trials", type=Path, nargs="+", help="lists of trials")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(argv)
    try:
        result = evaluate(args.run, args.trials)
    except MayaError as error:
        sys.exit(f"error: {error}")
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
