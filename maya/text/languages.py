"""The languages Maya knows by name: codes, scripts and the Unicode blocks their letters come from."""

import unicodedata
from dataclasses import dataclass

from maya.errors import MayaError


@dataclass(frozen=True, slots=True)
class Language:
    """One language. `script` is ISO 15924; `ranges` are inclusive code-point ranges of its script;
    `virama` is the sign that joins consonants ("" where the script has none)."""

    code: str
    name: str
    native_name: str
    script: str
    ranges: tuple[tuple[int, int], ...]
    virama: str

    def owns(self, char: str) -> bool:
        """Whether `char` lies in a block of this language's script."""
        point = ord(char)
        return any(low <= point <= high for low, high in self.ranges)


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


def get_language(code: str) -> Language:
    """The language of this code; MayaError when Maya has none."""
    try:
        return LANGUAGES[code]
    except KeyError:
        known = ", ".join(LANGUAGES)
        raise MayaError(f"unknown language code {code!r}; the known ones are {known}") from None


def script_share(text: str, language: str) -> float:
    """Fraction of the letters of `text` that belong to the script of `language` (1.0 if it has no letter).

    A low share points at a transcript filed under the wrong language or written in another script.
    """
    wanted = get_language(language)
    letters = [c for c in text if unicodedata.category(c)[0] == "L"]
    return sum(map(wanted.owns, letters)) / len(letters) if letters else 1.0
