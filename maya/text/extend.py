"""Vocabularies for another language: new pieces behind those of a tokenizer, whose ids and texts stay."""

import importlib
import unicodedata
from collections.abc import Sequence

from maya.errors import MayaError
from maya.text.aggregate import AggregateTokenizer
from maya.text.llm_tokenizer import LLMTokenizer
from maya.text.sample import TextSample
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

_INDIC = range(0x0900 // 128, 0x0D80 // 128)  # blocks of 128 code points: Devanagari to Malayalam


def extended(tokenizer: Tokenizer, texts: TextSample, cfg: TokenizerConfig) -> Tokenizer:
    """`tokenizer` with pieces for the languages of `texts` behind its own.

    An aggregate tokenizer gets a tokenizer for each language that it lacks. To SentencePiece pieces are
    appended that a tokenizer trained on `texts` has, each with a character that the old pieces lack. So no
    text of old characters can hold a new piece: it is encoded as before, and every old id is decoded as
    before. Where the texts have no new character, the same tokenizer is returned. `cfg.vocab_size` is the
    number of pieces that are trained. Raises MayaError for a language model's tokenizer.
    """
    if isinstance(tokenizer, LLMTokenizer):
        raise MayaError(
            "a language model's tokenizer cannot be extended; keep it, or replace the head that brings it"
        )
    if isinstance(tokenizer, AggregateTokenizer):
        missing = {code: text for code, text in texts.items() if code not in tokenizer.parts}
        parts = {code: train_tokenizer({code: text}, cfg) for code, text in missing.items()}
        return AggregateTokenizer(tokenizer.parts | parts) if parts else tokenizer
    old_letters = characters(tokenizer)
    lacking = {code: text for code, text in texts.items() if text.characters.keys() - old_letters}
    if not lacking:
        return tokenizer
    made = train_tokenizer(lacking, cfg)
    old = set(tokenizer.pieces(range(tokenizer.vocab_size)))
    ids = [
        i
        for i, piece in enumerate(made.pieces(range(made.vocab_size)))
        if i != made.unk_id and not made.is_byte(i) and piece not in old and set(piece) - old_letters
    ]
    return _appended(tokenizer, made, ids)


def characters(tokenizer: Tokenizer) -> set[str]:
    """The characters that have a piece of their own, and the mark of a word's beginning."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return {piece for i, piece in enumerate(pieces) if len(piece) == 1 and not tokenizer.is_byte(i)} | {
        "▁",
        " ",
    }


def old_ids(old: Tokenizer, new: Tokenizer) -> list[int]:
    """For each id of `new`, the id of the same piece in `old`; -1 where there is none. Of aggregate
    tokenizers, pieces of one language are compared."""
    numbers: dict[tuple[str, str], int] = {}
    for i, name in enumerate(_names(old)):
        numbers.setdefault(name, i)
    return [numbers.get(name, -1) for name in _names(new)]


def alike(old: Tokenizer, new: Tokenizer) -> list[int]:
    """For each id of `new`, that of a piece of `old` that is spoken alike; -1 where none is known.

    The scripts of India have their letters in the same order, 128 code points for each script; accents are
    left out. A piece without its like has that of its first letter.
    """
    numbers: dict[str, int] = {}
    for i, piece in enumerate(old.pieces(range(old.vocab_size))):
        numbers.setdefault(piece, i)
    blocks = sorted({ord(c) // 128 for piece in numbers for c in piece if ord(c) // 128 in _INDIC})
    return [_alike(piece, numbers, blocks) for piece in new.pieces(range(new.vocab_size))]


def _alike(piece: str, numbers: dict[str, int], blocks: Sequence[int]) -> int:
    plain = unicodedata.normalize("NFD", piece)
    forms = ["".join(_moved(c, block) for c in piece) for block in blocks]
    forms.append("".join(c for c in plain if not unicodedata.combining(c)))
    first = [form.lstrip("▁")[:1] for form in forms]
    return next((numbers[form] for form in (piece, *forms, *first) if form in numbers), -1)


def _moved(char: str, block: int) -> str:
    return chr(128 * block + ord(char) % 128) if ord(char) // 128 in _INDIC else char


def _names(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """(language, piece) of each id; the language is empty where all share the pieces."""
    if isinstance(tokenizer, AggregateTokenizer):
        return [(c, p) for c, part in tokenizer.parts.items() for p in part.pieces(range(part.vocab_size))]
    return [("", piece) for piece in tokenizer.pieces(range(tokenizer.vocab_size))]


def _appended(tokenizer: Tokenizer, made: Tokenizer, ids: Sequence[int]) -> Tokenizer:
    """`tokenizer` with the pieces `ids` of `made` at its end. In BPE scores are ranks of merges: the new ones
    come after all old ones. In unigram models they are log probabilities, and new pieces compete with one
    another only."""
    proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(tokenizer.model_bytes)
    scores = made.scores(ids)
    if all(score == int(score) for score in scores):  # ranks
        lowest = min(tokenizer.scores(range(tokenizer.vocab_size)), default=0.0)
        ranks = {score: place for place, score in enumerate(sorted(set(scores), reverse=True))}
        scores = [lowest - 1 - ranks[score] for score in scores]
    for piece, score in zip(made.pieces(ids), scores, strict=True):
        proto.pieces.add(piece=piece, score=score)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return Tokenizer(proto.SerializeToString())
