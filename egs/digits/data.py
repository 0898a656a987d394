"""Digit strings in English and Gujarati, joined from recordings of single digits by people.

    python -m egs.digits.data --source .../corpora/digits --out exp/digits/digits/corpus

The source folder holds `manifest.jsonl` (id, language, text, speaker, source, licence, audio) and 16 kHz
recordings of one digit each. Each string is by one speaker, but half of those to train on. No speaker
is in two splits. The same source and options give the same bytes.
"""

import argparse
import hashlib
import json
import random
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maya.errors import MayaError
from maya.recipes.arguments import COUNT, POSITIVE
from maya.recipes.corpus_writer import (
    SAMPLE_RATE,
    CorpusUtterance,
    describe,
    finished,
    read_seal,
    settings_hash,
    shuffled_rounds,
    write_corpus,
)

_VERSION = 3  # to be raised when the same plan comes to sound different
_FIELDS = ("id", "language", "text", "speaker", "source", "licence", "audio")
_LONGEST = 7  # digits in a string
_FEW_SPEAKERS = 6  # below this, dev does not get a speaker of its own
_DEV_SHARE = 10  # it then gets one in so many of the training speakers' recordings
TAKES = 2  # times that training has each recording alone, with other surroundings
MIXED = 0.5  # share of the training strings with a speaker for each word: they sound alike in no other way
_FADE = 80  # samples, 5 ms, at both ends of a recording: the cuts are not always at silence


def prepare_digits(
    source: Path,
    out: Path,
    *,
    strings_per_language: int = 2400,
    eval_per_language: int = 200,
    seed: int = 1,
) -> dict[str, Any]:
    """Make the corpus in the folder `out` unless it is already there; returns the contents of `corpus.json`.

    Training holds every recording of its own twice and `strings_per_language` strings of 2 to 7 digits;
    dev and test hold `eval_per_language` utterances each, half of them single digits. Who speaks where:
    `assign`. Raises MayaError on a bad source, Ctrl-C or a full disk.
    """
    rows = read_source(source)
    sizes = {"train": strings_per_language, "heldout": eval_per_language}
    plan = [
        item
        for language in sorted({r["language"] for r in rows})
        for item in plan_language(language, [r for r in rows if r["language"] == language], sizes, seed)
    ]
    settings = {
        "corpus": "digits",
        "version": _VERSION,
        "sizes": sizes,
        "seed": seed,
        "manifest": hashlib.sha256((source / "manifest.jsonl").read_bytes()).hexdigest(),
        "audio": audio_hash(source, rows),
        "plan": settings_hash({"plan": plan}),
    }
    if finished(out, settings):
        print(f"{out} is already complete", file=sys.stderr)
        return read_seal(out) or {}
    soundfile = _soundfile()
    versions = {"soundfile": soundfile.__version__, "libsndfile": soundfile.__libsndfile_version__}
    return write_corpus(out, joined(source, rows, plan), settings, total=len(plan), versions=versions)


def read_source(source: Path) -> list[dict[str, Any]]:
    """The rows of the source manifest, by id; MayaError names the line that lacks something."""
    path = source / "manifest.jsonl"
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise MayaError(f"cannot read {path} ({error.strerror}): is --source the digits folder?") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({field: row[field] for field in _FIELDS})
        except (ValueError, KeyError, TypeError) as error:
            raise MayaError(f"{path}, line {number} is no manifest row ({error!r}): remove it") from None
    return sorted(rows, key=lambda r: r["id"])


def audio_hash(source: Path, rows: Sequence[dict[str, Any]]) -> str:
    """A hash of the bytes of all recordings; a missing one counts as empty, and is named when it is read."""
    sha = hashlib.sha256()
    for path in sorted({source / row["audio"] for row in rows}):
        sha.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return sha.hexdigest()


def assign(rows: Sequence[dict[str, Any]], rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """The recordings of one language for train, dev and test; test's speakers are heard nowhere else.

    A fifth of the speakers, one at least, goes to test and as many to dev. Of few speakers dev gets
    none, only recordings that training does not: one more voice to learn from is worth more than a dev set of
    one voice.
    """
    speakers = sorted({r["speaker"] for r in rows})
    drawn = rng.sample(speakers, len(speakers))
    fifth = max(1, round(len(drawn) / 5))
    split_of = dict.fromkeys(drawn, "train")
    split_of |= dict.fromkeys(drawn[:fifth], "test")
    held: set[str] = set()
    if len(speakers) < _FEW_SPEAKERS:
        rest = [r["id"] for r in rows if split_of[r["speaker"]] == "train"]
        held = set(rng.sample(rest, max(1, len(rest) // _DEV_SHARE)))
    else:
        split_of |= dict.fromkeys(drawn[fifth : 2 * fifth], "dev")
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
    for row in rows:
        splits["dev" if row["id"] in held else split_of[row["speaker"]]].append(row)
    return splits


def plan_language(
    language: str, rows: Sequence[dict[str, Any]], sizes: dict[str, int], seed: int
) -> list[dict[str, Any]]:
    """What will be joined in one language: recordings, gaps and noise, decided before any audio is read."""
    speakers = sorted({r["speaker"] for r in rows})
    if len(speakers) < 3:
        raise MayaError(f"{language} has {len(speakers)} speakers; three splits need three: add recordings")
    plan = []
    for split, split_rows in assign(rows, random.Random(f"{seed} {language} speakers")).items():
        rng = random.Random(f"{seed} {language} {split}")
        singles = [[r] for r in split_rows]
        if varied := split == "train":
            recordings = training_digits(split_rows, sizes["train"], rng)
        else:
            singles = rng.sample(singles, min(len(singles), sizes["heldout"] // 2))
            recordings = singles + draw_strings(split_rows, sizes["heldout"] - len(singles), rng)
        for number, spoken in enumerate(recordings):
            name = f"{language}-{split}-{number:05d}"
            plan.append(plan_item(name, split, spoken, rng, varied=varied))
    return plan


def training_digits(
    rows: Sequence[dict[str, Any]], strings: int, rng: random.Random, takes: int = TAKES, mixed: float = MIXED
) -> list[list[dict[str, Any]]]:
    """Every recording alone, `takes` times, and `strings` strings."""
    return takes * [[r] for r in rows] + draw_strings(rows, strings, rng, mixed)


def draw_strings(
    rows: Sequence[dict[str, Any]], count: int, rng: random.Random, mixed: float = 0.0
) -> list[list[dict[str, Any]]]:
    """`count` strings of 2 to 7 recordings; all speakers and recordings equally often.

    Each is spoken by one speaker, but for a share `mixed`, where each word is by another.
    """
    speakers = sorted({r["speaker"] for r in rows})
    recordings = {s: shuffled_rounds([r for r in rows if r["speaker"] == s], rng) for s in speakers}
    turns = shuffled_rounds(speakers, rng)
    lengths = [rng.randrange(2, _LONGEST + 1) for _ in range(count)]
    strings = []
    for n in lengths:
        mixes = mixed > 0 and rng.random() < mixed
        spoken = [next(turns) for _ in range(n)] if mixes else n * [next(turns)]
        strings.append([next(recordings[speaker]) for speaker in spoken])
    return strings


def plan_item(
    name: str, split: str, recordings: Sequence[dict[str, Any]], rng: random.Random, *, varied: bool = False
) -> dict[str, Any]:
    """What is joined: recordings, silences in samples and noise. varied: margins from none to 400 ms, gaps
    from none, words of different levels, hiss within the words."""
    margins = [rng.randrange(800, 3201) for _ in range(2)]  # 50 to 200 ms before and after
    gaps = [rng.randrange(320, 3201) for _ in recordings[1:]]  # 20 to 200 ms
    options: dict[str, Any] = {}
    if varied:  # people cut recordings closely
        margins = [rng.randrange(6401) if rng.random() < 0.7 else 0 for _ in range(2)]
        if rng.random() < 0.3:
            margins = [0, 0]
        gaps = [rng.randrange(0, 3201) for _ in recordings[1:]]
        if rng.random() < 0.5:
            options["gains_db"] = [rng.uniform(-18, 0) for _ in recordings]
        if rng.random() < 0.4:
            options["hiss_db"] = rng.uniform(8, 35)
    return options | {
        "id": name,
        "split": split,
        "recordings": [r["id"] for r in recordings],
        "silences": [margins[0], *gaps, margins[1]],
        "noise": rng.randrange(5, 51) / 10,  # RMS in steps of 1 / 32768: -96 to -76 dB of full scale
        "noise_seed": rng.randrange(2**32),
    }


def joined(
    source: Path, rows: Sequence[dict[str, Any]], plan: Sequence[dict[str, Any]],
    spoken: Mapping[str, np.ndarray] | None = None,
) -> Iterator[CorpusUtterance]:  # fmt: skip
    """The utterances of a plan, with their audio; `rows` are those that it names, of the source or `spoken`:
    (N,) int16 by id."""
    by_id = {r["id"]: r for r in rows}
    audio: dict[str, np.ndarray] = dict(spoken or {})
    for item in plan:
        recordings = [by_id[i] for i in item["recordings"]]
        for row in recordings:
            if row["id"] not in audio:
                audio[row["id"]] = read_digit(source, row)
        first = recordings[0]
        speakers = {r["speaker"] for r in recordings}
        yield CorpusUtterance(
            id=item["id"],
            language=first["language"],
            text=" ".join(r["text"] for r in recordings),
            speaker=first["speaker"] if len(speakers) == 1 else f"mixed:{item['id']}",
            split=item["split"],
            kind="digit" if len(recordings) == 1 else "digits",
            source=first["source"],
            licence=first["licence"],
            audio=join(
                [audio[r["id"]] for r in recordings],
                item["silences"],
                item["noise"],
                item["noise_seed"],
                item.get("hiss_db"),
                item.get("gains_db"),
            ),  # fmt: skip
        )


def join(
    pieces: Sequence[np.ndarray], silences: Sequence[int], noise: float, noise_seed: int,
    hiss_db: float | None = None, gains_db: Sequence[float] | None = None,
) -> np.ndarray:  # fmt: skip
    """Pieces, (n,) int16 each, with `silences` samples before, between and after -> (N,) int16.

    White noise of RMS `noise` steps lies over the whole. With `hiss_db` each piece has noise so far below its
    level, as a bad microphone gives, and the silences have none. `gains_db`: of each piece. RandomState,
    because its numbers never change.
    """
    if gains_db is not None:
        pieces = [piece * 10 ** (gain / 20) for piece, gain in zip(pieces, gains_db, strict=True)]
    if hiss_db is not None:
        draws = np.random.RandomState((noise_seed + 1) % 2**32)
        level = 10 ** (-hiss_db / 20)
        rms = [np.sqrt(np.square(piece, dtype=np.float64).mean()) for piece in pieces]
        pieces = [p + level * r * draws.standard_normal(len(p)) for p, r in zip(pieces, rms, strict=True)]
    parts: list[np.ndarray] = [np.zeros(silences[0])]
    for piece, silence in zip(pieces, silences[1:], strict=True):
        ramp = np.minimum(1.0, np.minimum(np.arange(len(piece)), np.arange(len(piece))[::-1]) / _FADE)
        parts += [piece * ramp, np.zeros(silence)]
    whole = np.concatenate(parts)
    whole += noise * np.random.RandomState(noise_seed).standard_normal(len(whole))
    return np.clip(np.round(whole), -32768, 32767).astype(np.int16)


def read_digit(source: Path, row: dict[str, Any]) -> np.ndarray:
    """(N,) int16 of one recording at 16 kHz, mono; MayaError when it is anything else."""
    soundfile = _soundfile()
    path = source / row["audio"]
    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except (OSError, RuntimeError) as error:
        raise MayaError(f"cannot read {path} of utterance {row['id']} ({error}): mend or remove it") from None
    if rate != SAMPLE_RATE or samples.ndim != 1 or len(samples) == 0:
        raise MayaError(f"{path} of utterance {row['id']} is not mono speech at 16 kHz: convert it")
    return samples


def _soundfile() -> Any:
    import soundfile  # here, so that --help does not load it

    return soundfile


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m egs.digits.data",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--source", type=Path, required=True, help="folder of single digits with manifest.jsonl")
    add("--out", type=Path, required=True, help="corpus folder to make")
    add("--strings-per-language", type=COUNT, default=2400, help="strings of 2 to 7 digits in training")
    add("--eval-per-language", type=POSITIVE, default=200, help="size of dev and of test, half single digits")
    add("--seed", type=int, default=1, help="another seed gives other speaker splits and strings")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run cleans up like Ctrl-C
    try:
        seal = prepare_digits(**vars(parser.parse_args(argv)))
    except MayaError as error:
        sys.exit(f"error: {error}")
    print(describe(seal))


if __name__ == "__main__":
    main()
