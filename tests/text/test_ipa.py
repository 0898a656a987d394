"""Units of IPA and ARPAbet."""

import unicodedata

import pytest

from maya.errors import MayaError
from maya.text.ipa import arpabet_units, ipa_units


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("t͡ʃɑːɹ", "tʃ ɑː ɹ"),
        ("tʃ d͜ʒ ʧ ʤ", "tʃ dʒ tʃ dʒ"),
        ("t ʃ", "t ʃ"),
        ("həˈloʊ ˌwɜːld", "h ə l oʊ w ɜː l d"),
        ("ɹaɪɚ", "ɹ aɪ ɚ"),
        ("aɪː aɪ̯ eu̯", "aɪː aɪ eu̯"),
        ("pʰ tʲ kʷ bˠ ⁿd n̩ tʼ", None),
        ("g:ε ǝ", "ɡː ɛ ə"),
        ("ə˞ ɜ˞", "ɚ ɝ"),
        ("ãː ɛ̃ ç", "ãː ɛ̃ ç"),
        ("ʔa.ba‿ka | ma˥˩", "ʔ a b a k a m a"),
        ("t͡s t͜s ts", "t͡s t͡s t s"),
        ("", ""),
    ],
)
def test_units(text: str, units: str | None) -> None:
    if units is None:
        with pytest.raises(MayaError, match="no IPA"):  # a modifier letter before its letter
            ipa_units(text)
        units, text = "pʰ tʲ kʷ bˠ n̩ tʼ", "pʰ tʲ kʷ bˠ n̩ tʼ"
    expected = [unicodedata.normalize("NFC", unit) for unit in units.split()]
    assert ipa_units(text) == expected
    assert ipa_units(unicodedata.normalize("NFD", text)) == expected
    assert ipa_units(" ".join(expected)) == expected  # units are their own units


def test_stress_is_dropped_unless_it_is_kept() -> None:
    assert ipa_units("ˈa ˌb") == ["a", "b"]
    assert ipa_units("ˈaˌb'a", stress="keep") == ["ˈ", "a", "ˌ", "b", "ˈ", "a"]


def test_joined_units_are_an_option() -> None:
    assert ipa_units("tʃaɪ", joined=()) == ["t", "ʃ", "a", "ɪ"]
    assert ipa_units("t͡ʃaɪ", joined=()) == ["t͡ʃ", "a", "ɪ"]  # under a bar they are one


@pytest.mark.parametrize("text", ["a7", "x_y", "$"])
def test_what_is_no_ipa_is_refused(text: str) -> None:
    with pytest.raises(MayaError, match="is no IPA"):
        ipa_units(text)


def test_arpabet() -> None:
    assert arpabet_units(["HH", "AH0", "L", "OW1", "AH1", "ch", "ER0"]) == [
        "h",
        "ə",
        "l",
        "oʊ",
        "ʌ",
        "tʃ",
        "ɚ",
    ]
    assert all(
        len(ipa_units(unit)) == 1 for unit in arpabet_units(["AY1", "EY", "OY", "JH", "EN", "NX", "AXR"])
    )
    with pytest.raises(MayaError, match="'XX' is no phone"):
        arpabet_units(["XX"])
