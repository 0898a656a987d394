"""Corpora with the label phonemes: one that eSpeak NG speaks, and manifests of corpora that people have.

    python -m egs.phonemes.data spoken --out exp/phonemes/spoken/corpus
    python -m egs.phonemes.data TASK --source DIR --out exp/phonemes/TASK/corpus

The tasks speechocean762, timit and l2arctic read the folders of these corpora. Beside the manifest lies
units.txt, all of its phonemes, for the head.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from egs.phonemes import learners, spoken, timit
from maya.errors import MayaError
from maya.files import writing
from maya.recipes.arguments import POSITIVE

READERS = {"speechocean762": learners.speechocean, "timit": timit.rows, "l2arctic": learners.l2arctic}


def write_manifest(rows: Iterable[dict[str, Any]], out: Path) -> None:
    """manifest.jsonl and units.txt. Raises MayaError where a set has no utterances."""
    rows = list(rows)
    out.mkdir(parents=True, exist_ok=True)
    units = {unit for row in rows for unit in row["labels"]["phonemes"].split()}
    for split in ("train", "dev", "test"):
        own = [row for row in rows if row["split"] == split]
        if not own:
            raise MayaError(f"there are no utterances for {split}; is the corpus whole?")
        print(f"{split}: {len(own)} utterances of {len({row['speaker'] for row in own})} speakers")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name, text in (("manifest.jsonl", lines), ("units.txt", ",".join(sorted(units)) + "\n")):
        with writing(out / name) as partial:
            partial.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.phonemes.data", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("task", choices=["spoken", *READERS])
    add("--source", type=Path, help="folder of the corpus, but for the task spoken")
    add("--out", type=Path, required=True, help="corpus folder to make")
    add("--seed", type=int, default=1, help="another seed gives other words to the test")
    add("--train", type=POSITIVE, default=900, help="utterances to speak for training")
    add("--dev", type=POSITIVE, default=60, help="utterances to speak for dev")
    add("--test", type=POSITIVE, default=160, help="utterances to speak for test")
    args = parser.parse_args(argv)
    try:
        if args.task != "spoken":
            if args.source is None:
                raise MayaError(f"{args.task} needs --source, the folder of the corpus")
            write_manifest(READERS[args.task](args.source), args.out)
            return
        sizes = {"train": args.train, "dev": args.dev, "test": args.test}
        spoken.make(args.out, sizes, args.seed)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
