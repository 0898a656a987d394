"""Lists of hot words: read from files, and written as tokens of a model.

    # a comment
    Sundar Pichai
    Trivandrum :2.5
    cat*

The second phrase has a weight of its own, times that of the list. The third counts inside longer words that
begin with it, such as catalog, too.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maya.decode.lm.hotwords import GROWTH_TOKENS, HotWords
from maya.decode.lm.phrase_trie import TokenPhrase
from maya.decode.lm.vocabulary import BYTE_SPACE, SPACE, Vocabulary
from maya.errors import MayaError
from maya.text.aggregate import AggregateTokenizer
from maya.text.llm_tokenizer import LLMTokenizer
from maya.text.normalize import normalize
from maya.text.scripts import main_script

_WEIGHT = re.compile(r"\s:\s*([-+]?(?:\d+\.?\d*|\.\d+))$")
# Scripts whose texts have no spaces between words, so that a word may begin and end anywhere.
_WITHOUT_SPACES = frozenset(("Hani", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """A hot word or phrase. weight: above 0, times that of the list. open: whether it counts inside longer
    words that begin with it."""

    text: str
    weight: float = 1.0
    open: bool = False


def parse_phrase(line: str) -> Phrase:
    """The phrase of a line, see above. Raises MayaError for a line without a phrase, and for a weight of 0 or
    less."""
    match = _WEIGHT.search(line)
    text = (line[: match.start()] if match else line).strip()
    weight = float(match[1]) if match else 1.0
    opened = text.endswith("*")
    text = text.rstrip("*").strip()
    if not text:
        raise MayaError(f"the hot word {line.strip()!r} has no text")
    if weight <= 0:
        raise MayaError(f"the weight of the hot word {text!r} must be above 0, not {weight:g}")
    return Phrase(text=text, weight=weight, open=opened)


def read_phrases(path: Path | str) -> list[Phrase]:
    """The phrases of a file. Raises MayaError for a file that cannot be read or has none."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise MayaError(f"cannot read the hot words {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MayaError(f"the hot words {path} are not UTF-8: {error}") from None
    phrases = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                phrases.append(parse_phrase(line))
            except MayaError as error:
                raise MayaError(f"{path}, line {number}: {error}") from None
    if not phrases:
        raise MayaError(f"the hot words {path} are empty: write one phrase a line")
    return phrases


def hot_words(
    lists: Sequence[Iterable[Phrase | str]], vocab: Vocabulary, languages: Sequence[str] = ()
) -> HotWords:
    """The scorer of lists of phrases. languages: of the model, for normal forms and aggregate tokenizers.

    Raises MayaError for a phrase that the tokenizer cannot write.
    """
    parsed = [[p if isinstance(p, Phrase) else parse_phrase(p) for p in phrases] for phrases in lists]
    tokens = [[t for p in phrases for t in token_phrases(p, vocab, languages)] for phrases in parsed]
    return HotWords(tokens, vocab.begins)


def token_phrases(phrase: Phrase, vocab: Vocabulary, languages: Sequence[str] = ()) -> list[TokenPhrase]:
    """A phrase in every way that the model may write it.

    That is the tokenizer's own way, of the phrase as it stands, else of its normal form: it is what the model
    saw in training. In scripts without spaces the phrase may begin and end inside of what looks like a word,
    so it is written without the mark of a new word, too. Raises MayaError for a phrase that the tokenizer
    cannot write.
    """
    spaceless = main_script([phrase.text]) in _WITHOUT_SPACES
    ways = {way: None for way in _written(phrase, vocab, languages)}
    if not ways:
        raise MayaError(
            f"the tokenizer of this model cannot write the hot word {phrase.text!r}: it has no token for "
            f"some "
            "of its characters; leave it out, or spell it in the script of the model"
        )
    if spaceless:
        ways |= {way: None for tokens in list(ways) if (way := _without_mark(tokens, vocab))}
    return [
        TokenPhrase(
            tokens=tokens, open=phrase.open or spaceless,
            loans=tuple(phrase.weight * min(n, GROWTH_TOKENS) for n in range(1, len(tokens) + 1)),
        )
        for tokens in ways
    ]  # fmt: skip


def _written(phrase: Phrase, vocab: Vocabulary, languages: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of a phrase in each language that can write it."""
    tokenizer = vocab.tokenizer
    space = " " if isinstance(tokenizer, LLMTokenizer) and any(BYTE_SPACE in p for p in vocab.pieces) else ""
    per_language = isinstance(tokenizer, AggregateTokenizer)
    for forms in ([(phrase.text, code) for code in languages or ("",)],
                  [(normalize(phrase.text, code), code) for code in languages]):  # fmt: skip
        ways = []
        for text, code in dict.fromkeys(forms):
            tokens = tuple(tokenizer.encode(space + text, code if per_language else None)) if text else ()
            unknown = _unknown_ids(vocab, tokens, code)
            if tokens and not unknown and tokens not in ways:
                ways.append(tokens)
        if ways:
            return ways
    return []


def _unknown_ids(vocab: Vocabulary, tokens: Sequence[int], language: str) -> bool:
    """Whether some of the tokens stand for text that the tokenizer does not know."""
    tokenizer = vocab.tokenizer
    unknown = {tokenizer.unk_id}
    if isinstance(tokenizer, AggregateTokenizer):
        unknown = {i for i, piece in enumerate(vocab.pieces) if piece == "<unk>"}
    return any(token in unknown or token == vocab.blank or token >= vocab.outputs for token in tokens)


def _without_mark(tokens: tuple[int, ...], vocab: Vocabulary) -> tuple[int, ...]:
    """The same tokens inside a word; () where the vocabulary has no such token."""
    first = vocab.pieces[tokens[0]].lstrip(SPACE + BYTE_SPACE)
    if not first:
        return tokens[1:]
    ids = {piece: i for i, piece in enumerate(vocab.pieces)}
    return (ids[first], *tokens[1:]) if first in ids else ()
