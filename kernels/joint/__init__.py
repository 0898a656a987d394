"""The joint's output layer at a list of lattice cells, and the autograd function of the losses on top of it.

h = dropout(act(f + g)) and x = W h + c at each row. Of x only three numbers are kept: its log-sum-exp and the
log probabilities of blank and next label. The gradient recomputes x. No tensor of rows by vocabulary outlives
its chunk of rows. README.md has the derivation.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import choose_backend
from maya.kernels.joint.forms import fastest_form
from maya.kernels.joint.half import scaled_for_half
from maya.kernels.joint.rows import (
    DEFAULT_EPS,
    JointGradients,
    JointSettings,
    OutputLayer,
    RowCells,
    RowGradients,
    RowList,
    RowMasses,
    RowScores,
    packed_rows,
    visited_first,
)
from maya.kernels.joint.torch_op import joint_gradients_torch, joint_scores_torch
from maya.kernels.uncompiled import uncompiled

ALL_NEEDED = (True,) * 6


def joint_scores(
    f2: Tensor,
    g2: Tensor,
    layer: OutputLayer,
    rows: RowList,
    settings: JointSettings,
    *,
    backend: str = "auto",
) -> RowScores:
    """Scores of each row of f2 (M, H) and g2 (N, H); no autograd."""
    run = joint_scores_torch
    if choose_backend("joint_scores", backend, f2) == "triton" and f2.dtype != torch.float64:
        if settings.form == "cublas":
            from maya.kernels.joint.cublas import joint_scores_cublas as run
        else:
            from maya.kernels.joint.kernel import joint_scores_triton as run
    return run(f2, g2, layer, rows, settings)


def joint_gradients(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, row_grads: RowGradients,
    settings: JointSettings, *, needed: tuple[bool, ...] = ALL_NEEDED, backend: str = "auto",
) -> JointGradients:  # fmt: skip
    """Gradients of f2, g2 and the layer, summed over rows. needed: a flag per field of the result.

    The host reads the `count` of a counted row list, unless the form is "fused".
    """
    run, form = joint_gradients_torch, "torch"
    if choose_backend("joint_gradients", backend, f2) == "triton" and f2.dtype != torch.float64:
        form = settings.form
        if form == "cublas":
            from maya.kernels.joint.cublas import joint_gradients_cublas as run
        else:
            from maya.kernels.joint.kernel import joint_gradients_triton as run
    if rows.count is not None and form not in ("auto", "fused"):
        part = slice(int(rows.count))
        rows, row_grads = rows.take(part), row_grads.take(part)
    row_grads, unscale = scaled_for_half(row_grads, f2.dtype if form != "torch" else None)
    return unscale(run(f2, g2, layer, rows, row_grads, settings, needed))


@uncompiled
def fused_loss(
    f: Tensor, g: Tensor, layer: OutputLayer, rows: RowList, lattice: Callable[[RowScores], RowMasses],
    settings: JointSettings, *, backend: str = "auto",
) -> Tensor:  # fmt: skip
    """(B,) losses of f (B, S, H) and g (B, U+1, H), with gradients for both and for the layer.

    lattice: turns the scores of `rows` into losses and masses; called once, without autograd. torch.compile
    calls this function between two graphs, because there is nothing to fuse in it.
    """
    chosen = "torch" if f.dtype == torch.float64 else choose_backend("fused_loss", backend, f)
    if settings.form == "auto":
        form = fastest_form(len(rows), f.shape[2], layer.weight.shape[0], f.dtype, f.device)
        settings = replace(settings, form=form)
    with torch.autocast(f.device.type, enabled=False):
        return _FusedLoss.apply(f, g, *layer.parameters, rows, lattice, settings, chosen)


def needs_gradient(f: Tensor, g: Tensor, layer: OutputLayer) -> bool:
    """Whether a loss of these inputs will have a backward pass."""
    inputs = (f, g, *layer.parameters)
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


class _FusedLoss(torch.autograd.Function):
    """Saves its inputs (by reference) and a few numbers per row. Logits exist for one chunk at a time."""

    @staticmethod
    def forward(
        ctx: Any, f: Tensor, g: Tensor, weight: Tensor, bias: Tensor | None, duration_weight: Tensor | None,
        duration_bias: Tensor | None, rows: RowList, lattice: Callable[[RowScores], RowMasses],
        settings: JointSettings, backend: str,
    ) -> Tensor:  # fmt: skip
        layer = OutputLayer(weight, bias, duration_weight, duration_bias)
        scores = joint_scores(f.flatten(0, 1), g.flatten(0, 1), layer, rows, settings, backend=backend)
        masses = lattice(scores)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(
                f, g, *layer.parameters, rows.utterance, rows.frame, rows.state, rows.label,
                scores.norm, masses.blank, masses.label, masses.durations, masses.log_prob,
            )  # fmt: skip
            ctx.settings = (settings, backend, rows.by_frame)
        return masses.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        settings, backend, by_frame = ctx.settings
        inputs, rows = ctx.saved_tensors[:6], RowList(*ctx.saved_tensors[6:10])
        rows.by_frame = by_frame
        norm, blank, label, durations, log_prob = ctx.saved_tensors[10:]
        scale = grad_loss.masked_fill(log_prob == float("-inf"), 0.0).to(norm.dtype)
        visited = ~(blank + label <= settings.eps)  # includes nan, which must come through
        order, rows = _visited_rows(rows, visited, settings, backend)
        row_scale = scale[rows.utterance]
        row_grads = RowGradients(
            norm[order], blank[order] * row_scale, label[order] * row_scale,
            None if durations is None else durations[order] * row_scale[:, None],
        )  # fmt: skip
        f, g, *parameters = inputs
        with torch.autocast(f.device.type, enabled=False):  # a backward may run inside the caller's autocast
            grads = joint_gradients(
                f.flatten(0, 1), g.flatten(0, 1), OutputLayer(*parameters), rows, row_grads, settings,
                needed=ctx.needs_input_grad[:6], backend=backend,
            )  # fmt: skip
        pairs = zip(grads.tensors, inputs, strict=True)
        return (*(None if x is None else x.view(y.shape).to(y.dtype) for x, y in pairs), *(None,) * 4)


def _visited_rows(
    rows: RowList, visited: Tensor, settings: JointSettings, backend: str
) -> tuple[Tensor | slice, RowList]:
    """The rows that the backward pass visits, and where they are in `rows`. Only "fused" takes them counted.

    The others take the exact list, for which the host reads its length: cuBLAS takes its sizes from the host.
    """
    if backend == "triton" and settings.form == "fused":
        return visited_first(rows, visited)
    if backend == "triton" and settings.eps == 0:
        return slice(None), rows
    order = visited.nonzero()[:, 0]
    return order, rows.take(order, ascending=True)


__all__ = [
    "ALL_NEEDED", "DEFAULT_EPS", "JointGradients", "JointSettings", "OutputLayer", "RowCells", "RowGradients",
    "RowList", "RowMasses", "RowScores", "fused_loss", "joint_gradients", "joint_scores", "needs_gradient",
    "packed_rows", "visited_first",
]  # fmt: skip
