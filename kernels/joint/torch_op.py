"""The joint's output layer at a list of rows, a chunk of rows at a time, in torch operators."""

from collections.abc import Iterator

import torch
from torch import Tensor

from maya.kernels.joint.dropout import dropout_scale
from maya.kernels.joint.rows import JointGradients, JointSettings, OutputLayer, RowList, RowScores

CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}


def joint_scores_torch(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, settings: JointSettings
) -> RowScores:
    """See `joint_scores`."""
    wide = torch.float64 if f2.dtype == torch.float64 else torch.float32
    layer = cast_layer(layer, f2.dtype)
    n = len(rows)
    norm, blank, label = (torch.empty(n, dtype=wide, device=f2.device) for _ in range(3))
    durations = None
    if layer.duration_weight is not None:
        durations = torch.empty(n, layer.duration_weight.shape[0], dtype=wide, device=f2.device)
    for part in _chunks(n, layer, f2.device):
        chunk = rows.take(part)
        _, hidden = _hidden(f2, g2, chunk, settings)
        logits = torch.nn.functional.linear(hidden, layer.weight, layer.bias).to(wide)
        norm[part] = torch.logsumexp(logits, -1)
        blank[part] = logits[:, settings.blank] - norm[part]
        chosen = logits.gather(-1, chunk.label.clamp(min=0)[:, None])[:, 0] - norm[part]
        label[part] = chosen.masked_fill(chunk.label < 0, float("-inf"))
        if durations is not None and layer.duration_weight is not None:
            scores = torch.nn.functional.linear(hidden, layer.duration_weight, layer.duration_bias)
            durations[part] = scores.to(wide).log_softmax(-1)
    return RowScores(norm, blank, label, durations)


def joint_gradients_torch(
    f2: Tensor,
    g2: Tensor,
    layer: OutputLayer,
    rows: RowList,
    norm: Tensor,
    blank_mass: Tensor,
    label_mass: Tensor,
    duration_grad: Tensor | None,
    settings: JointSettings,
    wanted: tuple[bool, ...],
) -> JointGradients:
    """See `joint_gradients`."""
    wide = torch.float64 if f2.dtype == torch.float64 else torch.float32
    parameters = (layer.weight, layer.bias, layer.duration_weight, layer.duration_bias)
    made = [
        torch.zeros(x.shape, dtype=wide, device=f2.device) if x is not None and ask else None
        for x, ask in zip((f2, g2, *parameters), wanted, strict=True)
    ]
    grads = JointGradients(*made)
    layer = cast_layer(layer, f2.dtype)
    for part in _chunks(len(rows), layer, f2.device):
        chunk = rows.take(part)
        active, hidden = _hidden(f2, g2, chunk, settings)
        dx = torch.nn.functional.linear(hidden, layer.weight, layer.bias).to(wide)
        dx = dx.sub_(norm[part, None]).exp_().mul_((blank_mass + label_mass)[part, None])
        dx[:, settings.blank] -= blank_mass[part]
        # A row without a label has no label mass either.
        dx.scatter_add_(-1, chunk.label.clamp(min=0)[:, None], -label_mass[part, None])
        if grads.bias is not None:
            grads.bias += dx.sum(0)
        dx = dx.to(hidden.dtype)
        if grads.weight is not None:
            grads.weight += (dx.t() @ hidden).to(wide)
        dh = (dx @ layer.weight).to(wide)
        if layer.duration_weight is not None and duration_grad is not None:
            dw = duration_grad[part].to(hidden.dtype)
            dh += dw @ layer.duration_weight
            if grads.duration_weight is not None:
                grads.duration_weight += (dw.t() @ hidden).to(wide)
            if grads.duration_bias is not None:
                grads.duration_bias += duration_grad[part].sum(0)
        dz = _through_activation(dh, active, chunk, settings)
        if grads.f is not None:
            grads.f.index_add_(0, chunk.frame, dz)
        if grads.g is not None:
            grads.g.index_add_(0, chunk.state, dz)
    return grads


def cast_layer(layer: OutputLayer, dtype: torch.dtype) -> OutputLayer:
    """The layer in the dtype of the matrix products; what is in it already is not copied."""
    parameters = (layer.weight, layer.bias, layer.duration_weight, layer.duration_bias)
    return OutputLayer(*(None if x is None else x.to(dtype) for x in parameters))  # type: ignore[arg-type]


def _chunks(n: int, layer: OutputLayer, device: torch.device) -> Iterator[slice]:
    step = max(1, CHUNK_ELEMENTS.get(device.type, 1 << 24) // layer.weight.shape[0])
    for first in range(0, n, step):
        yield slice(first, min(first + step, n))


def _hidden(f2: Tensor, g2: Tensor, rows: RowList, settings: JointSettings) -> tuple[Tensor, Tensor]:
    """act(f + g) before and after dropout."""
    active = f2[rows.frame].add_(g2[rows.state])
    active = {"relu": torch.relu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_}[settings.activation](
        active
    )
    if settings.dropout == 0:
        return active, active
    return active, active * dropout_scale(rows, active.shape[1], settings, active.dtype)


def _through_activation(dh: Tensor, active: Tensor, rows: RowList, settings: JointSettings) -> Tensor:
    if settings.dropout > 0:
        dh.mul_(dropout_scale(rows, active.shape[1], settings, dh.dtype))
    wide = active.to(dh.dtype)
    if settings.activation == "relu":
        return dh.mul_(wide > 0)
    if settings.activation == "tanh":
        return dh.mul_(1 - wide * wide)
    return dh.mul_(wide * (1 - wide))
