"""Scripts of letters and of texts."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

# ISO 15924 code by the first word of a letter's Unicode name. Chinese and Japanese letters count as one
# script, because a Japanese text mixes them.
_SCRIPTS = {
    "LATIN": "Latn", "GREEK": "Grek", "COPTIC": "Copt", "CYRILLIC": "Cyrl", "ARMENIAN": "Armn",
    "HEBREW": "Hebr", "ARABIC": "Arab", "SYRIAC": "Syrc", "THAANA": "Thaa", "NKO": "Nkoo",
    "DEVANAGARI": "Deva", "BENGALI": "Beng", "GURMUKHI": "Guru", "GUJARATI": "Gujr", "ORIYA": "Orya",
    "TAMIL": "Taml", "TELUGU": "Telu", "KANNADA": "Knda", "MALAYALAM": "Mlym", "SINHALA": "Sinh",
    "THAI": "Thai", "LAO": "Laoo", "TIBETAN": "Tibt", "MYANMAR": "Mymr", "GEORGIAN": "Geor",
    "HANGUL": "Hang", "ETHIOPIC": "Ethi", "CHEROKEE": "Cher", "CANADIAN": "Cans", "KHMER": "Khmr",
    "MONGOLIAN": "Mong", "CJK": "Hani", "HIRAGANA": "Hani", "KATAKANA": "Hani", "KATAKANA-HIRAGANA": "Hani",
    "IDEOGRAPHIC": "Hani", "BOPOMOFO": "Bopo", "YI": "Yiii", "LISU": "Lisu",
    "VAI": "Vaii", "BAMUM": "Bamu", "JAVANESE": "Java", "SUNDANESE": "Sund", "BALINESE": "Bali",
    "TIFINAGH": "Tfng", "OL": "Olck", "MEETEI": "Mtei", "ADLAM": "Adlm", "LEPCHA": "Lepc",
    "LIMBU": "Limb", "CHAKMA": "Cakm", "GLAGOLITIC": "Glag", "GOTHIC": "Goth", "BATAK": "Batk",
    "BUGINESE": "Bugi", "CHAM": "Cham", "OSAGE": "Osge", "DESERET": "Dsrt", "WARANG": "Wara",
    "WANCHO": "Wcho", "SAURASHTRA": "Saur", "SYLOTI": "Sylo", "TIRHUTA": "Tirh", "HANIFI": "Rohg",
    "GUNJALA": "Gong", "MASARAM": "Gonm", "NEWA": "Newa", "TAGALOG": "Tglg",
}  # fmt: skip
_WIDTHS = ("FULLWIDTH", "HALFWIDTH")


@cache
def script_of(letter: str) -> str:
    """The ISO 15924 code of a letter's script; "" for letters of several scripts, and for rare scripts."""
    words = unicodedata.name(letter, "").split()
    words = words[1:] if words and words[0] in _WIDTHS else words
    return _SCRIPTS.get(words[0], "") if words else ""


def letters_of(text: str) -> list[str]:
    """The characters of a text that are letters."""
    return [char for char in text if unicodedata.category(char)[0] == "L"]


def main_script(texts: Iterable[str]) -> str:
    """The script of most letters of the texts; "" if they have no letter of a listed script."""
    counts = Counter(script_of(char) for text in texts for char in letters_of(text))
    counts.pop("", None)
    return counts.most_common(1)[0][0] if counts else ""
