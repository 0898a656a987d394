import unicodedata

import pytest

from maya.errors import MayaError
from maya.text.iso_639 import NAMES, SAME_CODE
from maya.text.languages import (
    LANGUAGES,
    get_language,
    language_among,
    language_code,
    language_name,
    language_of_texts,
    script_share,
)
from maya.text.scripts import main_script, script_of


def test_every_script_contains_its_languages_name_and_virama() -> None:
    assert tuple(LANGUAGES) == ("hi", "bn", "ta", "te", "mr", "gu", "kn", "ml", "pa", "or", "as", "en")
    for language in LANGUAGES.values():
        assert all(language.owns(c) for c in unicodedata.normalize("NFC", language.native_name)), language
        if language.virama:
            assert language.owns(language.virama)
            assert unicodedata.combining(language.virama) == 9, "9 is the class of viramas"
        assert language_name(language.code) == language.name


def test_language_codes_are_those_of_iso_639() -> None:
    assert sum(len(code) == 2 for code in NAMES) == 184, "ISO 639-1 and the withdrawn code sh"
    assert all(2 <= len(code) <= 3 and name[0].isupper() for code, name in NAMES.items())
    assert not NAMES.keys() & SAME_CODE.keys() and set(SAME_CODE.values()) <= NAMES.keys()
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize(
    ("code", "spellings"),
    [
        ("en", "en EN En en-US en_us en-GB eng English ENGLISH english en_US.UTF-8 en-001"),
        ("hi", "hi HI hi_IN hi-IN hin Hindi hi-Deva हिन्दी hi_in"),
        ("or", "or ory ori Odia Oriya or-IN"),
        ("pa", "pa pan Punjabi Panjabi pa-IN pa-Guru"),
        ("fr", "fr fra fre French fr-FR fr_CA"),
        ("ur", "ur urd Urdu ur-PK"),
        ("sw", "sw swa swh Swahili sw-KE"),
        ("pt", "pt pt-BR pt_PT Portuguese"),
        ("yue", "yue Cantonese"),
        ("zh-TW", "zh-TW zh_tw"),
        ("zh-Hans", "zh-Hans zh_Hans_CN"),
        ("hi-Latn", "hi-Latn hi_Latn_IN"),
        ("pa-Arab", "pa-Arab pa_arab_PK"),
        ("rm-sursilv", "rm-sursilv"),
        ("bgc", "bgc Haryanvi"),
        ("xyz", "xyz XYZ"),
    ],
)
def test_spellings_of_a_language(code: str, spellings: str) -> None:
    assert {language_code(spelling) for spelling in spellings.split()} == {code}
    assert language_code(code) == code and get_language(code).code == code
    assert language_code(f" {code} ") == code


@pytest.mark.parametrize(
    ("value", "suggestion"),
    [
        ("xx", ""),
        ("zz-ZZ", ""),
        ("", ""),
        ("123", ""),
        ("und", ""),
        ("mul", ""),
        ("qaa", ""),
        ("NaN", ""),
        ("unknown", ""),
        ("../hi", ""),
        ("enlgish", "did you mean en (English)?"),
        ("Hindii", "did you mean hi (Hindi)?"),
        ("Frensh", "did you mean fr (French)?"),
        ("Tamill", "did you mean ta (Tamil)?"),
    ],
)
def test_unknown_languages_are_refused(value: str, suggestion: str) -> None:
    with pytest.raises(MayaError, match=r"unknown language .*hi, bn, ta") as caught:
        language_code(value)
    assert suggestion in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(MayaError):
        get_language(value)


def test_script_share() -> None:
    assert script_share("নমস্কার", "bn") == 1.0
    assert script_share("hello", "bn") == 0.0
    assert script_share("12 34", "bn") == 1.0
    assert 0 < script_share("আমি hello", "as") < 1


@pytest.mark.parametrize(
    ("code", "text", "script", "foreign"),
    [
        ("fr", "l'été à Noël", "Latn", "été в"),
        ("vi", "tiếng Việt", "Latn", "tiếng 日"),
        ("el", "καλημέρα", "Grek", "καλή day"),
        ("ru", "доброе утро", "Cyrl", "утро day"),
        ("ur", "السلام علیکم", "Arab", "سلام hello"),
        ("he", "שלום", "Hebr", "שלום hello"),
        ("th", "สวัสดี", "Thai", "สวัสดี hello"),
        ("am", "ሰላም", "Ethi", "ሰላም hello"),
        ("ja", "日本語のカタカナー", "Hani", "日本 hello"),
        ("ko", "안녕하세요", "Hang", "안녕 hello"),
        ("ka", "გამარჯობა", "Geor", "გამარჯობა hello"),
        ("sat", "ᱥᱟᱱᱛᱟᱲᱤ", "Olck", "ᱥᱟᱱ hello"),
        ("ne", "नमस्ते", "Deva", "नमस्ते hello"),
    ],
)
def test_script_of_an_open_language_comes_from_its_texts(
    code: str, text: str, script: str, foreign: str
) -> None:
    assert get_language(code).script == "" and script_share("any буква", code) == 1.0
    language = language_of_texts(code, [text, "ok", text])
    assert language.script == script == main_script([text])
    assert script_share(text, language) == 1.0
    assert 0 < script_share(foreign, language) < 1


def test_script_in_the_language_code_is_used() -> None:
    assert get_language("hi-Latn").script == "Latn" and get_language("hi-Latn").name == "Hindi"
    assert get_language("zh-Hant").script == "Hani"
    assert script_share("नमस्ते", "hi-Latn") == 0.0
    assert language_of_texts("hi", ["hello"]).script == "Deva", (
        "the script in the code is not guessed from the text"
    )
    assert language_of_texts("fr", ["123", ""]).script == ""


def test_shared_letters_belong_to_all_their_scripts() -> None:
    assert script_of("ʻ") == "" and script_of("Ａ") == "Latn" and script_of("ｶ") == "Hani"
    assert script_share("oʻzbek", language_of_texts("uz", ["salom"])) == 1.0


@pytest.mark.parametrize(
    ("value", "code"),
    [("en", "en"), ("en-US", "en"), ("Hindi", "hi"), ("fr", "fr"), ("xx", "xx"), ("pt-BR", "pt-BR")],
)
def test_language_codes_match_those_of_a_model(value: str, code: str) -> None:
    assert language_among(value, ("en", "hi", "pt-BR")) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("en", "en-US"),
        ("English", "en-US"),
        ("en-GB", "en-US"),
        ("pt", "pt"),
        ("pt-PT", "pt-PT"),
        ("x y", "x y"),
    ],
)
def test_a_model_may_have_codes_with_regions(value: str, code: str) -> None:
    """As NeMo's have. Of two regions neither is meant by the language alone."""
    assert language_among(value, ("en-US", "pt-BR", "pt-PT")) == code
