from collections.abc import Sequence

import pytest

from maya.text.aggregate import AggregateTokenizer
from maya.text.fertility import fertility, fertility_report, fertility_table
from maya.text.sample import gather
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

TEXTS = [("en", "the cat sat")] * 60 + [("en", "the ß")] + [("hi", "एक दो")] * 20


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_fertility_of_each_language(byte_fallback: bool) -> None:
    cfg = TokenizerConfig(
        vocab_size=22 + 256 * byte_fallback, temperature=0.0, min_char_count=5, byte_fallback=byte_fallback
    )
    sample = gather(TEXTS, lines_per_language=1000, seed=0)
    tokenizer = train_tokenizer(sample, cfg)
    languages = fertility(tokenizer, sample, cfg)
    assert list(languages) == ["en", "hi"]
    english, hindi = languages["en"], languages["hi"]
    assert (english.lines, english.words, english.characters) == (61, 182, 60 * 11 + 5)
    assert english.share_of_text == pytest.approx(665 / 765) and english.share_of_training == 0.5
    assert english.left_out == {"ß": 1} and english.unknown_characters == pytest.approx(1 / 665)
    pieces = sum(len(tokenizer.encode(text)) for code, text in TEXTS if code == "en")
    assert english.pieces_per_word == pytest.approx(pieces / 182)
    assert english.byte_pieces == pytest.approx(2 / pieces if byte_fallback else 0.0)
    assert english.unknown_pieces == pytest.approx(0.0 if byte_fallback else 1 / pieces)
    assert hindi.unknown_characters == hindi.unknown_pieces == 0.0 and hindi.alphabet == 4

    report = fertility_report(tokenizer, languages, cfg)
    kinds = report["pieces"]
    assert isinstance(kinds, dict) and kinds["bytes"] == 256 * byte_fallback
    assert sum(kinds.values()) + 1 == tokenizer.vocab_size == report["vocab_size"]
    assert [row[0] for row in fertility_table(languages)] == ["language", "en", "hi"]


def test_tokenizers_without_an_unknown_piece_lack_no_character() -> None:
    """Such as those of bytes, which have no piece of a letter of Hindi."""

    class Bytes(Tokenizer):
        vocab_size, unk_id = 256, -1  # type: ignore[assignment]

        def __init__(self) -> None:
            pass

        def encode_batch(self, texts: Sequence[str], languages: object = None) -> list[list[int]]:
            return [list(text.encode()) + [255] for text in texts]

        def pieces(self, ids: Sequence[int]) -> list[str]:
            return [chr(0x100 + i) for i in ids]

        def is_byte(self, id: int) -> bool:
            return False

    languages = fertility(Bytes(), gather(TEXTS, lines_per_language=1000, seed=0), TokenizerConfig())
    for facts in languages.values():
        assert facts.unknown_pieces == facts.unknown_characters == 0 and facts.left_out == {}


def test_an_aggregate_tokenizer_counts_each_language_by_its_own() -> None:
    cfg = TokenizerConfig(vocab_size=12)
    sample = gather(TEXTS[:60] + TEXTS[61:], lines_per_language=1000, seed=0)
    parts = {code: train_tokenizer({code: sample[code]}, cfg) for code in ("hi", "en")}
    joined = fertility(AggregateTokenizer(parts), sample, cfg)
    for code, own in joined.items():
        alone = fertility(parts[code], {code: sample[code]}, cfg)[code]
        assert own.pieces_per_word == alone.pieces_per_word
