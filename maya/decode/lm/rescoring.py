"""Whole texts under a scorer: scores for perplexity, and rescoring of n-best lists."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from maya.decode.fusion import Fusion, Scorer, select
from maya.decode.hypothesis import Hypothesis

_TEXTS_AT_ONCE = 256


def text_scores(scorer: Scorer, texts: Sequence[Sequence[int]], langs: Tensor | None = None) -> list[float]:
    """The score of each text, its end included, in nats. texts: token ids. langs (B,): as `Scorer.start`."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    result = [0.0] * len(texts)
    for first in range(0, len(order), _TEXTS_AT_ONCE):
        rows = order[first : first + _TEXTS_AT_ONCE]
        part = None if langs is None else langs[torch.tensor(rows, device=langs.device)]
        for i, score in zip(rows, _scores([texts[i] for i in rows], scorer, part), strict=True):
            result[i] = score
    return result


@torch.no_grad()
def _scores(texts: Sequence[Sequence[int]], scorer: Scorer, langs: Tensor | None) -> list[float]:
    """Of texts from the longest to the shortest, so that those that go on are always the first."""
    state = scorer.start(len(texts), langs, None)
    totals: Tensor | None = None
    lens = [len(text) for text in texts]
    for u in range(max(lens, default=0) + 1):
        alive = sum(length >= u for length in lens)
        ending = sum(length > u for length in lens)
        rows = torch.arange(alive)
        final = scorer.final(state)
        if totals is None:
            totals = torch.zeros(len(texts), device=final.device)
            rows = rows.to(final.device)
        totals[ending:alive] += final[ending:alive]
        if not ending:
            break
        state = select(state, rows.to(final.device)[:ending])
        tokens = torch.tensor([text[u] for text in texts[:ending]], device=final.device)
        totals[:ending] += scorer.scores(state).gather(1, tokens[:, None])[:, 0]
        state = scorer.advance(state, tokens)
    return [] if totals is None else totals.tolist()


def rescored(
    hyps: Sequence[Hypothesis], fusion: Fusion, langs: Tensor | None = None, *, acoustic_weight: float = 1.0
) -> list[Hypothesis]:
    """Each hypothesis and its alternatives, ranked by acoustic_weight * their search score (their own score
    without one) + `fusion` over the whole text. langs (B,): as `Scorer.start`."""
    lists = [[replace(hyp, alternatives=[]), *hyp.alternatives] for hyp in hyps]
    texts = [candidate.tokens for candidates in lists for candidate in candidates]
    rows = [row for row, candidates in enumerate(lists) for _ in candidates]
    each = None if langs is None else langs[torch.tensor(rows, device=langs.device)]
    totals = [fusion.token_bonus * len(text) for text in texts]
    for part in fusion.parts:
        for i, score in enumerate(text_scores(part.scorer, texts, each)):
            totals[i] += part.weight * score
    result, first = [], 0
    for candidates in lists:
        scored = []
        for candidate, total in zip(candidates, totals[first:], strict=False):
            acoustic = candidate.score if candidate.search_score is None else candidate.search_score
            scored.append(replace(candidate, search_score=acoustic_weight * acoustic + total))
        first += len(candidates)
        scored.sort(key=lambda hyp: -(hyp.search_score or 0.0))
        result.append(replace(scored[0], alternatives=scored[1:]))
    return result
