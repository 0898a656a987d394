"""Forced alignment on CTC: the best path that spells given tokens, by the Viterbi algorithm."""

import torch
from torch import Tensor

from maya.errors import MayaError


def align_ctc(log_probs: Tensor, tokens: Tensor, *, blank: int) -> tuple[Tensor, Tensor]:
    """log_probs (S, V), tokens (U,) -> (the token or blank of each frame (S,), its log probability (S,)).

    The path is the likeliest of those that spell the tokens (Graves et al., "Connectionist temporal
    classification", ICML 2006), over the U tokens with blanks around them. Raises MayaError where S frames
    are too few: CTC needs a frame for each token and one more between equal neighbours.
    """
    frames, device = len(log_probs), log_probs.device
    needed = len(tokens) + int((tokens[1:] == tokens[:-1]).sum())
    if frames < needed:
        raise MayaError(f"{len(tokens)} tokens need {needed} frames, and the audio has {frames}")
    states = torch.full((2 * len(tokens) + 1,), blank, device=device)
    states[1::2] = tokens
    emissions = log_probs[:, states]
    # A token may follow the token before it without a blank in between, unless they are equal.
    skips = torch.zeros(len(states), dtype=torch.bool, device=device)
    skips[3::2] = tokens[1:] != tokens[:-1]
    score = torch.full((len(states),), -torch.inf, dtype=log_probs.dtype, device=device)
    score[:2] = emissions[0, :2]
    steps = torch.zeros(frames, len(states), dtype=torch.int8, device=device)
    padded = torch.full((len(states) + 2,), -torch.inf, dtype=log_probs.dtype, device=device)
    for frame in range(1, frames):
        padded[2:] = score
        before = torch.stack((padded[2:], padded[1:-1], padded[:-2].masked_fill(~skips, -torch.inf)))
        score, step = before.max(0)
        steps[frame] = step
        score = score + emissions[frame]
    state = len(states) - 1
    if len(tokens) and score[-2] > score[-1]:
        state -= 1
    path = torch.zeros(frames, dtype=torch.long)
    backwards = steps.cpu()
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state -= int(backwards[frame, state])
    spelled = states[path.to(device)]
    return spelled, log_probs.gather(1, spelled[:, None])[:, 0]
