"""The normal form of a transcript, for training and for scoring.

Steps, in this order:

0. HTML entities become characters (it&#39;s), also if they are escaped twice.
1. Unicode NFC (which gives nukta letters one spelling), full-width letters, ligatures and the like as plain
   letters, lower case.
2. Apostrophes between letters: kept in English (don't) and in languages of our table's other scripts
   (l'homme, м'яч), dropped in Indic scripts (Assamese নহ'লে is also written
   নহলে). A comma between two digits is dropped (1,000). A colon between two letters of an Indic script is
   a mistyped visarga (दु:ख).
3. Every other punctuation mark or symbol becomes a space. Dandas do too, also when written as a bar or with a
   reserved code point.
4. Decimal digits of every script become 0-9: १२ and 12 sound alike, and corpora mix them. They are not spelt
   out, because their reading is not known (twelve? one two?).
5. Invisible characters (byte-order and direction marks, soft hyphens, variation selectors, ...) are dropped.
   Exceptions are ZWJ and ZWNJ beside a virama inside a word, where they choose between a conjunct and its
   parts. They stay in scripts where that is part of the spelling (Bengali র‍্য against র্য, Malayalam,
   Kannada, Telugu, Sinhala); elsewhere they change only the shape and are dropped. In languages outside of
   our table ZWNJ also stays between Arabic letters (Persian).
6. Sequences that look and sound the same get one spelling: maya.text.indic.
7. Runs of space become one space, and the ends are stripped.

Latin letters in a text of another script stay: they are spoken words. The function is idempotent:
normalize(normalize(x)) == normalize(x).
"""

import html
import re
import unicodedata
from functools import cache
from html.entities import html5

from maya.text.indic import one_spelling
from maya.text.languages import LANGUAGES, get_language

_APOSTROPHES = "'\u2018\u2019\u02bc\uff07`\u00b4"
_JOINERS = "\u200c\u200d"  # ZWNJ, ZWJ
_TABLE_SCRIPTS = frozenset(language.script for language in LANGUAGES.values())
_VIRAMAS = "".join(sorted({language.virama for language in LANGUAGES.values()} - {""}))
_INDIC = "\u0900-\u0d7f\ua8e0-\ua8ff"
_JOINER_SCRIPTS = ("Beng", "Telu", "Knda", "Mlym")
# The same and Sinhala, for a language of unknown script.
_JOINER_LETTERS = re.compile("[\u0980-\u09ff\u0c00-\u0d7f\u0d80-\u0dff]")
_OPEN_VIRAMAS = _VIRAMAS + "\u0dca"
_ARABIC_LETTER = re.compile("[\u0620-\u064a\u066e-\u06d3\u06ee-\u06ff\u0750-\u077f\u08a0-\u08c9]")
_INDIC_LETTER = re.compile(f"[{_INDIC}]")
_DOTTED_I = ("tr", "az", "crh", "gag")  # languages with the pairs I ı and İ i
# With a semicolon: without it, Q&As and AT&T would be entities.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|([A-Za-z][A-Za-z0-9]{1,31}));")

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
    """`text` in the normal form described above; "" if it has nothing speakable. Raises MayaError for an
    unknown language code."""
    code, script = get_language(language).code, get_language(language).script
    text = unescape(text)
    if code.split("-")[0] in _DOTTED_I:
        text = _composed(text).replace("I", "ı").replace("İ", "i")
    # Dropping a character can create a new sequence. The loop guarantees idempotence. It ends because each
    # pass that changes the text shortens or simplifies it.
    while True:
        result = _once(text, script)
        if result == text:
            return result
        text = result


def unescape(text: str) -> str:
    """`text` with HTML entities replaced by characters, also if escaped several times."""
    while "&" in text:
        result = _ENTITY.sub(_character, text)
        if result == text:
            break
        text = result
    return text


def _character(entity: re.Match[str]) -> str:
    name = entity[1]
    return html.unescape(entity[0]) if name is None or f"{name};" in html5 else entity[0]


def _once(text: str, script: str) -> str:
    text = _composed(_composed(text).lower())
    text = "".join(map(_visible, text))
    text = _apostrophes(text, script)
    text = _DIGIT_COMMA.sub("", text)
    if ":" in text:
        for colon, visarga in _MISTYPED_VISARGA:
            text = colon.sub(visarga, text)
    text = "".join(map(_speakable, text))
    text = one_spelling(_JOINER_RUN.sub(r"\1", text))
    if _ANY_JOINER.search(text):
        if script in _TABLE_SCRIPTS:
            useless = _USELESS_JOINER if script in _JOINER_SCRIPTS else _ANY_JOINER
            text = useless.sub("", text)
        else:
            text = _ANY_JOINER.sub(_open_joiner, text)
    return " ".join(text.split())


def _composed(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _open_joiner(joiner: re.Match[str]) -> str:
    """The joiner if it is part of the spelling, else "". The neighbouring letters decide."""
    text, place = joiner.string, joiner.start()
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if _JOINER_LETTERS.match(before) and _JOINER_LETTERS.match(after):
        return joiner[0] if before in _OPEN_VIRAMAS or after in _OPEN_VIRAMAS else ""
    arabic = _ARABIC_LETTER.match(before) and _ARABIC_LETTER.match(after)
    return joiner[0] if arabic and joiner[0] == _JOINERS[0] else ""


def _apostrophes(text: str, script: str) -> str:
    """Keep or drop apostrophes inside words, by script; all others are quotation marks."""
    if "'" not in text:
        return text
    pieces = []
    for i, char in enumerate(text):
        if char != "'":
            pieces.append(char)
            continue
        inside = 0 < i < len(text) - 1 and _in_word(text[i - 1]) and _in_word(text[i + 1])
        kept = script == "Latn" or (
            script not in _TABLE_SCRIPTS
            and not _INDIC_LETTER.search(text[i - 1 : i + 2 : 2] if inside else "")
        )
        pieces.append(("'" if kept else "") if inside else " ")
    return "".join(pieces)


def _in_word(char: str) -> bool:
    """Whether `char` is a letter, or a mark such as a vowel sign or virama."""
    return unicodedata.category(char)[0] in "LM" or char in _JOINERS


@cache
def _visible(char: str) -> str:
    """Drop invisible characters (except joiners), unify apostrophes and spaces, and decompose compatibility
    characters."""
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
