"""The joint's output layer at a list of rows, a chunk of rows at a time, in torch operators.

Buffers as large as a chunk of logits are allocated once per call and reused. On a CPU, touching the pages of
fresh memory costs more than the arithmetic on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels.joint.dropout import dropout_scale
from maya.kernels.joint.rows import (
    JointGradients,
    JointSettings,
    OutputLayer,
    RowGradients,
    RowList,
    RowScores,
)
from maya.kernels.precision import compute_dtype
from maya.kernels.slices import slices

CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 27}  # logits of a chunk
ONE_THREAD = (1 << 15) - 1  # most elements that torch's pointwise operators do not divide between threads
MIN_ROWS = 512  # on a CPU, products are a third slower with 64 rows, and a tenth with 256


def joint_scores_torch(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, settings: JointSettings
) -> RowScores:
    """See `joint_scores`."""
    layer, n = cast_layer(layer, f2.dtype), len(rows)
    buffers = _buffers(f2, layer, n)
    norm, blank, label = (torch.empty(n, dtype=buffers.wide.dtype, device=f2.device) for _ in range(3))
    durations = None
    if layer.duration_weight is not None:
        durations = norm.new_empty(n, layer.duration_weight.shape[0])
    for part in slices(n, len(buffers.logits)):
        chunk = rows.take(part)
        _, hidden = _hidden(f2, g2, chunk, settings, buffers)
        logits = _logits(hidden, layer, buffers)
        blank_logits = logits[:, settings.blank].clone()
        log_probs = torch.log_softmax(logits, -1, out=_result(logits))
        blank[part] = log_probs[:, settings.blank]
        norm[part] = blank_logits - blank[part]
        label_log_probs = log_probs.gather(-1, chunk.label.clamp(min=0)[:, None])[:, 0]
        label[part] = label_log_probs.masked_fill_(chunk.label < 0, float("-inf"))
        if durations is not None and layer.duration_weight is not None:
            scores = torch.nn.functional.linear(hidden, layer.duration_weight, layer.duration_bias)
            durations[part] = scores.to(norm.dtype).log_softmax(-1)
    return RowScores(norm, blank, label, durations)


def joint_gradients_torch(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, row_grads: RowGradients,
    settings: JointSettings, needed: tuple[bool, ...],
) -> JointGradients:  # fmt: skip
    """See `joint_gradients`."""
    wide, blank_mass, label_mass = row_grads.norm.dtype, row_grads.blank, row_grads.label
    grads = JointGradients.zeros(f2, g2, layer, needed, wide)
    layer = cast_layer(layer, f2.dtype)
    buffers = _buffers(f2, layer, len(rows))
    product = None if wide == f2.dtype else torch.empty_like(layer.weight)
    for part in slices(len(rows), len(buffers.logits)):
        chunk = rows.take(part)
        active, hidden = _hidden(f2, g2, chunk, settings, buffers)
        # The logits of the forward pass, recomputed and normalised anew, without the rounding of `norm`.
        logits = _logits(hidden, layer, buffers)
        dx = torch.softmax(logits, -1, out=_result(logits))
        dx.mul_((blank_mass[part] + label_mass[part])[:, None])
        dx[:, settings.blank] -= blank_mass[part]
        # A row without a label has no label mass either.
        dx.scatter_add_(-1, chunk.label.clamp(min=0)[:, None], -label_mass[part, None])
        if grads.bias is not None:
            grads.bias += dx.sum(0)
        if wide != hidden.dtype:
            dx = buffers.logits[: len(chunk)].copy_(dx)
        if grads.weight is not None:
            _add_product(grads.weight, dx, hidden, product)
        d_durations = None if row_grads.durations is None else row_grads.durations[part]
        if d_durations is not None and grads.duration_weight is not None:
            grads.duration_weight += d_durations.t() @ hidden.to(wide)
        if d_durations is not None and grads.duration_bias is not None:
            grads.duration_bias += d_durations.sum(0)
        if grads.f is None and grads.g is None:
            continue
        dh = torch.mm(dx, layer.weight, out=buffers.spare[: len(chunk)]).to(wide)
        if d_durations is not None and layer.duration_weight is not None:
            dh.addmm_(d_durations, layer.duration_weight.to(wide))
        for piece in _pieces(dh):
            _through_activation_(dh[piece], active[piece], chunk.take(piece), settings)
        if grads.f is not None:
            _add_rows(grads.f, chunk.frame, dh)
        if grads.g is not None:
            _add_rows(grads.g, chunk.state, dh)
    return grads


def cast_layer(layer: OutputLayer, dtype: torch.dtype) -> OutputLayer:
    """The layer in the dtype of the matrix products."""
    cast = (None if x is None else x.to(dtype) for x in layer.parameters)
    return OutputLayer(*cast)  # type: ignore[arg-type]


@dataclass(slots=True)
class _Buffers:
    """Buffers of a chunk: hidden, spare (rows, H), logits (rows, V); wide: logits in fp32 or wider."""

    hidden: Tensor
    spare: Tensor
    logits: Tensor
    wide: Tensor


def _buffers(f2: Tensor, layer: OutputLayer, n: int) -> _Buffers:
    vocab, hidden = layer.weight.shape
    rows = min(n, max(MIN_ROWS, CHUNK_ELEMENTS.get(f2.device.type, 1 << 24) // vocab))
    logits = f2.new_empty(rows, vocab)
    dtype = compute_dtype(f2.dtype)
    wide = logits if dtype == f2.dtype else torch.empty_like(logits, dtype=dtype)
    return _Buffers(f2.new_empty(rows, hidden), f2.new_empty(rows, hidden), logits, wide)


def _pieces(x: Tensor) -> Iterator[slice]:
    """Slices of the rows of x (rows, H). On a CPU they are so small that torch uses one thread for each."""
    return slices(len(x), ONE_THREAD // max(1, x.shape[1]) if x.is_cpu else len(x))


def _hidden(
    f2: Tensor, g2: Tensor, rows: RowList, settings: JointSettings, buffers: _Buffers
) -> tuple[Tensor, Tensor]:
    """act(f + g) before and after dropout; writes over `spare`."""
    active, spare = buffers.hidden[: len(rows)], buffers.spare[: len(rows)]
    activate = {"relu": torch.relu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_}[settings.activation]
    for piece in _pieces(active):
        piece_rows, h, other = rows.take(piece), active[piece], spare[piece]
        torch.index_select(f2, 0, piece_rows.frame, out=h)
        h.add_(torch.index_select(g2, 0, piece_rows.state, out=other))
        activate(h)
        if settings.dropout > 0:
            torch.mul(h, dropout_scale(piece_rows, h.shape[1], settings, h.dtype), out=other)
    return active, spare if settings.dropout > 0 else active


def _logits(hidden: Tensor, layer: OutputLayer, buffers: _Buffers) -> Tensor:
    """(rows, V) in the dtype of sums, in a buffer that the caller may write over."""
    logits, wide = buffers.logits[: len(hidden)], buffers.wide[: len(hidden)]
    if layer.bias is None:
        torch.mm(hidden, layer.weight.t(), out=logits)
    else:
        torch.addmm(layer.bias, hidden, layer.weight.t(), out=logits)
    return logits if logits.dtype == wide.dtype else wide.copy_(logits)


def _result(logits: Tensor) -> Tensor | None:
    """The `out` of a softmax of `logits`: on a CPU the logits, because a row is read before it is written."""
    return logits if logits.is_cpu else None


def _add_product(total: Tensor, dx: Tensor, hidden: Tensor, product: Tensor | None) -> None:
    """total += dx^T hidden. Only the product of a chunk is rounded to the dtype of `hidden`, not the sum."""
    if product is None:
        total.addmm_(dx.t(), hidden)
    else:
        total += torch.mm(dx.t(), hidden, out=product)


def _add_rows(total: Tensor, index: Tensor, x: Tensor) -> None:
    """total[index] += x, (rows, H), in an order that does not change.

    CPU: without the third axis, torch would sort on all threads. CUDA: `index_add_` has no fixed order, and
    `index_put_` sorts first.
    """
    if total.is_cpu:
        total[..., None].index_add_(0, index, x[..., None])
    else:
        total.index_put_((index,), x, accumulate=True)


def _through_activation_(dh: Tensor, active: Tensor, rows: RowList, settings: JointSettings) -> None:
    """Turns d loss / d h into d loss / d (f + g), in place."""
    if settings.dropout > 0:
        dh.mul_(dropout_scale(rows, active.shape[1], settings, dh.dtype))
    wide = active.to(dh.dtype)
    if settings.activation == "relu":
        dh.mul_(wide > 0)
    elif settings.activation == "tanh":
        dh.mul_(1 - wide * wide)
    else:
        dh.mul_(wide * (1 - wide))
