"""Decoding with the attention decoder alone: beam search token by token, all utterances at once."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.hypothesis import Hypothesis
from maya.decode.trace import Trace
from maya.encoders import Encoded
from maya.heads import AttentionDecoder, AttentionDecoderConfig, HeadConfig
from maya.ranges import NonNegFloat, PosFloat, PosInt


@config
class AttentionBeamConfig(MethodConfig):
    """beam: hypotheses kept; 1 is greedy search.
    max_tokens_per_frame: a sentence has at most max(1, max_tokens_per_frame * frames) tokens, because
        attention can lose its place and repeat itself without end.
    length_norm: the scores of complete sentences are divided by this power of their length, the end included;
        0: not at all, which favours short sentences, 1: the mean.
    """

    heads: ClassVar[tuple[type[HeadConfig], ...]] = (AttentionDecoderConfig,)
    greedy: ClassVar[Mapping[str, Any] | None] = {"beam": 1}

    kind: Literal["attention"] = "attention"
    beam: PosInt = 4
    max_tokens_per_frame: PosFloat = 1.0
    length_norm: NonNegFloat = 0.0


class AttentionBeam(Method, config=AttentionBeamConfig):
    """`attention_beam`."""

    def search(self, encoded: Encoded, langs: Tensor | None) -> list[Hypothesis]:
        return attention_beam(encoded.frames, encoded.lens, self.heads[0], self.cfg)


@torch.no_grad()
def attention_beam(
    enc: Tensor, enc_lens: Tensor, decoder: AttentionDecoder, cfg: AttentionBeamConfig
) -> list[Hypothesis]:
    """enc (B, S, D), enc_lens (B,) frames -> one Hypothesis per row; put the decoder in eval mode first.

    A sentence that reaches its limit ends whatever the probability of its end, which is counted. The decoder
    gives no times, so frames and durations are empty. Rows without frames are empty.
    """
    beam, length_norm = cfg.beam, cfg.length_norm
    batch, device = len(enc), enc.device
    lens = enc_lens.to(device)
    limit = (lens * cfg.max_tokens_per_frame).long().clamp(min=1).masked_fill(lens == 0, 0)
    steps = int(limit.max()) + 1 if batch else 0
    state = decoder.start(decoder.memory(enc, lens), beam)
    scores = torch.full((batch, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    read = torch.full((batch, beam), decoder.eos, device=device)
    done = (limit == 0)[:, None].expand(-1, beam)
    counts = torch.ones_like(read)
    trace = Trace(steps, batch, beam, decoder.eos, device)
    for step in range(steps):
        log_probs, state = decoder.step(read.flatten(), state)
        log_probs = _allowed(log_probs.view(batch, beam, -1), decoder, done, step >= limit)
        scores, picked = (scores[..., None] + log_probs).flatten(1).topk(beam)
        parents, read = picked // log_probs.shape[-1], picked % log_probs.shape[-1]
        trace.add(step, parents, read, log_probs.flatten(1).gather(1, picked))
        done = done.gather(1, parents) | (read == decoder.eos)
        counts = counts.gather(1, parents) + ~done
        # Scores only fall: without division by the length, nothing overtakes a complete sentence.
        if bool((done.all(1) if length_norm else done[:, 0]).all()):
            break
        if beam > 1:
            rows = parents + torch.arange(0, batch * beam, beam, device=device)[:, None]
            state = state.select(rows.flatten())
    best = trace.read(scores.div(counts**length_norm).masked_fill(~done, -torch.inf).argmax(1))
    return [Hypothesis(tokens=x.tokens, scores=x.scores) for x in best]


def _allowed(log_probs: Tensor, decoder: AttentionDecoder, done: Tensor, full: Tensor) -> Tensor:
    """log_probs (B, K, V) with -inf for tokens that may not come next. After the end (`done`, (B, K)) only
    the end may come, at no cost; in a row that is `full` (B,) only the end; blank never."""
    if decoder.blank != decoder.eos:
        log_probs[..., decoder.blank] = -torch.inf
    ends = log_probs[..., decoder.eos].masked_fill(done, 0.0)
    log_probs = log_probs.masked_fill((done | full[:, None])[..., None], -torch.inf)
    log_probs[..., decoder.eos] = ends
    return log_probs
