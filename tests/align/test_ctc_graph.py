"""Alignment with skipped words and other speech, against exhaustive search by the definition."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch

from maya.align import ctc
from maya.align.ctc import WILDCARD, SkipCosts, SkipGraph, TokenSpans, align_graph, wildcard_column
from maya.decode.ctc.alignment import align_ctc
from maya.errors import MayaError


def random_log_probs(frames: int, vocab: int) -> np.ndarray:
    return (3 * torch.randn(frames, vocab, dtype=torch.float64)).log_softmax(-1).numpy()


def aligned(log_probs: np.ndarray, graph: SkipGraph) -> TokenSpans:
    return align_graph(lambda begin, end: log_probs[begin:end], len(log_probs), graph)


def exhaustive(log_probs: np.ndarray, words: list[list[int]], blank: int, costs: SkipCosts) -> float:
    """The best score over all choices of skipped words and other speech, and all paths of each choice."""
    frames = len(log_probs)
    any_label = wildcard_column(log_probs, blank)
    best = log_probs.max(1)
    total = -math.inf
    boundaries = range(len(words) + 1)
    for spoken in itertools.product((False, True), repeat=len(words)):
        price = sum(costs.word + costs.token * len(w) for w, s in zip(words, spoken, strict=True) if not s)
        for others in itertools.product((False, True), repeat=len(words) + 1):
            # States in order: at each boundary an optional passage (O) with optional blanks around it.
            states: list[tuple[str, int]] = []
            after_skip = []  # whether words were skipped right before a label: then no blank is needed
            for i in boundaries:
                states += [("b", -1)] + [("o", -1), ("b", -1)] * others[i]
                if i < len(words) and spoken[i]:
                    skipped = i > 0 and not spoken[i - 1]
                    for n, token in enumerate(words[i]):
                        states += [("b", -1)] * (n > 0) + [("l", token)]
                        after_skip.append(skipped and n == 0)
            score = _best_path(states, after_skip, log_probs, any_label, best, blank, costs, frames)
            total = max(total, score - price - costs.enter * sum(others))
    return total


def _best_path(states, after_skip, log_probs, any_label, best, blank, costs, frames) -> float:
    labels = [i for i, (kind, _) in enumerate(states) if kind == "l"]

    def emission(t: int, i: int) -> float:
        kind, token = states[i]
        if kind == "b":
            return log_probs[t, blank]
        if kind == "o":
            return best[t] - costs.frame
        return any_label[t] if token == WILDCARD else log_probs[t, token]

    def may_follow(i: int, j: int) -> bool:
        """Whether state j may come right after state i: only blanks are left out between them."""
        if any(states[k][0] != "b" for k in range(i + 1, j)):
            return False
        if i >= 0 and states[i][0] == states[j][0] == "l" and states[i][1] == states[j][1]:
            return states[i][1] == WILDCARD or after_skip[labels.index(j)]
        return True

    @cache
    def ending(t: int, i: int) -> float:
        """The best score of the frames up to t, of which frame t is in state i."""
        if t == 0:
            return emission(0, i) if may_follow(-1, i) else -math.inf
        before = max(ending(t - 1, k) for k in range(i + 1) if k == i or may_follow(k, i))
        return before + emission(t, i)

    if not frames:
        return 0.0 if all(kind == "b" for kind, _ in states) else -math.inf
    ends = [i for i in range(len(states)) if all(states[k][0] == "b" for k in range(i + 1, len(states)))]
    return max(ending(frames - 1, i) for i in ends)


def graph_of(words: list[list[int]], blank: int, costs: SkipCosts | None) -> SkipGraph:
    tokens = [token for word in words for token in word]
    first = np.cumsum([0, *(len(word) for word in words)])[:-1]
    return SkipGraph(
        tokens=np.array(tokens, np.int64), first=first.astype(np.int64), blank=blank, costs=costs
    )


@pytest.mark.parametrize("seed", range(60))
def test_best_path_with_skips_equals_exhaustive_search(seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    blank, frames = int(rng.integers(0, 3)), int(rng.integers(1, 6))
    labels = [WILDCARD if rng.random() < 0.1 else token for token in range(4) if token != blank]
    words = [[int(rng.choice(labels)) for _ in range(rng.integers(1, 3))] for _ in range(rng.integers(1, 4))]
    costs = SkipCosts(word=float(rng.uniform(0.1, 3)), token=1.0, enter=float(rng.uniform(0.1, 3)), frame=0.3)
    log_probs = random_log_probs(frames, 4)
    spans = aligned(log_probs, graph_of(words, blank, costs))
    assert spans.score == pytest.approx(exhaustive(log_probs, words, blank, costs), abs=1e-9)
    # Words are spoken whole or not at all, one after another.
    spoken = spans.start >= 0
    owners = np.repeat(np.arange(len(words)), [len(word) for word in words])
    assert all(len(set(spoken[owners == word])) == 1 for word in range(len(words)))
    starts, ends = spans.start[spoken], spans.end[spoken]
    assert (ends > starts).all() and (starts[1:] >= ends[:-1]).all()


@pytest.mark.parametrize("seed", range(30))
def test_without_costs_it_is_the_alignment_of_the_exact_text(seed: int) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    frames, tokens = int(rng.integers(1, 40)), rng.integers(1, 5, rng.integers(0, 9))
    log_probs = random_log_probs(frames, 5)
    graph = graph_of([[int(token)] for token in tokens], 0, None)
    needed = len(tokens) + int((tokens[1:] == tokens[:-1]).sum())
    if frames < needed:
        with pytest.raises(MayaError, match="the text is too long for the audio"):
            aligned(log_probs, graph)
        return
    _, scores = align_ctc(torch.from_numpy(log_probs), torch.from_numpy(tokens), blank=0)
    assert aligned(log_probs, graph).score == pytest.approx(float(scores.sum()))


def test_blocks_give_the_path_of_a_single_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = random_log_probs(200, 6)
    tokens = np.random.default_rng(1).integers(1, 6, (30, 2))
    for costs in (None, SkipCosts()):
        graph = graph_of(tokens.tolist(), 0, costs)
        whole = aligned(log_probs, graph)
        with monkeypatch.context() as patch:
            patch.setattr(ctc, "_BLOCK", 16)
            patch.setattr(ctc, "_FRAMES_AT_ONCE", 5)
            blocks = aligned(log_probs, graph)
        assert whole.score == blocks.score
        assert (whole.start == blocks.start).all() and (whole.end == blocks.end).all()
        assert np.array_equal(whole.confidence, blocks.confidence)


def test_wildcard_takes_any_label_and_no_blank() -> None:
    log_probs = np.log(np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]))
    spans = aligned(log_probs, graph_of([[WILDCARD]], 0, None))
    assert (spans.start[0], spans.end[0]) == (1, 2) and spans.confidence[0] == pytest.approx(0.8)


def test_blank_among_the_tokens_is_refused() -> None:
    with pytest.raises(MayaError, match="hold the blank 0"):
        graph_of([[1, 0]], 0, None)
