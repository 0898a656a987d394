"""One normal form of a transcript, the same for training and for scoring.

What is done, in this order:

1. Unicode NFC (which also spells the Devanagari and Bengali nukta letters in one way), lower case.
2. Apostrophes between letters: kept in English (don't), dropped elsewhere (Assamese নহ'লে is also written
   নহলে). A comma between two digits is dropped (1,000).
3. Every other punctuation mark or symbol, dandas included, becomes a space.
4. Invisible characters (byte-order and direction marks, soft hyphens, ...) are dropped. Of these only
   ZWJ and ZWNJ can carry meaning, and only beside a virama inside a word, where they choose between a
   conjunct and its parts (Bengali র‍্য): there they stay, elsewhere they go. Malayalam consonant + virama +
   ZWJ, the old spelling of a chillu, becomes the chillu letter, and Bengali ত + virama + ZWJ becomes ৎ.
5. Runs of space become one space; none at the ends.

Digits stay as they are written (১২ and 12 are different texts), because how they were read is not known.
The result is idempotent: normalize(normalize(x)) == normalize(x).
"""

import re
import unicodedata
from functools import cache

from maya.text.languages import LANGUAGES, get_language

_APOSTROPHES = "'\u2018\u2019\u02bc\uff07`\u00b4"
_JOINERS = "\u200c\u200d"  # ZWNJ, ZWJ
_VIRAMAS = "".join(sorted({language.virama for language in LANGUAGES.values()} - {""}))
_INDIC = "\u0900-\u0d7f\ua8e0-\ua8ff"

# The Unicode Standard, section 12.9 (Malayalam, table 12-38) and 12.2 (Bengali khanda ta).
_ATOMIC = {
    "\u0d23\u0d4d\u200d": "\u0d7a",  # chillu nn
    "\u0d28\u0d4d\u200d": "\u0d7b",  # chillu n
    "\u0d30\u0d4d\u200d": "\u0d7c",  # chillu rr
    "\u0d32\u0d4d\u200d": "\u0d7d",  # chillu l
    "\u0d33\u0d4d\u200d": "\u0d7e",  # chillu ll
    "\u0d15\u0d4d\u200d": "\u0d7f",  # chillu k
    "\u09a4\u09cd\u200d": "\u09ce",  # khanda ta
}
_ATOMIC_PATTERN = re.compile("|".join(map(re.escape, _ATOMIC)))
_JOINER_RUN = re.compile(f"([{_JOINERS}])[{_JOINERS}]+")
# A joiner stays only between two Indic characters of which one is a virama.
_USELESS_JOINER = re.compile(
    f"(?<![{_INDIC}])[{_JOINERS}]|[{_JOINERS}](?![{_INDIC}])|(?<![{_VIRAMAS}])[{_JOINERS}](?![{_VIRAMAS}])"
)
_DIGIT_COMMA = re.compile(r"(?<=\d),(?=\d)")


def normalize(text: str, language: str) -> str:
    """`text` in the normal form described above; "" if nothing speakable is left.

    Raises MayaError for a language code Maya does not know.
    """
    english = get_language(language).script == "Latn"
    # Dropping a character makes new neighbours, which can form a new sequence; the loop makes idempotence
    # hold by construction. It ends because each pass that changes anything shortens or simplifies the text.
    while True:
        result = _once(text, english)
        if result == text:
            return result
        text = result


def _once(text: str, english: bool) -> str:
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    text = "".join(map(_visible, text))
    text = _apostrophes(text, english)
    text = _DIGIT_COMMA.sub("", text)
    text = "".join(map(_speakable, text))
    text = _JOINER_RUN.sub(r"\1", text)
    text = _ATOMIC_PATTERN.sub(lambda match: _ATOMIC[match.group()], text)
    text = _USELESS_JOINER.sub("", text)
    return " ".join(text.split())


def _apostrophes(text: str, english: bool) -> str:
    """Keep (English) or drop (elsewhere) apostrophes inside words; the rest are quotation marks."""
    pieces = []
    for i, char in enumerate(text):
        if char != "'":
            pieces.append(char)
            continue
        inside = 0 < i < len(text) - 1 and _in_word(text[i - 1]) and _in_word(text[i + 1])
        pieces.append(("'" if english else "") if inside else " ")
    return "".join(pieces)


def _in_word(char: str) -> bool:
    """Letters, and the vowel signs and viramas that are marks rather than letters."""
    return unicodedata.category(char)[0] in "LM" or char in _JOINERS


@cache
def _visible(char: str) -> str:
    """Drop what prints nothing (except joiners), make all apostrophes one and all spaces " "."""
    if char in _APOSTROPHES:
        return "'"
    if char in _JOINERS or char == " ":
        return char
    category = unicodedata.category(char)
    if category[0] == "Z" or category == "Cc":  # control characters include tabs, newlines, cp1252 quotes
        return " "
    return "" if category[0] == "C" else char


@cache
def _speakable(char: str) -> str:
    return " " if unicodedata.category(char)[0] in "PS" and char != "'" else char
