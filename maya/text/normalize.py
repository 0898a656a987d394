"""One normal form of a transcript, the same for training and for scoring.

What is done, in this order:

1. Unicode NFC (which also spells the nukta letters in one way), full-width letters, ligatures and the like
   as the letters they are, lower case.
2. Apostrophes between letters: kept in English (don't), dropped elsewhere (Assamese নহ'লে is also written
   নহলে). A comma between two digits is dropped (1,000). A colon between two letters of an Indic script is
   a mistyped visarga (दु:ख).
3. Every other punctuation mark or symbol becomes a space: dandas too, also those written as a bar or with a
   code point that was reserved for them.
4. Decimal digits of every script become 0-9: १२ and 12 are read alike, and corpora mix them. How they were
   read (twelve? one two?) is not known, so they are not spelt out.
5. Invisible characters (byte-order and direction marks, soft hyphens, variation selectors, ...) are dropped.
   Of these only ZWJ and ZWNJ can carry meaning, and only beside a virama inside a word, where they choose
   between a conjunct and its parts. In scripts where that is part of the spelling (Bengali র‍্য against র্য,
   Malayalam, Kannada, Telugu) they stay there; elsewhere they only suggest a shape and go.
6. One spelling of what looks and sounds the same: maya.text.indic.
7. Runs of space become one space; none at the ends.

Latin letters in a text of another script stay: they are words somebody spoke. The result is idempotent:
normalize(normalize(x)) == normalize(x).
"""

import re
import unicodedata
from functools import cache

from maya.text.indic import one_spelling
from maya.text.languages import LANGUAGES, get_language

_APOSTROPHES = "'\u2018\u2019\u02bc\uff07`\u00b4"
_JOINERS = "\u200c\u200d"  # ZWNJ, ZWJ
_VIRAMAS = "".join(sorted({language.virama for language in LANGUAGES.values()} - {""}))
_INDIC = "\u0900-\u0d7f\ua8e0-\ua8ff"
_JOINER_SCRIPTS = ("Beng", "Telu", "Knda", "Mlym")

_JOINER_RUN = re.compile(f"([{_JOINERS}])[{_JOINERS}]+")
# A joiner stays only between two Indic characters of which one is a virama.
_USELESS_JOINER = re.compile(
    f"(?<![{_INDIC}])[{_JOINERS}]|[{_JOINERS}](?![{_INDIC}])|(?<![{_VIRAMAS}])[{_JOINERS}](?![{_VIRAMAS}])"
)
_ANY_JOINER = re.compile(f"[{_JOINERS}]")
_DIGIT_COMMA = re.compile(r"(?<=\d),(?=\d)")

# Dandas by other names: the places reserved for them in each block (The Unicode Standard, section 12.1,
# says to use U+0964 and U+0965 in all scripts), and a Bengali fraction that looks like one.
_DANDAS = {chr(b + i) for b in range(0x0980, 0x0D80, 0x80) for i in (0x64, 0x65)} | {"\u09f7"}
# Scripts with a visarga, by block: not Gurmukhi and Tamil, where it is hardly written.
_VISARGA_BLOCKS = (0x0900, 0x0980, 0x0A80, 0x0B00, 0x0C00, 0x0C80, 0x0D00)
_MISTYPED_VISARGA = [
    (re.compile(f"(?<=[{chr(b + 5)}-{chr(b + 0x4C)}]):(?=[{chr(b + 5)}-{chr(b + 0x39)}])"), chr(b + 3))
    for b in _VISARGA_BLOCKS
]
_FOLDED = ("<wide>", "<narrow>", "<font>", "<compat>")  # but not <super>: 10² is not 102
_DIGIT_ZERO = ord("0")


def normalize(text: str, language: str) -> str:
    """`text` in the normal form described above; "" if nothing speakable is left.

    Raises MayaError for a language code Maya does not know.
    """
    script = get_language(language).script
    # Dropping a character makes new neighbours, which can form a new sequence; the loop makes idempotence
    # hold by construction. It ends because each pass that changes anything shortens or simplifies the text.
    while True:
        result = _once(text, script)
        if result == text:
            return result
        text = result


def _once(text: str, script: str) -> str:
    text = _composed(_composed(text).lower())
    text = "".join(map(_visible, text))
    text = _apostrophes(text, script == "Latn")
    text = _DIGIT_COMMA.sub("", text)
    if ":" in text:
        for colon, visarga in _MISTYPED_VISARGA:
            text = colon.sub(visarga, text)
    text = "".join(map(_speakable, text))
    text = one_spelling(_JOINER_RUN.sub(r"\1", text))
    if _ANY_JOINER.search(text):
        useless = _USELESS_JOINER if script in _JOINER_SCRIPTS else _ANY_JOINER
        text = useless.sub("", text)
    return " ".join(text.split())


def _composed(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _apostrophes(text: str, english: bool) -> str:
    """Keep (English) or drop (elsewhere) apostrophes inside words; the rest are quotation marks."""
    if "'" not in text:
        return text
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
    """Drop what prints nothing (except joiners), make all apostrophes one and all spaces " ", and take
    apart what stands for other characters."""
    if char in _APOSTROPHES:
        return "'"
    if char in _JOINERS or char == " ":
        return char
    if char in _DANDAS:
        return " "
    category = unicodedata.category(char)
    if category[0] == "Z" or category == "Cc":  # control characters include tabs, newlines, cp1252 quotes
        return " "
    if category[0] == "C" or _is_variation(char):
        return ""
    if category[0] in "LN" and unicodedata.decomposition(char).startswith(_FOLDED):
        return unicodedata.normalize("NFKC", char)
    return char


def _is_variation(char: str) -> bool:
    """Variation selectors and enclosing marks, such as those of emoji and keycaps."""
    selector = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return selector or unicodedata.category(char) == "Me"


@cache
def _speakable(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Nd":
        return chr(_DIGIT_ZERO + unicodedata.decimal(char))
    return " " if category[0] in "PS" and char != "'" else char
