"""Phonemes of IPA and of ARPAbet as units.

A unit is a letter with its marks and modifier letters: "pʰ", "iː", "n̩", "ã". Letters under a tie bar are one
unit ("t͡s"), and so are the affricates and diphthongs of `JOINED`, which are written without a bar: "t͡ʃ" and
"tʃ" are the same unit. A space ends a unit, so "t ʃ" are two. Stress marks are dropped unless they are asked
for: error rates depend on it. Units are composed (NFC), as scoring composes texts.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Literal

from maya.errors import MayaError

Stress = Literal["drop", "keep"]

JOINED = ("tʃ", "dʒ", "aɪ", "aʊ", "eɪ", "oʊ", "əʊ", "ɔɪ")
# Characters that stand for another in what people type and in older IPA.
_LOOK_ALIKES = {
    "g": "ɡ", ":": "ː", "'": "ˈ", "ε": "ɛ", "ǝ": "ə", "ɩ": "ɪ", "ɷ": "ʊ",
    "ʧ": "tʃ", "ʤ": "dʒ", "ʦ": "t͡s", "ʣ": "d͡z", "ə˞": "ɚ", "ɜ˞": "ɝ",
}  # fmt: skip
_TIES, _STRESS, _NON_SYLLABIC = "\u0361\u035c", "ˈˌ", "\u032f"
_MARKS = "\u0300-\u035b\u035d-\u0360\u0362-\u036f\u1ab0-\u1aff\u1dc0-\u1dff"
_MODIFIERS = "ʰʷʲˠˤ˞ⁿˡːˑʼ"
_LETTER = rf"[^\W\d_{_MODIFIERS}][{_MARKS}{_MODIFIERS}]*"
_UNIT = re.compile(rf"{_LETTER}(?:[{_TIES}]{_LETTER})*")
_DROPPED = re.compile(r"[.,|‖‿/\[\]()\-–!?;]|[˥˦˧˨˩↗↘]")  # boundaries, pauses, tones and brackets

_ARPABET = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AX": "ə", "AXR": "ɚ", "AY": "aɪ", "EH": "ɛ",
    "ER": "ɝ", "EY": "eɪ", "IH": "ɪ", "IX": "ɨ", "IY": "i", "OW": "oʊ", "OY": "ɔɪ", "UH": "ʊ", "UW": "u",
    "UX": "ʉ", "B": "b", "CH": "tʃ", "D": "d", "DH": "ð", "DX": "ɾ", "EL": "l̩", "EM": "m̩", "EN": "n̩",
    "F": "f", "G": "ɡ", "HH": "h", "JH": "dʒ", "K": "k", "L": "l", "M": "m", "N": "n", "NG": "ŋ", "NX": "ɾ̃",
    "P": "p", "Q": "ʔ", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t", "TH": "θ", "V": "v", "W": "w", "WH": "ʍ",
    "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip
_UNSTRESSED = {"AH0": "ə", "ER0": "ɚ"}


def ipa_units(text: str, *, joined: Collection[str] = JOINED, stress: Stress = "drop") -> list[str]:
    """The units of an IPA text. joined: units of several letters without a tie bar. stress: "keep" makes ˈ
    and ˌ units of their own, before the syllable. Boundaries, pauses and tone letters are left out. Raises
    MayaError for a character that is no IPA, such as a digit."""
    plain = unicodedata.normalize("NFD", text)
    for written, meant in _LOOK_ALIKES.items():
        plain = plain.replace(written, meant)
    units: list[str] = []
    for word in _DROPPED.sub(" ", plain).split():
        units += [
            unit for unit in _joined(list(_letters(word)), joined) if stress == "keep" or unit not in _STRESS
        ]
    return [unicodedata.normalize("NFC", unit) for unit in units]


def _letters(word: str) -> Iterator[str]:
    """Letters with their marks, and stress marks, of a word (NFD)."""
    place = 0
    while place < len(word):
        if word[place] in _STRESS:
            yield word[place]
            place += 1
            continue
        match = _UNIT.match(word, place)
        if match is None:
            raise MayaError(f"{word[place]!r} in {word!r} is no IPA; write phonemes in IPA")
        yield match[0].replace(_TIES[1], _TIES[0])
        place = match.end()


def _joined(letters: list[str], joined: Collection[str]) -> Iterator[str]:
    """The same with the diphthongs and affricates of `joined` as one and without a bar; a vowel that is
    marked as not syllabic goes to the one before it. Length and modifiers may follow the last letter:
    "aɪː"."""
    place = 0
    while place < len(letters):
        unit, place = letters[place], place + 1
        if place < len(letters):
            pair = unit + letters[place]
            if _NON_SYLLABIC in letters[place] or _bare(pair) in joined:
                unit, place = pair, place + 1
        yield re.sub(f"[{_TIES[0]}{_NON_SYLLABIC}]", "", unit) if _bare(unit) in joined else unit


def _bare(unit: str) -> str:
    """Without bars, the mark of a vowel that is not syllabic, and what follows the last letter."""
    return re.sub(f"[{_TIES[0]}{_NON_SYLLABIC}]|[{_MODIFIERS}]+$", "", unit)


def arpabet_units(phones: Collection[str]) -> list[str]:
    """The units of ARPAbet phones such as AH0 or ah; a stress digit tells ə from ʌ. Raises MayaError for a
    phone that is none."""
    units = []
    for phone in phones:
        name = phone.upper()
        unit = _UNSTRESSED.get(name) or _ARPABET.get(name.rstrip("012"))
        if unit is None:
            raise MayaError(f"{phone!r} is no phone of ARPAbet")
        units.append(unicodedata.normalize("NFC", unit))
    return units
