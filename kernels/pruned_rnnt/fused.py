"""Pruned RNN-T loss fused with the joint's output layer; see kernels/joint."""

from functools import partial

import torch
from torch import Tensor

from maya.kernels import joint
from maya.kernels.checks import choose_backend
from maya.kernels.joint.checks import check_joint
from maya.kernels.joint.reference import joint_logits
from maya.kernels.pruned_rnnt.checks import check_rules, check_windows
from maya.kernels.pruned_rnnt.pruned import window_masses, window_rows
from maya.kernels.pruned_rnnt.reference import pruned_loss_reference
from maya.kernels.uncompiled import uncompiled


@uncompiled  # the compiler has nothing to fuse in it
def fused_pruned_rnnt_loss(
    f: Tensor, g: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ranges: Tensor,
    f_lens: Tensor, target_lens: Tensor, *, blank: int, activation: str = "relu",
    eps: float = joint.DEFAULT_EPS, rnnt_type: str = "regular", delay_penalty: float = 0.0,
    backend: str = "auto", dropout: float = 0.0, seed: int = 0, form: str = "auto",
) -> Tensor:  # fmt: skip
    """`pruned_rnnt_loss` of the logits weight dropout(act(f + g)) + bias, (B,), in nats, which are never
    stored.

    f: (B, S, H) projected encoder frames; g: (B, U+1, H) projected predictor states, all of them, of the same
      float dtype. Need not be contiguous; values past a row's lengths are never read.
    weight: (V, H), bias: (V,) or None; may be of another float dtype, such as fp32 masters beside bf16 f.
    ranges: (B, S, R) ints from `prune_ranges`.
    activation: "relu", "tanh" or "sigmoid".
    eps: the backward pass skips cells whose blank and label masses add up to at most eps. 0 gives the full
      gradient. kernels/joint/README.md measures the error of the default; the loss itself is exact.
    targets, target_lens, blank, rnnt_type, delay_penalty: as for `pruned_rnnt_loss`.
    backend: "auto" (Triton on CUDA, except for fp64; torch elsewhere), "torch", "triton" or "reference" (the
      definition, all logits at once).
    dropout: of the joint's hidden layer, in [0, 1); pass 0 when not training. seed: selects the mask,
      the same on every backend; pass a new seed for each step.
    form: as for `fused_rnnt_loss`.

    Gradients go to f, g, weight and bias, in their dtypes. A row without any path in its windows has loss inf
    and gradient 0. The result is fp64 for fp64 f, fp32 otherwise, also under autocast. Raises ValueError that
    names the argument.
    """
    op, layer = "fused_pruned_rnnt_loss", joint.OutputLayer(weight, bias)
    settings = joint.JointSettings(blank, activation, dropout, seed, eps, form)
    rules = check_rules(op, rnnt_type, delay_penalty)
    transcripts = check_joint(op, f, g, layer, targets, f_lens, target_lens, settings)
    shape = (f.shape[0], f.shape[1], g.shape[1])
    ranges = check_windows(op, ranges, (*shape[:2], None), shape[2], transcripts.frames, f)
    chosen = choose_backend(op, backend, f)
    if chosen == "reference":
        with torch.autocast(f.device.type, enabled=False):
            logits, _ = joint_logits(f, g, layer, transcripts, settings)
            logits = logits.gather(2, ranges[..., None].expand(*ranges.shape, logits.shape[3]))
            return pruned_loss_reference(logits, transcripts, ranges, rules)
    rows = window_rows(transcripts, ranges)
    lattice = partial(
        window_masses, cells=joint.RowCells(rows, shape, chosen), transcripts=transcripts, rules=rules,
        with_posteriors=joint.needs_gradient(f, g, layer),
    )  # fmt: skip
    return joint.fused_loss(f, g, layer, rows, lattice, settings, backend=chosen)
