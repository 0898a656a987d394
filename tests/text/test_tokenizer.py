import logging
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maya.errors import MayaError
from maya.text.languages import LANGUAGES
from maya.text.load import load_tokenizer, tokenizer_from_bytes
from maya.text.normalize import normalize
from maya.text.sample import gather
from maya.text.tokenizer import Tokenizer, TokenizerConfig, sample_sentences, train_tokenizer

TEXTS = {
    "hi": ["मैं मोहन के साथ गेंद खेलने जा रहा हूँ", "नमस्ते दुनिया", "यह एक वाक्य है", "दो तीन चार"] * 5,
    "en": [f"the {a} {b} sat on the hill" for a in ("red", "old", "big") for b in ("cat", "dog", "fox")],
}
SMALL = TokenizerConfig(vocab_size=48)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, SMALL)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_round_trip_and_determinism(model_type: str, temperature: float) -> None:
    cfg = TokenizerConfig(vocab_size=48, model_type=model_type, temperature=temperature)  # type: ignore[arg-type]
    first, second = Tokenizer.train(TEXTS, cfg), train_tokenizer(TEXTS, cfg)
    assert first.model_bytes == second.model_bytes
    assert first.vocab_size == 48
    for text in (t for texts in TEXTS.values() for t in texts):
        ids = first.encode(text)
        assert first.decode(ids) == text
        assert first.unk_id not in ids and max(ids) < first.vocab_size
        assert "".join(first.pieces(ids)).replace("▁", " ").strip() == text


@given(words=st.lists(st.sampled_from(["मैं", "साथ", "cat", "hill", "the"]), min_size=1))
def test_new_combinations_round_trip(tokenizer: Tokenizer, words: list[str]) -> None:
    text = " ".join(words)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text, text]) == [tokenizer.encode(text)] * 2


def test_round_trip_through_file_bytes_and_pickle(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t.model")
    text = TEXTS["hi"][0]
    for copy in (
        load_tokenizer(tmp_path / "t.model"),
        tokenizer_from_bytes(tokenizer.model_bytes),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy.encode(text) == tokenizer.encode(text)


def test_unknown_characters_do_not_split_words(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("cat Ω fΩx")).split() == ["cat", "\u2047", "f\u2047x"]


def test_byte_fallback_spells_unknown_characters() -> None:
    tokenizer = train_tokenizer(TEXTS, TokenizerConfig(vocab_size=320, byte_fallback=True))
    assert tokenizer.decode(tokenizer.encode("cat Ωλ")) == "cat Ωλ"


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_too_large_vocabulary_is_reduced(model_type: str, caplog: pytest.LogCaptureFixture) -> None:
    texts = {"en": ["one two three", "four five"]}
    with caplog.at_level(logging.WARNING):
        tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=5000, model_type=model_type))  # type: ignore[arg-type]
    assert tokenizer.vocab_size < 100
    assert f"at most {tokenizer.vocab_size} pieces" in caplog.text and "5000" in caplog.text
    assert tokenizer.decode(tokenizer.encode("one five")) == "one five"


def test_a_too_small_vocabulary_is_refused_with_the_minimum() -> None:
    with pytest.raises(MayaError, match=r"vocab_size=12 .*\d\d pieces are needed.*raise vocab_size"):
        train_tokenizer(TEXTS, TokenizerConfig(vocab_size=12))


@pytest.mark.parametrize("texts", [{}, {"hi": []}, {"hi": ["", "  "]}])
def test_no_text_is_refused(texts: dict[str, list[str]]) -> None:
    with pytest.raises(MayaError, match="no text to train"):
        train_tokenizer(texts, SMALL)


def test_language_without_text_is_named() -> None:
    with pytest.raises(MayaError, match="no text in language 'ta'"):
        train_tokenizer(TEXTS | {"ta": []}, SMALL)


def test_bad_model_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(MayaError, match=r"bad\.model: this is not a SentencePiece model"):
        load_tokenizer(tmp_path / "bad.model")
    with pytest.raises(MayaError, match=r"cannot read the tokenizer .*none\.model"):
        load_tokenizer(tmp_path / "none.model")


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.1), (0.5, 0.25), (0.0, 0.5)])
def test_temperature_sets_the_share_of_characters(temperature: float, share: float) -> None:
    texts = {"en": ["abcdefghij"] * 900, "hi": ["कखगघङचछजझञ"] * 100}
    sentences = list(sample_sentences(texts, TokenizerConfig(temperature=temperature)))
    hindi = sum(s[0] == "क" for s in sentences)
    assert hindi / len(sentences) == pytest.approx(share, abs=0.005)
    assert len(sentences) == pytest.approx(1000, abs=2)


def test_sampling_keeps_every_character() -> None:
    """A language with a small sampling share must keep the characters of its rare sentences."""
    texts = {"en": ["abc"] * 500 + ["xyz"], "hi": ["कखग"]}
    sentences = list(sample_sentences(texts, TokenizerConfig(temperature=0.0, max_sentences=20)))
    assert len(sentences) <= 22
    assert set("".join(sentences)) == set("abcxyzकखग")


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_characters_of_a_small_language_get_pieces(model_type: str) -> None:
    """40 Odia lines beside 4000 English ones: Odia letters get pieces, a single rare character does not."""
    texts = {
        "en": [f"the cat sat on hill {i % 7}" for i in range(4000)] + ["a slip ß"],
        "or": ["ଓଡ଼ିଆ ଭାଷା", "କଖଗ"] * 20,
    }
    cfg = TokenizerConfig(vocab_size=70, model_type=model_type, temperature=1.0, min_char_count=5)  # type: ignore[arg-type]
    cfg.max_sentences = 50  # at most one line of the sample is Odia
    tokenizer = train_tokenizer(texts, cfg)
    for char in set("".join(texts["or"])) - {" "}:
        assert tokenizer.unk_id not in tokenizer.encode(char), char
    assert tokenizer.unk_id in tokenizer.encode("ß")


def test_training_on_a_stream_equals_training_on_a_list() -> None:
    pairs = [(code, text) for code, texts in TEXTS.items() for text in texts]
    sample = gather(iter(pairs), lines_per_language=1000, seed=0)
    assert train_tokenizer(sample, SMALL).model_bytes == train_tokenizer(TEXTS, SMALL).model_bytes


def test_characters_outside_the_sample_are_not_lost() -> None:
    texts = {"en": ["the cat"] * 500 + ["xyz"]}
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=20, lines_per_language=3))
    assert tokenizer.decode(tokenizer.encode("xyz cat")) == "xyz cat"


def test_a_language_of_rare_characters_only_is_named() -> None:
    with pytest.raises(MayaError, match=r"'hi' .*min_char_count=5 times; lower it"):
        train_tokenizer({"en": ["abc"] * 9, "hi": ["कखग"]}, TokenizerConfig(vocab_size=30, min_char_count=5))


@pytest.fixture(scope="module")
def spelling() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(vocab_size=320, byte_fallback=True))


@given(text=st.text(), language=st.sampled_from(list(LANGUAGES)))
def test_normalized_text_round_trips_with_pieces_and_bytes(
    spelling: Tokenizer, text: str, language: str
) -> None:
    normal = normalize(text, language)
    assert spelling.decode(spelling.encode(normal)) == normal
