"""The corpora of noisy student on spoken digits: a fifth of the training recordings has texts.

python -m egs.noisy_student.data --source .../corpora/digits --out exp/noisy_student/digits

labelled/        that fifth, and dev and test: singles and strings of them
unlabelled.jsonl the other recordings, the same way, without texts; audio in unlabelled/
all/             both with their texts, for comparison with a training that has them
"""

import argparse
import json
import random
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egs.digits.data import assign, audio_hash, draw_strings, joined, plan_item, read_source
from maya.recipes.corpus_writer import SAMPLE_RATE, finished, settings_hash, write_corpus

STRINGS = 1200  # in training, of each language
HELD_OUT = 200  # utterances of dev and of test, of each language; half are single digits


def plan(rows: Sequence[dict[str, Any]], share: float, seed: int) -> dict[str, list[dict[str, Any]]]:
    """What is joined: labelled, unlabelled, dev and test. A recording is in one of them."""
    language = rows[0]["language"]
    parts = assign(rows, random.Random(f"{seed} {language} speakers"))
    rng = random.Random(f"{seed} {language} texts")
    speakers = sorted({row["speaker"] for row in parts["train"]})
    takes = {s: [row for row in parts["train"] if row["speaker"] == s] for s in speakers}
    chosen = {r["id"] for own in takes.values() for r in rng.sample(own, max(1, round(share * len(own))))}
    train = parts.pop("train")
    sets = {
        "labelled": [row for row in train if row["id"] in chosen],
        "unlabelled": [row for row in train if row["id"] not in chosen],
        **parts,
    }
    strings = {"labelled": round(share * STRINGS), "unlabelled": STRINGS - round(share * STRINGS)}
    plans = {}
    for name, own in sets.items():
        singles = [[row] for row in own]
        if name not in strings:
            singles = rng.sample(singles, min(len(singles), HELD_OUT // 2))
        count = strings.get(name, HELD_OUT - len(singles))
        split = name if name in parts else "train"
        plans[name] = [
            plan_item(f"{language}-{name}-{i:05d}", split, recordings, rng)
            for i, recordings in enumerate(singles + draw_strings(own, count, rng))
        ]
    return plans


def make(source: Path, out: Path, *, share: float, seed: int) -> None:
    """Write the corpora that are not there already."""
    rows = read_source(source)
    languages = sorted({row["language"] for row in rows})
    plans = [plan([row for row in rows if row["language"] == code], share, seed) for code in languages]
    sets = {"labelled": ("labelled", "dev", "test"), "all": ("labelled", "unlabelled", "dev", "test")}
    for name, parts in sets.items():
        items = [item for own in plans for part in parts for item in own[part]]
        settings = {"plan": settings_hash({"plan": items}), "audio": audio_hash(source, rows)}
        if not finished(out / name, settings):
            write_corpus(out / name, joined(source, rows, items), settings, total=len(items))
    (out / "unlabelled").mkdir(exist_ok=True)
    with (out / "unlabelled.jsonl").open("w") as f:
        for utterance in joined(source, rows, [item for own in plans for item in own["unlabelled"]]):
            path = (out / "unlabelled" / f"{utterance.id}.wav").absolute()
            with wave.open(str(path), "wb") as sound:
                sound.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
                sound.writeframes(utterance.audio.astype("<i2").tobytes())  # type: ignore[union-attr]
            f.write(json.dumps({"audio_filepath": str(path), "lang": utterance.language}) + "\n")


def main() -> None:
    p = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    p.add_argument("--source", type=Path, required=True, help="folder of single digits with manifest.jsonl")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--share", type=float, default=0.2, help="of the training recordings, with texts")
    p.add_argument("--seed", type=int, default=1, help="of the speakers of dev and test and of the share")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    make(args.source, args.out, share=args.share, seed=args.seed)


if __name__ == "__main__":
    main()
