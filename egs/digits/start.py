"""A start for models of few speakers: CTC trained on synthetic speakers alone, none of whom is ever tested.

    python -m egs.digits.start --out exp/digits/start --voices 240

Training that begins with it needs the encoder, CTC, the embedding of languages and the pieces: `begin_with`,
and `--start-voices` of run.sh and leave_one_out.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from maya.config import override
from maya.errors import MayaError
from maya.recipes.arguments import POSITIVE, add_set
from maya.recipes.experiment import Experiment, load_experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer
from maya.recipes.train import train

from .voices import synthetic_corpus

STEPS = 4000


def ctc_alone(name: str, steps: int, overrides: Sequence[str]) -> Experiment:
    """An experiment as a short training of one process, CTC its only head, without a dev set."""
    exp = load_experiment(name, [])
    exp.model.heads = {"ctc": exp.model.heads["ctc"]}
    exp.model.heads["ctc"].weight = 1.0
    exp.prepare.split.dev = 0.0
    exp.train.steps = steps
    exp.train.threads = 1
    exp.train.valid_every = 0
    exp.train.save_every = steps
    exp.data.cache_gb = 4.0
    for assignment in overrides:
        override(exp, assignment)
    return exp


def start_model(out: Path, experiment: Experiment, voices: int) -> Path:
    """The run folder, in `out`, of a model trained on `voices` synthetic speakers of each language. As
    all stages it is made once. experiment: of `ctc_alone`."""
    synthetic_corpus(out / "corpus", voices)
    prepare(experiment, out / "corpus", out / "data")
    tokenizer(experiment, out / "data", out / "run")
    train(experiment, out / "data", out / "run", cpu=True)
    return out / "run"


def begin_with(start: Path) -> list[str]:
    """The overrides of a training that begins with the model in the run folder `start`."""
    return [
        f"train.init_from={start}",
        "train.init_modules=encoder,ctc,language_embedding",
        "train.encoder_hold=0",
        f"tokenizer.file={start / 'tokenizer.model'}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m egs.digits.start", description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for its corpus, data and run")
    parser.add_argument(
        "--experiment", default="egs.digits.digits", help="the training that shall begin with it"
    )
    parser.add_argument("--voices", type=POSITIVE, default=240, help="synthetic speakers of each language")
    parser.add_argument("--steps", type=POSITIVE, default=STEPS, help="steps of its training")
    add_set(parser)
    args = parser.parse_args(argv)
    try:
        experiment = ctc_alone(args.experiment, args.steps, [])
        for assignment in args.overrides:
            if not assignment.startswith(("model.heads.", "train.", "tokenizer.")):
                override(experiment, assignment)
        start = start_model(args.out.absolute(), experiment, args.voices)
    except MayaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(begin_with(start)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
