"""Decoding with the attention decoder alone: beam search token by token, all utterances at once."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.beams.ctc_paths import place_tokens
from maya.decode.beams.fused_rows import FusedRows, FusionStart, fusion_start
from maya.decode.beams.trace import Trace, TraceStep, with_alternatives
from maya.decode.confidence import ConfidenceConfig, distribution_confidence
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.heads import AttentionDecoder, AttentionDecoderConfig, HeadConfig
from maya.heads.attention import DecoderState, TransformerDecoder
from maya.ranges import NonNegFloat, PosFloat, PosInt


@config
class AttentionBeamConfig(MethodConfig):
    """beam: hypotheses kept; 1 is greedy search.
    n_best: hypotheses returned, at most `beam`; all but the first are `Hypothesis.alternatives`.
    max_tokens_per_frame: a sentence has at most max(1, max_tokens_per_frame * frames) tokens, because
        attention can lose its place and repeat itself without end.
    length_norm: the scores of complete sentences are divided by this power of their length, the end included;
        0: not at all, which favours short sentences, 1: the mean.
    confidence: of each token, from the distribution of the decoder.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (AttentionDecoderConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {"beam": 1}
    fuses: ClassVar[bool] = True

    kind: Literal["attention"] = "attention"
    beam: PosInt = 4
    n_best: PosInt = 1
    max_tokens_per_frame: PosFloat = 1.0
    length_norm: NonNegFloat = 0.0
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)


class AttentionBeam(Method, config=AttentionBeamConfig):
    """`attention_beam`. Where the model has a trained CTC head, the tokens have the times at which its forced
    alignment places them."""

    def __call__(
        self, encoded: Encoded, langs: Tensor | None = None, *, lists: Tensor | None = None
    ) -> list[Hypothesis]:
        hyps = super().__call__(encoded, langs, lists=lists)
        if self.aligner is not None:
            if self.aligner.conditioned:
                encoded = self.model.with_language(encoded, langs)
            with torch.no_grad():
                log_probs = self.aligner(encoded.frames)
            place_tokens(hyps, log_probs, encoded.lens, blank=self.aligner.blank)
        return hyps

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        start = fusion_start(self, len(encoded.frames), langs)
        return attention_beam(encoded.frames, encoded.lens, self.heads[0], self.cfg, start)


@torch.no_grad()
def attention_beam(
    enc: Tensor, enc_lens: Tensor, decoder: AttentionDecoder, cfg: AttentionBeamConfig,
    start: FusionStart | None = None,
) -> list[Hypothesis]:  # fmt: skip
    """enc (B, S, D), enc_lens (B,) frames -> one Hypothesis per row; put the decoder in eval mode first.

    start: what is added to the scores of tokens, and at the end to that of the end of the sentence. A
    sentence that reaches its limit ends whatever the probability of its end, which is counted. The decoder
    gives no times, so frames and durations are empty. Rows without frames are empty.
    """
    lens = enc_lens.to(enc.device)
    limit = (lens * cfg.max_tokens_per_frame).long().clamp(min=1).masked_fill(lens == 0, 0)
    state = decoder.start(decoder.memory(enc, lens), cfg.beam)
    first = torch.full_like(limit, decoder.eos)
    return beam_search(decoder, state, first, limit, cfg, never=decoder.never, start=start)


@torch.no_grad()
def beam_search(
    decoder: TransformerDecoder, state: DecoderState, first: Tensor, limit: Tensor, cfg: Any, *,
    never: Sequence[int], start: FusionStart | None = None,
) -> list[Hypothesis]:  # fmt: skip
    """The search from a state of B * cfg.beam sequences, all of an utterance alike, which read first (B,)
    next. limit (B,): tokens of a sentence, 0 for a row that is empty. cfg: beam, n_best, length_norm and
    confidence of `AttentionBeamConfig`. never: ids that are not written. start: see `attention_beam`."""
    beam, length_norm = cfg.beam, cfg.length_norm
    batch, device = len(limit), limit.device
    steps = int(limit.max()) + 1 if batch else 0
    scores = torch.full((batch, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    read = first[:, None].expand(-1, beam)
    done = (limit == 0)[:, None].expand(-1, beam)
    counts = torch.ones_like(read)
    like = torch.zeros(1, decoder.outputs, device=device)
    fused = FusedRows(start, batch, beam, like) if start else None
    n_best = min(cfg.n_best, beam)
    trace = Trace(decoder.eos)
    for step in range(steps):
        log_probs, state = decoder.step(read.flatten(), state)
        certain = distribution_confidence(log_probs, cfg.confidence) if cfg.confidence else None
        log_probs = _allowed(log_probs.view(batch, beam, -1), decoder.eos, never, (done, step >= limit))
        ranked = log_probs if fused is None else log_probs + _text_scores(fused, decoder.eos, done)
        scores, picked = (scores[..., None] + ranked).flatten(1).topk(beam)
        parents, read = picked // log_probs.shape[-1], picked % log_probs.shape[-1]
        if certain is not None:
            certain = certain.view(batch, beam).gather(1, parents)
        gains = log_probs.flatten(1).gather(1, picked)
        trace.add(TraceStep(parents, read, gains, confidences=certain))
        done = done.gather(1, parents) | (read == decoder.eos)
        counts = counts.gather(1, parents) + ~done
        # Scores only fall: without division by the length and without other scores, nothing overtakes the
        # best if they are complete.
        if bool((done if length_norm or fused else done[:, :n_best]).all()):
            break
        if beam > 1 or fused is not None:
            rows = (parents + torch.arange(0, batch * beam, beam, device=device)[:, None]).flatten()
            state = state.select(rows)
            if fused is not None:
                fused.advance(rows, read.flatten(), ~done.flatten())
    totals = scores.div(counts**length_norm).masked_fill(~done, -torch.inf)
    totals, places = totals.topk(n_best)
    return [
        with_alternatives(
            [Hypothesis(tokens=x.tokens, scores=x.scores, confidences=x.confidences) for x in row], row_totals
        )
        for row, row_totals in zip(trace.read(places), totals.tolist(), strict=True)
    ]


def _text_scores(fused: FusedRows, eos: int, done: Tensor) -> Tensor:
    """(B, K, V): what the text adds to each next token, and to the end of the sentence what the end adds.
    Nothing where the sentence is complete already (`done`, (B, K))."""
    scores = fused.scores.view(*done.shape, -1).masked_fill(done[..., None], 0.0)
    ends = fused.final(fused.state, torch.zeros(done.shape, device=done.device))
    scores[..., eos] = ends.masked_fill(done, 0.0)
    return scores


def _allowed(log_probs: Tensor, eos: int, never: Sequence[int], stops: tuple[Tensor, Tensor]) -> Tensor:
    """log_probs (B, K, V) with -inf for tokens that may not come next. stops: after the end (B, K) only the
    end may come, at no cost; in a full row (B,) only the end. The ids `never` do not come."""
    done, full = stops
    if never:
        log_probs[..., list(never)] = -torch.inf
    ends = log_probs[..., eos].masked_fill(done, 0.0)
    log_probs = log_probs.masked_fill((done | full[:, None])[..., None], -torch.inf)
    log_probs[..., eos] = ends
    return log_probs
