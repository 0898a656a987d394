"""The lenient score accepts listed spellings and is never worse than the strict one."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maya.errors import MayaError
from maya.score.measures import numbers
from maya.score.measures.lenient import lenient_align, lenient_errors
from maya.score.measures.numbers import readings
from maya.score.measures.variants import RULES, one_form, rules_table
from maya.score.wer import cer, wer
from maya.text.languages import LANGUAGES

ACCEPTED = [
    ("hi", "हिन्दी", "हिंदी"), ("hi", "सम्बन्ध", "संबंध"), ("hi", "अङ्क", "अंक"),
    ("hi", "माँ", "मां"), ("hi", "पाँच", "पांच"), ("hi", "हँसना", "हंसना"),
    ("hi", "फ़र्क़", "फर्क"), ("hi", "\u095b\u0930\u0942\u0930", "\u091c\u093c\u0930\u0942\u0930"),
    ("hi", "गयी", "गई"),
    ("hi", "चाहिये", "चाहिए"), ("hi", "गयीं", "गईं"), ("hi", "१२", "12"),
    ("pa", "ਖ਼ਬਰ", "ਖਬਰ"), ("pa", "ਸੰਤ", "ਸਂਤ"),
    
    ("gu", "હિન્દી", "હિંદી"), ("te", "సమ్బన్ధం", "సంబంధం"), ("kn", "ಹಿನ್ದಿ", "ಹಿಂದಿ"),
    ("bn", "সঙ্খ্যা", "সংখ্যা"),
    ("as", "ৰাম", "রাম"), ("bn", "সৎ", "সত্"),
    ("ml", "നൻമ", "നന്മ"), ("ml", "എന്റെ", "എൻ\u0d4dറെ"), ("ml", "എന്റെ", "എൻറെ"), ("ml", "അവനു്", "അവന്"),
    ("ml", "അവനു്", "അവന്\u200c"), ("ml", "സൌമ്യ", "സൗമ്യ"), ("ml", "അൎത്ഥം", "അർത്ഥം"),
    ("ml", "അവന്\u200d", "അവൻ"), ("ml", "എൻ\u200cറെ", "എൻറെ"), ("ta", "௧௨", "12"),
    ("or", "ଅଙ୍କ", "ଅଂକ"),
]  # fmt: skip
REFUSED = [
    ("hi", "पड़ना", "पडना"), ("bn", "পড়া", "পডা"), ("hi", "अन्न", "अंन"),
    ("hi", "सम्मान", "संमान"), ("bn", "চাঁদ", "চাংদ"),
    ("hi", "हँस", "हंस"), ("as", "নাৱ", "নাব"), ("ml", "അവൻ", "അവന്"), ("ml", "അവൻ", "അവന്\u200c"),
    ("ks", "ज़ान", "जान"), ("hi", "जन्म", "जंम"), ("bn", "অন্ত", "অংত"), ("mr", "गयी", "गई"),
    ("hi", "ये", "ए"), ("en", "colour", "color"),
    ("hi", "राम", "रामा"), ("hi", "12", "13"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "ref", "hyp"), ACCEPTED)
def test_accepted_spellings(language: str, ref: str, hyp: str) -> None:
    for a, b in ((ref, hyp), (hyp, ref)):
        score = lenient_errors([a], [b], [language])
        assert score.words.errors == score.characters.errors == 0
    assert wer([ref], [hyp]).errors == (0 if "\u095b" in ref else 1)  # NFC unifies nukta letters


@pytest.mark.parametrize(("language", "ref", "hyp"), REFUSED)
def test_other_words_stay_errors(language: str, ref: str, hyp: str) -> None:
    score = lenient_errors([ref], [hyp], [language])
    assert score.words.errors == 1 and score.characters.errors > 0


def test_every_rule_has_a_source_and_a_case() -> None:
    for rule in RULES:
        assert rule.source and rule.accepts and rule.name in rules_table()
        assert any(rule.apply(a) != a or rule.apply(b) != b for _, a, b in ACCEPTED), rule.name


def test_documentation_has_the_rules(repo: Path) -> None:
    assert rules_table() in (repo / "docs" / "scoring.md").read_text(encoding="utf-8")


def test_numbers_in_words_and_digits() -> None:
    pytest.importorskip("indic_numtowords")
    for language, said in (("hi", "इक्कीस"), ("ta", "இருபத்து ஒன்று"), ("en", "twenty one"), ("bn", "একুশ")):
        for ref, hyp in ((f"x {said} y", "x 21 y"), ("x 21 y", f"x {said} y")):
            score = lenient_errors([ref], [hyp], [language])
            assert score.words.errors == score.characters.errors == 0, (ref, hyp)
            assert score.words.ref_length == len(ref.split())
    spans = lenient_align(["room", "one", "hundred", "five", "now"], ["room", "105", "no"], "en")
    assert [s.ref for s in spans] == ["room", "one hundred five", "now"] and not spans[-1].correct
    assert lenient_errors(["call 4 2 1"], ["call four two one"], ["en"]).words.errors == 0
    assert lenient_errors(["42"], ["four two"], ["en"]).words.errors == 0  # digit by digit
    assert lenient_errors(["twenty two"], ["21"], ["en"]).words.errors == 2


def test_without_number_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "has_number_words", lambda: False)
    readings.cache_clear()
    assert readings("21", "en") == frozenset()
    assert lenient_errors(["२१ x"], ["21 x"], ["hi"]).words.errors == 0
    readings.cache_clear()


_LETTERS = "कगङङचटडणतनदबपमयरलसज़फ़़्ंँािीेୂଙ୍କବঙ্কখর" + "ৰৱবत്നൻര്\u200c\u200dਸੰਂਤ" + "12१२ab"
_TEXTS = st.lists(
    st.one_of(
        st.text(alphabet=_LETTERS, min_size=1, max_size=5),
        st.sampled_from(
            [
                "21",
                "twenty",
                "one",
                "इक्कीस",
                "गयी",
                "गई",
                "हिन्दी",
                "हिंदी",
                "105",
                "hundred",
                "five",
                "एक",
                "सौ",
            ]
        ),
    ),
    max_size=8,
).map(" ".join)


@settings(max_examples=400, deadline=None)
@given(ref=_TEXTS, hyp=_TEXTS, language=st.sampled_from([*LANGUAGES, "und"]))
def test_never_worse_than_strict(ref: str, hyp: str, language: str) -> None:
    score = lenient_errors([ref], [hyp], [language])
    strict_words, strict_characters = wer([ref], [hyp]), cer([ref], [hyp])
    assert score.words.errors <= strict_words.errors
    assert score.characters.errors <= strict_characters.errors
    assert score.words.ref_length == strict_words.ref_length
    assert score.characters.ref_length == strict_characters.ref_length
    spans = lenient_align(ref.split(), hyp.split(), language)
    assert " ".join(s.ref for s in spans if s.ref) == ref and " ".join(s.hyp for s in spans if s.hyp) == hyp


@settings(max_examples=200, deadline=None)
@given(word=st.text(alphabet=_LETTERS, min_size=1, max_size=8), language=st.sampled_from([*LANGUAGES]))
def test_a_form_is_never_empty(word: str, language: str) -> None:
    assert one_form(word, language)


def test_lists_of_other_lengths() -> None:
    with pytest.raises(MayaError, match="1 languages for 2 references"):
        lenient_errors(["a", "b"], ["a", "b"], ["en"])
    assert np.array_equal(lenient_errors([], [], []).words.counts, np.zeros((0, 4)))
