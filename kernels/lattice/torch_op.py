"""Forward-backward over a transducer lattice, one anti-diagonal at a time.

Nodes are (t, u): t of T frames consumed, u of U labels emitted. A blank arc of duration d > 0 leads to (t+d,
u), a label arc of duration d >= 0 to (t+d, u+1); RNN-T has blank duration 1 and label duration 0. A path
starts at (0, 0) and ends with a blank (or, with `label_ends`, a label) that lands exactly on (T, U); no
other arc reaches T.
kernels/tdt/README.md derives what is done here:

* every arc raises n = t + u by at least 1, so all nodes of one anti-diagonal, of all utterances, are
  computed together;
* tensors are stored skewed, [n, b, u], which makes every source of an anti-diagonal one strided view;
* the backward pass is the forward pass of the lattice turned by 180 degrees, and runs as more rows of the
  same batch;
* a free path from each utterance's end to the corner of the padded lattice gives all rows one start and one
  end.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEG_INF = float("-inf")


@dataclass(slots=True)
class Arcs:
    """Log weights of the arcs that leave each cell, as (B, S, U+1), by duration in frames.

    A weight may be anything where its arc is not allowed; `forward_backward` masks it.
    label_ends: a label may be the last arc and land on (T, U), as in pruned RNN-T's modified lattice.
    """

    blank: dict[int, Tensor]
    label: dict[int, Tensor]
    label_ends: bool = False


@dataclass(slots=True)
class Posteriors:
    """Log probability (B,) of each transcript; probability of each arc, keys and shapes as in `Arcs`."""

    log_prob: Tensor
    blank: dict[int, Tensor]
    label: dict[int, Tensor]


def lattice_dtype(device: torch.device) -> torch.dtype:
    """fp64: cells are few beside logits, and a long utterance's log probability eats half fp32's digits."""
    return torch.float32 if device.type == "mps" else torch.float64


def forward_backward(
    arcs: Arcs, frames: list[int], labels: list[int], *, with_posteriors: bool
) -> Posteriors:
    """Sum over all paths; `frames`, `labels` are each row's T and U.

    Rows without any path get log probability -inf and all posteriors 0. Costs S + U steps of two small
    operators whatever the batch. Without posteriors only the forward half is computed.
    """
    cells = next(iter(arcs.label.values()))
    batch, size, width = cells.shape
    n_frames, n_labels = (torch.tensor(x, device=cells.device, dtype=torch.int64) for x in (frames, labels))
    arcs = Arcs(
        blank={d: _allowed(w, n_frames, n_labels, d, 0, ends=True) for d, w in arcs.blank.items()},
        label={d: _allowed(w, n_frames, n_labels, d, 1, ends=arcs.label_ends) for d, w in arcs.label.items()},
    )
    history = _sweep(_incoming(arcs, n_frames, n_labels, both=with_posteriors))
    log_prob = history[-1, :batch, -1].masked_fill(n_frames == 0, NEG_INF)
    if not with_posteriors:
        return Posteriors(log_prob=log_prob, blank={}, label={})

    skewed = history[-(size + width) :, :, 1:]
    alpha = _unskew(skewed[:, :batch], size)
    beta = _unskew(skewed[:, batch:], size).flip(1, 2)
    # A row without paths has no finite arc either, so any finite normaliser gives it posteriors of 0.
    norm = log_prob.masked_fill(log_prob == NEG_INF, 0.0)[:, None, None]
    start = alpha[:, :size] - norm
    return Posteriors(
        log_prob=log_prob,
        blank={d: _posterior(start, w, beta, d, 0) for d, w in arcs.blank.items()},
        label={d: _posterior(start, w, beta, d, 1) for d, w in arcs.label.items()},
    )


def _allowed(
    weight: Tensor, frames: Tensor, labels: Tensor, duration: int, advance: int, *, ends: bool
) -> Tensor:
    """`weight` (B, S, U+1) with -inf where an arc may not leave; `ends`: it may land on (T, U)."""
    t = torch.arange(weight.shape[1], device=weight.device)[None, :, None] + duration
    u = torch.arange(weight.shape[2], device=weight.device)[None, None] + advance
    frames, labels = frames[:, None, None], labels[:, None, None]
    ok = (t < frames) & (u <= labels)
    if ends:
        ok |= (t == frames) & (u == labels)
    return torch.where(ok, weight, NEG_INF)


def _incoming(arcs: Arcs, frames: Tensor, labels: Tensor, *, both: bool) -> Tensor:
    """Weights of the arcs INTO each node, skewed: (S+U+1 diagonals, 2 kinds, window, rows, U+1).

    Kind 0 is label, kind 1 blank; index i of the window means "from i - window diagonals before". Rows are
    the B lattices, and after them, if `both`, the same turned by 180 degrees, whose arcs run from end to
    start.
    """
    sample = next(iter(arcs.label.values()))
    batch, size, width = sample.shape
    window = max(max(arcs.label) + 1, max(arcs.blank))
    rows = 2 * batch if both else batch
    out = sample.new_full((size + width, 2, window, rows, width), NEG_INF)
    kinds = [(1, 0, d, w) for d, w in arcs.blank.items()] + [(0, 1, d, w) for d, w in arcs.label.items()]
    for kind, advance, d, weight in kinds:
        cells = _unskew(out[:, kind, window - d - advance], size)  # (rows, S+1, U+1)
        cells[:batch, d : d + size, advance:] = weight[:, : max(size + 1 - d, 0), : width - advance]
        if both:  # the turned arc arrives where the arc left, turned: (S - t, U - u)
            cells[batch:, 1:] = weight.flip(1, 2)
    _add_free_path(out, frames, labels, both=both)
    return out


def _add_free_path(incoming: Tensor, frames: Tensor, labels: Tensor, *, both: bool) -> None:
    """Arcs of weight 0 from (T, U) of each row to the corner (S, U max): blanks, then labels."""
    n_diagonals, _, window, _, width = incoming.shape
    size, batch = n_diagonals - width, frames.shape[0]
    t = torch.arange(size + 1, device=frames.device)
    u = torch.arange(width, device=frames.device)
    # Masks of the nodes that these arcs enter.
    blanks = (t > frames[:, None])[:, :, None] & (u == labels[:, None])[:, None]
    labels_ = (t == size)[None, :, None] & (u > labels[:, None])[:, None]
    for kind, entered, left in ((1, blanks, (-1, 0)), (0, labels_, (0, -1))):
        cells = _unskew(incoming[:, kind, window - 1], size)
        cells[:batch].masked_fill_(entered, 0.0)
        if both:
            cells[batch:].masked_fill_(entered.roll(left, (1, 2)).flip(1, 2), 0.0)


def _sweep(incoming: Tensor) -> Tensor:
    """Log sums over all paths from (0, 0), skewed: (window + S+U+1, rows, 1 + U+1), after `window` of
    -inf.

    The first column is -inf too: it stands for u = -1, where a label arc into u = 0 would come from.
    """
    n_diagonals, _, window, rows, width = incoming.shape
    history = incoming.new_full((window + n_diagonals, rows, width + 1), NEG_INF)
    history[window, :, 1] = 0.0
    terms = incoming.new_empty(incoming.shape[1:])
    diagonal = rows * (width + 1)
    size, stride = terms.shape, (1, diagonal, width + 1, 1)
    targets = history[window:, :, 1:].unbind(0)
    for n, weights in enumerate(incoming.unbind(0)):
        if n:
            torch.add(history.as_strided(size, stride, n * diagonal), weights, out=terms)
            torch.logsumexp(terms, (0, 1), out=targets[n])
    return history


def _unskew(skewed: Tensor, size: int) -> Tensor:
    """A view (rows, S+1, U+1) by (t, u) of a tensor (S+U+1, rows, U+1) stored by (n = t + u, u)."""
    by_n, by_row, by_u = skewed.stride()
    _, rows, width = skewed.shape
    return skewed.as_strided((rows, size + 1, width), (by_row, by_n, by_n + by_u), skewed.storage_offset())


def _posterior(start: Tensor, weight: Tensor, beta: Tensor, duration: int, advance: int) -> Tensor:
    """exp(alpha - log_prob + weight + beta of the node reached), (B, S, U+1)."""
    _, size, width = weight.shape
    out = torch.zeros_like(weight)
    leaves = (slice(None), slice(0, max(size + 1 - duration, 0)), slice(0, width - advance))
    arrives = (slice(None), slice(duration, duration + size), slice(advance, None))
    out[leaves] = (start[leaves] + weight[leaves] + beta[arrives]).exp_()
    return out
