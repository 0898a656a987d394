"""Words and segments of a hypothesis, with times and confidence, out of its tokens.

A word is what stands between two spaces of the text. In scripts that write no spaces (Chinese, Japanese,
Thai, Lao, Khmer, Burmese) a word is a character with its marks, because the text does not say where words
end. Characters are matched to tokens, so that any tokenizer works: pieces, bytes of a character, unknown
pieces."""

import itertools
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from typing import Literal

from maya.decode.hypothesis import Hypothesis, TextSegment, Word
from maya.decode.word_edges import Levels, WordTokens, letters_in, measured_spans
from maya.text.scripts import script_of
from maya.text.tokenizer import UNKNOWN, Tokenizer

Aggregation = Literal["min", "mean", "product"]
"""How the confidences of its tokens make that of a word. min: a word is wrong if one of its pieces is."""

UNSPACED_SCRIPTS = frozenset({"Hani", "Thai", "Laoo", "Khmr", "Mymr", "Bopo"})
# Full stops, question and exclamation marks of Latin, Devanagari, Arabic, Chinese, Armenian, Ethiopic,
# Burmese.
SENTENCE_ENDS = frozenset(".!?\u2026\u0964\u0965\u06d4\u061f\u3002\uff01\uff1f\uff0e\u0589\u1362\u104b")
_UNKNOWN_PIECE = "<unk>"
_PREFIX_TOKENS = 256
_LONGEST = 1.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class WordRules:
    """How words are made of tokens.

    offset_seconds: by how much tokens are emitted too late on average; it is taken from all times.
    curve: maps the confidence of a word to a probability that it is right; None leaves it as it is.
    gap_seconds: a longer pause begins a new segment.
    """

    aggregation: Aggregation = "min"
    offset_seconds: float = 0.0
    curve: Callable[[float], float] | None = None
    gap_seconds: float = 1.0


def write_words(
    hyps: list[Hypothesis],
    tokenizer: Tokenizer,
    rules: WordRules | None = None,
    *,
    seconds: Sequence[float] | None = None,
    levels: Sequence[Levels] | None = None,
) -> list[Hypothesis]:
    """Set words and segments of hypotheses whose text and frame length are set, also of their alternatives,
    when they are read: who only wants the text does not wait for the words.

    seconds: the length of each recording, which no word reaches beyond. levels: of its sound, on which starts
    and ends are measured; without them they are those of the frames, or of earlier `spans`.

    The texts of the words are `hyp.text.split()`, except in `UNSPACED_SCRIPTS`; every word has a confidence
    if the hypothesis has confidences or else scores for its tokens, and times if it has frames.
    """
    rules = rules or WordRules()
    for i, hyp in enumerate(hyps):
        length = None if seconds is None else seconds[i]
        sound = None if levels is None else levels[i]
        fill = partial(
            _fill_words, tokenizer=tokenizer, rules=rules, seconds=length, levels=sound, spans=hyp.spans
        )
        hyp.defer(("words", "segments", "spans"), fill)
        if hyp.alternatives:
            count = len(hyp.alternatives)
            lengths = None if length is None else [length] * count
            sounds = None if sound is None else [sound] * count
            write_words(hyp.alternatives, tokenizer, rules, seconds=lengths, levels=sounds)
    return hyps


def _fill_words(
    hyp: Hypothesis, *, tokenizer: Tokenizer, rules: WordRules, seconds: float | None,
    levels: Levels | None, spans: list[tuple[float, float]],
) -> None:  # fmt: skip
    hyp.spans = spans
    hyp.words = make_words(hyp, tokenizer, rules, seconds=seconds, levels=levels)
    hyp.segments = segments_of(hyp.words, gap_seconds=rules.gap_seconds)


def make_words(
    hyp: Hypothesis, tokenizer: Tokenizer, rules: WordRules, *, seconds: float | None = None,
    levels: Levels | None = None,
) -> list[Word]:  # fmt: skip
    """The words of a hypothesis; see `write_words`. With levels it sets `hyp.spans`."""
    texts = split_words(hyp.text)
    if not texts or not hyp.tokens:
        return [Word(text=text) for text in texts]
    spans = [(start * hyp.frame_seconds, end * hyp.frame_seconds) for start, end in token_spans(hyp)]
    confidences = token_confidences(hyp)
    places = _character_tokens(hyp, tokenizer)
    is_mark = [_is_punctuation(char) for char in _squeezed(hyp.text)]
    words: list[Word] = []
    owners: dict[int, tuple[int, int]] = {}  # the first and last token of words that have some
    for n, (text, end) in enumerate(zip(texts, itertools.accumulate(map(len, texts)), strict=True)):
        letters = [i for i in range(end - len(text), end) if not is_mark[i]]
        spoken = [places[i] for i in letters] or places[end - len(text) : end]
        words.append(Word(text=text))
        first, last = min(place[0] for place in spoken), max(place[1] for place in spoken)
        if confidences:
            tokens = sorted({token for place in spoken for token in range(place[0], place[1] + 1)})
            value = aggregate([confidences[token] for token in tokens], rules.aggregation)
            words[-1].confidence = value if rules.curve is None else rules.curve(value)
        if letters:
            owners[n] = (first, last)
    if spans:
        if levels is not None:
            tokens_of_words = [WordTokens(*owners[n], letters_in(texts[n])) for n in owners]
            hyp.spans = measured_spans(
                spans, tokens_of_words, levels, frame_seconds=hyp.frame_seconds,
                offset_seconds=rules.offset_seconds,
            )  # fmt: skip
        measured = len(hyp.spans) == len(spans)
        spans = hyp.spans if measured else spans
        _set_times(words, owners, spans)
        fill_times(words, total=spans[-1][1])
        clean_times(words, offset_seconds=0.0 if measured else rules.offset_seconds, seconds=seconds)
    return words


def token_spans(hyp: Hypothesis) -> list[tuple[float, float]]:
    """Start and end of each token in frames; empty without times.

    Tokens of one frame (durations of 0 of a TDT, several labels of an RNN-T) share its time equally, up to
    the end of the longest of them. No token reaches beyond the start of the next.
    """
    if not hyp.tokens or len(hyp.frames) != len(hyp.tokens) or len(hyp.durations) != len(hyp.tokens):
        return []
    spans: list[tuple[float, float]] = []
    groups = [list(group) for _, group in itertools.groupby(range(len(hyp.tokens)), lambda i: hyp.frames[i])]
    for group, following in itertools.zip_longest(groups, groups[1:]):
        start = hyp.frames[group[0]]
        end = start + max(1, *(hyp.durations[i] for i in group), 1)
        if following is not None:
            end = max(start, min(end, hyp.frames[following[0]]))
        share = (end - start) / len(group)
        spans += [(start + n * share, start + (n + 1) * share) for n in range(len(group))]
    return spans


def _set_times(
    words: Sequence[Word], owners: Mapping[int, tuple[int, int]], spans: Sequence[tuple[float, float]]
) -> None:
    """Times of words from the spans of their first and last tokens. Words that share a token divide its time:
    a piece of Chinese may be two characters."""
    sharing: dict[int, list[int]] = {}
    for n, tokens in owners.items():
        for token in set(tokens):
            sharing.setdefault(token, []).append(n)

    def at(token: int, n: int, step: int) -> float:
        start, end = spans[token]
        return start + (end - start) * (sharing[token].index(n) + step) / len(sharing[token])

    for n, (first, last) in owners.items():
        words[n].start, words[n].end = at(first, n, 0), at(last, n, 1)


def token_confidences(hyp: Hypothesis) -> list[float]:
    """The confidence of each token; the probability of the token where the method gives none; empty if it
    gives no scores either."""
    if len(hyp.confidences) == len(hyp.tokens):
        return list(hyp.confidences)
    if len(hyp.scores) == len(hyp.tokens):
        return [math.exp(min(0.0, score)) if score == score else 0.0 for score in hyp.scores]
    return []


def aggregate(values: Sequence[float], aggregation: Aggregation) -> float:
    """One confidence out of those of one or more tokens."""
    if aggregation == "min":
        return min(values)
    return math.prod(values) if aggregation == "product" else math.fsum(values) / len(values)


def split_words(text: str) -> list[str]:
    """The words of a text. Those with characters of `UNSPACED_SCRIPTS` are divided into these characters,
    each with its marks and the punctuation that follows; letters of other scripts among them stay
    together."""
    return [part for word in text.split() for part in (_characters(word) if _unspaced(word) else [word])]


def join_words(texts: Sequence[str]) -> str:
    """A line of words: spaces between them, but none between two characters of `UNSPACED_SCRIPTS`."""
    line = ""
    for text in texts:
        line += (" " if line and not (_unspaced(line[-8:]) and _unspaced(text)) else "") + text
    return line


def segments_of(
    words: Sequence[Word], *, gap_seconds: float = 1.0, sentences: bool = True
) -> list[TextSegment]:
    """The segments of words: they end before a pause longer than `gap_seconds` and, with `sentences`, after
    one of `SENTENCE_ENDS`. The confidence of a segment is the mean of its words."""
    segments, current = [], list[Word]()
    for i, word in enumerate(words):
        current.append(word)
        following = words[i + 1] if i + 1 < len(words) else None
        if following is None or (sentences and _closes(word.text)) or _gap(word, following) > gap_seconds:
            segments.append(_segment(current))
            current = []
    # A mark that stands alone, such as " ।", closes the segment before it.
    return _with_loose_marks(segments)


def clean_times(words: Sequence[Word], *, offset_seconds: float = 0.0, seconds: float | None = None) -> None:
    """Shift times back by `offset_seconds` and put them in order: 0 <= start <= end <= next start, and end <=
    `seconds`, the length of the recording. All words must have times or none of them; those without stay."""
    last, limit = 0.0, math.inf if seconds is None else seconds
    timed = [word for word in words if word.start is not None and word.end is not None]
    for word in timed:
        assert word.start is not None and word.end is not None
        word.start = min(max(word.start - offset_seconds, last), limit)
        word.end = min(max(word.end - offset_seconds, word.start), limit)
        last = word.start
    for word, following in itertools.pairwise(timed):
        assert word.end is not None and following.start is not None
        word.end = min(word.end, following.start)


def rewrite_words(words: Sequence[Word], text: str) -> list[Word]:
    """The words of another form of the same text (numbers as digits, capitals, punctuation) with the times
    and confidences of `words`.

    Equal words, apart from case and punctuation, keep theirs. Where a run of words became other words, those
    share its time by their number of characters and have its lowest confidence.
    """
    texts = split_words(text)
    matcher = SequenceMatcher(
        None, [_plain(word.text) for word in words], [_plain(text) for text in texts], autojunk=False
    )
    rewritten: list[Word] = []
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        if i_end - i == j_end - j:
            pairs = zip(words[i:i_end], texts[j:j_end], strict=True)
            rewritten += [_renamed(word, text) for word, text in pairs]
        else:
            rewritten += _spread(words[i:i_end], texts[j:j_end])
    if any(word.start is not None for word in words):
        fill_times(rewritten, total=max(word.end for word in words if word.end is not None))
    return rewritten


def fill_times(words: Sequence[Word], *, total: float) -> None:
    """Give times to words without any. Those with letters share the time between their neighbours by their
    number of characters, before the first and after the last of them at most `_LONGEST` seconds each;
    punctuation stands at the end of the word before it. total: seconds of the text."""
    has_times = [word.start is not None for word in words]
    for timed, group in itertools.groupby(range(len(words)), lambda i: has_times[i]):
        if timed:
            continue
        places = list(group)
        before, after = places[0] - 1, places[-1] + 1
        sizes = [sum(not _is_punctuation(char) for char in words[i].text) for i in places]
        longest = _LONGEST * sum(size > 0 for size in sizes)
        end = words[after].start if after < len(words) else None
        begin = words[before].end if before >= 0 else max(0.0, (end or 0.0) - longest)
        assert begin is not None
        end = min(max(total, begin), begin + longest) if end is None else end
        at, step = begin, max(0.0, end - begin) / max(1, sum(sizes))
        for i, size in zip(places, sizes, strict=True):
            words[i].start, words[i].end = at, at + size * step
            at += size * step


def _character_tokens(hyp: Hypothesis, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """The first and last token of each character of the text that is no space."""
    squeezed = _squeezed(hyp.text)
    characters: list[str] = []
    places: list[tuple[int, int]] = []
    for text, first, last in surfaces(hyp.tokens, tokenizer):
        for char in text:
            if not char.isspace():
                characters.append(char)
                places.append((first, last))
    if "".join(characters) == squeezed:
        return places
    return _places_by_prefixes(hyp.tokens, tokenizer, squeezed)


def surfaces(tokens: Sequence[int], tokenizer: Tokenizer) -> Iterator[tuple[str, int, int]]:
    """The text of each token, or of each character that several tokens spell in bytes: (text, first token,
    last token)."""
    pieces = tokenizer.pieces(tokens)
    is_byte = [
        len(piece) == 6 and piece.startswith("<0x") and tokenizer.is_byte(token)
        for piece, token in zip(pieces, tokens, strict=True)
    ]
    for spelt, group in itertools.groupby(range(len(tokens)), lambda i: is_byte[i]):
        places = list(group)
        if not spelt:
            for i in places:
                yield UNKNOWN if pieces[i] == _UNKNOWN_PIECE else pieces[i].replace("▁", " "), i, i
            continue
        text = bytes(int(pieces[i][3:5], 16) for i in places).decode("utf-8", "replace")
        sizes = [len(char.encode()) for char in text]
        if sum(sizes) != len(places) or "\ufffd" in text:  # no whole characters
            yield text, places[0], places[-1]
            continue
        at = places[0]
        for char, size in zip(text, sizes, strict=True):
            yield char, at, at + size - 1
            at += size


def _places_by_prefixes(tokens: Sequence[int], tokenizer: Tokenizer, squeezed: str) -> list[tuple[int, int]]:
    """The token of each character for a tokenizer whose pieces are not its text: by how much each token
    lengthens what the tokens before it decode to."""
    places: list[tuple[int, int]] = []
    for begin in range(0, len(tokens), _PREFIX_TOKENS):
        offset = len(_squeezed(tokenizer.decode(tokens[:begin]))) if begin else 0
        for i in range(begin, min(begin + _PREFIX_TOKENS, len(tokens))):
            text = _squeezed(tokenizer.decode(tokens[begin : i + 1])).rstrip("\ufffd")
            places += [(i, i)] * (min(offset + len(text), len(squeezed)) - len(places))
    last = (len(tokens) - 1, len(tokens) - 1)
    return places + [last] * (len(squeezed) - len(places))


def _characters(word: str) -> list[str]:
    """A word divided before each letter of an unspaced script, and before the first letter of another one."""
    parts = [""]
    for char in word:
        joins = unicodedata.category(char)[0] in "MPSC" or not parts[-1]
        is_open = parts[-1] != "" and all(_is_punctuation(c) for c in parts[-1])
        same = not _unspaced(char) and not _unspaced(parts[-1])
        if joins or is_open or same:
            parts[-1] += char
        else:
            parts.append(char)
    return parts


def _unspaced(text: str) -> bool:
    return not text.isascii() and any(script_of(char) in UNSPACED_SCRIPTS for char in text)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _plain(text: str) -> str:
    return "".join(char for char in text.casefold() if not _is_punctuation(char)) or text


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] == "P" and char != UNKNOWN


def _closes(text: str) -> bool:
    """Whether a word ends a sentence; quotation marks and brackets may follow the full stop."""
    bare = text.rstrip("\"'\u201d\u2019\u00bb)]}\u300d\u300f")
    return bare[-1:] in SENTENCE_ENDS and bare != ""


def _gap(word: Word, following: Word) -> float:
    if word.end is None or following.start is None:
        return 0.0
    return following.start - word.end


def _segment(words: list[Word]) -> TextSegment:
    times = [time for word in words for time in (word.start, word.end) if time is not None]
    values = [word.confidence for word in words if word.confidence is not None]
    return TextSegment(
        text=join_words([word.text for word in words]), words=words,
        start=min(times, default=None), end=max(times, default=None),
        confidence=math.fsum(values) / len(values) if values else None,
    )  # fmt: skip


def _with_loose_marks(segments: list[TextSegment]) -> list[TextSegment]:
    joined: list[TextSegment] = []
    for segment in segments:
        if joined and all(_is_punctuation(char) for char in _squeezed(segment.text)):
            joined[-1] = _segment([*joined[-1].words, *segment.words])
        else:
            joined.append(segment)
    return joined


def _renamed(word: Word, text: str) -> Word:
    return Word(text=text, start=word.start, end=word.end, confidence=word.confidence, speaker=word.speaker)


def _spread(words: Sequence[Word], texts: Sequence[str]) -> list[Word]:
    """Words of `texts` over the time of `words`."""
    if not words:
        return [Word(text=text) for text in texts]
    values = [word.confidence for word in words if word.confidence is not None]
    start, end, size = words[0].start, words[-1].end, max(1, sum(map(len, texts)))
    spread, at = [], 0
    for text in texts:
        word = Word(text=text, confidence=min(values, default=None), speaker=words[0].speaker)
        if start is not None and end is not None:
            word.start, word.end = (start + (end - start) * (at + n) / size for n in (0, len(text)))
        spread.append(word)
        at += len(text)
    return spread
