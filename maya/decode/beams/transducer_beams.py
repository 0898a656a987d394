"""The hypotheses of a transducer's beam search, RNN-T or TDT, for a batch of utterances at once.

Each hypothesis stands at a frame of its own. One step gives every active hypothesis one more output, blank or
a label, and keeps the best of each utterance. The searches (`alsd`, `maes` and `modified_beam` of
`maya.decode.transducer`) differ in which hypotheses are active in a step. The labels are read from
back-pointers at the end.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.beams.fused_rows import FusedRows, FusionStart, fusion_start, waits_for
from maya.decode.beams.hashing import extended, merge
from maya.decode.beams.trace import Trace, TraceStep, with_alternatives
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import HeadConfig, TransducerConfig
from maya.heads.transducer import AnyPredictor, Joint, StatelessPredictor
from maya.ranges import Finite, PosFloat, PosInt


@config
class TransducerBeamConfig(MethodConfig):
    """The options that the beam searches of transducers share.

    beam: hypotheses kept of each utterance.
    n_best: hypotheses returned, at most `beam`; all but the first are `Hypothesis.alternatives`.
    blank_penalty: nats taken from blank's logit, against deletions.
    temperature: all logits are divided by it, those of durations too.
    length_norm: compare complete hypotheses by score per label. Labels are counted with the predictor's
        context at the start, as in icefall: 1 of an LSTM.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (TransducerConfig,)
    fuses: ClassVar[bool] = True

    beam: PosInt = 4
    n_best: PosInt = 1
    blank_penalty: Finite = 0.0
    temperature: PosFloat = 1.0
    length_norm: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TransducerParts:
    """The networks of a transducer in evaluation mode. durations: those that a TDT predicts; None: RNN-T."""

    predictor: AnyPredictor
    joint: Joint
    blank: int
    durations: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.joint.num_durations != len(self.durations or ()):
            raise MayaError(
                f"{len(self.durations or ())} durations do not fit a joint network that scores "
                f"{self.joint.num_durations}"
            )

    @property
    def context(self) -> int:
        """Labels that the predictor reads at once."""
        return self.predictor.cfg.context if isinstance(self.predictor, StatelessPredictor) else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRule:
    """How a step expands hypotheses.

    expansions: the likeliest tokens of a hypothesis that are tried. gamma: an expansion is dropped if it is
    so many nats below the best of its hypothesis. max_symbols: labels on one frame, after which a hypothesis
    moves on by one at no cost; 0: no limit. least_advance: frames that every output moves on at least.
    """

    expansions: int
    gamma: float = math.inf
    max_symbols: int = 0
    least_advance: int = 0


class TransducerBeamMethod(Method):
    """A method that searches with `TransducerBeams`. A subclass defines `run`."""

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        (head,) = self.heads
        parts = TransducerParts(
            predictor=head.decoder, joint=head.joint, blank=head.blank, durations=head.durations
        )
        return self.run(encoded, parts, fusion_start(self, len(encoded.frames), langs))

    def run(self, encoded: Encoded, parts: TransducerParts, start: FusionStart | None) -> list[Hypothesis]:
        """One hypothesis for each row."""
        raise NotImplementedError


@dataclass(slots=True)
class _Expansions:
    """What each hypothesis may take: totals (B, K, E, D) with the search's scores, acoustic (B, K, E) log
    probabilities of tokens (B, K, E)."""

    totals: Tensor
    acoustic: Tensor
    tokens: Tensor


class TransducerBeams:
    """The beams of B utterances, K hypotheses each, best first; unused places score -inf.

    frame (B, K): where each hypothesis stands; at the length of its utterance it is complete. Hypotheses with
    the same labels at the same frame are one, with their probabilities added.
    """

    def __init__(
        self, encoded: Encoded, parts: TransducerParts, cfg: TransducerBeamConfig, start: FusionStart | None
    ) -> None:
        enc = encoded.frames
        self.parts, self.cfg, self.device = parts, cfg, enc.device
        self.sparse = not waits_for(enc.device)  # asking which hypotheses are active costs no wait
        batch, beam = len(enc), cfg.beam
        self.lens = encoded.lens.to(enc.device)[:, None]
        self._f = parts.joint.project_encoder(enc)
        dtype = torch.float64 if self._f.dtype == torch.float64 else torch.float32
        self.scores = torch.full((batch, beam), -torch.inf, device=enc.device, dtype=dtype)
        self.scores[:, 0] = 0.0
        self.frame, self._on_frame, self._hashes, self._counts = torch.zeros(
            4, batch, beam, dtype=torch.int64, device=enc.device
        )
        blanks = torch.full((batch * beam,), parts.blank, device=enc.device)
        pred, state = parts.predictor.step(
            blanks,
            parts.predictor.initial_state(len(blanks), enc.device),  # type: ignore[arg-type]
        )
        self._g = parts.joint.project_predictor(pred)
        self._state: Any = state
        table = (1,) if parts.durations is None else parts.durations
        self._durations = torch.tensor(table, device=enc.device)
        like = torch.zeros(1, parts.joint.num_tokens, device=enc.device)
        self._fused = FusedRows(start, batch, beam, like) if start else None
        self._trace = Trace(parts.blank)

    def unfinished(self) -> Tensor:
        """(B, K): hypotheses that have frames before them."""
        return (self.frame < self.lens) & self.scores.isfinite()

    def step(self, active: Tensor, rule: StepRule, *, labels: bool = True) -> None:
        """One more output for the hypotheses `active` (B, K). With `labels` false it is blank."""
        expansions = self._expand(active, rule, labels)
        totals = expansions.totals
        _, _, num_tokens, num_durations = totals.shape
        totals, picked = totals.flatten(1).topk(self.cfg.beam)
        parents = picked // (num_tokens * num_durations)
        token_places = picked // num_durations
        duration = self._durations[picked % num_durations]
        was_active = active.gather(1, parents)
        tokens = expansions.tokens.flatten(1).gather(1, token_places)
        labelled = was_active & (tokens != self.parts.blank) & totals.isfinite()
        tokens = torch.where(labelled, tokens, self.parts.blank)
        acoustic = expansions.acoustic.flatten(1).gather(1, token_places)
        frame = self.frame.gather(1, parents)
        self._trace.add(TraceStep(parents, tokens, acoustic, frame, duration))
        self._move(frame, parents, duration, was_active, labelled, rule)
        hashes = self._hashes.gather(1, parents)
        self._hashes = torch.where(labelled, extended(hashes, tokens), hashes)
        self._counts = self._counts.gather(1, parents) + labelled
        same = (self._hashes[:, :, None] == self._hashes[:, None]) & (
            self.frame[:, :, None] == self.frame[:, None]
        )
        self.scores = merge(totals, same)
        self._step_predictor(parents, tokens, labelled & self.scores.isfinite())

    def _expand(self, active: Tensor, rule: StepRule, labels: bool) -> _Expansions:
        """The expansions of active hypotheses; the others stay as they are, at no cost."""
        batch, beam = active.shape
        if self.sparse:
            rows = active.flatten().nonzero()[:, 0]
        else:
            rows = torch.arange(batch * beam, device=self.device)
        frame = torch.minimum(self.frame, self.lens - 1).clamp(min=0).flatten()[rows]
        logits = self.parts.joint.output(self._f[rows // beam, frame], self._g[rows])
        log_probs, duration_log_probs = self._log_probs(logits)
        ranked = log_probs if self._fused is None else log_probs + self._fused.scores[rows]
        if not labels:
            only_blank = torch.full_like(ranked, -torch.inf)
            only_blank[:, self.parts.blank] = ranked[:, self.parts.blank]
            ranked = only_blank
        gains, tokens = ranked.topk(min(rule.expansions, ranked.shape[1]))
        gains_all = gains[:, :, None] + duration_log_probs[:, None]  # (rows, E, D)
        if rule.gamma < math.inf:
            best = gains_all.amax((1, 2), keepdim=True)
            gains_all = gains_all.masked_fill(gains_all < best - rule.gamma, -torch.inf)
        size = (batch * beam, *gains_all.shape[1:])
        totals = torch.full(size, -torch.inf, device=self.device, dtype=self.scores.dtype)
        totals[:, 0, 0] = self.scores.flatten()
        expanded = self.scores.flatten()[rows, None, None] + gains_all
        keep = active.flatten()[rows]
        totals[rows] = torch.where(keep[:, None, None], expanded, totals[rows])
        all_tokens = torch.full(size[:2], self.parts.blank, device=self.device)
        acoustic = torch.zeros(size[:2], device=self.device, dtype=self.scores.dtype)
        all_tokens[rows], acoustic[rows] = tokens, log_probs.gather(1, tokens)
        return _Expansions(*(x.unflatten(0, (batch, beam)) for x in (totals, acoustic, all_tokens)))

    def _log_probs(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """logits (N, V + D) -> log probabilities of tokens (N, V) and of durations (N, D), for an RNN-T
        (N, 1) zeros."""
        token_logits, duration_logits = self.parts.joint.split(logits)
        token_logits = token_logits.to(self.scores.dtype)
        if self.cfg.blank_penalty:
            token_logits = token_logits.clone()
            token_logits[:, self.parts.blank] -= self.cfg.blank_penalty
        log_probs = (token_logits / self.cfg.temperature).log_softmax(-1)
        if self.parts.durations is None:
            return log_probs, torch.zeros_like(log_probs[:, :1])
        return log_probs, (duration_logits.to(self.scores.dtype) / self.cfg.temperature).log_softmax(-1)

    def _move(
        self, frame: Tensor, parents: Tensor, duration: Tensor, active: Tensor, labelled: Tensor,
        rule: StepRule,
    ) -> None:  # fmt: skip
        """Set the frames of the hypotheses after an output: a blank moves on by its duration, at least 1, a
        label by its own, in an RNN-T by 0."""
        if self.parts.durations is None:
            duration = torch.zeros_like(duration)
        least = torch.where(labelled, rule.least_advance, 1)
        advance = torch.where(active, torch.maximum(duration, least), 0)
        on_frame = self._on_frame.gather(1, parents) + labelled
        if rule.max_symbols:
            stuck = labelled & (advance == 0) & (on_frame >= rule.max_symbols)
            advance = advance + stuck
        self._on_frame = torch.where(advance > 0, 0, on_frame)
        self.frame = torch.minimum(frame + advance, self.lens)

    def _step_predictor(self, parents: Tensor, tokens: Tensor, labelled: Tensor) -> None:
        """Reorder the predictor's output by `parents`, and step the predictor where there is a new label."""
        batch, beam = parents.shape
        first = torch.arange(0, batch * beam, beam, device=self.device)
        sources = (parents + first[:, None]).flatten()
        tokens, labelled = tokens.flatten(), labelled.flatten()
        if self._fused is not None:
            self._fused.advance(sources, tokens, labelled)
        self._state, self._g = self._state.select(sources), self._g[sources]
        predictor, joint = self.parts.predictor, self.parts.joint
        if not self.sparse:
            pred, state = predictor.step(tokens, self._state)
            self._state = state.where(labelled, self._state)
            self._g = torch.where(labelled[:, None], joint.project_predictor(pred), self._g)
            return
        rows = labelled.nonzero()[:, 0]
        if len(rows):  # on most frames most hypotheses have none, and the LSTM is the most expensive part
            pred, state = predictor.step(tokens[rows], self._state.select(rows))
            self._g[rows] = joint.project_predictor(pred)
            place = (labelled.cumsum(0) - 1).clamp(min=0)
            self._state = state.select(place).where(labelled, self._state)

    def best(self) -> list[Hypothesis]:
        """The best hypothesis of each utterance, by score or by score per label, with its alternatives."""
        totals = self.scores if self._fused is None else self.scores + self._fused.final(self.scores)
        if self.cfg.length_norm:
            totals = totals / (self._counts + self.parts.context)
        totals, places = totals.topk(min(self.cfg.n_best, self.cfg.beam))
        nbest = self._trace.read(places)
        return [
            with_alternatives([traced.hypothesis() for traced in row], row_totals)
            for row, row_totals in zip(nbest, totals.tolist(), strict=True)
        ]
