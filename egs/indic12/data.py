"""The built-in corpus: sequences of real words in twelve languages, spoken by eSpeak NG.

    python -m egs.indic12.data --out exp/indic12/mini/corpus

It needs no download and no recordings, only `pip install 'maya-asr[mini]'`. Training, dev and test share
the words but neither a word sequence nor a voice. The same options give the same bytes every time,
whatever the number of worker processes.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from maya.data.measure.workers import end_with
from maya.errors import MayaError
from maya.recipes.arguments import COUNT, POSITIVE
from maya.recipes.corpus_writer import (
    CorpusUtterance,
    describe,
    finished,
    read_seal,
    settings_hash,
    shuffled_rounds,
    write_corpus,
)

from . import speak
from .words import LANGUAGES, babel_version, words

# Variants of eSpeak that sound like people: no whispers, robots, croaks or echoes, none clipping, and by mean
# log spectrum no held-out voice nearer than 0.4 nepers to a training voice (f1 and f2 are 1.0 apart).
VOICES = {
    "train": (
        "Alex", "Denis", "Gene", "Mario", "Mike", "m1", "m3", "m4", "m6", "m7", "norbert", "pablo",  # male
        "Alicia", "Andrea", "Annie", "belinda", "f1", "f4", "f5", "grandma", "linda", "shelby",  # female
    ),
    "dev": ("m5", "max", "f2"),
    "test": ("m2", "robert", "f3"),
}  # fmt: skip
_VERSION = 1  # to be raised when the same plan comes to sound different
LICENCE = "words: Unicode-3.0 (CLDR); speech: output of eSpeak NG (GPL-3.0-or-later)"
_SHORTEST, _LONGEST = 2, 6  # words in a sequence


def prepare_mini(
    out: Path,
    *,
    languages: Sequence[str] = LANGUAGES,
    utterances_per_language: int = 270,
    eval_utterances_per_language: int = 24,
    words_per_language: int = 40,
    seed: int = 1,
    workers: int | None = None,
) -> dict[str, Any]:
    """Make the corpus in the folder `out` unless it is already there; returns the contents of `corpus.json`.

    `utterances_per_language` is the size of the training split, `eval_utterances_per_language` of dev and of
    test each; `workers` (default: one per CPU this process may use) changes the time only. Raises MayaError
    when eSpeak NG or babel is missing, on Ctrl-C and on a full disk, leaving nothing half-written.
    """
    heldout = eval_utterances_per_language
    sizes = {"train": utterances_per_language, "dev": heldout, "test": heldout}
    vocabulary = {lang: words(lang, words_per_language) for lang in languages}
    plan = [item for lang in languages for item in plan_language(lang, vocabulary[lang], sizes, seed)]
    versions = {"babel": babel_version(), "espeak-ng": speak.espeak_version()}
    settings = {
        "corpus": "indic12-mini",
        "version": _VERSION,
        "languages": list(languages),
        "utterances": sizes,
        "seed": seed,
        "espeak-ng": versions["espeak-ng"],
        "plan": settings_hash({"plan": plan}),  # words, voices and every drawn number
    }
    if finished(out, settings):
        print(f"{out} is already complete", file=sys.stderr)
        return read_seal(out) or {}
    with contextlib.closing(spoken(plan, workers or _cpus())) as utterances:
        return write_corpus(out, utterances, settings, total=len(plan), versions=versions)


def plan_language(
    language: str, vocabulary: Sequence[str], sizes: dict[str, int], seed: int
) -> list[dict[str, Any]]:
    """What will be spoken in one language: text, voice and every random number, decided before any sound.

    Test and dev are drawn before training, so that a larger training split leaves them as they are.
    """
    taken: set[tuple[str, ...]] = set()
    splits = {}
    for split in ("test", "dev", "train"):
        rng = random.Random(f"{seed} {language} {split}")
        sequences = _sequences(vocabulary, sizes[split], taken, rng, f"{language} {split}")
        voices = shuffled_rounds(VOICES[split], rng)
        splits[split] = [
            {
                "id": f"{language}-{split}-{number:04d}",
                "language": language,
                "text": " ".join(sequence),
                "split": split,
                "variant": next(voices),
                "rate": rng.randrange(130, 201),
                "pitch": rng.randrange(30, 71),
                "pitch_range": rng.randrange(30, 71),
                "surroundings": {
                    "seed": rng.randrange(2**32),
                    "lead": rng.randrange(50, 251) / 1000,
                    "tail": rng.randrange(50, 251) / 1000,
                    "peak": rng.randrange(30, 91) / 100,
                    "noise": rng.randrange(20, 301) / 10,  # -84 to -61 dB of full scale
                },
            }
            for number, sequence in enumerate(sequences)
        ]
    return [item for split in ("train", "dev", "test") for item in splits[split]]


def _sequences(
    vocabulary: Sequence[str], count: int, taken: set[tuple[str, ...]], rng: random.Random, what: str
) -> list[tuple[str, ...]]:
    """`count` new word sequences that use all words about equally often; adds them to `taken`."""
    stream = shuffled_rounds(vocabulary, rng)
    made: list[tuple[str, ...]] = []
    for _ in range(100 * count):
        if len(made) == count:
            break
        length = rng.randrange(_SHORTEST, _LONGEST + 1)
        sequence = tuple(next(stream) for _ in range(length))
        if sequence not in taken:
            taken.add(sequence)
            made.append(sequence)
    if len(made) < count:
        raise MayaError(f"{what}: {len(vocabulary)} words do not give {count} sequences: ask for more words")
    return made


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spoken(plan: Sequence[dict[str, Any]], workers: int) -> Generator[CorpusUtterance, None, None]:
    """The planned utterances in order, from fresh processes, where no threads of torch forbid forking."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
    )
    try:
        yield from pool.map(render, plan, chunksize=8)
    except BrokenProcessPool:
        raise MayaError("a speaking process was killed: run it again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    end_with(parent)
    speak.library()


def render(item: dict[str, Any]) -> CorpusUtterance:
    """Speak one item of the plan."""
    speech = speak.speak(
        item["text"],
        item["language"],
        item["variant"],
        rate=item["rate"],
        pitch=item["pitch"],
        pitch_range=item["pitch_range"],
    )
    return CorpusUtterance(
        id=item["id"],
        language=item["language"],
        text=item["text"],
        speaker=item["variant"],
        split=item["split"],
        kind="synthetic",
        source="espeak-ng",
        licence=LICENCE,
        audio=speak.add_surroundings(speech, **item["surroundings"]),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m egs.indic12.data",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="corpus folder to make")
    add("--languages", nargs="+", default=list(LANGUAGES), metavar="CODE", help="languages to speak")
    add("--utterances-per-language", type=POSITIVE, default=270, help="size of the training split")
    add("--eval-utterances-per-language", type=COUNT, default=24, help="size of dev and of test")
    add("--words-per-language", type=POSITIVE, default=40, help="distinct words")
    add("--seed", type=int, default=1, help="another seed gives other sequences, voices and rates")
    add("--workers", type=POSITIVE, default=_cpus(), help="processes; the bytes do not depend on it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run cleans up like Ctrl-C
    try:
        seal = prepare_mini(**vars(parser.parse_args(argv)))
    except MayaError as error:
        sys.exit(f"error: {error}")
    print(describe(seal))


if __name__ == "__main__":
    main()
