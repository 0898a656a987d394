"""Languages: codes, scripts and Unicode blocks.

`LANGUAGES` has twelve languages with details of script and spelling. Any other language with an ISO 639 code
can be used too; its script is taken from its texts.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice

from maya.errors import MayaError
from maya.text.iso_639 import NAMES, SAME_CODE
from maya.text.scripts import letters_of, main_script, script_of

UNKNOWN_LANGUAGE = "unknown"  # stands for a language that the model does not know


@dataclass(frozen=True, slots=True)
class Language:
    """A language. script: ISO 15924, "" if only its texts tell. ranges: inclusive code-point ranges of the
    script, empty if Unicode names decide. virama: the sign that joins consonants, "" for none."""

    code: str
    name: str
    native_name: str
    script: str
    ranges: tuple[tuple[int, int], ...]
    virama: str

    def owns(self, char: str) -> bool:
        """Whether the letter `char` belongs to this language's script; True if the script is not known."""
        return _owns(self.script, self.ranges, char)


@lru_cache(maxsize=1 << 16)
def _owns(script: str, ranges: tuple[tuple[int, int], ...], char: str) -> bool:
    if not ranges:
        return not script or script_of(char) in ("", script)
    point = ord(char)
    return any(low <= point <= high for low, high in ranges)


# Devanagari has an extension block; Latin is ASCII, Latin-1 and the two extensions (names, loans).
_DEVA = ((0x0900, 0x097F), (0xA8E0, 0xA8FF))
_BENG = ((0x0980, 0x09FF),)
_LATN = ((0x0041, 0x005A), (0x0061, 0x007A), (0x00C0, 0x024F))

LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        Language("hi", "Hindi", "हिन्दी", "Deva", _DEVA, "\u094d"),
        Language("bn", "Bengali", "বাংলা", "Beng", _BENG, "\u09cd"),
        Language("ta", "Tamil", "தமிழ்", "Taml", ((0x0B80, 0x0BFF),), "\u0bcd"),
        Language("te", "Telugu", "తెలుగు", "Telu", ((0x0C00, 0x0C7F),), "\u0c4d"),
        Language("mr", "Marathi", "मराठी", "Deva", _DEVA, "\u094d"),
        Language("gu", "Gujarati", "ગુજરાતી", "Gujr", ((0x0A80, 0x0AFF),), "\u0acd"),
        Language("kn", "Kannada", "ಕನ್ನಡ", "Knda", ((0x0C80, 0x0CFF),), "\u0ccd"),
        Language("ml", "Malayalam", "മലയാളം", "Mlym", ((0x0D00, 0x0D7F),), "\u0d4d"),
        Language("pa", "Punjabi", "ਪੰਜਾਬੀ", "Guru", ((0x0A00, 0x0A7F),), "\u0a4d"),
        Language("or", "Odia", "ଓଡ଼ିଆ", "Orya", ((0x0B00, 0x0B7F),), "\u0b4d"),
        Language("as", "Assamese", "অসমীয়া", "Beng", _BENG, "\u09cd"),
        Language("en", "English", "English", "Latn", _LATN, ""),
    )
}

_NO_LANGUAGE = ("und", "mis", "mul", "zxx")  # ISO 639 codes for: undetermined, uncoded, several, no speech
_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})(?:-(?P<script>[a-z]{4}))?(?:-(?P<region>[a-z]{2}|\d{3}))?"
    r"(?P<variants>(?:-(?:[a-z0-9]{5,8}|\d[a-z0-9]{3}))*)"
)
# The region decides how these are written. It is dropped for all others (en-US is en).
_REGION_MATTERS = ("zh",)
_OTHER_NAMES = {"oriya": "or", "bangla": "bn", "panjabi": "pa", "farsi": "fa", "mandarin chinese": "cmn"}
_SCRIPT_TEXTS = 2000  # texts to identify a script from


def _by_name() -> dict[str, str]:
    names = {name.lower(): code for code, name in NAMES.items()} | _OTHER_NAMES
    return names | {language.native_name: code for code, language in LANGUAGES.items()}


_BY_NAME = _by_name()


@lru_cache(maxsize=4096)
def language_code(value: str) -> str:
    """The code that Maya uses for a language that is written en, EN, en-US, en_us, eng or English.

    A region is dropped (pt-BR is pt), except for Chinese (zh-TW). A script is kept if it is not the usual one
    (hi-Latn). Raises MayaError with the nearest code or name for an unknown language.
    """
    name = unicodedata.normalize("NFC", value).strip()
    plain = re.sub(r"\s*\(.*\)$", "", name.lower())
    if plain in _BY_NAME:
        return _BY_NAME[plain]
    tag = _TAG.fullmatch(re.split(r"[.@]", plain.replace("_", "-"))[0])
    code = SAME_CODE.get(tag["language"], tag["language"]) if tag else ""
    private = re.fullmatch(r"q[a-t][a-z]", code) is not None  # codes of ISO 639 for private use
    if (
        tag is None
        or (len(code) == 2 and code not in NAMES)
        or code in _NO_LANGUAGE
        or private
        or name == "NaN"
    ):
        raise MayaError(
            f"unknown language {value[:80]!r}; expected an ISO 639 code such as {', '.join(LANGUAGES)}"
            + _suggestion(plain)
        )
    usual = LANGUAGES[code].script if code in LANGUAGES else ""
    script = tag["script"].title() if tag["script"] else ""
    code += f"-{script}" if script not in ("", usual) else ""
    if tag["region"] and not script and code in _REGION_MATTERS:
        code += f"-{tag['region'].upper()}"
    return code + tag["variants"]


def language_among(value: str, codes: Iterable[str]) -> str:
    """The one of `codes` that `value` means (en-US may be en, or en may be en-US); `value` itself if there is
    none, or several."""
    codes = list(codes)
    meant = _code(value)
    if value in codes or not meant:
        return value
    matches = [meant] if meant in codes else [code for code in codes if _code(code) == meant]
    return matches[0] if len(matches) == 1 else value


def _code(value: str) -> str:
    """`language_code`, or "" for an unknown language."""
    try:
        return language_code(value)
    except MayaError:
        return ""


def _suggestion(value: str) -> str:
    candidates = ({code: code for code in LANGUAGES} | _BY_NAME, {code: code for code in NAMES} | SAME_CODE)
    for codes in candidates:
        if matches := difflib.get_close_matches(value, codes, n=1, cutoff=0.67):
            code = codes[matches[0]]
            return f"; did you mean {code} ({language_name(code)})?"
    return ""


@cache
def get_language(code: str) -> Language:
    """The language of a code. Outside of `LANGUAGES`, its script is the one in the code, or "". Raises
    MayaError for an unknown code."""
    if code in LANGUAGES:
        return LANGUAGES[code]
    code = language_code(code)
    if code in LANGUAGES:
        return LANGUAGES[code]
    script = re.search(r"-([A-Z][a-z]{3})(?:-|$)", code)
    name = NAMES.get(code.split("-")[0], code)
    return Language(code, name, name, _written(script[1]) if script else "", (), "")


def _written(script: str) -> str:
    """The script of the letters: variants of Chinese, Japanese, Korean and Arabic writing share letters."""
    return {"Hans": "Hani", "Hant": "Hani", "Jpan": "Hani", "Kore": "Hang", "Aran": "Arab"}.get(
        script, script
    )


def language_of_texts(code: str, texts: Iterable[str]) -> Language:
    """As `get_language`; if the code does not give the script, it is that of most letters of the texts."""
    language = get_language(code)
    if language.script:
        return language
    return replace(language, script=main_script(islice(texts, _SCRIPT_TEXTS)))


def language_name(code: str) -> str:
    """The English name of a language with the rest of its code; the code if there is no name."""
    base, _, rest = code.partition("-")
    if base not in NAMES:
        return code
    return f"{NAMES[base]} ({rest})" if rest else NAMES[base]


def script_share(text: str, language: str | Language) -> float:
    """Fraction of the letters of `text` in the script of `language`; 1.0 without letters, or if the script is
    not known. A low share means a wrong language label or a transcript in another script."""
    expected = get_language(language) if isinstance(language, str) else language
    letters = letters_of(text)
    return sum(map(expected.owns, letters)) / len(letters) if letters else 1.0


def language_index(language: str | None, languages: Sequence[str]) -> int:
    """Index of a language code in a model's languages; -1 if it has none."""
    return languages.index(language) if language in languages else -1


def indexed_language(index: int, languages: Sequence[str]) -> str:
    """The code at an index of a model's languages; "unknown" for -1."""
    return languages[index] if index >= 0 else UNKNOWN_LANGUAGE
