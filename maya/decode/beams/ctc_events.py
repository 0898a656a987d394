"""The frames of CTC on which a beam search has something to decide.

A trained CTC model gives almost all probability to blank on most frames. A search tries no token on them, and
its prefixes only stay as they are. The other frames are called events here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CTCEvents:
    """The events of B utterances, those with the most events first.

    order (B,): the row of the batch at each place. active: how many rows have a first, second, ... event.
    columns: the most tokens that a row tries at its first, second, ... event. All M events stand one after
    another, the first ones of all rows, the second ones, ... rows, frames (M,): of each. tokens, log_probs
    (M, C): the tokens that are tried, and their log probabilities, -inf in unused columns. blanks (M,): log
    probability of blank. least (M,): only tokens above it are tried. gaps, longest_gaps: frames before each
    event without another event, (M,), and the most of them at the first, second, ... event. rest (B,): frames
    after the last event of each row.
    """

    order: Tensor
    active: list[int]
    columns: list[int]
    rows: Tensor
    frames: Tensor
    tokens: Tensor
    log_probs: Tensor
    blanks: Tensor
    least: Tensor
    gaps: Tensor
    longest_gaps: list[int]
    rest: Tensor


def ctc_events(log_probs: Tensor, lens: Tensor, *, blank: int, token_beam: float) -> CTCEvents:
    """log_probs (B, S, V), lens (B,) frames. A token is tried if it is less than `token_beam` nats below the
    best output of its frame. The host waits twice for the device."""
    device = log_probs.device
    least = log_probs.amax(-1) - token_beam
    numbers = (log_probs > least[..., None]).sum(-1) - (log_probs[..., blank] > least).long()
    inside = torch.arange(log_probs.shape[1], device=device) < lens[:, None]
    counts = numbers.masked_fill(~inside, 0).cpu().numpy()
    per_row = (counts > 0).sum(1)
    order = np.argsort(-per_row, kind="stable")
    per_row, counts = per_row[order], counts[order]
    places, frames = counts.nonzero()
    number = np.arange(len(frames)) - (per_row.cumsum() - per_row)[places]  # of an event in its row
    before = np.concatenate([[-1], frames[:-1]])
    gaps = frames - np.where(number == 0, -1, before) - 1
    step_by_step = np.argsort(number, kind="stable")
    number, places, frames, gaps = (x[step_by_step] for x in (number, places, frames, gaps))
    passed = np.zeros(len(order), np.int64)  # frames up to the last event of each row
    np.maximum.at(passed, places, frames + 1)
    steps = int(per_row.max(initial=0))
    event_counts = counts[places, frames]
    columns, longest_gaps = np.zeros((2, steps), np.int64)
    np.maximum.at(columns, number, event_counts)
    np.maximum.at(longest_gaps, number, gaps)

    def on_device(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(device)

    rows, frames_now = on_device(order[places]), on_device(frames)
    event_least, outputs = least[rows, frames_now], log_probs[rows, frames_now]
    tokens, scores = _tried(outputs, event_least, on_device(event_counts), blank, int(columns.max(initial=1)))
    return CTCEvents(
        order=on_device(order), active=[int((per_row > e).sum()) for e in range(steps)],
        columns=columns.tolist(), rows=rows, frames=frames_now, tokens=tokens, log_probs=scores,
        blanks=outputs[:, blank], least=event_least, gaps=on_device(gaps), longest_gaps=longest_gaps.tolist(),
        rest=lens[on_device(order)] - on_device(passed),
    )  # fmt: skip


def _tried(
    log_probs: Tensor, least: Tensor, counts: Tensor, blank: int, columns: int
) -> tuple[Tensor, Tensor]:
    """log_probs (M, V) -> the tokens that are tried (M, C) and their log probabilities."""
    is_tried = log_probs > least[:, None]
    is_tried[:, blank] = False
    event, token = is_tried.nonzero(as_tuple=True)
    column = torch.arange(len(event), device=event.device) - (counts.cumsum(0) - counts)[event]
    tokens = torch.zeros(len(log_probs), columns, dtype=torch.int64, device=event.device)
    scores = torch.full(tokens.shape, -torch.inf, dtype=log_probs.dtype, device=event.device)
    tokens[event, column] = token
    scores[event, column] = log_probs[event, token]
    return tokens, scores
