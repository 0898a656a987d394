"""The best CTC paths that spell many texts at once; `maya.decode.ctc.alignment` has those of one text."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maya.decode.ctc.greedy import collapse_ctc
from maya.decode.hypothesis import Hypothesis


def align_texts(
    log_probs: Tensor, lens: Tensor, texts: Sequence[Sequence[Sequence[int]]], *, blank: int
) -> list[list[Hypothesis]]:
    """log_probs (B, S, V), lens (B,) frames, texts: token ids of any number of texts of each row -> their
    hypotheses, placed on the best path that spells them; see `collapse_ctc` for frames and scores.

    Each text needs a path of a probability above zero. Frames beyond `lens` are not read.
    """
    counts = [len(row) for row in texts]
    flat = [text for row in texts for text in row]
    if not flat or log_probs.shape[1] == 0:
        return [[Hypothesis() for _ in row] for row in texts]
    rows = np.repeat(np.arange(len(texts)), counts)
    longest = max(map(len, flat))
    states = np.full((len(flat), 2 * longest + 1), blank)
    for state, text in zip(states, flat, strict=True):
        state[1 : 2 * len(text) : 2] = text
    index = [torch.from_numpy(x).to(log_probs.device) for x in (rows, states)]
    # (N, S, 2 U + 1), the only transfer to the host.
    emissions = log_probs[index[0][:, None], :, index[1]].mT.cpu().numpy()
    lengths = lens.cpu().numpy()[rows]
    path = _best_paths(emissions, lengths, states, np.array([len(text) for text in flat]), blank)
    labels = np.take_along_axis(states, path, 1)
    scores = np.take_along_axis(emissions, path[:, :, None], 2)[:, :, 0]
    paths = zip(labels.tolist(), scores.tolist(), lengths, strict=True)
    hyps = iter([collapse_ctc(path[:n], gains[:n], blank=blank) for path, gains, n in paths])
    return [[next(hyps) for _ in row] for row in texts]


def _best_paths(
    emissions: np.ndarray, lengths: np.ndarray, states: np.ndarray, text_lens: np.ndarray, blank: int
) -> np.ndarray:
    """emissions (N, S, 2 U + 1), lengths (N,) frames, states (N, 2 U + 1): tokens with blanks around them ->
    the state of each frame (N, S) on the best path, by the Viterbi algorithm."""
    texts, frames, size = emissions.shape
    skips = np.zeros((texts, size), bool)
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]  # a token may follow another one at once
    padded = np.full((texts, size + 2), -np.inf, emissions.dtype)  # two states before the first
    score = padded[:, 2:]
    score[:, :2] = emissions[:, 0, :2]
    moves = np.zeros((frames, texts, size), np.int8)
    ended = {frame: np.flatnonzero(lengths <= frame) for frame in range(int(lengths.min(initial=0)), frames)}
    for frame in range(1, frames):
        best, move = score.copy(), moves[frame]
        for back, before in ((1, padded[:, 1:-1]), (2, np.where(skips, padded[:, :-2], -np.inf))):
            better = before > best
            best = np.where(better, before, best)
            move[better] = back
        best += emissions[:, frame]
        over = ended.get(frame)
        if over is not None and len(over):
            best[over], move[over] = score[over], 0
        score[:] = best
    ends, each = 2 * text_lens, np.arange(texts)
    by_token = score[each, np.maximum(ends - 1, 0)] > score[each, ends]
    state = np.where(by_token & (ends > 0), ends - 1, ends)
    path = np.empty((texts, frames), np.int64)
    for frame in range(frames - 1, -1, -1):
        path[:, frame] = state
        state = state - moves[frame, each, state]
    return path
