"""TDT loss fused with the joint's output layer; see kernels/joint."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maya.kernels import joint
from maya.kernels.checks import check_durations, choose_backend
from maya.kernels.joint.checks import check_joint
from maya.kernels.joint.reference import joint_logits
from maya.kernels.lattice import tdt_lattice
from maya.kernels.rnnt.fused import checked_rnnt_loss
from maya.kernels.tdt.reference import tdt_loss_reference
from maya.kernels.uncompiled import uncompiled


@uncompiled  # the compiler has nothing to fuse in it
def fused_tdt_loss(
    f: Tensor, g: Tensor, weight: Tensor, bias: Tensor | None, duration_weight: Tensor,
    duration_bias: Tensor | None, targets: Tensor, f_lens: Tensor, target_lens: Tensor, *,
    durations: Sequence[int], blank: int, sigma: float = 0.0, activation: str = "relu",
    eps: float = joint.DEFAULT_EPS, backend: str = "auto", dropout: float = 0.0, seed: int = 0,
    omega: float = 0.0, generator: torch.Generator | None = None, form: str = "auto",
) -> Tensor:  # fmt: skip
    """`tdt_loss` of a joint whose logits are never stored, (B,), in nats.

    With h = dropout(act(f + g)) the token logits are weight h + bias as for `fused_rnnt_loss`, which explains
    f, g, weight, bias, targets, f_lens, target_lens, blank, activation, eps, backend, dropout, seed, form.
    duration_weight (D, H), duration_bias (D,) or None: the same for the duration logits.
    durations, sigma, omega, generator: as for `tdt_loss`. If a call draws plain RNN-T, the gradients of the
      duration parameters are zero.

    Impossible rows, precision and errors are those of `fused_rnnt_loss`.
    """
    op, layer = "fused_tdt_loss", joint.OutputLayer(weight, bias, duration_weight, duration_bias)
    settings = joint.JointSettings(blank, activation, dropout, seed, eps, form)
    transcripts = check_joint(op, f, g, layer, targets, f_lens, target_lens, settings)
    durations = check_durations(op, durations, duration_weight.shape[0])
    chosen = choose_backend(op, backend, f)
    if omega > 0 and draw(generator) < omega:
        loss = checked_rnnt_loss(f, g, joint.OutputLayer(weight, bias), transcripts, settings, 0.0, chosen)
        unused = [x for x in (duration_weight, duration_bias) if x is not None]
        return loss + sum(x[:0].sum() for x in unused)  # in the graph, with zero gradient
    if chosen == "reference":
        with torch.autocast(f.device.type, enabled=False):
            tokens, duration_logits = joint_logits(f, g, layer, transcripts, settings)
            assert duration_logits is not None
            return tdt_loss_reference(tokens, duration_logits, transcripts, durations, sigma)
    rows = joint.packed_rows(transcripts, f.shape[1])
    cells = joint.RowCells(rows, (f.shape[0], f.shape[1], g.shape[1]), chosen)
    training = joint.needs_gradient(f, g, layer)

    def lattice(scores: joint.RowScores) -> joint.RowMasses:
        assert scores.durations is not None
        result = tdt_lattice(
            cells.scatter(scores.blank - sigma), cells.scatter(scores.label - sigma),
            cells.scatter(scores.durations), transcripts.frames, transcripts.labels,
            durations=durations, with_posteriors=training, backend=chosen,
        )  # fmt: skip
        dtype = scores.norm.dtype
        loss = (-result.log_prob).to(dtype)
        if result.blank is None or result.label is None or result.durations is None:
            return joint.RowMasses(loss, result.log_prob)
        blank_mass, label_mass = (cells.gather(x, dtype) for x in (result.blank, result.label))
        d_durations = (blank_mass + label_mass)[:, None] * scores.durations.exp()
        d_durations -= cells.gather(result.durations, dtype)
        return joint.RowMasses(loss, result.log_prob, blank_mass, label_mass, d_durations)

    return joint.fused_loss(f, g, layer, rows, lattice, settings, backend=chosen)


def draw(generator: torch.Generator | None) -> float:
    """A uniform random number, from torch's global CPU generator if None."""
    device = "cpu" if generator is None else generator.device
    return torch.rand((), generator=generator, device=device).item()
