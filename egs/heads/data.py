"""Corpora with labels, made of recordings of people: languages, digit words with times, pitch by a teacher,
phonemes, punctuation.

    python -m egs.heads.data TASK --source .../corpora/indic12 --out exp/heads/TASK/corpus

language: all recordings. words: strings of digits with the times and the phonemes of the words, from
.../corpora/digits. pitch: the label f0 of some seconds of each speaker, the pitch that CREPE hears in the
audio as it is, before any augmentation; of the test speakers also that of pYIN (label pyin), as a measure of
how well two teachers agree. phonemes: the label phonemes, eSpeak NG's pronunciation of the transcripts.
punctuation: some sentences of a speaker in a row, with the label written, see egs.heads.written. transcripts:
its languages one by one, for a recogniser that has heard no test speaker.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egs.digits.data import joined, plan_language, read_digit, read_source
from egs.heads import written
from egs.heads.teachers import HOP_SECONDS, crepe_pitch, pyin_pitch
from maya.audio.load import load_audio
from maya.data.corpus.manifest import read_lines
from maya.errors import MayaError
from maya.files import writing
from maya.recipes.corpus_writer import SAMPLE_RATE, CorpusUtterance, describe, finished, write_corpus
from maya.text.phonemes import pronounce

STRINGS = 1200  # of digits in each language, for training
_SPEAKER_SECONDS = 25.0  # of each speaker's recordings that are given a pitch
_LONGEST_SECONDS = 12.0


def language(source: Path, out: Path, seed: int) -> None:
    """A manifest of all recordings of the source; `maya prepare` parts the speakers."""
    _write_manifest(out, read_rows(source))


def phonemes(source: Path, out: Path, seed: int) -> None:
    """All recordings of the source with the pronunciations of their texts."""
    _write_manifest(out, pronounced(read_rows(source)))


def transcripts(source: Path, out: Path, seed: int) -> None:
    """The same of the languages of `punctuation`, parted as they are there."""
    _write_manifest(out, pronounced(written.transcripts(read_rows(source), seed)))


def pronounced(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the label phonemes."""
    labels = {key: pronounce(*key) for key in {(row["text"], row["language"]) for row in rows}}
    return [row | {"labels": {"phonemes": labels[row["text"], row["language"]]}} for row in rows]


def words(source: Path, out: Path, seed: int, strings: int = STRINGS) -> None:
    """Strings of digits, as in egs/digits, with the label `words`: each word and its times. strings: of each
    language for training; an eighth of it for dev and for test."""
    rows = read_source(source)
    sizes = {"train": strings, "heldout": max(4, strings // 8)}
    plan = []
    for code in sorted({row["language"] for row in rows}):
        own = [row for row in rows if row["language"] == code]
        plan += [
            p
            for p in plan_language(code, own, sizes, seed)
            if len(p["recordings"]) > 1 or p["split"] != "train"
        ]
    settings = {"corpus": "words", "sizes": sizes, "seed": seed, "labels": "words, phonemes"}
    if not finished(out, settings):
        print(describe(write_corpus(out, with_times(source, rows, plan), settings, total=len(plan))))


def with_times(
    source: Path, rows: Sequence[dict[str, Any]], plan: Sequence[dict[str, Any]]
) -> Iterator[CorpusUtterance]:
    """The utterances of a plan with their words' times."""
    text = {row["id"]: row["text"] for row in rows}
    size = {row["id"]: len(read_digit(source, row)) for row in rows}
    for item, utterance in zip(plan, joined(source, rows, plan), strict=True):
        spans, place = [], item["silences"][0]
        for name, silence in zip(item["recordings"], item["silences"][1:], strict=True):
            end = place + size[name]
            spans.append(f"{place / SAMPLE_RATE:.3f}-{end / SAMPLE_RATE:.3f} {text[name]}")
            place = end + silence
        utterance.labels = {
            "words": "; ".join(spans), "phonemes": pronounce(utterance.text, utterance.language),
        }  # fmt: skip
        yield utterance


def pitch(source: Path, out: Path, seed: int) -> None:
    """Some recordings of each speaker with the label f0; speakers are in one split only."""
    if (out / "manifest.jsonl").is_file():
        return
    by_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(source):
        if 1.0 <= row["duration"] <= _LONGEST_SECONDS:
            by_speaker[row["speaker"]].append(row)
    rng = random.Random(seed)
    speakers = sorted(by_speaker)
    rng.shuffle(speakers)
    rows = []
    for number, speaker in enumerate(speakers):
        split = "test" if number % 5 == 0 else "dev" if number % 10 == 1 else "train"
        seconds = 0.0
        for row in rng.sample(by_speaker[speaker], len(by_speaker[speaker])):
            if seconds < _SPEAKER_SECONDS / (1 if split == "train" else 3):
                rows.append(row | {"split": split})
                seconds += row["duration"]
    for number, row in enumerate(rows):
        audio = load_audio(row["audio"], SAMPLE_RATE)
        row["labels"] = {"f0": pitch_label(crepe_pitch(audio))}
        if row["split"] == "test":
            row["labels"]["pyin"] = pitch_label(pyin_pitch(audio))
        if number % 100 == 0:
            print(f"pitch of {number} of {len(rows)} recordings", file=sys.stderr, flush=True)
    _write_manifest(out, rows)


def pitch_label(hertz: np.ndarray) -> str:
    """The label of pitch (n,), 0 where unvoiced; see maya.heads.frames."""
    return " ".join([f"{HOP_SECONDS:g}", *(f"{h:.1f}" if h > 0 else "0" for h in hertz.tolist())])


def read_rows(source: Path) -> list[dict[str, Any]]:
    """The rows of a manifest, their audio as absolute paths."""
    path = source / "manifest.jsonl"
    if not path.is_file():
        raise MayaError(f"there is no {path}; is --source the folder of a corpus?")
    rows = [json.loads(line) for line in read_lines(path)]
    return [row | {"audio": str((source / row["audio"]).resolve())} for row in rows]


def _write_manifest(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with writing(out / "manifest.jsonl") as partial:
        partial.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )


def main(argv: Sequence[str] | None = None) -> None:
    tasks = {"language": language, "pitch": pitch, "phonemes": phonemes, "transcripts": transcripts}
    names = [*tasks, "words", "punctuation"]
    parser = argparse.ArgumentParser(
        prog="python -m egs.heads.data", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("task", choices=names)
    parser.add_argument("--source", type=Path, required=True, help="folder with manifest.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="corpus folder to make")
    parser.add_argument("--init", type=Path, help="for punctuation: a run of the task phonemes")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other speakers to the test")
    parser.add_argument("--strings", type=int, default=STRINGS, help="for words: strings of each language")
    args = parser.parse_args(argv)
    try:
        if args.task in tasks:
            tasks[args.task](args.source, args.out, args.seed)
        elif args.task == "words":
            words(args.source, args.out, args.seed, args.strings)
        elif args.init is None:
            raise MayaError("punctuation needs --init, a run of the task phonemes")
        else:
            written.prepare(read_rows(args.source), args.out, args.seed, args.init)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
