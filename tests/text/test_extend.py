"""Extended vocabularies: old ids and old texts stay, new texts have no unknown pieces."""

import pytest

from maya.errors import MayaError
from maya.text.aggregate import AggregateTokenizer
from maya.text.extend import extended, old_ids
from maya.text.sample import TextSample, gather
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

OLD = {"en": ["a bad cab", "dab a face", "bead cafe", "add a bed"] * 3}
NEW = {"el": ["αβγ δε", "βαγ εδ α", "δεδ αβ"] * 3}


def sample(texts: dict[str, list[str]]) -> TextSample:
    pairs = ((code, text) for code, lines in texts.items() for text in lines)
    return gather(pairs, lines_per_language=100, seed=0)


def config(kind: str, size: int = 14, **options: bool) -> TokenizerConfig:
    return TokenizerConfig(vocab_size=size, model_type=kind, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_old_ids_and_texts_stay(kind: str, byte_fallback: bool) -> None:
    old = train_tokenizer(OLD, config(kind, 280 if byte_fallback else 14, byte_fallback=byte_fallback))
    new = extended(old, sample(NEW), config(kind, 12))
    size = old.vocab_size
    assert new.vocab_size > size
    assert new.pieces(range(size)) == old.pieces(range(size))
    assert [new.decode([i]) for i in range(size)] == [old.decode([i]) for i in range(size)]
    assert old_ids(old, new) == [*range(size), *[-1] * (new.vocab_size - size)]
    for text in OLD["en"]:
        assert new.encode(text) == old.encode(text)
    for text in NEW["el"]:
        ids = new.encode(text)
        assert new.decode(ids) == text and new.unk_id not in ids and not any(map(new.is_byte, ids))
    mixed = new.encode("bad αβγ")
    assert mixed[: len(old.encode("bad"))] == old.encode("bad") and new.decode(mixed) == "bad αβγ"
    assert Tokenizer(new.model_bytes).encode("αβ") == new.encode("αβ")


def test_nothing_is_added_for_texts_of_old_letters() -> None:
    old = train_tokenizer(OLD, config("bpe"))
    assert extended(old, sample({"sc": ["face a cab", "dead bead"]}), config("bpe")) is old


def test_a_language_is_added_to_an_aggregate() -> None:
    old = AggregateTokenizer({"en": train_tokenizer(OLD, config("bpe"))})
    new = extended(old, sample(NEW), config("bpe", 12))
    assert isinstance(new, AggregateTokenizer) and new.languages == ("en", "el")
    assert new.encode("bad cab", "en") == old.encode("bad cab", "en")
    assert min(new.encode("αβγ", "el")) >= old.vocab_size and new.decode(new.encode("αβγ", "el")) == "αβγ"
    assert extended(new, sample(NEW), config("bpe", 12)) is new
    assert old_ids(old, new) == [*range(old.vocab_size), *[-1] * (new.vocab_size - old.vocab_size)]


def test_pieces_of_a_replaced_vocabulary_are_found_again() -> None:
    old = train_tokenizer(OLD, config("bpe"))
    new = train_tokenizer({"en": ["bad face", "cafe"], **NEW}, config("bpe", 20))
    for i, was in enumerate(old_ids(old, new)):
        assert was == -1 or old.pieces([was]) == new.pieces([i])
    assert max(old_ids(old, new)) >= 0


def test_a_language_models_tokenizer_is_refused() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    from maya.text.llm_tokenizer import LLMTokenizer

    brought = LLMTokenizer(Backend(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str())
    with pytest.raises(MayaError, match="cannot be extended"):
        extended(brought, sample(NEW), config("bpe"))
