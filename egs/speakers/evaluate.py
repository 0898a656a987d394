"""How well a run tells unseen speakers apart, beside Resemblyzer and statistics of MFCC on the same trials.

    python -m egs.speakers.evaluate RUN exp/speakers/voices/corpus/voices.txt

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

from maya.audio.load import load_audio
from maya.errors import MayaError
from maya.features import LogMelConfig
from maya.pages import columns
from maya.recipes.evaluation.verify import cohort_of, embed_all, score_trials
from maya.recipes.speaker_options import open_voices, voice_weights
from maya.score.report import percent, span
from maya.score.verification import VerificationTrial, read_trials, verification_rates

_RATE, _CEPSTRA = 16000, 20


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


def systems(run: Path, trials: Sequence[VerificationTrial]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and scores of the trials."""
    encoder = open_voices(voice_weights(run))
    voices = embed_all(encoder, trials, Path())
    yield "this run, cosine", score_trials(trials, voices)
    yield "this run, AS-norm", score_trials(trials, voices, cohort_of(encoder))
    try:
        other = open_voices("")
        yield "Resemblyzer", score_trials(trials, embed_all(other, trials, Path()))
    except MayaError as error:
        print(f"Resemblyzer is left out: {error}", file=sys.stderr)
    yield "MFCC statistics", score_trials(trials, cepstral_voices(trials))


def evaluate(run: Path, lists: Sequence[Path]) -> dict[str, Any]:
    """Print a table for each list; returns the figures."""
    result: dict[str, Any] = {}
    for path in lists:
        trials = read_trials(path)
        same = np.array([trial.same for trial in trials])
        speakers = [trial.speakers for trial in trials]
        count = len({name for pair in speakers for name in pair})
        rows = [[path.stem, "EER %", "minDCF 0.05", "minDCF 0.01"]]
        for name, scores in systems(run, trials):
            rates = verification_rates(scores, same, speakers)
            result[f"{path.stem}: {name}"] = {k: [v, b.low, b.high] for k, (v, b) in rates.items()}
            value, bounds = rates["eer"]
            cells = [
                f"{rates[k][0]:.3f} [{rates[k][1].low:.3f}, {rates[k][1].high:.3f}]"
                for k in ("dcf05", "dcf01")
            ]
            rows.append([name, f"{percent(value)} {span(bounds)}", *cells])
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
