"""Whether a long run may begin: a line for each thing that was looked at, exit status 1 if one is not ready.

    python -m tools.prod_readiness --experiment egs.indic12.fastconformer_tdt_ctc_1b \
        --data exp/indic12/DIR/data --run-dir exp/indic12/DIR/fastconformer_tdt_ctc_1b --gpus 8

`make prod-readiness DATA=exp/indic12/DIR/data GPUS=8` does the same. What is looked at: disk, GPUs,
tokenizer, plan, checkpoint to start or continue from, storage of the audio.
"""

import argparse
import sys
from pathlib import Path

from maya.errors import MayaError
from maya.recipes.aliases import add_aliases
from maya.recipes.experiment import load_experiment
from maya.recipes.readiness import Finding, Wanted, look


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        allow_abbrev=False, prog="prod-readiness", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--experiment", required=True, help="a module with experiment()")
    p.add_argument("--data", type=Path, required=True, help="the folder that `maya prepare` wrote")
    p.add_argument("--run-dir", type=Path, required=True, help="the run folder")
    p.add_argument("--gpus", type=int, default=8, help="of this machine that the run will take; 0: the CPU")
    p.add_argument("--storage", default="", help="an object (s3://bucket/key) to try the storage with")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
                   help="change a field of the experiment")  # fmt: skip
    add_aliases(p)
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    try:
        experiment = load_experiment(args.experiment, args.overrides)
        findings = look(Wanted(experiment=experiment, data=args.data, run=args.run_dir, gpus=args.gpus,
                               storage=args.storage))  # fmt: skip
    except MayaError as e:
        findings = [Finding(topic="experiment", ready=False, text=str(e))]
    for found in findings:
        print(f"{'ready    ' if found.ready else 'NOT READY'}  {found.topic:<10}  {found.text}")
    refused = sum(not found.ready for found in findings)
    print(f"prod-readiness: {refused} thing(s) not ready" if refused else "prod-readiness: ready")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
