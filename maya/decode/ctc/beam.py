"""CTC prefix beam search (Hannun et al. 2014, arXiv:1408.2873), with language models and hot words.

Paths that spell the same tokens are one prefix, whose probability is the sum of theirs. What the text adds is
counted when a token is added, so all prefixes of a frame are compared with it. All prefixes of all utterances
are searched at once: see `maya.decode.beams.ctc_prefixes`.
"""

import logging
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.beams.ctc_paths import align_texts
from maya.decode.beams.ctc_prefixes import CTCPrefixes
from maya.decode.beams.fused_rows import FusionStart, fusion_start
from maya.decode.beams.texts_scorer import TextsScorer
from maya.decode.beams.trace import with_alternatives
from maya.decode.fusion import Fusion, Part
from maya.decode.hypothesis import Hypothesis
from maya.decode.lm.kneser_ney import ngrams_by_language
from maya.encoders import Encoded
from maya.heads import CTCConfig, HeadConfig
from maya.ranges import Count, Finite, NonNegFloat, PosFloat, PosInt

log = logging.getLogger(__name__)
Candidates = list[tuple[list[int], float]]
"""Texts of one utterance, best first: tokens, and the score in nats."""


@config
class BeamConfig(MethodConfig):
    """beam: prefixes kept from frame to frame.
    n_best: hypotheses returned, at most `beam`; all but the first are `Hypothesis.alternatives`.
    token_beam: a token is not tried if it is so many nats below the best output of its frame.
    blank_penalty: nats taken from blank's log probability, against deletions.
    temperature: the log probabilities are divided by it.
    length_norm: compare complete texts by score per token, the end counted as one.
    lm_order: of the n-gram language model of the training texts; 0: none.
    lm_weight: of the language model's log probability.
    token_bonus: nats for each token, against the language model's preference for short texts. Without
        training texts to make the language model of, it does not count either.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (CTCConfig,)
    fuses: ClassVar[bool] = True

    kind: Literal["ctc_beam"] = "ctc_beam"
    beam: PosInt = 16
    n_best: PosInt = 1
    token_beam: PosFloat = 8.0
    blank_penalty: Finite = 0.0
    temperature: PosFloat = 1.0
    length_norm: bool = False
    lm_order: Count = 6
    lm_weight: NonNegFloat = 0.5
    token_bonus: Finite = 0.5

    @property
    def needs_texts(self) -> bool:
        return self.lm_order > 0


class CTCBeam(Method, config=BeamConfig):
    """`beam_ctc` with an n-gram of the training texts of each language, where there are texts, beside the
    language models and hot words of the context."""

    def __init__(self, cfg: Any, context: MethodContext) -> None:
        super().__init__(cfg, context)
        given = context.fusion
        head = self.heads[0]
        parts = [] if given is None else list(given.parts)
        bonus = 0.0 if given is None else given.token_bonus
        if not cfg.needs_texts:
            bonus += cfg.token_bonus
        elif context.texts is None:
            log.warning("decoding by %s without a language model: there are no training texts here", cfg.kind)
        elif cfg.lm_weight or cfg.token_bonus:
            model = self.model.cfg
            scorer = TextsScorer(
                ngrams_by_language(context.texts(), model.vocab_size, cfg.lm_order), model.languages,
                outputs=model.labels + 1, blank=head.blank, weight=cfg.lm_weight,
                bonus=cfg.token_bonus, device=next(self.model.parameters()).device,
            )  # fmt: skip
            parts.append(Part(weight=1.0, scorer=scorer))
        self.fusion = Fusion(parts, blank=head.blank, token_bonus=bonus)

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        (head,) = self.heads
        start = fusion_start(self, len(encoded.frames), langs)
        return beam_ctc(head(encoded.frames), encoded.lens, blank=head.blank, cfg=self.cfg, start=start)


def beam_ctc(
    log_probs: Tensor, lens: Tensor, *, blank: int, cfg: BeamConfig, start: FusionStart | None = None
) -> list[Hypothesis]:
    """log_probs (B, S, V), lens (B,) frames -> one Hypothesis per row.

    start: language models and hot words. Frames, durations and scores of the tokens are those of the best
    path that spells them. Frames beyond `lens` are not read.
    """
    nbest = nbest_ctc(log_probs, lens, blank=blank, cfg=cfg, start=start, n_best=cfg.n_best)
    return placed(log_probs, lens, nbest, blank=blank)


def placed(log_probs: Tensor, lens: Tensor, nbest: list[Candidates], *, blank: int) -> list[Hypothesis]:
    """The hypothesis of each row, with the candidates after the first as alternatives."""
    hyps = align_texts(log_probs, lens, [[tokens for tokens, _ in row] for row in nbest], blank=blank)
    return [
        with_alternatives(row_hyps, [total for _, total in row])
        for row_hyps, row in zip(hyps, nbest, strict=True)
    ]


@torch.inference_mode()
def nbest_ctc(
    log_probs: Tensor, lens: Tensor, *, blank: int, cfg: BeamConfig, start: FusionStart | None = None,
    n_best: int | None = None,
) -> list[Candidates]:  # fmt: skip
    """The texts in the final beam of each row, best first, `n_best` of them or all; arguments as in
    `beam_ctc`. Their scores are the
    log probability of their paths, in nats, plus what the text adds.

    The host waits for the device before the search, to know which frames try tokens, and after it.
    """
    if not len(log_probs):
        return []
    lens = lens.to(log_probs.device)
    if cfg.blank_penalty or cfg.temperature != 1:
        log_probs = log_probs.clone()
        log_probs[..., blank] -= cfg.blank_penalty
        log_probs = (log_probs / cfg.temperature).log_softmax(-1)
    prefixes = CTCPrefixes(
        log_probs, lens, blank=blank, beam=cfg.beam, token_beam=cfg.token_beam, start=start
    )
    return prefixes.search(n_best=n_best or cfg.beam, length_norm=cfg.length_norm)
