"""CTC prefix beam search (Hannun et al. 2014, arXiv:1408.2873), with a token language model or without.

Paths that spell the same tokens are one prefix, whose probability is the sum of theirs. The language model
enters when a token is added, so all prefixes of a frame are compared with it counted.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.ctc import collapse_ctc
from maya.decode.ctc_alignment import align_ctc
from maya.decode.hypothesis import Hypothesis
from maya.decode.lm.kneser_ney import Context, NGram, ngrams_by_language
from maya.encoders import Encoded
from maya.heads import CTCConfig, HeadConfig
from maya.ranges import Count, Finite, NonNegFloat, PosFloat, PosInt

log = logging.getLogger(__name__)
_NONE = -math.inf


@config
class BeamConfig(MethodConfig):
    """beam: prefixes kept from frame to frame.
    token_beam: a token is not tried if it is so many nats below the best output of its frame.
    lm_order: of the n-gram language model of the training texts; 0: none.
    lm_weight: of the language model's log probability.
    token_bonus: nats for each token, against the language model's preference for short texts. Without
        training texts to make the language model of, it does not count either.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (CTCConfig,)

    kind: Literal["ctc_beam"] = "ctc_beam"
    beam: PosInt = 16
    token_beam: PosFloat = 8.0
    lm_order: Count = 6
    lm_weight: NonNegFloat = 0.5
    token_bonus: Finite = 0.5

    @property
    def needs_texts(self) -> bool:
        return self.lm_order > 0


class CTCBeam(Method, config=BeamConfig):
    """`beam_ctc` with an n-gram of the training texts of each language, where there are texts."""

    def __init__(self, cfg: Any, context: MethodContext) -> None:
        super().__init__(cfg, context)
        self._lms: dict[str, NGram] = {}
        if cfg.needs_texts and context.texts is not None:
            self._lms = ngrams_by_language(context.texts(), self.model.cfg.vocab_size, cfg.lm_order)
        elif cfg.needs_texts:
            log.warning("decoding by %s without a language model: there are no training texts here", cfg.kind)

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        (head,) = self.heads
        lms = self.language_models(langs, len(encoded.frames))
        return beam_ctc(head(encoded.frames), encoded.lens, blank=head.blank, cfg=self.cfg, lms=lms)

    def language_models(self, langs: Tensor | None, rows: int) -> list[NGram | None]:
        """The language model of each row; that of all languages together where the language is unknown."""
        languages = self.model.cfg.languages
        numbers = [-1] * rows if langs is None else langs.tolist()
        return [self._lms.get(languages[n] if n >= 0 else "") for n in numbers]


@dataclass(slots=True)
class _Prefix:
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


def beam_ctc(
    log_probs: Tensor,
    lens: Tensor,
    *,
    blank: int,
    cfg: BeamConfig,
    lms: Sequence[NGram | None] | None = None,
) -> list[Hypothesis]:
    """log_probs (B, S, V), lens (B,) frames -> one Hypothesis per row.

    lms: a language model for each row, or None for a row without, which has no bonus either unless
    cfg.lm_order is 0. Frames, durations and scores of the tokens are those of the best path that spells them.
    Frames beyond `lens` are not read.
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
    """The texts in the final beam of each row, best first; arguments as in `beam_ctc`. Each is its tokens and
    the log probability of their paths, in nats, plus the share of language model and bonus."""
    host = log_probs.detach().float().cpu()
    models = lms if lms is not None else [None] * len(host)
    nbest = []
    for row, length, lm in zip(host, lens.tolist(), models, strict=True):
        beam = _search(row[:length].numpy(), blank, cfg, lm)
        scored = [(list(prefix.tokens), prefix.acoustic + prefix.text) for prefix in beam]
        nbest.append(sorted(scored, key=lambda candidate: candidate[1], reverse=True))
    return nbest


def align_texts(
    log_probs: Tensor, lens: Tensor, tokens: Sequence[Sequence[int]], *, blank: int
) -> list[Hypothesis]:
    """Hypotheses of the given tokens of each row, placed on the best path that spells them."""
    host = log_probs.detach().float().cpu()
    rows = zip(host, lens.tolist(), tokens, strict=True)
    return [_aligned(row[:length], row_tokens, blank) for row, length, row_tokens in rows]


def _search(log_probs: NDArray[np.float32], blank: int, cfg: BeamConfig, lm: NGram | None) -> list[_Prefix]:
    beam = [_Prefix((), 0.0, lm.start() if lm else (), blank=0.0)]
    bonus = cfg.token_bonus if lm is not None or not cfg.needs_texts else 0.0
    for frame in log_probs:
        tried = [t for t in np.flatnonzero(frame > frame.max() - cfg.token_beam).tolist() if t != blank]
        beam = _step(beam, frame, tried, blank, cfg, lm, bonus)
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
    bonus: float,
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
                text = old.text + bonus
                if scores is not None:
                    text += cfg.lm_weight * float(scores[token])
                reached[tokens] = _Prefix(tokens, text, old.state)
            reached[tokens].label = _log_add(reached[tokens].label, gain)
    best = sorted(reached.values(), key=lambda p: p.acoustic + p.text, reverse=True)[: cfg.beam]
    if lm is not None:  # a state is only looked up for the prefixes that stay
        earlier = {p.tokens for p in beam}
        for prefix in best:
            if prefix.tokens not in earlier:
                prefix.state = lm.advance(prefix.state, prefix.tokens[-1])
    return best


def _aligned(log_probs: Tensor, tokens: Sequence[int], blank: int) -> Hypothesis:
    """The tokens placed on the best path that spells them; see `collapse_ctc` for frames and scores."""
    if not tokens:
        return Hypothesis()
    path, scores = align_ctc(log_probs, torch.tensor(list(tokens)), blank=blank)
    return collapse_ctc(path.tolist(), scores.tolist(), blank=blank)
