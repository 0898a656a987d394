"""Numbers that are written in digits, and the ways to say them, for a lenient score.

The words of numbers come from the package indic-numtowords (MIT, AI4Bharat), which also lists their spellings
in 22 languages of India and English. Without it, digits are compared as digits only.
"""

import importlib.util
import re
from collections.abc import Callable
from functools import lru_cache

from maya.score.measures.variants import one_form

_DIGITS = re.compile(r"\d{1,15}")
_SAID_ONE_BY_ONE = 12  # digits; longer numbers are telephone numbers and the like, of which no value is said

Words = tuple[str, ...]


def has_number_words() -> bool:
    """Whether the package that knows the words of numbers is installed."""
    return importlib.util.find_spec("indic_numtowords") is not None


@lru_cache(maxsize=1 << 14)
def readings(token: str, language: str) -> frozenset[Words]:
    """The ways to say a token of digits, each a tuple of words in `one_form`; empty for other tokens and for
    a language without number words. Twelve is said as one number or digit by digit."""
    digits = one_form(token, language)
    if not _DIGITS.fullmatch(digits) or not has_number_words():
        return frozenset()
    from indic_numtowords import num2words, supported_langs

    if language not in supported_langs:
        return frozenset()
    texts = _said(lambda: num2words(digits, lang=language, split=True))
    if len(digits) <= _SAID_ONE_BY_ONE and (digits == "0" or not digits.startswith("0")):
        texts += _said(lambda: num2words(int(digits), lang=language, variations=True))
    forms = {_forms(text, language) for text in texts}
    if language == "en":
        forms |= {tuple(word for word in form if word != "and") for form in forms}
    return frozenset(form for form in forms if form)


def _said(make: Callable[[], str | list[str]]) -> list[str]:
    try:
        texts = make()
    except (KeyError, IndexError, ValueError, TypeError):  # a number that the package cannot say
        return []
    return [texts] if isinstance(texts, str) else list(texts)


def _forms(text: str, language: str) -> Words:
    # A corpus writes twenty-one with a hyphen or a space: normal forms of Maya have a space.
    return tuple(one_form(word, language) for word in text.lower().replace("-", " ").split())
