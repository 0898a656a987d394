"""What the probes of a run say of speakers who are in no training, with intervals over speakers.

    python -m egs.pretrain.evaluate exp/pretrain/best_rq/probes --data exp/pretrain/best_rq/data \
        --trials exp/pretrain/best_rq/corpus/voices.txt

language: UAR over the languages of the test. phonemes: error rate. speaker: equal error rate of the trials.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import maya
from egs.heads.evaluate import language, phoneme_errors
from maya.errors import MayaError
from maya.recipes.evaluation.verify import embed_all, score_trials
from maya.recipes.speaker_options import open_voices, voice_weights
from maya.score.report import percent, span
from maya.score.verification import read_trials, verification_rates


def speaker(run: Path, path: Path) -> list[float]:
    """EER and its interval."""
    trials = read_trials(path)
    scores = score_trials(trials, embed_all(open_voices(voice_weights(run)), trials, Path()))
    same, speakers = np.array([trial.same for trial in trials]), [trial.speakers for trial in trials]
    value, bounds = verification_rates(scores, same, speakers)["eer"]
    print(f"EER % of {len(trials)} trials: {percent(value)} {span(bounds)}")
    return [value, bounds.low, bounds.high]


def evaluate(run: Path, data: Path, trials: Path) -> dict[str, Any]:
    recognizer = maya.load(run)
    result = {
        "language": language(recognizer, data, (float("inf"),)),
        "phonemes": phoneme_errors(recognizer, data),
    }
    return result | {"speaker": speaker(run, trials)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.pretrain.evaluate", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="run folder of the probes")
    parser.add_argument("--data", type=Path, required=True, help="prepared data with the test set")
    parser.add_argument("--trials", type=Path, required=True, help="list of trials of its speakers")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(argv)
    try:
        result = evaluate(args.run, args.data, args.trials)
    except MayaError as error:
        sys.exit(f"error: {error}")
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
