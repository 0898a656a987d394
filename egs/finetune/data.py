"""Corpora of 10, 30 and 60 minutes out of a larger corpus, with one dev and one test set, of one language.

The minutes are filled with the first language, then with the others. Speakers of test and dev are kept apart.
Smaller sets are parts of larger ones. Audio stays where it is.

Run:    python -m egs.finetune.data --source CORPUS --languages bn kn --out exp/finetune/corpora
"""

import argparse
import json
from pathlib import Path

import numpy as np

TEST_SHARE, DEV_SHARE = 0.2, 0.05  # of the minutes, in whole speakers


def main() -> None:
    p = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    p.add_argument("--source", type=Path, required=True)
    p.add_argument("--languages", nargs="+", default=["bn", "kn"])
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--minutes", type=int, nargs="+", default=[10, 30, 60])
    args = p.parse_args()
    first = args.languages[0]
    with (args.source / "manifest.jsonl").open() as f:
        rows = [row for row in map(json.loads, f) if row["language"] in args.languages]
    parts = speakers_apart([row for row in rows if row["language"] == first])
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    rows = sorted((rows[i] for i in order), key=lambda row: args.languages.index(row["language"]))
    for minutes in args.minutes:
        out, seconds = args.out / f"{first}-{minutes}", 0.0
        out.mkdir(parents=True, exist_ok=True)
        with (out / "manifest.jsonl").open("w") as f:
            for row in rows:
                part = parts[row["speaker"]] if row["language"] == first else "train"
                if part == "train":
                    room = 60 * minutes + 5 - seconds
                    if row["duration"] > room or (row["language"] != first and room < 60):
                        continue
                    seconds += row["duration"]
                audio = str((args.source / row["audio"]).absolute())
                f.write(json.dumps(row | {"split": part, "audio": audio}, ensure_ascii=False) + "\n")
        print(f"{out}: {seconds / 60:.1f} minutes to train on")


def speakers_apart(rows: list[dict]) -> dict[str, str]:
    """The part of each speaker: the two with the most speech train, then test and dev are filled with the
    speakers that fit, the largest first."""
    minutes: dict[str, float] = {}
    for row in rows:
        minutes[row["speaker"]] = minutes.get(row["speaker"], 0.0) + row["duration"] / 60
    total = sum(minutes.values())
    room = {"test": TEST_SHARE * total, "dev": DEV_SHARE * total}
    parts = {}
    for place, speaker in enumerate(sorted(minutes, key=lambda s: -minutes[s])):
        part = next((p for p in room if place > 1 and minutes[speaker] <= room[p]), "train")
        if part != "train":
            room[part] -= minutes[speaker]
        parts[speaker] = part
    return parts


if __name__ == "__main__":
    main()
