"""The best CTC paths that spell many texts at once; `maya.decode.ctc.alignment` has those of one text."""

import itertools
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


def place_tokens(hyps: Sequence[Hypothesis], log_probs: Tensor, lens: Tensor, *, blank: int) -> None:
    """Set frames and durations of hypotheses and their alternatives to those of the best CTC path in
    log_probs (B, S, V), lens (B,), that spells their tokens.

    A text that is too long for its frames, which attention writes when it loses its place, has no path: its
    tokens are spread evenly.
    """
    rows = [[hyp, *hyp.alternatives] for hyp in hyps]
    frames = lens.tolist()
    fitting = [
        [hyp for hyp in row if _frames_needed(hyp.tokens) <= n] for row, n in zip(rows, frames, strict=True)
    ]
    paths = align_texts(log_probs, lens, [[hyp.tokens for hyp in row] for row in fitting], blank=blank)
    for row, own, of_row, count in zip(rows, fitting, paths, frames, strict=True):
        for hyp in row:
            hyp.frames = [i * count // len(hyp.tokens) for i in range(len(hyp.tokens))]
            hyp.durations = [1] * len(hyp.tokens)
        for hyp, path in zip(own, of_row, strict=True):
            hyp.frames, hyp.durations = path.frames, path.durations


def _frames_needed(tokens: Sequence[int]) -> int:
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def _best_paths(
    emissions: np.ndarray, lengths: np.ndarray, states: np.ndarray, text_lens: np.ndarray, blank: int
) -> np.ndarray:
    """emissions (N, S, 2 U + 1), lengths (N,) frames, states (N, 2 U + 1): tokens with blanks around them ->
    the state of each frame (N, S) on the best path, by the Viterbi algorithm."""
    texts, frames, size = emissions.shape
    skips = np.zeros((texts, size), bool)
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]  # a token may follow another one at once
    skip_costs = np.where(skips, 0.0, -np.inf).astype(emissions.dtype)
    padded = np.full((texts, size + 2), -np.inf, emissions.dtype)  # two states before the first
    score, before, two_before = padded[:, 2:], padded[:, 1:-1], padded[:, :-2]
    score[:, :2] = emissions[:, 0, :2]
    moves = np.zeros((frames, texts, size), np.int8)
    by_frame = np.ascontiguousarray(emissions.swapaxes(0, 1))
    ended = {frame: np.flatnonzero(lengths <= frame) for frame in range(int(lengths.min(initial=0)), frames)}
    for frame in range(1, frames):
        move = moves[frame]
        np.greater(before, score, out=move)
        best = np.maximum(score, before)
        skipped = two_before + skip_costs
        np.putmask(move, skipped > best, 2)
        np.maximum(best, skipped, out=best)
        best += by_frame[frame]
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
