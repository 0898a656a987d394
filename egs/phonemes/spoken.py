"""The built-in corpus: sequences of English words spoken by eSpeak NG, with the phonemes that it speaks.

Test shares neither a voice nor a word with training, so that nothing can be learnt by heart; dev neither.
eSpeak NG is GPL-3.0-or-later; its output is used as data here and nothing of it is linked or copied.
"""

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from egs.digits.voices import VARIANTS
from egs.indic12 import speak
from egs.indic12.data import LICENCE, spoken
from egs.indic12.words import babel_version, is_word
from maya.errors import MayaError
from maya.recipes.corpus_writer import (
    CorpusUtterance,
    describe,
    finished,
    settings_hash,
    shuffled_rounds,
    write_corpus,
)
from maya.text.ipa import ipa_units
from maya.text.phonemes import pronounce

VOICE = "en-us"
# No training voice is nearer to these than 0.55 nepers by mean log spectrum (m4 and m5 are 0.46 apart).
HELD_OUT = {
    "test": ("caleb", "f3", "linda", "m2", "marcelo", "norbert", "shelby", "travis"),
    "dev": ("f2", "m8", "max", "sandro"),
}
_NEAR = ("Andy", "belinda", "f5", "m6", "pedro")  # nearest to one of them
_SHORTEST, _LONGEST = 3, 7  # words in a sequence
_SHARES = {"test": 0.12, "dev": 0.05}  # of the words


def vocabulary() -> list[str]:
    """Single words of CLDR's English names of languages, scripts, countries, cities, currencies and times:
    1489 of them with babel 2.19, in 58 phonemes as eSpeak counts. Raises MayaError where babel is missing."""
    babel_version()
    from babel import Locale

    locale = Locale.parse("en")
    names = [str(n) for table in (locale.territories, locale.languages, locale.scripts, locale.variants,
                                  locale.currencies) for n in table.values()]  # fmt: skip
    names += [str(zone["city"]) for zone in locale.time_zones.values() if isinstance(zone.get("city"), str)]
    names += [w for kind in (locale.days, locale.months) for w in kind["stand-alone"]["wide"].values()]
    parts = {p for name in names for p in name.lower().translate(str.maketrans("-()’", "    ")).split()}
    return sorted(p for p in parts if len(p) > 2 and is_word(p, "en"))


def plan(sizes: dict[str, int], seed: int) -> list[dict[str, Any]]:
    """What will be spoken: words, voice and every number that is drawn, and the phonemes."""
    words, rng = vocabulary(), random.Random(f"{seed} phonemes")
    rng.shuffle(words)
    counts = {split: round(share * len(words)) for split, share in _SHARES.items()}
    parts = {"test": words[: counts["test"]], "dev": words[counts["test"] : sum(counts.values())],
             "train": words[sum(counts.values()) :]}  # fmt: skip
    aside = {*_NEAR, *(name for names in HELD_OUT.values() for name in names)}
    voices = HELD_OUT | {"train": tuple(name for name in VARIANTS if name not in aside)}
    return [item for split in ("train", "dev", "test")
            for item in _items(split, sizes[split], parts[split], voices[split], seed)]  # fmt: skip


def _items(
    split: str, size: int, words: Sequence[str], voices: Sequence[str], seed: int
) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"{seed} phonemes {split}")
    stream, names = shuffled_rounds(words, rng), shuffled_rounds(voices, rng)
    for number in range(size):
        text = " ".join(next(stream) for _ in range(rng.randint(_SHORTEST, _LONGEST)))
        yield {
            "id": f"{split}-{number:04d}", "language": VOICE, "text": text, "split": split,
            "variant": next(names), "phonemes": " ".join(ipa_units(pronounce(text, VOICE))),
            "rate": rng.randrange(130, 201), "pitch": rng.randrange(30, 71),
            "pitch_range": rng.randrange(30, 71),
            "surroundings": {
                "seed": rng.randrange(2**32), "lead": rng.randrange(50, 251) / 1000,
                "tail": rng.randrange(50, 251) / 1000, "peak": rng.randrange(30, 91) / 100,
                "noise": rng.randrange(20, 301) / 10,
            },
        }  # fmt: skip


def make(out: Path, sizes: dict[str, int], seed: int) -> None:
    """The corpus in `out`, unless it is there. Raises MayaError without eSpeak NG or babel."""
    if min(sizes.values()) < 1:
        raise MayaError("each of train, dev and test needs at least one utterance; ask for more")
    items = plan(sizes, seed)
    settings = {
        "corpus": "phonemes",
        "version": 1,
        "utterances": sizes,
        "seed": seed,
        "plan": settings_hash({"plan": items}),
    }
    if finished(out, settings):
        return
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with contextlib.closing(spoken(items, workers)) as utterances:
        pairs = zip(items, utterances, strict=True)
        rows = (_labelled(item, utterance) for item, utterance in pairs)
        versions = {"babel": babel_version(), "espeak-ng": speak.espeak_version()}
        print(describe(write_corpus(out, rows, settings, total=len(items), versions=versions)))


def _labelled(item: dict[str, Any], utterance: CorpusUtterance) -> CorpusUtterance:
    utterance.language, utterance.licence = "en", LICENCE
    utterance.labels = {"phonemes": item["phonemes"]}
    return utterance
