"""Pruned RNN-T loss fused with the joint's output layer; see kernels/joint."""

from functools import partial

import torch
from torch import Tensor

from maya.kernels.checks import choose_backend
from maya.kernels.joint import (
    DEFAULT_EPS,
    JointSettings,
    OutputLayer,
    fused_loss,
)
from maya.kernels.joint.checks import check_joint
from maya.kernels.joint.reference import joint_logits
from maya.kernels.pruned_rnnt.checks import check_rules, check_windows
from maya.kernels.pruned_rnnt.pruned import rows_lattice, window_rows
from maya.kernels.pruned_rnnt.reference import pruned_loss_reference
from maya.kernels.token_softmax import compute_dtype


def fused_pruned_rnnt_loss(
    f: Tensor,
    g: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ranges: Tensor,
    f_lens: Tensor,
    target_lens: Tensor,
    *,
    blank: int,
    activation: str = "relu",
    eps: float = DEFAULT_EPS,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    backend: str = "auto",
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """`pruned_rnnt_loss` of weight dropout(act(f + g)) + bias, (B,), in nats, without ever holding logits.

    f: (B, S, H) projected encoder frames; g: (B, U+1, H) projected predictor states, all of them, of the same
      float dtype. Need not be contiguous; what lies past a row's lengths is never read.
    weight: (V, H), bias: (V,) or None; may be of another float dtype, such as fp32 masters beside bf16 f.
    ranges: (B, S, R) ints from `prune_ranges`.
    activation: "relu", "tanh" or "sigmoid".
    eps: cells whose blank and label masses add up to at most eps are left out of the backward pass. 0 gives
      the full gradient; kernels/joint/README.md says what the default loses (nothing of the value).
    targets, target_lens, blank, rnnt_type, delay_penalty: as for `pruned_rnnt_loss`.
    backend: "auto" (Triton on CUDA, except for fp64; torch elsewhere), "torch", "triton" or "reference" (all
      logits at once, by definition).
    dropout: of the joint's hidden layer, in [0, 1); pass 0 when not training. seed: picks the mask, which is
      the same on every backend; pass a new one for each step.

    Gradients go to f, g, weight and bias, in their dtypes. A row without any path in its windows has loss inf
    and gradient 0. The result is fp64 for fp64 f, fp32 otherwise, also under autocast. Raises ValueError that
    names the argument which does not fit.
    """
    op, layer = "fused_pruned_rnnt_loss", OutputLayer(weight, bias)
    settings = JointSettings(blank, activation, dropout, seed)
    rules = check_rules(op, rnnt_type, delay_penalty)
    targets, frames, labels = check_joint(op, f, g, layer, targets, f_lens, target_lens, settings, eps)
    shape = (f.shape[0], f.shape[1], g.shape[1])
    ranges = check_windows(op, ranges, (*shape[:2], None), shape[2], frames, f)
    chosen = choose_backend(op, backend, f)
    if chosen == "reference":
        with torch.autocast(f.device.type, enabled=False):
            logits, _ = joint_logits(f, g, layer, frames, labels, settings)
            logits = logits.gather(2, ranges[..., None].expand(*ranges.shape, logits.shape[3]))
            wide = logits.to(compute_dtype(logits.dtype))
            return pruned_loss_reference(wide, targets, ranges, frames, labels, blank=blank, rules=rules)
    training = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (f, g, weight, bias)
    )
    rows = window_rows(targets, ranges, frames, labels)
    lattice = partial(
        rows_lattice, rows=rows, shape=shape, frames=frames, labels=labels, rules=rules,
        with_posteriors=training, backend=chosen,
    )  # fmt: skip
    return fused_loss(f, g, layer, rows, lattice, settings, eps=eps, backend=chosen)
