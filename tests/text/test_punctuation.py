"""Marks and capitals apart from words, in scripts with and without case."""

import pytest

from maya.text.languages import LANGUAGES
from maya.text.punctuation import CAPITAL, LOWER, UPPER, case_of, full_stop, split_written, write_word


@pytest.mark.parametrize(("word", "bare", "mark"), [
    ("Yes,", "Yes", ","), ('"no."', "no", "."), ("है।", "है", "."), ("what?!", "what", "?"),
    ("don't", "don't", ""),
    ("(see", "see", ""), ("क्या?", "क्या", "?"), ("好。", "好", "."), ("re-do;", "re-do", ","), ("।", "", "."),
])  # fmt: skip
def test_a_word_and_its_mark(word: str, bare: str, mark: str) -> None:
    assert split_written(word) == (bare, mark)


def test_case() -> None:
    cases = {
        "word": LOWER,
        "Word": CAPITAL,
        "I": CAPITAL,
        "USA": UPPER,
        "iPhone": LOWER,
        "है": None,
        "12": None,
    }
    assert {word: case_of(word) for word in cases} == cases


@pytest.mark.parametrize(("word", "mark", "case", "language", "written"), [
    ("yes", ",", CAPITAL, "en", "Yes,"), ("usa", ".", UPPER, "en", "USA."), ("है", ".", UPPER, "hi", "है।"),
    ("ആണ്", ".", LOWER, "ml", "ആണ്."), ("yes.", "?", LOWER, "en", "yes."), ("वा", ".", LOWER, "mr", "वा."),
    ("yes", ".", LOWER, None, "yes."), ("no", "", LOWER, "en", "no"),
])  # fmt: skip
def test_a_word_is_written(word: str, mark: str, case: int, language: str | None, written: str) -> None:
    assert write_word(word, mark, case, language) == written


def test_full_stops_of_the_twelve_languages() -> None:
    stops = {code: full_stop(code) for code in LANGUAGES}
    with_danda = {code for code, stop in stops.items() if stop == "।"}
    assert with_danda & {"as", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te"} == {
        "as", "bn", "hi", "or", "pa"
    }  # fmt: skip
