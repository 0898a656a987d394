"""Real words of twelve languages, from the Unicode locale data (CLDR) that the `babel` package carries.

Weekdays and months, then names of well-known countries and languages until a language has its share. Only
single words written wholly in the language's own script are taken, so that the text needs no cleaning.
"""

import hashlib
import unicodedata
from collections.abc import Iterable

from maya.errors import MayaError

SCRIPTS = {  # as Unicode names the characters
    "hi": "DEVANAGARI", "bn": "BENGALI", "ta": "TAMIL", "te": "TELUGU", "mr": "DEVANAGARI", "gu": "GUJARATI",
    "kn": "KANNADA", "ml": "MALAYALAM", "pa": "GURMUKHI", "or": "ORIYA", "as": "BENGALI", "en": "LATIN",
}  # fmt: skip
LANGUAGES = tuple(SCRIPTS)
_COUNTRIES = (
    "IN NP BD LK PK BT MM CN JP TH VN ID MY PH SG RU FR DE IT ES PT GR TR IR IQ EG KE NG ZA ET SD GH UG BR "
    "AR CL PE CO CU MX CA AU FJ NO SE FI DK PL HU AT BE NL IE UA RO BG KW OM QA YE SY JO IL MA DZ TN ML SN "
    "MG MU"
)
_LANGUAGES = (
    "hi bn ta te mr gu kn ml pa or as en ur ne sd sa ks kok mai mni si my bo zh ja ko th vi id ms fa ar he "
    "tr ru uk pl cs sk hu ro bg sr hr el it fr es pt de nl da sv no fi et lv lt ga cy is eu sq hy ka az kk "
    "uz mn sw am zu ha"
)
_LONGEST = 10  # letters, marks not counted
_UNSPEAKABLE = {"as": "\u09a1\u09bc"}  # ড়, which eSpeak's Assamese spells out instead of reading the word


def words(language: str, count: int = 40) -> list[str]:
    """`count` distinct words of `language`, sorted.

    Each word's place in the queue is a hash of the word itself: another babel version that changes one name
    changes that one word. Raises MayaError when babel is missing, the language unknown, or words too few.
    """
    if language not in SCRIPTS:
        raise MayaError(f"the built-in corpus has no language {language!r}; it has {', '.join(LANGUAGES)}")
    calendar, names = _candidates(language)
    queue = sorted(calendar, key=lambda w: _hash(language, w))
    queue += sorted(names - calendar, key=lambda w: _hash(language, w))
    if len(queue) < count:
        raise MayaError(f"CLDR gives {len(queue)} words for {language!r}, not {count}: ask for fewer")
    return sorted(queue[:count])


def babel_version() -> str:
    """The installed version of babel; MayaError when it is missing."""
    try:
        import babel
    except ImportError:
        raise MayaError(
            "the built-in corpus needs babel, which is not installed: pip install 'maya-asr[mini]'"
        ) from None
    return babel.__version__


def is_word(text: str, language: str) -> bool:
    """Two to ten letters of the language's own script and their marks: no joiners, no digits."""
    script = SCRIPTS[language]
    letters = sum(unicodedata.category(c).startswith("L") for c in text)
    readable = all(
        unicodedata.category(c)[0] in "LM" and unicodedata.name(c, "").startswith(script + " ") for c in text
    )
    return readable and 2 <= letters <= _LONGEST


def _candidates(language: str) -> tuple[set[str], set[str]]:
    """(weekdays and months, names of countries and languages) that are words, NFC; English in lower case."""
    babel_version()
    from babel import Locale

    locale = Locale.parse(language)
    calendar = [w for kind in (locale.days, locale.months) for w in kind["stand-alone"]["wide"].values()]
    names = [locale.territories.get(c, "") for c in _COUNTRIES.split()]
    names += [locale.languages.get(c, "") for c in _LANGUAGES.split()]
    return _words_among(calendar, language), _words_among(names, language)


def _words_among(texts: Iterable[str], language: str) -> set[str]:
    tidy = {unicodedata.normalize("NFC", t).lower() for t in texts}
    avoid = _UNSPEAKABLE.get(language)
    return {w for w in tidy if is_word(w, language) and not (avoid and avoid in w)}


def _hash(language: str, word: str) -> str:
    return hashlib.sha256(f"{language} {word}".encode()).hexdigest()
