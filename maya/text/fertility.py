"""Statistics of a tokenizer for each language: pieces per word, and unknown characters."""

from dataclasses import asdict, dataclass

import numpy as np

from maya.text.sample import LanguageText, TextSample
from maya.text.tokenizer import Tokenizer, TokenizerConfig, training_shares

_LINES_ENCODED = 50_000  # of each language; more would not change the second decimal
_NAMED = 50  # unknown characters that are listed


@dataclass(frozen=True, kw_only=True, slots=True)
class Fertility:
    """One language under one tokenizer.

    share_of_text, share_of_training: share of all characters, in the corpus and in the tokenizer's training.
    pieces_per_word (fertility), pieces_per_character, and the shares byte_pieces and unknown_pieces of all
    pieces are for the lines in the sample, at most 50 000. unknown_characters: share of the characters of all
    lines that have no piece of their own; left_out: the commonest of them.
    """

    lines: int
    words: int
    characters: int
    alphabet: int
    share_of_text: float
    share_of_training: float
    pieces_per_word: float
    pieces_per_character: float
    unknown_pieces: float
    byte_pieces: float
    unknown_characters: float
    left_out: dict[str, int]


def fertility(tokenizer: Tokenizer, sample: TextSample, cfg: TokenizerConfig) -> dict[str, Fertility]:
    """The statistics of each language of the sample, in alphabetical order of codes."""
    shares = training_shares(sample, cfg)
    total = sum(text.length for text in sample.values())
    by_language = {}
    for code, text in sorted(sample.items()):
        pieces, unknown, spelt, words, characters = _encoded(tokenizer, text, code)
        left_out = without_piece(tokenizer, text)
        by_language[code] = Fertility(
            lines=text.total_lines,
            words=text.words,
            characters=text.length,
            alphabet=len(text.characters.keys() - {" "}),
            share_of_text=text.length / total,
            share_of_training=shares[code],
            pieces_per_word=pieces / max(words, 1),
            pieces_per_character=pieces / max(characters, 1),
            unknown_pieces=unknown / max(pieces, 1),
            byte_pieces=spelt / max(pieces, 1),
            unknown_characters=sum(left_out.values()) / text.length,
            left_out=dict(list(left_out.items())[:_NAMED]),
        )
    return by_language


def without_piece(tokenizer: Tokenizer, text: LanguageText) -> dict[str, int]:
    """Counts of the characters that have no piece of their own, the commonest first. A tokenizer without an
    unknown piece can write every character: none."""
    if tokenizer.unk_id < 0:
        return {}
    own = {piece.lstrip("▁") for piece in tokenizer.pieces(range(tokenizer.vocab_size))} | {" "}
    return {char: n for char, n in text.characters.most_common() if char not in own}


def fertility_report(
    tokenizer: Tokenizer, languages: dict[str, Fertility], cfg: TokenizerConfig
) -> dict[str, object]:
    """The report of a tokenizer, for JSON."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    spelt = sum(tokenizer.is_byte(i) for i in range(tokenizer.vocab_size))
    single = sum(len(piece) == 1 for piece in pieces)
    return {
        "model_type": cfg.model_type,
        "vocab_size": tokenizer.vocab_size,
        "pieces": {"characters": single, "bytes": spelt, "longer": tokenizer.vocab_size - single - spelt - 1},
        "longest": max(pieces, key=len),
        "languages": {code: asdict(facts) for code, facts in languages.items()},
    }


def fertility_table(languages: dict[str, Fertility]) -> list[list[str]]:
    """Rows of cells, the header first."""
    rows = [
        ["language", "lines", "words", "letters", "text", "training", "pieces/word", "unknown", "in bytes"]
    ]
    for code, facts in languages.items():
        rows.append(
            [
                code,
                str(facts.lines),
                str(facts.words),
                str(facts.alphabet),
                f"{facts.share_of_text:.1%}",
                f"{facts.share_of_training:.1%}",
                f"{facts.pieces_per_word:.2f}",
                f"{facts.unknown_characters:.3%}",
                f"{facts.byte_pieces:.3%}",
            ]
        )
    return rows


def _encoded(tokenizer: Tokenizer, text: LanguageText, code: str) -> tuple[int, int, int, int, int]:
    """(pieces, unknown pieces, byte pieces, words, characters) of lines spread evenly over the sample."""
    picks = np.linspace(0, len(text.lines) - 1, min(len(text.lines), _LINES_ENCODED)).round().astype(int)
    lines = [text.lines[i] for i in picks]
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for begin in range(0, len(lines), 4096):
        part = lines[begin : begin + 4096]
        ids = [i for line in tokenizer.encode_batch(part, [code] * len(part)) for i in line]
        counts += np.bincount(ids, minlength=tokenizer.vocab_size)
    spelt = sum(int(counts[i]) for i in counts.nonzero()[0].tolist() if tokenizer.is_byte(i))
    unknown = int(counts[tokenizer.unk_id]) if tokenizer.unk_id >= 0 else 0
    words = sum(len(line.split()) for line in lines)
    return int(counts.sum()), unknown, spelt, words, sum(map(len, lines))
