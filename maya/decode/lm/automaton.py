"""An n-gram language model as tensors: the suffix automaton of NGPU-LM (Bataev et al. 2025,
arXiv:2505.22857).

A state is a context that the model has, the root is the empty one. An arc is an n-gram: its source is the
context, its target the longest suffix of the n-gram that is a context. The back-off arc of a state leads to
the next shorter context. A state's arcs are neighbours in one sorted array of keys source * W + word, so an
n-gram takes 16 bytes (key, score, target), and a context 16 more.

All functions work on the device of the tensors, for N states at once, and without Python per state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maya.decode.lm.arpa import BEGIN, END, LN10, UNKNOWN, Arpa, Grams
from maya.decode.lm.sparse_rows import SparseRows
from maya.errors import MayaError

MISSING = -100.0 * LN10  # of an unknown word in a model without <unk>, as KenLM has it


class NGramAutomaton(nn.Module):
    """P(word | state) and the next state, for words 0 ... W - 1 of one or several ARPA models.

    Several models, such as those of several languages, have the same words in the same order. words: with
    <unk>, which is added where a model lacks it. order: of the longest n-grams. end: the index of </s>, -1
    without it. Buffers: scores (E,) fp32 and targets (E,) int32 of `arcs`, which are those of all states but
    the L roots; of the roots root_scores and root_targets (L, W); backoffs (S,) fp32 and shorter (S,) int32;
    roots, starts (L,) int64: the empty context of each model, and the context <s>.
    """

    scores: Tensor
    targets: Tensor
    root_scores: Tensor
    root_targets: Tensor
    backoffs: Tensor
    shorter: Tensor
    roots: Tensor
    starts: Tensor

    def __init__(self, *arpas: Arpa) -> None:
        """Raises MayaError for n-grams whose context is not in the file."""
        super().__init__()
        arpas = tuple(_with_unknown(arpa) for arpa in arpas)
        self.words, self.order = arpas[0].words, max(arpa.order for arpa in arpas)
        if any(arpa.words != self.words for arpa in arpas):
            raise ValueError("the models of an automaton have the same words")
        self.num_words = len(self.words)
        index = {word: i for i, word in enumerate(self.words)}
        self.unknown, self.end, begin = index[UNKNOWN], index.get(END, -1), index.get(BEGIN, -1)
        models, roots = [_built(arpa) for arpa in arpas], [0]
        for model in models:
            roots.append(roots[-1] + len(model.backoffs))
        shift = list(zip(models, roots[:-1], strict=True))
        keys = np.concatenate([model.keys + root * self.num_words for model, root in shift])
        self.arcs = SparseRows(keys, roots[-1], self.num_words)
        buffers = {
            "scores": np.concatenate([model.scores for model in models]),
            "targets": np.concatenate([model.targets + root for model, root in shift]).astype(np.int32),
            "root_scores": np.stack([model.root_scores for model in models]),
            "root_targets": np.stack([model.root_targets + root for model, root in shift]).astype(np.int32),
            "backoffs": np.concatenate([model.backoffs for model in models]),
            "shorter": np.concatenate([model.shorter + root for model, root in shift]).astype(np.int32),
            "roots": np.array(roots[:-1]),
            "starts": np.array([root + (model.root_targets[begin] if begin >= 0 else 0)
                                for model, root in shift]),
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, torch.from_numpy(value))

    def model_of(self, states: Tensor) -> Tensor:
        """states (N,) -> the index of each state's model (N,)."""
        if len(self.roots) == 1:
            return torch.zeros_like(states)
        return torch.bucketize(states, self.roots, right=True) - 1

    def step(self, states: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """states, words (N,) int64 -> log probabilities (N,) fp32 in nats, next states (N,)."""
        model = self.model_of(states)
        total = torch.zeros(states.shape, device=states.device)
        score, target = self.root_scores[model, words], self.root_targets[model, words].long()
        done = torch.zeros_like(states, dtype=torch.bool)
        for _ in range(self.order - 1 if self.arcs.most else 0):
            place, hit = self.arcs.find(states, words)
            hit = hit & ~done
            score = torch.where(hit, total + self.scores[place], score)
            target = torch.where(hit, self.targets[place].long(), target)
            done = done | hit
            total = torch.where(done, total, total + self.backoffs[states])
            states = torch.where(done, states, self.shorter[states].long())
        return torch.where(done, score, score + total), target

    def final(self, states: Tensor) -> Tensor:
        """states (N,) -> log probability (N,) of the end of the text; 0 where the models have no </s>."""
        if self.end < 0:
            return torch.zeros(states.shape, device=states.device)
        return self.step(states, torch.full_like(states, self.end))[0]

    def advance(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """states (N,) int64 -> log probabilities (N, W) fp32 in nats, next states (N, W) int32."""
        chain, total = [states], [torch.zeros(states.shape, device=states.device)]
        for _ in range(self.order - 2):
            total.append(total[-1] + self.backoffs[chain[-1]])
            chain.append(self.shorter[chain[-1]].long())
        to_root = total[-1] + self.backoffs[chain[-1]]
        model = self.model_of(states)
        # The last column takes what `entries` gives beyond a state's arcs.
        scores = nn.functional.pad(self.root_scores[model], (0, 1)) + to_root[:, None]
        targets = nn.functional.pad(self.root_targets[model], (0, 1))
        if self.arcs.most:
            for state, weight in zip(reversed(chain), reversed(total), strict=True):  # the longest wins
                row, arc, word = self.arcs.entries(state)
                scores[row, word] = self.scores[arc] + weight[row]
                targets[row, word] = self.targets[arc]
        return scores[:, :-1], targets[:, :-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """The arrays of one model, see `NGramAutomaton`; its root is state 0."""

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    targets: NDArray[np.int64]
    root_scores: NDArray[np.float32]
    root_targets: NDArray[np.int64]
    backoffs: NDArray[np.float32]
    shorter: NDArray[np.int64]


def _with_unknown(arpa: Arpa) -> Arpa:
    """The model with <unk> among its words."""
    if UNKNOWN in arpa.words:
        return arpa
    unigrams = arpa.grams[0]
    last = np.array([[len(arpa.words)]], np.int32)
    grams = Grams(
        np.concatenate([unigrams.words, last]),
        np.append(unigrams.log_probs, np.float32(MISSING)),
        np.append(unigrams.backoffs, np.float32(0)),
    )
    return Arpa((*arpa.words, UNKNOWN), (grams, *arpa.grams[1:]))


def _built(arpa: Arpa) -> _Model:
    """The arrays of a model. States are numbered by order, those of one order by their key."""
    width = len(arpa.words)
    root_targets = np.zeros(width, np.int64)
    # shorter[s] and the place of each context; the keys of each order are sorted.
    shorter, backoffs = [np.zeros(1, np.int64)], [np.zeros(1, np.float32)]
    keys: list[NDArray[np.int64]] = []
    scores: list[NDArray[np.float32]] = []
    targets: list[NDArray[np.int64]] = []
    offset = 1
    unigrams = arpa.grams[0]
    if arpa.order > 1:
        root_targets = offset + np.arange(width)
        backoffs.append(unigrams.backoffs)
        shorter.append(np.zeros(width, np.int64))
        offset += width
    for n, grams in enumerate(arpa.grams[1:], 2):
        sources = _states(grams.words[:, :-1], root_targets, keys, targets, width)
        if (sources < 0).any():
            gram = " ".join(arpa.words[i] for i in grams.words[int((sources < 0).argmax())])
            raise MayaError(
                f"the {n}-gram {gram!r} has a context that is not among the {n - 1}-grams; "
                "make the ARPA file again with a tool that keeps the contexts of its n-grams"
            )
        key = sources * width + grams.words[:, -1]
        order = np.argsort(key, kind="stable")
        key, log_probs = key[order], grams.log_probs[order]
        if (np.diff(key) == 0).any():
            raise MayaError(f"a {n}-gram occurs twice in the ARPA file")
        is_context = n < arpa.order
        lower = np.concatenate(shorter)
        fallback = _suffixes(key, lower, root_targets, keys, targets, width)
        target = offset + np.arange(len(key)) if is_context else fallback
        keys.append(key)
        scores.append(log_probs)
        targets.append(target)
        if is_context:
            shorter.append(fallback)
            backoffs.append(grams.backoffs[order])
            offset += len(key)
    return _Model(
        keys=np.concatenate([np.empty(0, np.int64), *keys]),
        scores=np.concatenate([np.empty(0, np.float32), *scores]),
        targets=np.concatenate([np.empty(0, np.int64), *targets]),
        root_scores=unigrams.log_probs.astype(np.float32),
        root_targets=root_targets.astype(np.int64),
        backoffs=np.concatenate(backoffs).astype(np.float32),
        shorter=np.concatenate(shorter),
    )


def _arc_targets(
    states: NDArray[np.int64],
    words: NDArray[np.int64],
    keys: Sequence[NDArray[np.int64]],
    targets: Sequence[NDArray[np.int64]],
    width: int,
) -> NDArray[np.int64]:
    """The targets of arcs, -1 where a state has no such arc."""
    wanted, result = states * width + words, np.full(len(states), -1)
    for key, target in zip(keys, targets, strict=True):
        if len(key):
            place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
            result = np.where(key[place] == wanted, target[place], result)
    return result


def _states(
    contexts: NDArray[np.int32],
    root_targets: NDArray[np.int64],
    keys: Sequence[NDArray[np.int64]],
    targets: Sequence[NDArray[np.int64]],
    width: int,
) -> NDArray[np.int64]:
    """The state of each context (M, k); -1 where there is none."""
    states = root_targets[contexts[:, 0]]
    for level in range(1, contexts.shape[1]):
        # A context of k words is an arc of order k.
        step = slice(level - 1, level)
        states = _arc_targets(states, contexts[:, level].astype(np.int64), keys[step], targets[step], width)
    return states


def _suffixes(
    key: NDArray[np.int64],
    shorter: NDArray[np.int64],
    root_targets: NDArray[np.int64],
    keys: Sequence[NDArray[np.int64]],
    targets: Sequence[NDArray[np.int64]],
    width: int,
) -> NDArray[np.int64]:
    """The state of the longest proper suffix of each n-gram, given as source * width + word."""
    states, words = shorter[key // width], key % width
    result = np.full(len(key), -1)
    while ((result < 0) & (states > 0)).any():
        result = np.where(
            (result < 0) & (states > 0), _arc_targets(states, words, keys, targets, width), result
        )
        states = shorter[states]
    return np.where(result < 0, root_targets[words], result)
