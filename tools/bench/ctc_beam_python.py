"""CTC prefix beam search as its definition reads: one utterance at a time, with a dictionary of prefixes.

It was Maya's own search before the one in tensors, and is the rival of its benchmark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maya.decode.ctc.beam import BeamConfig
from maya.decode.lm.kneser_ney import Context, NGram

_NONE = -math.inf


def reference_ctc(
    log_probs: Tensor, lens: Tensor, blank: int, cfg: BeamConfig, lms: Sequence[NGram | None]
) -> list[list[tuple[list[int], float]]]:
    """log_probs (B, S, V) -> the final beam of each row, best first: tokens and score."""
    nbest = []
    for row, length, lm in zip(log_probs, lens.tolist(), lms, strict=True):
        beam = _search(row[:length].numpy(), blank, cfg, lm)
        scored = [(list(prefix.tokens), prefix.acoustic + prefix.text) for prefix in beam]
        nbest.append(sorted(scored, key=lambda candidate: candidate[1], reverse=True))
    return nbest


@dataclass(slots=True)
class DictPrefix:
    """A sequence of tokens. blank, label: log probability, in nats, of its paths that end in blank and in its
    last token. text: the share of language model and bonus. state: the language model's."""

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


def _search(
    log_probs: NDArray[np.float32], blank: int, cfg: BeamConfig, lm: NGram | None
) -> list[DictPrefix]:
    beam = [DictPrefix((), 0.0, lm.start() if lm else (), blank=0.0)]
    bonus = cfg.token_bonus if lm is not None or not cfg.needs_texts else 0.0
    for frame in log_probs:
        tried = [t for t in np.flatnonzero(frame > frame.max() - cfg.token_beam).tolist() if t != blank]
        beam = _step(beam, frame, tried, blank, cfg, lm, bonus)
    if lm is not None:
        for prefix in beam:
            prefix.text += cfg.lm_weight * float(lm.log_probs(prefix.state)[lm.vocab_size])
    return beam


def _step(
    beam: list[DictPrefix],
    frame: NDArray[np.float32],
    tried: list[int],
    blank: int,
    cfg: BeamConfig,
    lm: NGram | None,
    bonus: float,
) -> list[DictPrefix]:
    """The best prefixes after one more frame."""
    stay = float(frame[blank])
    reached: dict[tuple[int, ...], DictPrefix] = {}
    for old in beam:  # the same tokens: a blank, or the last token goes on
        new = DictPrefix(old.tokens, old.text, old.state, blank=old.acoustic + stay)
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
                text = old.text + bonus
                if scores is not None:
                    text += cfg.lm_weight * float(scores[token])
                reached[tokens] = DictPrefix(tokens, text, old.state)
            reached[tokens].label = _log_add(reached[tokens].label, gain)
    best = sorted(reached.values(), key=lambda p: p.acoustic + p.text, reverse=True)[: cfg.beam]
    if lm is not None:  # a state is only looked up for the prefixes that stay
        earlier = {p.tokens for p in beam}
        for prefix in best:
            if prefix.tokens not in earlier:
                prefix.state = lm.advance(prefix.state, prefix.tokens[-1])
    return best
