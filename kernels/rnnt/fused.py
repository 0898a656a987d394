"""RNN-T loss fused with the joint's output layer; see kernels/joint."""

import torch
from torch import Tensor

from maya.kernels import joint
from maya.kernels.checks import Transcripts, choose_backend
from maya.kernels.joint.checks import check_joint
from maya.kernels.joint.reference import joint_logits
from maya.kernels.lattice import rnnt_lattice
from maya.kernels.rnnt.reference import rnnt_loss_reference
from maya.kernels.uncompiled import uncompiled


@uncompiled  # the compiler has nothing to fuse in it
def fused_rnnt_loss(
    f: Tensor, g: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, f_lens: Tensor,
    target_lens: Tensor, *, blank: int, activation: str = "relu", eps: float = joint.DEFAULT_EPS,
    backend: str = "auto", dropout: float = 0.0, seed: int = 0, fastemit: float = 0.0, form: str = "auto",
) -> Tensor:  # fmt: skip
    """`rnnt_loss` of the logits weight dropout(act(f + g)) + bias, (B,), in nats. The logits are never
    stored.

    f: (B, S, H) projected encoder frames; g: (B, U+1, H) projected predictor states, of the same float dtype.
      Need not be contiguous; values past a row's lengths are never read.
    weight: (V, H), bias: (V,) or None; may be of another float dtype, such as fp32 masters beside bf16 f.
    targets: (B, U) ints below V and not `blank`; padding is ignored. f_lens, target_lens: (B,) ints. They may
      be on the CPU: then nothing waits for the device. Otherwise the host waits for it once, to check them.
    activation: "relu", "tanh" or "sigmoid".
    eps: the backward pass skips lattice cells with a posterior of at most eps. 0 gives the full gradient.
      kernels/joint/README.md measures the error of the default; the loss itself is exact.
    backend: "auto" (Triton on CUDA, except for fp64; torch elsewhere), "torch", "triton" or "reference" (the
      definition, all logits at once).
    dropout: of the joint's hidden layer, in [0, 1); pass 0 when not training. seed: selects the mask,
      the same on every backend; pass a new seed for each step.
    fastemit: as for `rnnt_loss`.
    form: "auto", "fused", "counted" or "cublas", of the Triton backend; kernels/joint/forms.py explains them.
      Only "fused" never has the host wait in the backward pass.

    Gradients go to f, g, weight and bias, in their dtypes. A row without frames, or whose every path has
    probability 0, has loss inf and gradient 0. The result is fp64 for fp64 f, fp32 otherwise, also under
    autocast. Raises ValueError that names the argument.
    """
    op, layer = "fused_rnnt_loss", joint.OutputLayer(weight, bias)
    settings = joint.JointSettings(blank, activation, dropout, seed, eps, form)
    if not fastemit >= 0:
        raise ValueError(f"{op}: fastemit must not be negative, not {fastemit}")
    transcripts = check_joint(op, f, g, layer, targets, f_lens, target_lens, settings)
    return checked_rnnt_loss(f, g, layer, transcripts, settings, fastemit, choose_backend(op, backend, f))


def checked_rnnt_loss(
    f: Tensor, g: Tensor, layer: joint.OutputLayer, transcripts: Transcripts, settings: joint.JointSettings,
    fastemit: float, backend: str,
) -> Tensor:  # fmt: skip
    """`fused_rnnt_loss` of checked arguments and a chosen backend."""
    if backend == "reference":
        with torch.autocast(f.device.type, enabled=False):
            logits, _ = joint_logits(f, g, layer, transcripts, settings)
            return rnnt_loss_reference(logits, transcripts, fastemit)
    rows = joint.packed_rows(transcripts, f.shape[1])
    cells = joint.RowCells(rows, (f.shape[0], f.shape[1], g.shape[1]), backend)
    training = joint.needs_gradient(f, g, layer)

    def lattice(scores: joint.RowScores) -> joint.RowMasses:
        result = rnnt_lattice(
            cells.scatter(scores.blank), cells.scatter(scores.label), transcripts.frames, transcripts.labels,
            with_posteriors=training, backend=backend,
        )  # fmt: skip
        dtype = scores.norm.dtype
        loss = (-(1.0 + fastemit) * result.log_prob).to(dtype)
        if result.blank is None or result.label is None:
            return joint.RowMasses(loss, result.log_prob)
        label = cells.gather(result.label, dtype).mul_(1.0 + fastemit)
        return joint.RowMasses(loss, result.log_prob, cells.gather(result.blank, dtype), label)

    return joint.fused_loss(f, g, layer, rows, lattice, settings, backend=backend)
