import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maya.errors import MayaError
from maya.text.indic import SAME_LOOK
from maya.text.languages import LANGUAGES
from maya.text.normalize import normalize

ZWNJ, ZWJ, VIRAMA_ML, VIRAMA_BN = "\u200c", "\u200d", "\u0d4d", "\u09cd"
# Characters on which several rules act: letters and signs, joiners, apostrophes, digits and rare characters.
TRICKY = st.text(
    st.sampled_from("aZé'’`-,.12\u200c\u200d\u200e\ufeff\u00ad\u0093 \t\nİıſßⅣﬁ１")
    | st.characters(min_codepoint=0x0900, max_codepoint=0x0D7F)
    | st.sampled_from("".join(language.virama for language in LANGUAGES.values()))
)


@given(st.text() | TRICKY, st.sampled_from(list(LANGUAGES)))
def test_normalization_is_idempotent_and_keeps_only_words(text: str, language: str) -> None:
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
        ("১২ 12 १२ १2", "bn", "12 12 12 12"),  # digits of every script are read alike
        ("10² ½ Ⅳ ﬁ ＡＢ１", "en", "10² ½ iv fi ab1"),
        ("दु:ख कहा: राम 3:30", "hi", "दुःख कहा राम 3 30"),  # a colon for a visarga, only inside a word
        ("এক৷দুই ଏକ\u0b64ଦୁଇ", "bn", "এক দুই ଏକ ଦୁଇ"),  # dandas by other names
        ("एक|दो ❤\ufe0f 1\ufe0f\u20e3", "hi", "एक दो 1"),
        ("\u0958\u09dc", "hi", "\u0915\u093c\u09a1\u09bc"),  # precomposed nukta letters
        ("ന" + VIRAMA_ML + ZWJ, "ml", "\u0d7b"),  # old spelling of a chillu
        ("ত" + VIRAMA_BN + ZWJ, "bn", "\u09ce"),  # khanda ta
        ("\u0d26\u0d41" + VIRAMA_ML + ZWNJ + " a", "ml", "\u0d26\u0d41" + VIRAMA_ML + " a"),  # word's end
        ("র" + ZWJ + VIRAMA_BN + "যাব", "bn", "র" + ZWJ + VIRAMA_BN + "যাব"),  # joiner that chooses a shape
        ("ক" + VIRAMA_BN + ZWNJ + ZWJ + "ষ", "bn", "ক" + VIRAMA_BN + ZWNJ + "ষ"),
        ("ক" + ZWJ + "খ" + ZWNJ, "bn", "কখ"),  # joiners that do nothing
        ("\ufeffhi\u00ad\u200ethere\u0093", "en", "hithere"),
        ("?!।…", "hi", ""),
        ("OK गूगल", "hi", "ok गूगल"),  # Latin letters stay
        ("\u0905\u093e\u0915\u093e\u093c", "hi", "\u0906\u0915\u093c\u093e"),  # two parts; late nukta
        ("\u0930\u094d\u200d\u092f", "mr", "\u0931\u094d\u092f"),  # eyelash ra
        ("\u0915\u094d\u200d\u0937 \u0915\u094d\u200c\u0937", "hi", "\u0915\u094d\u0937 \u0915\u094d\u0937"),
        ("\u0c95\u0ccd\u200c\u0c97", "kn", "\u0c95\u0ccd\u200c\u0c97"),  # here the joiner is spelling
        ("\u0d0e\u0d7b\u0d4d\u0d31\u0d46 \u0d15\u0d4c", "ml", "\u0d0e\u0d28\u0d4d\u0d31\u0d46 \u0d15\u0d57"),
        ("\u0b95\u0bcd\u0b95\u0bcd\u0bcd", "ta", "\u0b95\u0bcd\u0b95\u0bcd"),  # a sign typed twice
        ("\u0936\u094d\u093e\u093e", "hi", "\u0936"),  # half letter + the stroke that completes it
    ],
)  # fmt: skip
def test_rules_of_each_script(text: str, language: str, expected: str) -> None:
    assert normalize(text, language) == expected


@given(st.text() | TRICKY, st.sampled_from(list(LANGUAGES)))
def test_equivalent_texts_normalise_to_the_same_text(text: str, language: str) -> None:
    once = normalize(text, language)
    assert not any(sequence in once for sequence in SAME_LOOK)
    assert not re.search(r"[^\W0-9]", "".join(c for c in once if unicodedata.category(c) == "Nd"))
    for form in ("NFD", "NFC"):
        assert normalize(unicodedata.normalize(form, text), language) == once
    assert normalize(f"  {text}\t", language) == once


@given(TRICKY, st.integers(min_value=0), st.sampled_from("\u200e\ufeff\u00ad\u200b\ufe0f"))
def test_invisible_characters_change_nothing(text: str, place: int, invisible: str) -> None:
    place %= len(text) + 1
    assert normalize(text[:place] + invisible + text[place:], "hi") == normalize(text, "hi")


def test_unknown_language_is_refused() -> None:
    with pytest.raises(MayaError, match="unknown language 'zz'"):
        normalize("x", "zz")


def test_real_transcripts_keep_their_words(shared: Path) -> None:
    """No real transcript becomes empty, and only punctuation and joiners are removed."""
    for line in (shared / "corpora/indic12/manifest.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        text = normalize(row["text"], row["language"])
        letters = [c for c in unicodedata.normalize("NFC", row["text"]) if unicodedata.category(c)[0] in "LN"]
        kept = [c for c in text if unicodedata.category(c)[0] in "LN"]
        chillus = sum(0x0D7A <= ord(c) <= 0x0D7F for c in text)
        assert abs(len(letters) - len(kept)) <= chillus, (row["text"], text)
        assert text


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("there&#39;s a &quot;word&quot; here &amp; there", "there's a word here there"),
        ("it&#x27;s caf&eacute;", "it's café"),
        ("it&#X27;s", "it's"),
        ("a&nbsp;b&amp;nbsp;c", "a b c"),
        ("don&amp;amp;#39;t", "don't"),
        ("&lt;unk&gt; yes", "unk yes"),
        ("AT&T and Q&As; R&D", "at t and q as r d"),
        ("a &copy b &notit c", "a copy b notit c"),
        ("x &unknownname; y", "x unknownname y"),
        ("a&#8203;b &shy;c", "ab c"),
        ("a &#0; &#xD800; b", "a b"),
        ("&#2361;&#2367;", "हि"),
        ("one &amp", "one amp"),
    ],
)
def test_html_entities(written: str, normal: str) -> None:
    assert normalize(written, "en") == normal == normalize(normal, "en")


@pytest.mark.parametrize(
    ("language", "written", "normal"),
    [
        ("fr", "L’Été, c'est « beau »…", "l'été c'est beau"),
        ("uk", "М'яч і п’ять", "м'яч і п'ять"),
        ("el", "ΣΊΣΥΦΟΣ, καλημέρα!", "σίσυφος καλημέρα"),
        ("tr", "İSTANBUL'da IŞIK", "istanbul'da ışık"),
        ("de", "Straße — Öl", "straße öl"),
        ("ru", "Ёлка; 5 шт.", "ёлка 5 шт"),
        ("ur", "السلام علیکم، ٣٤", "السلام علیکم 34"),
        ("fa", "می\u200cخواهم\u200c ", "می\u200cخواهم"),
        ("zh-TW", "你好，世界。", "你好 世界"),
        ("ja", "カタカナー、ＡＢＣ", "カタカナー abc"),
        ("si", "ශ්\u200dරී ලංකා", "ශ්\u200dරී ලංකා"),
        ("ne", "नेपा\u200dली क्\u200dष", "नेपाली क्ष"),
        ("mai", "नहि'ए", "नहिए"),
        ("vi", "Tiếng Việt", "tiếng việt"),
        ("hi-Latn", "Namaste, don't!", "namaste don't"),
    ],
)
def test_open_languages(language: str, written: str, normal: str) -> None:
    assert normalize(written, language) == normal
    assert normalize(normal, language) == normal
    assert normalize(unicodedata.normalize("NFD", written), language) == normal


@pytest.mark.parametrize("code", ["tr", "tur", "TR", "tr-TR", "Turkish"])
def test_a_language_may_be_written_in_any_way(code: str) -> None:
    assert normalize("DIŞ İYİ", code) == "dış iyi"


@given(st.text() | TRICKY, st.sampled_from(["fr", "tr", "fa", "si", "ja", "hi-Latn"]))
def test_normalising_twice_changes_nothing_in_open_languages(text: str, language: str) -> None:
    once = normalize(text, language)
    assert normalize(once, language) == once
