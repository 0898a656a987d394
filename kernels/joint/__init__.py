"""The joint's output layer at a list of lattice cells, and transducer losses made on top of it.

h = dropout(act(f + g)), x = W h + c at each row, and of x only three numbers: its log-sum-exp and the log
probabilities of blank and next label. The gradient recomputes x. No tensor of rows by vocabulary outlives its
chunk of rows. README.md has the derivation.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import choose_backend
from maya.kernels.joint.rows import (
    JointGradients,
    JointSettings,
    OutputLayer,
    RowCells,
    RowList,
    RowMasses,
    RowScores,
    packed_rows,
)
from maya.kernels.joint.torch_op import joint_gradients_torch, joint_scores_torch

DEFAULT_EPS = 1e-4
ALL_WANTED = (True,) * 6


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
    if choose_backend("joint_scores", backend, f2) == "triton":
        from maya.kernels.joint.kernel import joint_scores_triton

        return joint_scores_triton(f2, g2, layer, rows, settings)
    return joint_scores_torch(f2, g2, layer, rows, settings)


def joint_gradients(
    f2: Tensor,
    g2: Tensor,
    layer: OutputLayer,
    rows: RowList,
    norm: Tensor,
    blank_mass: Tensor,
    label_mass: Tensor,
    duration_grad: Tensor | None,
    settings: JointSettings,
    *,
    wanted: tuple[bool, ...] = ALL_WANTED,
    backend: str = "auto",
) -> JointGradients:
    """Sums over rows; `wanted` says which of `JointGradients` are made, in its order."""
    arguments = (f2, g2, layer, rows, norm, blank_mass, label_mass, duration_grad, settings, wanted)
    if choose_backend("joint_gradients", backend, f2) == "triton":
        from maya.kernels.joint.kernel import joint_gradients_triton

        return joint_gradients_triton(*arguments)
    return joint_gradients_torch(*arguments)


def fused_loss(
    f: Tensor,
    g: Tensor,
    layer: OutputLayer,
    rows: RowList,
    lattice: Callable[[RowScores], RowMasses],
    settings: JointSettings,
    *,
    eps: float = DEFAULT_EPS,
    backend: str = "auto",
) -> Tensor:
    """(B,) losses of f (B, S, H) and g (B, U+1, H), with gradients to both and to the layer.

    lattice: scores of `rows` -> loss and masses; called once, without autograd.
    eps: rows whose occupancy (blank and label mass together) is at most eps have no part in the backward.
    """
    parameters = (layer.weight, layer.bias, layer.duration_weight, layer.duration_bias)
    with torch.autocast(f.device.type, enabled=False):
        return _FusedLoss.apply(f, g, *parameters, rows, lattice, settings, eps, backend)


class _FusedLoss(torch.autograd.Function):
    """Keeps its inputs (by reference) and a few numbers per row; logits live a chunk at a time, twice."""

    @staticmethod
    def forward(
        ctx: Any,
        f: Tensor,
        g: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        duration_weight: Tensor | None,
        duration_bias: Tensor | None,
        rows: RowList,
        lattice: Callable[[RowScores], RowMasses],
        settings: JointSettings,
        eps: float,
        backend: str,
    ) -> Tensor:
        layer = OutputLayer(weight, bias, duration_weight, duration_bias)
        scores = joint_scores(f.flatten(0, 1), g.flatten(0, 1), layer, rows, settings, backend=backend)
        masses = lattice(scores)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(
                f, g, weight, bias, duration_weight, duration_bias,
                rows.utterance, rows.frame, rows.state, rows.label,
                scores.norm, masses.blank, masses.label, masses.durations, masses.log_prob,
            )  # fmt: skip
            ctx.settings = (settings, eps, backend)
        return masses.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        f, g, *parameters = ctx.saved_tensors[:6]
        rows = RowList(*ctx.saved_tensors[6:10])
        norm, blank, label, durations, log_prob = ctx.saved_tensors[10:]
        settings, eps, backend = ctx.settings
        scale = grad_loss.masked_fill(log_prob == float("-inf"), 0.0).to(norm.dtype)
        kept = (~(blank + label <= eps)).nonzero()[:, 0]  # keeps nan, which must come through
        rows = rows.take(kept)
        of_row = scale[rows.utterance]
        with torch.autocast(f.device.type, enabled=False):  # the caller's may be on again in a backward
            found = joint_gradients(
                f.flatten(0, 1), g.flatten(0, 1), OutputLayer(*parameters), rows, norm[kept],
                blank[kept] * of_row, label[kept] * of_row,
                None if durations is None else durations[kept] * of_row[:, None],
                settings, wanted=ctx.needs_input_grad[:6], backend=backend,
            )  # fmt: skip
        made = (found.f, found.g, found.weight, found.bias, found.duration_weight, found.duration_bias)
        inputs = (f, g, *parameters)
        grads = [
            None if x is None else x.view(y.shape).to(y.dtype) for x, y in zip(made, inputs, strict=True)
        ]
        return (*grads, None, None, None, None, None)


__all__ = [
    "ALL_WANTED",
    "DEFAULT_EPS",
    "JointGradients",
    "JointSettings",
    "OutputLayer",
    "RowCells",
    "RowList",
    "RowMasses",
    "RowScores",
    "fused_loss",
    "joint_gradients",
    "joint_scores",
    "packed_rows",
]
