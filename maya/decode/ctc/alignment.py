"""Forced alignment on CTC: the best path that spells given tokens, by the Viterbi algorithm."""

import torch
from torch import Tensor

from maya.errors import MayaError


def align_ctc(log_probs: Tensor, tokens: Tensor, *, blank: int) -> tuple[Tensor, Tensor]:
    """log_probs (S, V), tokens (U,) -> (the token or blank of each frame (S,), its log probability (S,)).

    The path is the likeliest of those that spell the tokens (Graves et al., "Connectionist temporal
    classification", ICML 2006), over the U tokens with blanks around them; of equally likely ones it is the
    one that moves on last. Raises MayaError where S frames are too few (CTC needs a frame for each token and
    one more between equal neighbours), where the tokens hold the blank, and where no path has a probability
    above zero.
    """
    frames, device = len(log_probs), log_probs.device
    tokens = tokens.to(device)
    needed = len(tokens) + int((tokens[1:] == tokens[:-1]).sum())
    if frames < needed:
        raise MayaError(f"{len(tokens)} tokens need {needed} frames, and the audio has {frames}")
    if (tokens == blank).any():
        raise MayaError(f"the tokens to align hold the blank {blank}; leave it out")
    if frames == 0:
        return tokens[:0], log_probs[:, 0]
    states = torch.full((2 * len(tokens) + 1,), blank, device=device)
    states[1::2] = tokens
    steps, score = _forward(log_probs[:, states], _detours(tokens))
    state = len(states) - 1
    if len(tokens) and score[-2] > score[-1]:
        state -= 1
    if not score[state] > -torch.inf:  # nan too
        raise MayaError("the tokens to align have no path of a probability above zero")
    path = [0] * frames
    backwards = steps.cpu().numpy()
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state -= int(backwards[frame, state])
    labels = states[torch.tensor(path, device=device)]
    return labels, log_probs.gather(1, labels[:, None])[:, 0]


def _detours(tokens: Tensor) -> Tensor:
    """(2U + 1,): -inf where a state cannot be entered from two states before it, which skips a blank; 0 for a
    token that differs from the token before it."""
    detours = torch.full((2 * len(tokens) + 1,), -torch.inf, device=tokens.device)
    detours[3::2] = torch.where(tokens[1:] != tokens[:-1], 0.0, -torch.inf)
    return detours


def _forward(emissions: Tensor, detours: Tensor) -> tuple[Tensor, Tensor]:
    """emissions (S, N) of N states, detours (N,) -> (how many states back the best path into each state was a
    frame before (S, N) int8, the score of the best path into each at the end (N,))."""
    frames, size = emissions.shape
    detours = detours.to(emissions.dtype)
    steps = torch.zeros(frames, size, dtype=torch.int8, device=emissions.device)
    padded = emissions.new_full((size + 2,), -torch.inf)  # two states before the first, which no path is in
    score = padded[2:]
    score[:2] = emissions[0, :2]
    for frame in range(1, frames):
        before = torch.stack((score, padded[1:-1], padded[:-2] + detours))
        best, step = before.max(0)
        steps[frame] = step
        torch.add(best, emissions[frame], out=score)
    return steps, score
