"""Times of Whisper's words: where the decoder's attention to the frames moves on to the next token."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maya.heads.whisper import TIMESTAMP_SECONDS, WhisperDecoder, WhisperState, numbers

FILTER = 7  # frames of the median filter
LONGEST = 0.7  # seconds, of the median word by which others are too long
SENTENCE_ENDS = ".。!！?？"


@dataclass(slots=True)
class TimedWord:
    """Tokens first to last - 1 of a text, and its seconds."""

    text: str
    first: int
    last: int
    start: float
    end: float


def token_starts(
    head: WhisperDecoder, state: WhisperState, tokens: Sequence[int], lang: int, frames: int
) -> NDArray[np.float64]:
    """Seconds at which each of the text tokens of one utterance begins, and at which the last ends, (U + 1,).

    Dynamic time warping over the attention of the alignment heads: normalised over the tokens, filtered by
    a median over time, averaged over the heads. frames: of the encoder that hold the utterance.
    """
    (prompt,) = head.prompt([lang])
    rows = numbers([[*prompt, *tokens, head.cfg.tokens.end]], head.token_embedding.weight)
    scores = head.attention(rows, state)[1]
    layers, heads = head.cfg.layers, head.cfg.heads
    chosen = head.cfg.alignment_heads or range(layers // 2 * heads, layers * heads)
    weights = torch.stack([scores[n // heads][0, n % heads, :, :frames] for n in chosen]).softmax(-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    weights = median_filtered((weights - mean) / std)
    # The row before a token predicts it.
    cost = -weights.mean(0)[len(prompt) - 1 : -1].double().cpu().numpy()
    return warped(cost).astype(np.float64) * TIMESTAMP_SECONDS


def median_filtered(x: Tensor) -> Tensor:
    """(..., S) -> (..., S): the median of `FILTER` neighbours, mirrored at the ends."""
    half = FILTER // 2
    if x.shape[-1] <= half:
        return x
    padded = F.pad(x, (half, half), mode="reflect")
    return padded.unfold(-1, FILTER, 1).sort(-1).values[..., half]


def warped(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N, M) -> (N,): the first column of each row on the cheapest path from corner to corner, by steps of
    one down, right, or both. Of equal ones it goes right, computed by antidiagonals."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    moves = np.full((rows + 1, columns + 1), 2, dtype=np.int8)  # 0 both, 1 down, 2 right
    for n in range(2, rows + columns + 1):
        i = np.arange(max(1, n - columns), min(rows, n - 1) + 1)
        j = n - i
        both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        move = np.where((both < down) & (both < right), 0, np.where((down < both) & (down < right), 1, 2))
        total[i, j] = cost[i - 1, j - 1] + np.choose(move, (both, down, right))
        moves[i, j] = move
    moves[0, :], moves[:, 0] = 2, 1
    starts = np.zeros(rows, dtype=np.int64)
    i, j = rows, columns
    while i > 0 or j > 0:
        starts[i - 1] = j - 1
        move = moves[i, j]
        i, j = i - (move != 2), j - (move != 1)
    return starts


def timed_words(
    tokens: Sequence[int], starts: NDArray[np.float64], decode: Callable[[Sequence[int]], str], spaced: bool
) -> list[TimedWord]:
    """The words of text tokens (U,) that begin at starts (U + 1,), punctuation by itself. spaced: whether
    spaces divide words; otherwise each character is one."""
    words: list[TimedWord] = []
    first = 0
    for last in range(1, len(tokens) + 1):
        text = decode(tokens[first:last])
        if "\ufffd" in text and last < len(tokens):
            continue  # tokens of bytes: the character is not complete
        is_new = not spaced or text.startswith(" ") or text.strip() in string.punctuation or not words
        if is_new:
            words.append(TimedWord(text, first, last, float(starts[first]), float(starts[last])))
        else:
            words[-1].text += text
            words[-1].last, words[-1].end = last, float(starts[last])
        first = last
    return words


def word_limits(words: Sequence[TimedWord]) -> tuple[float, float]:
    """The median length of words in seconds, at most `LONGEST`, and what is too long."""
    lengths = [w.end - w.start for w in words if w.end != w.start]
    median = min(LONGEST, float(np.median(lengths))) if lengths else 0.0
    return median, 2 * median


def cut_long_words(words: Sequence[TimedWord], limit: float) -> None:
    """Shorten words at the ends of sentences that are longer than `limit`: a pause is in them."""
    for before, word in zip(words, words[1:], strict=False):
        if limit and word.end - word.start > limit:
            if word.text in SENTENCE_ENDS:
                word.end = word.start + limit
            elif before.text in SENTENCE_ENDS:
                word.start = word.end - limit


def fit_segment(
    words: Sequence[TimedWord], start: float, end: float, spoken_until: float, limits: tuple[float, float]
) -> None:
    """Shorten the first words of a segment after a pause, and set its ends by the segment's timestamps where
    a word reaches far beyond them. words: with letters; start, end: of the segment; spoken_until: when the
    one before ended; all in seconds of the recording. limits: see `word_limits`."""
    (median, limit), first, last = limits, words[0], words[-1]
    second = words[1] if len(words) > 1 else None
    is_long = first.end - first.start > limit or (second is not None and second.end - first.start > 2 * limit)
    if first.end - spoken_until > 4 * median and is_long:
        if second is not None and second.end - second.start > limit:
            first.end = second.start = max(second.end / 2, second.end - limit)
        first.start = max(0.0, first.end - limit)
    if first.start + 0.5 < start < first.end:
        first.start = max(0.0, min(first.end - median, start))
    if last.start < end and end + 0.5 < last.end:
        last.end = max(last.start + median, end)
