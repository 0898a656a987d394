"""The joint's output layer at a list of rows in Triton, a chunk of rows at a time.

Scores: h of a chunk is computed once (a tanh in every tile would cost as much as the product itself). A
product with a running log-sum-exp then goes through the vocabulary without writing a logit, and a small
kernel picks blank and label. Gradients: a product whose epilogue writes d loss / d logits of a chunk, of
bounded size. cuBLAS computes dW and dh from it, and dh goes back through the activation while it is summed by
frame and by state. Nothing is atomic, so all outputs are deterministic.

Products of fp16 and bf16 sum in fp32. Products of fp32 follow torch's own switch for CUDA: exact fp32 unless
TF32 is allowed. h is rounded once, to the dtype of f, and so is the output layer's weight.
"""

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

import maya.kernels.joint.jit as jit
from maya.kernels.joint.dropout import signed32
from maya.kernels.joint.rows import (
    JointGradients,
    JointSettings,
    OutputLayer,
    RowGradients,
    RowList,
    RowScores,
)
from maya.kernels.joint.torch_op import joint_gradients_torch, joint_scores_torch
from maya.kernels.slices import slices
from maya.kernels.triton_common import Tiles, launching_on, product_precision

HIDDEN_BYTES = 1 << 27  # of h, in the scores
LOGIT_BYTES = 1 << 30  # of d loss / d logits, in the gradients: 16384 rows of 32768 in 16 bits
ROW_STEP = 128  # chunks hold whole row tiles
VOCAB_STEP = 64  # rows of d loss / d logits begin at multiples of it, for any V
WAVES, MOST_SPLITS = 4, 32  # programs per slot of the device; parts of the vocabulary


# By (first digit of the compute capability, bytes of an element): rows and columns of the logits, channels of
# a step, warps, stages. kernels/compile_gate.py prints the registers and shared memory of each and checks
# their limits; none has been timed (tune.py does it). With (9, 2), two programs of the gradient fit on a
# processor, one of the norm. Both use the same tiles, because a logit must have the same bits in both.
TILES = {
    (8, 2): Tiles(128, 128, 32, 8, 4),
    (9, 2): Tiles(128, 128, 64, 8, 3),
    (8, 4): Tiles(64, 64, 32, 4, 3),
    (9, 4): Tiles(64, 64, 32, 4, 3),
}
SMALL_TILES = Tiles(16, 32, 16, 1, 1)  # for the interpreter, whose time depends on the number of steps
POINTWISE = {"BR": 16, "BH": 128}  # rows and columns of a program of the pointwise kernels


def tiles_for(dtype: torch.dtype, device: torch.device) -> Tiles:
    """The tiles for a device; an unknown one gets those of the smallest."""
    if device.type != "cuda":
        return SMALL_TILES
    major = torch.cuda.get_device_capability(device)[0]
    return TILES[(9 if major in (9, 10) else 8, dtype.itemsize)]


def joint_scores_triton(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, settings: JointSettings
) -> RowScores:
    """See `joint_scores`. fp64 is left to torch. Extra memory is bounded by HIDDEN_BYTES."""
    if f2.dtype == torch.float64:
        return joint_scores_torch(f2, g2, layer, rows, settings)
    f2, g2, layer = _prepared(f2, g2, layer)
    joint = JointKernels(f2, g2, layer, settings)
    n = len(rows)
    norm = f2.new_empty(n, 2, dtype=torch.float32)
    blank, label = norm.new_empty(2, n)
    durations = None
    if layer.duration_weight is not None:
        durations = norm.new_empty(n, layer.duration_weight.shape[0])
    with launching_on(f2):
        for part in _chunks(n, HIDDEN_BYTES // (f2.shape[1] * f2.itemsize)):
            chunk = _contiguous(rows.take(part))
            hidden = joint.hidden(chunk)
            joint.score(hidden, chunk.label, norm[part], blank[part], label[part])
            if durations is not None and layer.duration_weight is not None:
                scores = product(hidden, layer.duration_weight.t())
                if layer.duration_bias is not None:
                    scores += layer.duration_bias
                durations[part] = scores.log_softmax(-1)
    return RowScores(norm, blank, label, durations)


def joint_gradients_triton(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, row_grads: RowGradients,
    settings: JointSettings, needed: tuple[bool, ...],
) -> JointGradients:  # fmt: skip
    """See `joint_gradients`; the norm must be that of `joint_scores_triton`. fp64 is left to torch.

    Extra memory is LOGIT_BYTES and twice dW in fp32.
    """
    if f2.dtype == torch.float64:
        return joint_gradients_torch(f2, g2, layer, rows, row_grads, settings, needed)
    width = f2.shape[1]
    f2, g2, layer = _prepared(f2, g2, layer)
    joint = JointKernels(f2, g2, layer, settings)
    grads = JointGradients.zeros(f2, g2, layer, needed, torch.float32)
    row_inputs = [
        x.to(torch.float32).contiguous() for x in (row_grads.norm, row_grads.blank, row_grads.label)
    ]
    with launching_on(f2):
        for part in _chunks(len(rows), LOGIT_BYTES // (layer.weight.shape[0] * f2.itemsize)):
            chunk = _contiguous(rows.take(part))
            hidden = joint.hidden(chunk)
            dx = joint.logit_gradient(hidden, chunk.label, [x[part] for x in row_inputs], grads.bias)
            if grads.weight is not None:
                grads.weight += product(dx.t(), hidden)
            dh = product(dx, layer.weight) if needed[0] or needed[1] else None
            del dx
            if layer.duration_weight is not None and row_grads.durations is not None:
                d_durations = row_grads.durations[part].to(torch.float32)
                if dh is not None:
                    dh.addmm_(d_durations, layer.duration_weight.float())
                if grads.duration_weight is not None:
                    grads.duration_weight += d_durations.t() @ hidden.float()
                if grads.duration_bias is not None:
                    grads.duration_bias += d_durations.sum(0)
            if dh is not None and grads.f is not None:
                joint.add_by(chunk.frame, dh, chunk, grads.f)
            if dh is not None and grads.g is not None:
                joint.add_by(chunk.state, dh, chunk, grads.g)
    unpadded = (x[:, :width] if x is not None and x.dim() == 2 else x for x in grads.tensors)
    return JointGradients(*unpadded)


def _prepared(f2: Tensor, g2: Tensor, layer: OutputLayer) -> tuple[Tensor, Tensor, OutputLayer]:
    """All contiguous, weights in the dtype of f, and H padded with zeros to a multiple of the tiles' depth.

    Without the padding, an odd H would cost the products their prefetching. The padded columns of h meet
    zeros of the weights.
    """
    if f2.dtype == torch.bfloat16 and not f2.is_cuda:
        raise ValueError("joint: Triton's interpreter computes bf16 wrongly; use fp16 or fp32 on a CPU")
    extra = -f2.shape[1] % tiles_for(f2.dtype, f2.device).depth

    def padded(x: Tensor) -> Tensor:
        x = x.to(f2.dtype)
        return torch.nn.functional.pad(x, (0, extra)) if extra else x.contiguous()

    durations = None if layer.duration_weight is None else padded(layer.duration_weight)
    bias = None if layer.bias is None else layer.bias.contiguous()
    return padded(f2), padded(g2), OutputLayer(padded(layer.weight), bias, durations, layer.duration_bias)


class JointKernels:
    """The launches, with all arguments that do not change from chunk to chunk."""

    def __init__(self, f2: Tensor, g2: Tensor, layer: OutputLayer, settings: JointSettings) -> None:
        self.f, self.g, self.weight, self.bias = f2, g2, layer.weight, layer.bias
        self.settings = settings
        self.vocab, self.width = self.weight.shape
        self.tiles = tiles_for(f2.dtype, f2.device)
        # 32 bits each, which Triton takes as signed.
        threshold = signed32(int(settings.dropout * 2**32))
        self.dropout = (signed32(settings.seed), threshold, 1 / (1 - settings.dropout))
        self.pointwise = {"ACTIVATION": settings.activation, "DROPOUT": settings.dropout > 0, **POINTWISE}
        self.precision = product_precision(f2.dtype)

    def hidden(self, rows: RowList) -> Tensor:
        """h of a chunk, (R, H), in the dtype of f."""
        out = self.f.new_empty(len(rows), self.width)
        grid = (triton.cdiv(len(rows), POINTWISE["BR"]), triton.cdiv(self.width, POINTWISE["BH"]))
        jit.hidden_kernel[grid](
            self.f, self.g, rows.frame, rows.state, out, len(rows), self.width, *self.dropout,
            **self.pointwise,
        )  # fmt: skip
        return out

    def score(
        self, hidden: Tensor, label: Tensor, norm: Tensor, blank: Tensor, label_log_prob: Tensor
    ) -> None:
        """Fills the last three, fp32: norm (R, 2) in two parts, log probabilities (R,)."""
        n, (row_tiles, column_tiles) = hidden.shape[0], self._tile_counts(hidden)
        per_split = triton.cdiv(column_tiles, split_count(row_tiles, concurrent_programs(hidden.device)))
        splits = triton.cdiv(column_tiles, per_split)
        partial, picked = norm.new_empty(2, splits, n), norm.new_empty(2, n)
        jit.norm_kernel[(row_tiles, splits)](
            hidden, self.weight, self.bias, label, partial, picked,
            n, self.width, self.vocab, per_split, self.settings.blank, **self._tile_constants(),
        )  # fmt: skip
        jit.finish_kernel[(triton.cdiv(n, ROW_STEP),)](
            partial, picked, label, norm, blank, label_log_prob, n, splits, BR=ROW_STEP
        )

    def logit_gradient(
        self, hidden: Tensor, label: Tensor, norm_and_masses: list[Tensor], bias_grad: Tensor | None
    ) -> Tensor:
        """d loss / d logits, (R, V), in the dtype of h; its sum over rows, in fp32, is added to bias_grad."""
        n, (row_tiles, column_tiles) = hidden.shape[0], self._tile_counts(hidden)
        stride = triton.cdiv(self.vocab, VOCAB_STEP) * VOCAB_STEP
        out = hidden.new_empty(n, stride)
        sums = None if bias_grad is None else bias_grad.new_empty(row_tiles, self.vocab)
        jit.logit_gradient_kernel[(row_tiles * column_tiles,)](
            hidden, self.weight, self.bias, label, *norm_and_masses, out, sums,
            n, self.width, self.vocab, stride, self.settings.blank, **self._tile_constants(),
        )  # fmt: skip
        if bias_grad is not None and sums is not None:
            bias_grad += sums.sum(0)
        return out[:, : self.vocab]

    def add_by(self, target: Tensor, dh: Tensor, rows: RowList, out: Tensor) -> None:
        """out[target[r]] += dh[r] * d h[r] / d (f + g); dh (R, H) and out (M, H) fp32."""
        ordered, order = torch.sort(target, stable=True)
        starts = torch.searchsorted(ordered, torch.arange(out.shape[0] + 1, device=out.device))
        jit.segment_kernel[(out.shape[0], triton.cdiv(self.width, POINTWISE["BH"]))](
            self.f, self.g, dh, rows.frame, rows.state, order, starts, out, self.width, *self.dropout,
            **self.pointwise,
        )  # fmt: skip

    def _tile_counts(self, hidden: Tensor) -> tuple[int, int]:
        return triton.cdiv(hidden.shape[0], self.tiles.rows), triton.cdiv(self.vocab, self.tiles.columns)

    def _tile_constants(self) -> dict[str, str | int]:
        return self.tiles.constants("BR", "BV", "BH", self.precision)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in fp32, without rounding the sums to the dtype of a and b."""
    if a.dtype == torch.float32:
        return torch.mm(a, b)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())


def split_count(row_tiles: int, at_once: int) -> int:
    """Parts of the vocabulary, so many that the device is occupied evenly to the end."""
    return min(MOST_SPLITS, triton.cdiv(WAVES * at_once, row_tiles))


def concurrent_programs(device: torch.device) -> int:
    """Programs of the product that run at the same time."""
    if device.type != "cuda":
        return 1
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


def _contiguous(rows: RowList) -> RowList:
    return RowList(*(x.contiguous() for x in (rows.utterance, rows.frame, rows.state, rows.label)))


def _chunks(n: int, most: int) -> Iterator[slice]:
    """Slices of about equal size, with at most `most` rows, in whole row tiles."""
    most = max(ROW_STEP, most // ROW_STEP * ROW_STEP)
    count = max(1, triton.cdiv(n, most))
    return slices(n, triton.cdiv(triton.cdiv(n, count), ROW_STEP) * ROW_STEP)
