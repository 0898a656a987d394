"""Corpora for telling speakers apart, and lists of trials of speakers that are not in the training data.

    python -m egs.speakers.data voices --source .../corpora --out exp/speakers/corpus
    python -m egs.speakers.data voxceleb --source .../voxceleb1/dev/wav --out exp/speakers/corpus

voices: the recordings of people in indic12 and digits, which their README describes. Every third speaker of a
language that has several with two recordings is in the test alone, and so is everyone who only says digits:
six of their recordings are joined into one. voxceleb: folders of speakers, of videos, of utterances
(id10001/VIDEO/00001.wav); its test is the trial list that the corpus comes with.

The dev set is one recording of each training speaker with five or more (of VoxCeleb every tenth speaker's
last video): it is of known speakers, and training is judged by how often they are recognised.
"""

import argparse
import itertools
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch

from egs.heads.data import read_rows
from maya.audio.load import load_audio
from maya.errors import MayaError
from maya.files import writing
from maya.recipes.corpus_writer import SAMPLE_RATE
from maya.score.verification import VerificationTrial, write_trials

_SPEAKER_SECONDS = 120.0  # of each speaker's recordings for training
_SHORTEST, _LONGEST = 1.0, 15.0
_JOINED, _FILES = 6, 8  # recordings of digits in a file of the test, and files of a speaker
_PAIRS = 30  # of the recordings of a test speaker at most
_OTHERS = 40  # trials of each test recording with other speakers of its language


def voices(source: Path, out: Path, seed: int) -> None:
    """manifest.jsonl and two lists of trials, voices.txt and digits.txt."""
    rng = random.Random(seed)
    by_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(source / "indic12"):
        if not row["speaker"].startswith("fsgdd:") and _SHORTEST <= row["duration"] <= _LONGEST:
            by_speaker[row["speaker"]].append(row)
    tested = held_out(by_speaker, rng)
    rows: list[dict[str, Any]] = []
    for speaker in sorted(by_speaker):
        own = rng.sample(by_speaker[speaker], len(by_speaker[speaker]))
        if speaker in tested:
            rows += [row | {"split": "test"} for row in own[:20]]
            continue
        dev, seconds = len(own) >= 5, 0.0
        rows += [own.pop() | {"split": "dev"}] if dev else []
        for row in own:
            if seconds < _SPEAKER_SECONDS:
                rows.append(row | {"split": "train"})
                seconds += row["duration"]
    test = [row for row in rows if row["split"] == "test"]
    write_trials(trials_of(test, rng), out / "voices.txt")
    digits = list(joined_digits(source / "digits", out / "digits", rng))
    write_trials(trials_of(digits, rng), out / "digits.txt")
    write_manifest(rows, out)


def held_out(by_speaker: dict[str, list[dict[str, Any]]], rng: random.Random) -> set[str]:
    """Every third speaker with two recordings, of languages with three such speakers."""
    languages: dict[str, list[str]] = defaultdict(list)
    for speaker in sorted(by_speaker):
        if len(by_speaker[speaker]) >= 2:
            languages[by_speaker[speaker][0]["language"]].append(speaker)
    chosen: set[str] = set()
    for language in sorted(languages):
        chosen |= set(rng.sample(languages[language], len(languages[language]) // 3))
    return chosen


def joined_digits(source: Path, out: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Rows of files of six digits of one speaker, which are written to `out`."""
    by_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(source):
        by_speaker[row["speaker"]].append(row)
    out.mkdir(parents=True, exist_ok=True)
    for speaker, own in sorted(by_speaker.items()):
        chosen = rng.sample(own, min(_JOINED * _FILES, len(own)))
        for number in range(len(chosen) // _JOINED):
            part = chosen[number * _JOINED : (number + 1) * _JOINED]
            path = out / f"{speaker.replace(':', '-')}-{number}.wav"
            if not path.exists():
                audio = torch.cat([load_audio(row["audio"], SAMPLE_RATE) for row in part])
                with writing(path) as partial:
                    soundfile.write(partial, audio.numpy(), SAMPLE_RATE, format="WAV")
            yield {"audio": str(path.resolve()), "speaker": speaker, "language": part[0]["language"]}


def trials_of(rows: Sequence[dict[str, Any]], rng: random.Random) -> list[VerificationTrial]:
    """Pairs of recordings of one speaker, and of each recording with others' of the same language."""
    by_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_speaker[row["speaker"]].append(row)
    trials = []
    for speaker, own in sorted(by_speaker.items()):
        pairs = list(itertools.combinations(own, 2))
        trials += [_trial(*pair) for pair in rng.sample(pairs, min(_PAIRS, len(pairs)))]
        for row in own:
            others = [o for o in rows if o["speaker"] != speaker and o["language"] == row["language"]]
            trials += [_trial(row, other) for other in rng.sample(others, min(_OTHERS, len(others)))]
    return trials


def _trial(a: dict[str, Any], b: dict[str, Any]) -> VerificationTrial:
    return VerificationTrial(
        enrol=a["audio"], test=b["audio"], same=a["speaker"] == b["speaker"],
        speakers=(a["speaker"], b["speaker"]),
    )  # fmt: skip


def voxceleb(source: Path, out: Path, seed: int) -> None:
    """A manifest of folders of speakers, of videos, of utterances."""
    rows = []
    speakers = sorted(path for path in source.iterdir() if path.is_dir()) if source.is_dir() else []
    for number, folder in enumerate(speakers):
        videos = sorted(path for path in folder.iterdir() if path.is_dir())
        for video in videos:
            held = number % 10 == 0 and video == videos[-1] and len(videos) > 1
            for path in sorted(p for p in video.iterdir() if p.suffix in (".wav", ".flac", ".m4a")):
                rows.append({
                    "id": f"{folder.name}-{video.name}-{path.stem}", "language": "en", "text": "speech",
                    "speaker": folder.name, "audio": str(path.resolve()),
                    "split": "dev" if held else "train",
                })  # fmt: skip
    if not rows:
        raise MayaError(f"{source} holds no id.../VIDEO/00001.wav: is --source the folder of the speakers?")
    write_manifest(rows, out)


def write_manifest(rows: Iterable[dict[str, Any]], out: Path) -> None:
    rows = list(rows)
    out.mkdir(parents=True, exist_ok=True)
    with writing(out / "manifest.jsonl") as partial:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial.write_text("".join(lines), encoding="utf-8")
    for split in ("train", "dev", "test"):
        own = [row for row in rows if row["split"] == split]
        print(f"{split}: {len(own)} recordings of {len({row['speaker'] for row in own})} speakers")


def main(argv: Sequence[str] | None = None) -> None:
    tasks = {"voices": voices, "voxceleb": voxceleb}
    parser = argparse.ArgumentParser(
        prog="python -m egs.speakers.data", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--source", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--out", type=Path, required=True, help="corpus folder to make")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other speakers to the test")
    args = parser.parse_args(argv)
    try:
        tasks[args.task](args.source, args.out, args.seed)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
