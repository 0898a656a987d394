"""Transducer beam search with at most one label per frame, batched: icefall's `modified_beam_search`.

All hypotheses stand at the same frame, so that one call of the joint scores the beams of all utterances.
From frame to frame a hypothesis is its score, its predictor state and a hash of its labels; the labels
themselves are read from back-pointers at the end.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.hypothesis import Hypothesis
from maya.decode.trace import Trace
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import HeadConfig, TransducerConfig
from maya.heads.transducer import AnyPredictor, Joint, StatelessPredictor
from maya.ranges import Finite, PosFloat, PosInt

_MIX = -7046029254386353131  # 2^64 / golden ratio, odd, as a signed number


@config
class ModifiedBeamConfig(MethodConfig):
    """beam: hypotheses kept; 1 is greedy search with max_symbols 1.
    blank_penalty: nats taken from blank's logit, against deletions.
    temperature: all logits are divided by it.
    length_norm: compare complete hypotheses by score per label. Labels are counted with the predictor's
        context at the start, as in icefall.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (TransducerConfig,)

    kind: Literal["modified_beam"] = "modified_beam"
    beam: PosInt = 4
    blank_penalty: Finite = 0.0
    temperature: PosFloat = 1.0
    length_norm: bool = True

    def objection(self, heads: Sequence[HeadConfig]) -> str:
        (head,) = heads
        return _NO_DURATIONS if getattr(head, "predicts_durations", False) else ""


_NO_DURATIONS = "it goes frame by frame, and a TDT predicts durations: decode greedily"


class ModifiedBeam(Method, config=ModifiedBeamConfig):
    """`modified_beam_search`."""

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        (head,) = self.heads
        return modified_beam_search(
            encoded.frames, encoded.lens, head.decoder, head.joint, blank=head.blank, cfg=self.cfg
        )


@torch.no_grad()
def modified_beam_search(
    enc: Tensor, enc_lens: Tensor, predictor: AnyPredictor, joint: Joint, *, blank: int,
    cfg: ModifiedBeamConfig,
) -> list[Hypothesis]:  # fmt: skip
    """enc (B, S, D), enc_lens (B,) frames -> one Hypothesis per row; put the modules in eval mode first.

    On each frame every hypothesis takes blank or one label. The `beam` best of an utterance go on; equal ones
    become one, with their probabilities added. A token's score is its log probability on the best path of
    those that were added up. Raises MayaError for a joint that predicts durations (TDT), because its
    hypotheses do not stay on one frame.
    """
    if joint.num_durations:
        raise MayaError(f"modified beam search cannot decode this model: {_NO_DURATIONS}")
    beam = cfg.beam
    lens, order = enc_lens.cpu().sort(descending=True, stable=True)
    alive = (lens[:, None] > torch.arange(enc.shape[1])).sum(0).tolist()  # rows that have each frame
    f = joint.project_encoder(enc)[order.to(enc.device)]
    search = _Beams(len(enc), predictor, joint, beam, blank, enc.device)
    trace = Trace(enc.shape[1], len(enc), beam, blank, enc.device)
    for t, rows in enumerate(alive):
        if rows == 0:
            break
        search.keep(rows)
        logits = joint.split(joint.output(f[:rows, t, None], search.g))[0].float()
        if cfg.blank_penalty:
            logits[..., blank] -= cfg.blank_penalty
        trace.add(t, *search.advance((logits / cfg.temperature).log_softmax(-1)))
    best = trace.read(search.best(_context(predictor) if cfg.length_norm else None))
    hyps = [
        Hypothesis(tokens=x.tokens, frames=x.steps, durations=[1] * len(x.tokens), scores=x.scores)
        for x in best
    ]
    return [hyps[place] for place in order.argsort().tolist()]


class _Beams:
    """The hypotheses of the rows that still have frames, (n, K), best first; unused places score -inf."""

    def __init__(
        self, rows: int, predictor: AnyPredictor, joint: Joint, beam: int, blank: int, device: torch.device
    ) -> None:
        self.predictor, self.joint, self.blank, self.beam = predictor, joint, blank, beam
        self.scores = torch.full((rows, beam), -torch.inf, device=device)
        self.scores[:, 0] = 0.0
        self.hashes = torch.zeros(rows, beam, dtype=torch.int64, device=device)
        self.counts = torch.zeros(rows, beam, dtype=torch.int64, device=device)
        self.finished: list[tuple[Tensor, Tensor]] = []
        start = torch.full((rows * beam,), blank, device=device)
        g, state = predictor.step(start, predictor.initial_state(rows * beam, device))  # type: ignore[arg-type]
        self.state: Any = state
        self.g = joint.project_predictor(g).unflatten(0, (rows, beam))

    def keep(self, rows: int) -> None:
        """Keep the first `rows` rows; the others have no more frames."""
        if rows < len(self.scores):
            self.finished.append((self.scores[rows:], self.counts[rows:]))
            self.scores, self.hashes, self.counts = self.scores[:rows], self.hashes[:rows], self.counts[:rows]
            self.g = self.g[:rows]
            self.state = self.state.select(torch.arange(rows * self.beam, device=self.g.device))

    def advance(self, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One frame, log_probs (n, K, V) -> parents, tokens and the tokens' scores, (n, K) each."""
        vocab = log_probs.shape[-1]
        totals, picked = (self.scores[..., None] + log_probs).flatten(1).topk(self.beam)
        parents, tokens = picked // vocab, picked % vocab
        gains = log_probs.flatten(1).gather(1, picked)
        labelled = tokens != self.blank
        hashes = self.hashes.gather(1, parents)
        mixed = (hashes ^ (tokens + 1)) * _MIX
        # With 64 bits two different hypotheses get the same hash once in 10^19 comparisons.
        self.hashes = torch.where(labelled, mixed ^ (mixed >> 32), hashes)
        self.counts = self.counts.gather(1, parents) + labelled
        same = self.hashes[:, :, None] == self.hashes[:, None]
        merged = totals[:, None].masked_fill(~same, -torch.inf).logsumexp(-1)
        first = same.int().argmax(-1) == torch.arange(self.beam, device=same.device)
        self.scores = merged.masked_fill(~first, -torch.inf)
        self._step_predictor(parents, tokens, labelled & self.scores.isfinite())
        return parents, tokens, gains

    def _step_predictor(self, parents: Tensor, tokens: Tensor, labelled: Tensor) -> None:
        """Reorder the predictor's output by `parents`, and step the predictor where there is a new label."""
        first = torch.arange(0, parents.numel(), self.beam, device=parents.device)
        sources = (parents + first[:, None]).flatten()
        self.state, g = self.state.select(sources), self.g.flatten(0, 1)[sources]
        has_label = labelled.flatten()
        rows = has_label.nonzero()[:, 0]
        if len(rows):  # on most frames most hypotheses have none, and the LSTM is the most expensive part
            pred, state = self.predictor.step(tokens.flatten()[rows], self.state.select(rows))
            g[rows] = self.joint.project_predictor(pred)
            place = (has_label.cumsum(0) - 1).clamp(min=0)
            self.state = state.select(place).where(has_label, self.state)
        self.g = g.view_as(self.g)

    def best(self, context: int | None) -> Tensor:
        """(B,) places of the best hypotheses, by score or by score per label."""
        parts = [(self.scores, self.counts), *reversed(self.finished)]
        scores, counts = (torch.cat(column) for column in zip(*parts, strict=True))
        return (scores if context is None else scores / (counts + context)).argmax(1)


def _context(predictor: AnyPredictor) -> int:
    return predictor.cfg.context if isinstance(predictor, StatelessPredictor) else 1
