"""Several tokenizers in one vocabulary: ids do not overlap, and mixed texts round-trip."""

import pickle
from pathlib import Path

import pytest

from maya.errors import MayaError
from maya.text.aggregate import MAGIC, AggregateTokenizer, aggregate_from_bytes
from maya.text.load import load_tokenizer, tokenizer_from_bytes
from tests.convert.archives import TEXTS, tokenizer


@pytest.fixture(scope="module")
def both() -> AggregateTokenizer:
    return AggregateTokenizer({"en": tokenizer("en"), "hi": tokenizer("hi", 30)})


def test_ids_of_a_language_follow_those_of_the_previous_one(both: AggregateTokenizer) -> None:
    english, hindi = both.parts.values()
    assert both.vocab_size == english.vocab_size + hindi.vocab_size
    text = TEXTS["hi"][0]
    assert both.encode(text, "hi") == [english.vocab_size + i for i in hindi.encode(text)]
    assert both.encode_batch(["fox", text], ["en", "hi"]) == [
        both.encode("fox", "en"),
        both.encode(text, "hi"),
    ]
    ids = range(both.vocab_size)
    assert both.pieces(ids) == english.pieces(range(english.vocab_size)) + hindi.pieces(
        range(hindi.vocab_size)
    )


def test_round_trip(both: AggregateTokenizer) -> None:
    english, hindi = TEXTS["en"][0], TEXTS["hi"][0]
    assert both.decode(both.encode(hindi, "hi")) == hindi
    mixed = [*both.encode("the fox", "en"), *both.encode(hindi, "hi"), *both.encode("dog", "en")]
    assert both.decode(mixed) == f"the fox {hindi} dog"
    assert both.decode([]) == "" and both.decode(both.encode(english, "en")) == english


def test_a_text_needs_its_language(both: AggregateTokenizer) -> None:
    for language in (None, "ta"):
        with pytest.raises(MayaError, match="en, hi"):
            both.encode("fox", language)
    with pytest.raises(MayaError, match="no tokenizer for language .* a tokenizer for each of"):
        both.encode_batch(["fox"])


def test_round_trip_through_bytes_and_pickle(both: AggregateTokenizer) -> None:
    for again in (tokenizer_from_bytes(both.model_bytes), pickle.loads(pickle.dumps(both))):
        assert isinstance(again, AggregateTokenizer) and again.languages == ("en", "hi")
        assert again.model_bytes == both.model_bytes
    for broken in (both.model_bytes[:-1], MAGIC, MAGIC + b"{}\n", b"something else"):
        with pytest.raises(MayaError, match="truncated"):
            aggregate_from_bytes(broken)


def test_a_damaged_file_is_named_with_the_reason(both: AggregateTokenizer, tmp_path: Path) -> None:
    (tmp_path / "cut.model").write_bytes(both.model_bytes[:-1])
    with pytest.raises(MayaError, match=r"cut\.model: this is not an aggregate tokenizer"):
        load_tokenizer(tmp_path / "cut.model")
