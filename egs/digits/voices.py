"""Synthetic speakers: the digits spoken by eSpeak NG in many voices, for training only.

Each speaker is a variant of eSpeak's, an accent, a rate, a pitch and its range, drawn together, and says
every digit once. No recorded speaker is among them.
"""

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egs.indic12.data import LICENCE, spoken
from maya.recipes.corpus_writer import finished, write_corpus

from .data import joined, plan_item, training_digits

# Variants of eSpeak that sound like people: no whispers, robots, croaks or echoes.
VARIANTS = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo",
    "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "Reed", "RicishayMax", "RicishayMax2",
    "RicishayMax3", "adam", "anika", "announcer", "antonio", "aunty", "belinda", "benjamin", "boris",
    "caleb", "david", "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5", "grandma", "grandpa",
    "gustave", "ian", "iven", "iven2", "iven3", "iven4", "john", "kaukovalta", "klatt", "klatt2",
    "klatt3", "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel",
    "miguel", "mike2", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby",
    "steph", "steph2", "steph3", "travis", "victor", "zac",
)  # fmt: skip
DIGITS = {
    "en": "zero one two three four five six seven eight nine",
    "gu": "શૂન્ય એક બે ત્રણ ચાર પાંચ છ સાત આઠ નવ",
}
# By language, eSpeak voices and what each reads: the digits, or a spelling of their sound in the voice's own
# language, which gives them its accent.
ACCENTS = {
    "en": {code: DIGITS["en"] for code in (
        "en", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbcwmd", "en-us-nyc",
    )} | {
        "de": "sihro wann tu sri foor faif siks säwen eht nain",
        "fr": "ziro ouane tou sri fore faïve sixe sévène éïte naïne",
        "es": "siro uan tu zri for faiv sics seven eit nain",
        "it": "ziro uan tu tri for faiv sics seven eit nain",
        "nl": "ziero wan toe srie for faif siks seven eet nain",
        "pl": "ziro łan tu tri for fajw siks sewen ejt najn",
        "ru": "зиро уан ту сри фор файв сикс севен эйт найн",
        "el": "ζίρο ουάν του θρι φορ φάιβ σιξ σέβεν έιτ νάιν",
        "pt": "ziro uã tu tri for faive sics séven eite naine",
        "hi": "ज़ीरो वन टू थ्री फ़ोर फ़ाइव सिक्स सेवन एट नाइन",
    },
    "gu": {
        "gu": DIGITS["gu"],
        "hi": "शून्य एक बे त्रण चार पाँच छ सात आठ नव",
        "mr": "शून्य एक बे त्रण चार पाच छ सात आठ नव",
        "kn": "ಶೂನ್ಯ ಏಕ್ ಬೇ ತ್ರಣ್ ಚಾರ್ ಪಾಂಚ್ ಛ ಸಾತ್ ಆಠ್ ನವ್",
        "bn": "শূন্য এক বে ত্রণ চার পাঁচ ছ সাত আঠ নব",
    },
}  # fmt: skip
_EDGE = 0.01  # of the peak: what is quieter at both ends is cut off


def synthetic_digits(
    languages: Sequence[str], voices: int, seed: int, workers: int = 2
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Rows as of the source's manifest for `voices` speakers of each language (en, gu), and (N,) int16 at 16
    kHz by id. Raises MayaError where eSpeak NG is missing."""
    plan = [item for code in sorted(languages) for item in _plan(code, voices, seed)]
    rows, audio = [], {}
    with contextlib.closing(spoken(plan, workers)) as utterances:
        for item, utterance in zip(plan, utterances, strict=True):
            row = {"id": item["id"], "language": item["id"][:2], "text": item["word"], "audio": ""}
            rows.append(row | {"speaker": item["speaker"], "source": "espeak-ng", "licence": LICENCE})
            audio[item["id"]] = trimmed(np.asarray(utterance.audio))
    return rows, audio


def _plan(language: str, voices: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(f"{seed} {language} synthetic")
    plan = []
    for voice in range(voices):
        accent = rng.choice(sorted(ACCENTS[language]))
        speaker = {
            "language": accent,
            "variant": rng.choice(VARIANTS),
            "rate": rng.randrange(110, 221),
            "pitch": rng.randrange(10, 91),
            "pitch_range": rng.randrange(20, 81),
            "speaker": f"espeak:{language}-{voice:04d}",
            "split": "train",
        }
        pairs = zip(DIGITS[language].split(), ACCENTS[language][accent].split(), strict=True)
        for number, (word, spelling) in enumerate(pairs):
            surroundings = {"seed": 0, "lead": 0.0, "tail": 0.0, "noise": 0.0}
            surroundings["peak"] = rng.randrange(10, 91) / 100
            name = f"{language}-espeak-{voice:04d}-{number}"
            plan.append(speaker | {"id": name, "word": word, "text": spelling, "surroundings": surroundings})
    return plan


def trimmed(samples: np.ndarray) -> np.ndarray:
    """(N,) int16 without what is quieter than a hundredth of the peak at both ends."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) >= _EDGE * np.abs(samples.astype(np.int32)).max())
    return samples[loud[0] : loud[-1] + 1]


def synthetic_corpus(out: Path, voices: int, *, strings: int = 2000, seed: int = 1) -> None:
    """Make a corpus of `voices` synthetic speakers of each language, each digit once alone and `strings`
    strings, in `out` unless it is there. Raises MayaError as `synthetic_digits` and `write_corpus`."""
    settings = {"corpus": "digits of synthetic speakers", "version": 1, "voices": voices, "strings": strings}
    settings |= {"seed": seed}
    if finished(out, settings):
        return
    rows, audio = synthetic_digits(sorted(DIGITS), voices, seed)
    plan = []
    for code in sorted(DIGITS):
        rng = random.Random(f"{seed} {code} start")
        spoken_digits = training_digits([row for row in rows if row["language"] == code], strings, rng, 1)
        plan += [
            plan_item(f"{code}-voice-{number:05d}", "train", recordings, rng, varied=True)
            for number, recordings in enumerate(spoken_digits)
        ]
    write_corpus(out, joined(Path(), rows, plan, audio), settings, total=len(plan))
