"""TDT loss fused with the joint's output layer; see kernels/joint."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from maya.kernels.checks import check_durations, choose_backend
from maya.kernels.joint import (
    DEFAULT_EPS,
    JointSettings,
    OutputLayer,
    RowCells,
    RowMasses,
    RowScores,
    fused_loss,
    packed_rows,
)
from maya.kernels.joint.checks import check_joint
from maya.kernels.joint.reference import joint_logits
from maya.kernels.lattice import tdt_lattice
from maya.kernels.rnnt import fused_rnnt_loss
from maya.kernels.tdt.reference import tdt_loss_reference


def fused_tdt_loss(
    f: Tensor,
    g: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    duration_weight: Tensor,
    duration_bias: Tensor | None,
    targets: Tensor,
    f_lens: Tensor,
    target_lens: Tensor,
    *,
    durations: Sequence[int],
    blank: int,
    sigma: float = 0.0,
    activation: str = "relu",
    eps: float = DEFAULT_EPS,
    backend: str = "auto",
    dropout: float = 0.0,
    seed: int = 0,
    omega: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`tdt_loss` of a joint whose logits are never held, (B,), in nats.

    With h = dropout(act(f + g)) the token logits are weight h + bias as for `fused_rnnt_loss`, which explains
    f, g, weight, bias, targets, f_lens, target_lens, blank, activation, eps, backend, dropout, seed.
    duration_weight (D, H), duration_bias (D,) or None: the same for the duration logits.
    durations, sigma, omega, generator: as for `tdt_loss`. A call that draws plain RNN-T gives the duration
      parameters gradients of zero.

    Infeasible rows, precision and errors are those of `fused_rnnt_loss`.
    """
    op, layer = "fused_tdt_loss", OutputLayer(weight, bias, duration_weight, duration_bias)
    settings = JointSettings(blank, activation, dropout, seed)
    of_layer = (targets, f_lens, target_lens)
    targets, frames, labels = check_joint(op, f, g, layer, *of_layer, settings, eps)
    durations = check_durations(op, durations, duration_weight.shape[0])
    chosen = choose_backend(op, backend, f)
    if omega > 0 and draw(generator) < omega:
        loss = fused_rnnt_loss(
            f, g, weight, bias, *of_layer, blank=blank, activation=activation,
            eps=eps, backend=backend, dropout=dropout, seed=seed,
        )  # fmt: skip
        unused = [x for x in (duration_weight, duration_bias) if x is not None]
        return loss + sum(x[:0].sum() for x in unused)  # in the graph, with zero gradient
    if chosen == "reference":
        with torch.autocast(f.device.type, enabled=False):
            logits = joint_logits(f, g, layer, frames, labels, settings)
            wide = torch.promote_types(f.dtype, torch.float32)
            tokens, of_duration = (x.to(wide) for x in logits if x is not None)
            return tdt_loss_reference(tokens, of_duration, targets, frames, labels, durations, blank, sigma)
    training = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (f, g, weight, bias, duration_weight, duration_bias)
    )
    rows = packed_rows(targets, frames, labels, f.shape[1])
    lattice = partial(
        rows_lattice, cells=RowCells(rows, (f.shape[0], f.shape[1], g.shape[1]), chosen), frames=frames,
        labels=labels, durations=durations, sigma=sigma, with_posteriors=training, backend=chosen,
    )  # fmt: skip
    return fused_loss(f, g, layer, rows, lattice, settings, eps=eps, backend=chosen)


def rows_lattice(
    scores: RowScores,
    cells: RowCells,
    frames: list[int],
    labels: list[int],
    *,
    durations: tuple[int, ...],
    sigma: float,
    with_posteriors: bool,
    backend: str,
) -> RowMasses:
    """Losses, and masses and duration gradients of all rows."""
    assert scores.durations is not None
    result = tdt_lattice(
        cells.scatter(scores.blank - sigma), cells.scatter(scores.label - sigma),
        cells.scatter(scores.durations), frames, labels,
        durations=durations, with_posteriors=with_posteriors, backend=backend,
    )  # fmt: skip
    dtype = scores.norm.dtype
    loss = (-result.log_prob).to(dtype)
    if result.blank is None or result.label is None or result.durations is None:
        return RowMasses(loss, result.log_prob)
    blank, label = (cells.gather(x, dtype) for x in (result.blank, result.label))
    of_durations = (blank + label)[:, None] * scores.durations.exp()
    of_durations -= cells.gather(result.durations, dtype)
    return RowMasses(loss, result.log_prob, blank, label, of_durations)


def draw(generator: torch.Generator | None) -> float:
    """One uniform number; from torch's global CPU generator if None."""
    device = "cpu" if generator is None else generator.device
    return torch.rand((), generator=generator, device=device).item()
