"""N-grams over words, applied to hypotheses of tokens.

A word is scored when the next token begins another word, and at the end of the text. Until then its prefix
has a loan: the log probability of the likeliest word with that prefix, without context. So a search is
steered inside words, too, and the sum over a text is that of the language model (Ortmanns et al. 1996).

A word is recognised by a hash of its UTF-8, whichever tokens spell it. This needs tokens that mark the
beginning of a word, as SentencePiece's and byte-level BPE do, and texts with spaces between words.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maya.decode.fusion import State
from maya.decode.lm.arpa import BEGIN, END, UNKNOWN, Arpa
from maya.decode.lm.automaton import NGramAutomaton
from maya.decode.lm.vocabulary import Vocabulary

_BASE = 0x9E3779B97F4A7C15  # odd: 2^64 / golden ratio
_MASK = (1 << 64) - 1


class WordNGram(nn.Module):
    """A scorer (see `maya.decode.fusion.Scorer`). Its state is (state of the automaton, hash of the current
    word) of N hypotheses; the hash is 0 before the first letter of a word."""

    begins: Tensor
    values: Tensor
    powers: Tensor
    word_hashes: Tensor
    word_ids: Tensor
    prefix_hashes: Tensor
    prefix_scores: Tensor

    def __init__(self, arpa: Arpa, vocab: Vocabulary) -> None:
        super().__init__()
        self.automaton = NGramAutomaton(arpa)
        self.unknown_score = float(self.automaton.root_scores[0, self.automaton.unknown])
        words, ids, prefixes = _tables(self.automaton)
        spelled = [_hashed(spelling) for spelling in vocab.spellings]
        buffers: dict[str, NDArray[Any]] = {
            "values": _signed([value for value, _ in spelled]),
            "powers": _signed([power for _, power in spelled]),
            "word_hashes": words,
            "word_ids": ids,
            "prefix_hashes": _signed(list(prefixes)),
            "prefix_scores": np.array(list(prefixes.values()), np.float32),
        }
        order = np.argsort(buffers["prefix_hashes"], kind="stable")
        for name in ("prefix_hashes", "prefix_scores"):
            buffers[name] = buffers[name][order]
        for name, value in buffers.items():
            self.register_buffer(name, torch.from_numpy(value))
        self.register_buffer("begins", vocab.begins.clone())

    def start(self, rows: int, langs: Tensor | None, lists: Tensor | None) -> State:
        state = self.automaton.starts.expand(rows)
        return state, torch.zeros_like(state)

    def scores(self, state: State) -> Tensor:
        """(N, V) fp32: the share of the word that a token completes, and the change of the loan."""
        _, current = state
        closed, _ = self._close(state)
        begun = self._loan(self.values)  # (V,)
        inside = self._loan(current[:, None] * self.powers + self.values)
        loan = self._loan(current)
        return torch.where(self.begins, closed[:, None] + begun, inside) - loan[:, None]

    def advance(self, state: State, tokens: Tensor) -> State:
        states, current = state
        _, after = self._close(state)
        begins = self.begins[tokens]
        word = torch.where(begins, 0, current) * self.powers[tokens] + self.values[tokens]
        return torch.where(begins, after, states), word

    def final(self, state: State) -> Tensor:
        closed, after = self._close(state)
        return closed - self._loan(state[1]) + self.automaton.final(after)

    def _close(self, state: State) -> tuple[Tensor, Tensor]:
        """The score (N,) of the current words, and the states after them. Without a word: 0 and no change."""
        states, current = state
        place = torch.searchsorted(self.word_hashes, current).clamp_(max=len(self.word_hashes) - 1)
        hit = self.word_hashes[place] == current
        words = torch.where(hit, self.word_ids[place], self.automaton.unknown)
        score, after = self.automaton.step(states, words)
        empty = current == 0
        return torch.where(empty, 0.0, score), torch.where(empty, states, after)

    def _loan(self, hashes: Tensor) -> Tensor:
        """The loan of words so far, of any shape."""
        hashes = hashes.contiguous()
        place = torch.searchsorted(self.prefix_hashes, hashes).clamp_(max=len(self.prefix_hashes) - 1)
        hit = self.prefix_hashes[place] == hashes
        loan = torch.where(hit, self.prefix_scores[place], self.unknown_score)
        return torch.where(hashes == 0, 0.0, loan)


def _tables(automaton: NGramAutomaton) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, float]]:
    """Hashes of the words, ascending, with their ids; and the loan of each prefix by its hash."""
    scores = automaton.root_scores[0].tolist()
    hashes, ids, prefixes = [], [], dict[int, float]()
    for i, word in enumerate(automaton.words):
        if word in (BEGIN, END, UNKNOWN):
            continue
        value = 0
        for char in word:
            for byte in char.encode("utf-8", "surrogatepass"):
                value = (value * _BASE + byte + 1) & _MASK
            prefixes[value] = max(prefixes.get(value, -np.inf), scores[i])
        hashes.append(value)
        ids.append(i)
    table = _signed(hashes)
    order = np.argsort(table, kind="stable")
    return table[order], np.array(ids, np.int64)[order], prefixes


def _hashed(spelling: bytes) -> tuple[int, int]:
    """The polynomial of some bytes, and the power by which what stands before them is multiplied."""
    value, power = 0, 1
    for byte in spelling:
        value, power = (value * _BASE + byte + 1) & _MASK, (power * _BASE) & _MASK
    return value, power


def _signed(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, np.uint64).view(np.int64)
