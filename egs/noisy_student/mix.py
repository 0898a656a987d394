"""The data of a student: labelled data, whose train table also has the utterances that a teacher labelled.

Run:    python -m egs.noisy_student.mix --labelled DATA --pseudo DATA --share 0.7 --out DATA
`share` of the seconds of a pass are pseudo-labelled; as many labelled utterances occur several times as that
needs. dev and test are those of the labelled data.
"""

import argparse
from pathlib import Path

from maya.data.table.table import Table, part_path
from maya.ranges import Range
from maya.recipes.arguments import number
from maya.recipes.finetuning.mix import mix


def main() -> None:
    p = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    p.add_argument("--labelled", type=Path, required=True, help="prepared data with texts that people wrote")
    p.add_argument("--pseudo", type=Path, required=True, help="prepared data with texts of the teacher")
    p.add_argument("--share", type=number(float, Range(above=0, below=1)), default=0.5)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    languages = Table.open(part_path(args.pseudo, "train")).codes("language")[1]
    mix(args.labelled, args.pseudo, args.out, share=args.share, languages=languages, seed=1)


if __name__ == "__main__":
    main()
