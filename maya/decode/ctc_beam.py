"""CTC prefix beam search (Hannun et al. 2014, arXiv:1408.2873), with a token language model or without.

Paths that spell the same tokens are one prefix, whose probability is the sum of theirs. The language model
enters when a token is added, so all prefixes of a frame are compared with it counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maya.config import config
from maya.decode.ctc_alignment import align_ctc
from maya.decode.hypothesis import Hypothesis
from maya.decode.ngram import Context, NGram
from maya.ranges import Finite, NonNegFloat, PosFloat, PosInt

_NONE = -math.inf


@config
class BeamConfig:
    """beam: prefixes kept from frame to frame.
    token_beam: nats below the best output of a frame under which a token is not tried.
    lm_weight: of the language model's log probability.
    token_bonus: nats for each token, against the language model's preference for short texts.
    """

    beam: PosInt = 16
    token_beam: PosFloat = 8.0
    lm_weight: NonNegFloat = 0.5
    token_bonus: Finite = 0.5


@dataclass(slots=True)
class _Prefix:
    """A sequence of tokens and the log probability of its paths, in nats, that end in blank and in its last
    token. text: what language model and bonus add; state: the language model's."""

    tokens: tuple[int, ...]
    text: float
    state: Context
    blank: float = _NONE
    label: float = _NONE

    @property
    def acoustic(self) -> float:
        return _log_add(self.blank, self.label)


def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == _NONE else a + math.log1p(math.exp(b - a))


def beam_ctc(
    log_probs: Tensor,
    lens: Tensor,
    *,
    blank: int,
    cfg: BeamConfig,
    lms: Sequence[NGram | None] | None = None,
) -> list[Hypothesis]:
    """log_probs (B, S, V), lens (B,) frames -> one Hypothesis per row.

    lms: a language model for each row, or None for a row without. Frames, durations and scores of the tokens
    are those of the best path that spells them. Frames beyond `lens` are not read.
    """
    nbest = nbest_ctc(log_probs, lens, blank=blank, cfg=cfg, lms=lms)
    best = [candidates[0][0] for candidates in nbest]
    return align_texts(log_probs, lens, best, blank=blank)


def nbest_ctc(
    log_probs: Tensor,
    lens: Tensor,
    *,
    blank: int,
    cfg: BeamConfig,
    lms: Sequence[NGram | None] | None = None,
) -> list[list[tuple[list[int], float]]]:
    """The texts that are left in the beam of each row, best first, arguments as in `beam_ctc`: tokens, and
    the log probability of their paths, in nats, with what language model and bonus add."""
    host = log_probs.detach().float().cpu()
    models = lms if lms is not None else [None] * len(host)
    found = []
    for row, length, lm in zip(host, lens.tolist(), models, strict=True):
        beam = _search(row[:length].numpy(), blank, cfg, lm)
        scored = [(list(prefix.tokens), prefix.acoustic + prefix.text) for prefix in beam]
        found.append(sorted(scored, key=lambda candidate: candidate[1], reverse=True))
    return found


def align_texts(
    log_probs: Tensor, lens: Tensor, tokens: Sequence[Sequence[int]], *, blank: int
) -> list[Hypothesis]:
    """Hypotheses of the given tokens of each row, placed where the best path that spells them has them."""
    host = log_probs.detach().float().cpu()
    return [
        _aligned(row[:length], said, blank)
        for row, length, said in zip(host, lens.tolist(), tokens, strict=True)
    ]


def _search(log_probs: NDArray[np.float32], blank: int, cfg: BeamConfig, lm: NGram | None) -> list[_Prefix]:
    beam = [_Prefix((), 0.0, lm.start() if lm else (), blank=0.0)]
    for frame in log_probs:
        tried = [t for t in np.flatnonzero(frame > frame.max() - cfg.token_beam).tolist() if t != blank]
        beam = _step(beam, frame, tried, blank, cfg, lm)
    if lm is not None:
        for prefix in beam:
            prefix.text += cfg.lm_weight * float(lm.log_probs(prefix.state)[lm.vocab_size])
    return beam


def _step(
    beam: list[_Prefix],
    frame: NDArray[np.float32],
    tried: list[int],
    blank: int,
    cfg: BeamConfig,
    lm: NGram | None,
) -> list[_Prefix]:
    """The best prefixes after one more frame."""
    stay = float(frame[blank])
    reached: dict[tuple[int, ...], _Prefix] = {}
    for old in beam:  # the same tokens: a blank, or the last token goes on
        new = _Prefix(old.tokens, old.text, old.state, blank=old.acoustic + stay)
        if old.tokens:
            new.label = old.label + float(frame[old.tokens[-1]])
        reached[old.tokens] = new
    for old in beam:  # one token more; after itself only past a blank
        scores = lm.log_probs(old.state) if lm else None
        acoustic = old.acoustic
        for token in tried:
            last = bool(old.tokens) and old.tokens[-1] == token
            gain = (old.blank if last else acoustic) + float(frame[token])
            tokens = (*old.tokens, token)
            if tokens not in reached:
                said = old.text + cfg.token_bonus
                if scores is not None:
                    said += cfg.lm_weight * float(scores[token])
                reached[tokens] = _Prefix(tokens, said, old.state)
            reached[tokens].label = _log_add(reached[tokens].label, gain)
    best = sorted(reached.values(), key=lambda p: p.acoustic + p.text, reverse=True)[: cfg.beam]
    if lm is not None:  # a state is only looked up for what stays
        known = {p.tokens for p in beam}
        for prefix in best:
            if prefix.tokens not in known:
                prefix.state = lm.advance(prefix.state, prefix.tokens[-1])
    return best


def _aligned(log_probs: Tensor, tokens: Sequence[int], blank: int) -> Hypothesis:
    """The tokens where the best path that spells them has them; see `greedy_ctc` for frames and scores."""
    hyp = Hypothesis(tokens=list(tokens), frames=[], durations=[], scores=[])
    if not tokens:
        return hyp
    path, scores = align_ctc(log_probs, torch.tensor(list(tokens)), blank=blank)
    before = blank
    for frame, (token, score) in enumerate(zip(path.tolist(), scores.tolist(), strict=True)):
        if token != blank and token == before:
            hyp.durations[-1] += 1
            hyp.scores[-1] = max(hyp.scores[-1], score)
        elif token != blank:
            hyp.frames.append(frame)
            hyp.durations.append(1)
            hyp.scores.append(score)
        before = token
    return hyp
