"""The cuBLAS form of the joint: logits of a chunk of rows by `torch.mm`, in the dtype of f.

One kernel reads a chunk's logits and keeps the log-sum-exp and the logits of blank and label. In the backward
pass, one kernel turns the recomputed logits into their gradient, in place, and the products are cuBLAS's too.
Beside "fused", a chunk's logits are written and read once more and are rounded to the dtype of f, as in plain
torch. In return, the product with the vocabulary is cuBLAS's.
"""

import torch
import triton
from torch import Tensor

import maya.kernels.joint.cublas_jit as jit
from maya.kernels.joint.kernel import (
    LOGIT_BYTES,
    JointKernels,
    RowSums,
    add_durations,
    add_product,
    contiguous,
    prepared,
    product,
    scores_by_chunk,
    unpadded,
)
from maya.kernels.joint.rows import (
    JointGradients,
    JointSettings,
    OutputLayer,
    RowGradients,
    RowList,
    RowScores,
)
from maya.kernels.slices import slices
from maya.kernels.triton_common import launching_on

# Rows and columns of a step. Rows share the loads of the bias, which in fp32 is twice as long as a row.
ROW_BLOCK = {"BR": 4, "BV": 2048, "num_warps": 8}
SMALL_ROW_BLOCK = {"BR": 4, "BV": 64, "num_warps": 1}  # for the interpreter


def joint_scores_cublas(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, settings: JointSettings
) -> RowScores:
    """See `joint_scores`; not for fp64. Extra memory is bounded by LOGIT_BYTES."""
    f2, g2, layer = prepared(f2, g2, layer)
    joint = CublasJoint(f2, g2, layer, settings)
    return scores_by_chunk(joint, layer, rows, joint.chunk_rows(LOGIT_BYTES, joint.stride))


def joint_gradients_cublas(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, row_grads: RowGradients,
    settings: JointSettings, needed: tuple[bool, ...],
) -> JointGradients:  # fmt: skip
    """See `joint_gradients`; not for fp64 and counted rows. Extra memory is LOGIT_BYTES and dW in fp32."""
    width = f2.shape[1]
    f2, g2, layer = prepared(f2, g2, layer)
    joint = CublasJoint(f2, g2, layer, settings)
    grads = JointGradients.zeros(f2, g2, layer, needed, torch.float32)
    sums = RowSums(joint, rows, grads)
    masses = [x.to(torch.float32).contiguous() for x in (row_grads.blank, row_grads.label)]
    d_durations = None if row_grads.durations is None else row_grads.durations.to(torch.float32)
    with launching_on(f2):
        for part in slices(len(rows), joint.chunk_rows(LOGIT_BYTES, joint.stride)):
            chunk = contiguous(rows.take(part))
            hidden = joint.hidden(chunk)
            dx = joint.row_gradient_(joint.logits(hidden), chunk.label, *(x[part] for x in masses))
            if grads.bias is not None:
                grads.bias += dx.sum(0, dtype=torch.float32)
            if grads.weight is not None:
                add_product(grads.weight, dx.t(), hidden)
            dh = product(dx, layer.weight) if needed[0] or needed[1] else None
            add_durations(layer, grads, None if d_durations is None else d_durations[part], hidden, dh)
            if dh is not None:
                sums.add(dh, chunk, part)
    return unpadded(grads, width)


class CublasJoint(JointKernels):
    """The launches of this form; logits are (R, V), with rows that begin at multiples of `stride`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """W h of a chunk, without the bias."""
        out = self._buffer("dx", len(hidden), self.stride, hidden.dtype)[: len(hidden), : self.vocab]
        return torch.mm(hidden, self.weight.t(), out=out)

    def score(
        self, hidden: Tensor, label: Tensor, norm: Tensor, blank: Tensor, label_log_prob: Tensor
    ) -> None:
        """Fills the last three, fp32: norm (R, 2), log probabilities (R,)."""
        logits, block = self.logits(hidden), self._block()
        jit.row_score_kernel[(triton.cdiv(len(logits), block["BR"]),)](
            logits, self.bias, label, norm, blank, label_log_prob,
            len(logits), self.vocab, self.stride, self.settings.blank, **block,
        )  # fmt: skip

    def row_gradient_(self, logits: Tensor, label: Tensor, blank_mass: Tensor, label_mass: Tensor) -> Tensor:
        """Turns logits into d loss / d logits, and returns them."""
        block = self._block()
        jit.row_gradient_kernel[(triton.cdiv(len(logits), block["BR"]),)](
            logits, self.bias, label, blank_mass, label_mass,
            len(logits), self.vocab, self.stride, self.settings.blank, **block,
        )  # fmt: skip
        return logits

    def _block(self) -> dict[str, int]:
        return ROW_BLOCK if self.f.is_cuda else SMALL_ROW_BLOCK
