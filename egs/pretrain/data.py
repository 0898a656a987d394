"""An hour of real speech for pre-training, and the labels of the probes.

    python -m egs.pretrain.data --source .../corpora --out exp/pretrain/best_rq/corpus

The corpus is that of egs/speakers: recordings of people in indic12, at most two minutes of each. The speakers
of the test set are in no training, neither of encoders nor of probes; voices.txt is the list of trials of
them. Pre-training reads neither texts nor speakers. The label phonemes is eSpeak NG's pronunciation of the
text.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from egs.heads.data import pronounced
from egs.speakers.data import voices, write_manifest
from maya.data.corpus.manifest import read_lines
from maya.errors import MayaError


def prepare(source: Path, out: Path, seed: int) -> None:
    """manifest.jsonl with phonemes, and voices.txt."""
    voices(source, out, seed)
    write_manifest(pronounced([json.loads(line) for line in read_lines(out / "manifest.jsonl")]), out)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.pretrain.data", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--out", type=Path, required=True, help="corpus folder to make")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other speakers to the test")
    args = parser.parse_args(argv)
    try:
        prepare(args.source, args.out, args.seed)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
