import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maya.errors import MayaError
from maya.text.languages import LANGUAGES
from maya.text.normalize import normalize

ZWNJ, ZWJ, VIRAMA_ML, VIRAMA_BN = "\u200c", "\u200d", "\u0d4d", "\u09cd"
# Where rules meet: letters and signs of the scripts, joiners, apostrophes, digits and odd characters.
TRICKY = st.text(
    st.sampled_from("aZé'’`-,.12\u200c\u200d\u200e\ufeff\u00ad\u0093 \t\nİıſßⅣﬁ１")
    | st.characters(min_codepoint=0x0900, max_codepoint=0x0D7F)
    | st.sampled_from("".join(language.virama for language in LANGUAGES.values()))
)


@given(st.text() | TRICKY, st.sampled_from(list(LANGUAGES)))
def test_is_idempotent_and_leaves_only_words(text: str, language: str) -> None:
    once = normalize(text, language)
    assert normalize(once, language) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split(" ")) and not once.startswith(" ") and not once.endswith(" ")
    for char in once:
        category = unicodedata.category(char)
        assert category[0] in "LMN" or char in f" '{ZWNJ}{ZWJ}", (char, category)
    assert language == "en" or "'" not in once


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("What is  the\tforecast?", "en", "what is the forecast"),
        ("“Don’t” — he said, 'stop!'", "en", "don't he said stop"),
        ("the dogs' bowl, rock 'n' roll", "en", "the dogs bowl rock n roll"),
        ("1,000 and 2, 3", "en", "1000 and 2 3"),
        ("नमस्ते। दुनिया॥", "hi", "नमस्ते दुनिया"),
        ("নহ'লে নহ’লে", "as", "নহলে নহলে"),
        ("হাত-ভৰি", "as", "হাত ভৰি"),
        ("১২ 12", "bn", "১২ 12"),  # digits stay as written
        ("\u0958\u09dc", "hi", "\u0915\u093c\u09a1\u09bc"),  # precomposed nukta letters
        ("ന" + VIRAMA_ML + ZWJ, "ml", "\u0d7b"),  # old spelling of a chillu
        ("ত" + VIRAMA_BN + ZWJ, "bn", "\u09ce"),  # khanda ta
        ("\u0d26\u0d41" + VIRAMA_ML + ZWNJ + " a", "ml", "\u0d26\u0d41" + VIRAMA_ML + " a"),  # word's end
        ("র" + ZWJ + VIRAMA_BN + "যাব", "bn", "র" + ZWJ + VIRAMA_BN + "যাব"),  # joiner that chooses a shape
        ("ক" + VIRAMA_BN + ZWNJ + ZWJ + "ষ", "bn", "ক" + VIRAMA_BN + ZWNJ + "ষ"),
        ("ক" + ZWJ + "খ" + ZWNJ, "bn", "কখ"),  # joiners that do nothing
        ("\ufeffhi\u00ad\u200ethere\u0093", "en", "hithere"),
        ("?!।…", "hi", ""),
    ],
)  # fmt: skip
def test_rules(text: str, language: str, expected: str) -> None:
    assert normalize(text, language) == expected


def test_unknown_language_is_refused() -> None:
    with pytest.raises(MayaError, match="unknown language code 'zz'"):
        normalize("x", "zz")


def test_real_transcripts_keep_their_words(shared: Path) -> None:
    """No real transcript vanishes, and nothing but punctuation and joiners is lost."""
    for line in (shared / "corpora/indic12/manifest.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        text = normalize(row["text"], row["language"])
        letters = [c for c in unicodedata.normalize("NFC", row["text"]) if unicodedata.category(c)[0] in "LN"]
        kept = [c for c in text if unicodedata.category(c)[0] in "LN"]
        chillus = sum(0x0D7A <= ord(c) <= 0x0D7F for c in text)
        assert abs(len(letters) - len(kept)) <= chillus, (row["text"], text)
        assert text
