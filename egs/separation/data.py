"""Corpora for separation.

    python -m egs.separation.data voices --source .../corpora --out exp/separation/corpus
    python -m egs.separation.data librimix --source .../metadata/Libri2Mix --root .../LibriSpeech --out DIR

voices: the recordings of people in indic12. Every third speaker of a language with several is held out: a
quarter of them for dev, the others for the test. Mixtures are made while training, of two speakers of a set.
librimix: the CSV files of the LibriMix scripts (libri2mix_train-clean-360.csv and others), with the paths of
sources and noises below --root and --noise. A mixture is made from them with their gains when it is read.
"""

import argparse
import csv
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from egs.heads.data import read_rows
from egs.speakers.data import held_out, write_manifest
from maya.data.loading.mixing import MIXTURE, FixedMixture
from maya.errors import MayaError

_SHORTEST, _LONGEST = 2.0, 15.0
_SPEAKER_SECONDS = 240.0  # of each speaker for training
_FILES = 12  # of each speaker for dev and test
_SPLITS = {"train": "train", "dev": "dev", "test": "test"}


def voices(args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    by_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(args.source / "indic12"):
        if _SHORTEST <= row["duration"] <= _LONGEST:
            by_speaker[row["speaker"]].append(row)
    unseen = sorted(held_out(by_speaker, rng))
    dev = set(rng.sample(unseen, len(unseen) // 4))
    rows: list[dict[str, Any]] = []
    for speaker in sorted(by_speaker):
        own = rng.sample(by_speaker[speaker], len(by_speaker[speaker]))
        if speaker in unseen:
            rows += [row | {"split": "dev" if speaker in dev else "test"} for row in own[:_FILES]]
            continue
        seconds = 0.0
        for row in own:
            if seconds < _SPEAKER_SECONDS:
                rows.append(row | {"split": "train"})
                seconds += row["duration"]
    write_manifest(rows, args.out)


def librimix(args: argparse.Namespace) -> None:
    files = sorted(path for path in args.source.glob("*.csv") if not path.stem.endswith("_info"))
    rows = [row for path in files for row in mixtures(path, args.root, args.noise or args.root)]
    if not rows:
        raise MayaError(f"{args.source} holds no CSV of LibriMix, such as libri2mix_dev-clean.csv")
    write_manifest(rows, args.out)


def mixtures(path: Path, root: Path, noises: Path) -> Iterator[dict[str, Any]]:
    """Rows of a CSV of LibriMix: mixture_ID, source_1_path, source_1_gain, ..., noise_path, noise_gain."""
    split = next((name for name in _SPLITS if name in path.stem), None)
    if split is None:
        raise MayaError(f"the name of {path} has none of train, dev and test in it: rename it")
    with path.open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                sources = [
                    (str((root / line[f"source_{k}_path"]).resolve()), float(line[f"source_{k}_gain"]))
                    for k in range(1, 6)
                    if line.get(f"source_{k}_path")
                ]
                noise = line.get("noise_path") and (
                    str((noises / line["noise_path"]).resolve()), float(line["noise_gain"])
                )  # fmt: skip
                (first, gain), *others = sources
                name = line["mixture_ID"]
            except (KeyError, TypeError, ValueError):
                raise MayaError(
                    f"{path}, line {number}: expected mixture_ID, source_1_path, source_1_gain and so on, "
                    "as in the metadata of LibriMix"
                ) from None
            yield {
                "id": name, "language": "en", "text": "speech", "audio": first, "split": split,
                "speaker": Path(first).stem.split("-")[0],
                "labels": {MIXTURE: FixedMixture(gain, tuple(others), noise or None).write()},
            }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    tasks = {"voices": voices, "librimix": librimix}
    parser = argparse.ArgumentParser(
        prog="python -m egs.separation.data", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--source", type=Path, required=True, help="folder of the recordings, or of the CSV")
    parser.add_argument("--root", type=Path, help="of the paths in the CSV: the folder LibriSpeech")
    parser.add_argument("--noise", type=Path, help="of the noises in the CSV: the folder wham_noise")
    parser.add_argument("--out", type=Path, required=True, help="corpus folder to make")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other speakers to the test")
    args = parser.parse_args(argv)
    if args.task == "librimix" and args.root is None:
        parser.error("librimix needs --root, the folder that the paths in the CSV begin in")
    try:
        tasks[args.task](args)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
