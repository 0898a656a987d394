"""Corpora with the label phonemes: one that eSpeak NG speaks, and manifests of corpora that people have.

    python -m egs.phonemes.data spoken --out exp/phonemes/spoken/corpus
    python -m egs.phonemes.data TASK --source DIR --out exp/phonemes/TASK/corpus
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from egs.phonemes import spoken
from maya.errors import MayaError
from maya.recipes.arguments import POSITIVE


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.phonemes.data", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("task", choices=["spoken"])
    add("--source", type=Path, help="folder of the corpus, but for the task spoken")
    add("--out", type=Path, required=True, help="corpus folder to make")
    add("--seed", type=int, default=1, help="another seed gives other words, and other speakers to dev")
    add("--train", type=POSITIVE, default=900, help="utterances to speak for training")
    add("--dev", type=POSITIVE, default=60, help="utterances to speak for dev")
    add("--test", type=POSITIVE, default=160, help="utterances to speak for test")
    args = parser.parse_args(argv)
    try:
        sizes = {"train": args.train, "dev": args.dev, "test": args.test}
        spoken.make(args.out, sizes, args.seed)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
