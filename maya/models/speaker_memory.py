"""Encoding rows of utterances of one speaker: the encoder keeps what it learnt from one to the next."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.encoders import Encoded, Encoder
from maya.errors import MayaError


def encode_rows(
    encoder: Encoder, x: Tensor, lens: Tensor, row_of: Tensor, views: int = 1, hidden: Collection[int] = ()
) -> Encoded:
    """`encoder(x, lens)`, but each utterance continues to learn after those of its row before it.

    x (B, T, F) features, lens (B,). row_of (B / views,) int64: utterances with the same number form a row, in
    their order; each view has rows of its own. All first utterances of the rows are encoded together, then
    all second ones, and so on, in one graph. Raises MayaError for an encoder that does not learn from
    utterances.
    """
    check_adapts(encoder, "data.plan.same_speaker=1")
    numbers = row_of.tolist()
    rows = [(view, number) for view in range(views) for number in numbers]
    turns: list[list[int]] = []  # the utterances of each turn
    count: dict[tuple[int, int], int] = {}
    for i, row in enumerate(rows):
        turn = count.get(row, 0)
        count[row] = turn + 1
        turns += [[]] * (turn == len(turns))
        turns[turn] = [*turns[turn], i]
    state: Any = None
    place: dict[tuple[int, int], int] = {}  # of each row in the state
    parts: list[Encoded] = []
    for turn_items in turns:
        some = torch.tensor(turn_items, device=x.device)
        before = (
            None if state is None else torch.tensor([place[rows[i]] for i in turn_items], device=x.device)
        )
        own = lens[some]
        encoded, state = encoder.adapt(x[some][:, : int(own.max())], own, state, rows=before, hidden=hidden)
        place = {rows[i]: n for n, i in enumerate(turn_items)}
        parts.append(encoded)
    back = torch.argsort(torch.tensor([i for items in turns for i in items], device=x.device))
    states = {n: _joined([part.hidden[n] for part in parts])[back] for n in hidden}
    frames = _joined([part.frames for part in parts])[back]
    return Encoded(frames, torch.cat([part.lens for part in parts])[back], states)


def encode_after(
    encoder: Encoder, x: Tensor, lens: Tensor, memories: Sequence[Any], hidden: Collection[int] = ()
) -> tuple[Encoded, list[Any]]:
    """`encoder(x, lens)` in evaluation, each utterance after an earlier one of the same speaker.

    x (B, T, F) features, lens (B,). memories: B results of earlier calls, None for a first utterance. Returns
    also those after this utterance. Raises MayaError for an encoder that does not learn from utterances.
    """
    check_adapts(encoder, "long_audio.remember=false")
    encoded, after = encoder.adapt(x, lens, encoder.join_memories(memories), hidden=hidden)
    return encoded, encoder.split_memory(after)


def check_adapts(encoder: Encoder, instead: str) -> None:
    """MayaError for an encoder that does not learn from utterances. instead: the setting without it."""
    if not encoder.adapts:
        kind = getattr(encoder.cfg, "kind", type(encoder).__name__)
        raise MayaError(
            f"an encoder of kind {kind!r} remembers nothing of an utterance; set {instead}, or take LaCT"
        )


def _joined(parts: list[Tensor]) -> Tensor:
    """(B_i, S_i, D) -> (B, S, D), padded with zeros."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
