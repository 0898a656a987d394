"""Pronunciations by eSpeak NG, which is optional."""

import pytest

from maya.errors import MayaError
from maya.text.phonemes import pronounce

pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed")


def test_english() -> None:
    assert pronounce("hello", "en") == "h ə l əʊ"
    assert pronounce("a church; a judge.", "en").count("tʃ") == 2
    assert "ˈ" in pronounce("hello", "en", stress=True) and "ˈ" not in pronounce("hello", "en")
    assert pronounce("", "en") == ""


@pytest.mark.parametrize("text", ["नमस्ते", "एक दो"])
def test_hindi_is_not_spelt(text: str) -> None:
    said = pronounce(text, "hi").split()
    assert 3 <= len(said) <= 10 and all(unit.isprintable() for unit in said)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(MayaError, match="no voice for 'xx'"):
        pronounce("hello", "xx")
