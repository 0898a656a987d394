"""One language of a corpus as a folder of its own: some utterances of each speaker, and whole speakers for
dev and test. Audio stays where it is.

Run:    python -m egs.whisper.data --source CORPUS --language en --per-speaker 200 --out exp/whisper/own
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np


def main() -> None:
    p = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    p.add_argument("--source", type=Path, required=True, help="a folder with a manifest.jsonl")
    p.add_argument("--language", default="en")
    p.add_argument("--per-speaker", type=int, default=0, help="utterances, drawn by a fixed seed; 0: all")
    p.add_argument("--per-tested", type=int, default=0, help="the same, for speakers of dev and test")
    p.add_argument("--dev", type=float, default=0.2, help="share of the speakers")
    p.add_argument("--test", type=float, default=0.4)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    with (args.source / "manifest.jsonl").open(encoding="utf-8") as f:
        rows = [row for row in map(json.loads, f) if row["language"] == args.language]
    parts = parts_of({row["speaker"] for row in rows}, args.dev, args.test)
    rows = drawn([row | {"split": parts[row["speaker"]]} for row in rows], args.per_speaker, args.per_tested)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "manifest.jsonl").open("w", encoding="utf-8") as f:
        for row in rows:
            audio = str((args.source / row["audio"]).absolute())
            f.write(json.dumps(row | {"audio": audio}, ensure_ascii=False) + "\n")
    for part in ("train", "dev", "test"):
        own = [row for row in rows if row["split"] == part]
        speakers, minutes = len({row["speaker"] for row in own}), sum(row["duration"] for row in own) / 60
        print(f"{args.out}: {part}: {len(own)} utterances of {speakers} speakers, {minutes:.1f} minutes")


def drawn(rows: list[dict], trained: int, tested: int) -> list[dict]:
    """At most so many rows of each speaker in training, and in dev and test, in their order; 0: all."""
    counts: Counter[str] = Counter()
    kept = []
    for i in np.random.default_rng(0).permutation(len(rows)).tolist():
        most = trained if rows[i]["split"] == "train" else tested
        counts[rows[i]["speaker"]] += 1
        if not most or counts[rows[i]["speaker"]] <= most:
            kept.append(i)
    return [rows[i] for i in sorted(kept)]


def parts_of(speakers: set[str], dev: float, test: float) -> dict[str, str]:
    """The part of each speaker, drawn by a fixed seed: at least one for test and one for dev."""
    order = np.random.default_rng(0).permutation(sorted(speakers)).tolist()
    tested, checked = (max(1, round(share * len(order))) for share in (test, dev))
    return {
        speaker: "test" if i < tested else "dev" if i < tested + checked else "train"
        for i, speaker in enumerate(order)
    }


if __name__ == "__main__":
    main()
