import unicodedata

import pytest

from maya.errors import MayaError
from maya.text.languages import LANGUAGES, get_language, script_share


def test_every_language_owns_its_own_name_and_virama() -> None:
    assert tuple(LANGUAGES) == ("hi", "bn", "ta", "te", "mr", "gu", "kn", "ml", "pa", "or", "as", "en")
    for language in LANGUAGES.values():
        assert all(language.owns(c) for c in unicodedata.normalize("NFC", language.native_name)), language
        if language.virama:
            assert language.owns(language.virama)
            assert unicodedata.combining(language.virama) == 9, "9 is the class of viramas"


def test_unknown_code_lists_the_known_ones() -> None:
    with pytest.raises(MayaError, match=r"'xx'.*hi, bn, ta"):
        get_language("xx")


def test_script_share() -> None:
    assert script_share("নমস্কার", "bn") == 1.0
    assert script_share("hello", "bn") == 0.0
    assert script_share("12 34", "bn") == 1.0
    assert 0 < script_share("আমি hello", "as") < 1
