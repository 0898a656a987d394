"""Decoding with the attention decoder alone: beam search token by token, all utterances at once."""

import torch
from torch import Tensor

from maya.decode.hypothesis import Hypothesis
from maya.decode.trace import Trace
from maya.errors import MayaError
from maya.heads.attention import AttentionDecoder


@torch.no_grad()
def attention_beam(
    enc: Tensor,
    enc_lens: Tensor,
    decoder: AttentionDecoder,
    *,
    beam: int = 4,
    max_tokens_per_frame: float = 1.0,
    length_norm: float = 0.0,
) -> list[Hypothesis]:
    """enc (B, S, D), enc_lens (B,) frames -> one Hypothesis per row; put the decoder in eval mode first.

    Beam 1 is greedy search. A sentence has at most max(1, max_tokens_per_frame * frames) tokens: attention
    can lose its place and repeat itself without end. The end then comes whatever its probability, which is
    counted.
    length_norm: the power of the length, its end included, by which the scores of complete sentences are
    divided; 0: not at all, which favours short ones, 1: the mean. The decoder tells no frames, so those and
    durations are empty. Rows without frames are empty.
    """
    if beam < 1 or max_tokens_per_frame <= 0:
        raise MayaError(
            "attention decoding needs a beam of at least 1 and max_tokens_per_frame above 0, not "
            f"{beam} and {max_tokens_per_frame}"
        )
    batch, device = len(enc), enc.device
    lens = enc_lens.to(device)
    limit = (lens * max_tokens_per_frame).long().clamp(min=1).masked_fill(lens == 0, 0)
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
    found = trace.read(scores.div(counts**length_norm).masked_fill(~done, -torch.inf).argmax(1))
    return [Hypothesis(tokens=x.tokens, frames=[], durations=[], scores=x.scores) for x in found]


def _allowed(log_probs: Tensor, decoder: AttentionDecoder, done: Tensor, full: Tensor) -> Tensor:
    """log_probs (B, K, V) with -inf where a token may not come: nothing but the end, at no cost, after the
    end (`done`, (B, K)); nothing but the end in a row that is `full` (B,); and blank nowhere."""
    if decoder.blank != decoder.eos:
        log_probs[..., decoder.blank] = -torch.inf
    ends = log_probs[..., decoder.eos].masked_fill(done, 0.0)
    log_probs = log_probs.masked_fill((done | full[:, None])[..., None], -torch.inf)
    log_probs[..., decoder.eos] = ends
    return log_probs
