"""Pronunciations by eSpeak NG (package espeakng-loader, optional): the units of a head over phonemes.

A unit is what eSpeak counts as one phoneme, in IPA: an affricate or a diphthong is one ("tʃ", "oʊ"), and
length belongs to its vowel ("iː"). Stress marks are left out unless they are asked for: error rates depend on
it.
"""

import ctypes
import re
import threading
import unicodedata

from maya.errors import MayaError
from maya.text.espeak import library

_UTF8, _IPA = 1, 2  # espeakCHARS_UTF8; phonemes in IPA
_SEPARATOR = "_"
_STRESS = re.compile("[ˈˌ]")
_DETAIL = re.compile("[\u02d0\u02b2\u0303\u0329+.]")  # long, palatal, nasal, syllabic; eSpeak's own marks
_lock = threading.Lock()  # eSpeak has one state for the whole process


def pronounce(text: str, language: str | None, *, stress: bool = False) -> str:
    """The phonemes of a text, with a space between them, such as "h ə l oʊ". language: a code; None is
    English. Raises MayaError for a language without a voice, and where eSpeak NG is not installed."""
    with _lock:
        lib = library()
        lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        if lib.espeak_SetVoiceByName((language or "en").encode()) != 0:
            raise MayaError(f"eSpeak NG has no voice for {language!r}; name another language")
        data = ctypes.create_string_buffer(text.encode("utf-8"))
        rest = ctypes.c_void_p(ctypes.addressof(data))
        clauses = []
        while rest.value:  # a clause a call
            mode = _IPA | (ord(_SEPARATOR) << 8)
            clauses.append(lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, mode).decode("utf-8"))
    phonemes = re.sub(r"\([a-z-]+\)", " ", " ".join(clauses))  # (en): it changes the language for a word
    phonemes = phonemes if stress else _STRESS.sub("", phonemes)
    return " ".join(re.sub(f"[{_SEPARATOR}\\s]+", " ", phonemes).split())


def is_installed() -> bool:
    """Whether eSpeak NG can be used here."""
    try:
        library()
    except MayaError:
        return False
    return True


def broad(unit: str) -> str:
    """A unit without length, nasality and the like, and once where it is written twice: "ãː" → "a", "ʈʈ" →
    "ʈ". Few recordings hold enough of each narrow unit to learn it."""
    plain = unicodedata.normalize("NFC", _DETAIL.sub("", unicodedata.normalize("NFD", unit)))
    half = len(plain) // 2
    return plain[:half] if half and plain[:half] == plain[half:] else plain
