"""The best CTC paths that spell given texts, for many texts at once: `maya.decode.ctc_alignment` in a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maya.decode.ctc import collapse_ctc
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
    device = log_probs.device
    rows = torch.arange(len(texts), device=device).repeat_interleave(torch.tensor(counts, device=device))
    longest = max(map(len, flat))
    padded = torch.tensor([[*text, *[blank] * (longest - len(text))] for text in flat], dtype=torch.int64)
    text_lens = torch.tensor([len(text) for text in flat])
    labels, scores = _best_paths(log_probs, lens.to(device)[rows], padded.to(device), text_lens, rows, blank)
    lengths = lens.cpu()[rows.cpu()].tolist()
    paths = zip(labels.tolist(), scores.tolist(), lengths, strict=True)
    hyps = iter([collapse_ctc(path[:n], gains[:n], blank=blank) for path, gains, n in paths])
    return [[next(hyps) for _ in row] for row in texts]


def _best_paths(
    log_probs: Tensor, lens: Tensor, tokens: Tensor, text_lens: Tensor, rows: Tensor, blank: int
) -> tuple[np.ndarray, np.ndarray]:
    """The labels (N, S) and their log probabilities (N, S) on the best path of N texts, by the Viterbi
    algorithm. tokens (N, U), lens and rows (N,): the frames and the row of `log_probs` of each text."""
    frames, states = log_probs.shape[1], torch.full((len(tokens), 2 * tokens.shape[1] + 1), blank)
    states = states.to(tokens.device)
    states[:, 1::2] = tokens
    detours = torch.full(states.shape, -torch.inf, device=states.device, dtype=log_probs.dtype)
    detours[:, 3::2] = torch.where(tokens[:, 1:] != tokens[:, :-1], 0.0, -torch.inf)
    emissions = log_probs[rows[:, None], :, states].transpose(1, 2)  # (N, S, 2 U + 1)
    padded = torch.full((len(states), states.shape[1] + 2), -torch.inf, device=states.device)
    padded = padded.to(log_probs.dtype)
    score = padded[:, 2:]
    score[:, :2] = emissions[:, 0, :2]
    steps = []
    for frame in range(1, frames):
        before = torch.stack((score, padded[:, 1:-1], padded[:, :-2] + detours))
        best, step = before.max(0)
        live = (frame < lens)[:, None]
        score.copy_(torch.where(live, best + emissions[:, frame], score))
        steps.append(torch.where(live, step, 0).to(torch.int8))
    ends = 2 * text_lens.to(states.device)
    last = score.gather(1, torch.stack([(ends - 1).clamp(min=0), ends], 1))
    ends = torch.where((last[:, 0] > last[:, 1]) & (ends > 0), ends - 1, ends)
    path = _backwards(steps, ends, frames)
    index = torch.from_numpy(path).to(states.device)
    labels = states.gather(1, index)
    gains = emissions.gather(2, index[:, :, None])[:, :, 0]
    return labels.cpu().numpy(), gains.cpu().numpy()


def _backwards(steps: list[Tensor], ends: Tensor, frames: int) -> np.ndarray:
    """The states (N, S) of the paths that end in `ends` (N,)."""
    state = ends.cpu().numpy()
    path = np.empty((len(state), frames), np.int64)
    moves = torch.stack(steps).cpu().numpy() if steps else np.zeros((0, len(state), 1), np.int8)
    texts = np.arange(len(state))
    for frame in range(frames - 1, 0, -1):
        path[:, frame] = state
        state = state - moves[frame - 1, texts, state]
    path[:, 0] = state
    return path
