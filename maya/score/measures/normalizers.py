"""Normal forms to score in, by name: Maya's own, Whisper's, and that of the Open ASR Leaderboard.

Whisper's come from the package whisper-normalizer, which is kept up and brings the list of English
spellings; that of transformers needs the list from a model's files. The leaderboard scores English with
Whisper's English normaliser and leaves out utterances whose reference is empty afterwards. `whisper` drops
vowel signs of Indic scripts, as published results do; `whisper-marks` keeps them.
"""

from collections.abc import Callable

from maya.errors import MayaError
from maya.text.languages import get_language
from maya.text.normalize import normalize
from maya.text.tokenizer import UNKNOWN

DEFAULT = "maya"
NORMALIZERS = (DEFAULT, "none", "whisper", "whisper-marks", "whisper-english", "leaderboard")
DROPS_EMPTY = ("leaderboard",)


def make_normalizer(name: str) -> Callable[[str, str], str]:
    """A function (text, language code) → text. Raises MayaError for an unknown name, and where the package
    of Whisper's normalisers is missing."""
    if name == DEFAULT:
        return normal_form
    if name == "none":
        return lambda text, language: " ".join(text.split())
    if name not in NORMALIZERS:
        raise MayaError(f"unknown normaliser {name!r}; choose one of {', '.join(NORMALIZERS)}")
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        raise MayaError(
            f"--normalizer {name} needs the package whisper-normalizer: pip install 'maya-asr[score]'"
        ) from None
    # Whisper's basic form drops all marks, and with them the vowel signs of Indic scripts.
    marks = name == "whisper-marks"
    basic = name in ("whisper", "whisper-marks")
    whisper = BasicTextNormalizer(preserve_marks=marks) if basic else EnglishTextNormalizer()
    return lambda text, language: " ".join(whisper(text).split())


def normal_form(text: str, language: str) -> str:
    """`text` as transcripts are trained on, so that a system is not charged for case, punctuation or a
    spelling that looks the same. Words with an unknown piece (⁇) stay as they are: they are errors to count.

    A text without a language is left alone.
    """
    try:
        get_language(language)
    except MayaError:
        return text
    if UNKNOWN not in text:
        return normalize(text, language)
    return " ".join(word if UNKNOWN in word else normalize(word, language) for word in text.split())
