"""The joint's output layer at a list of rows in Triton, a chunk of rows at a time.

Scores: h of a chunk is computed once (a tanh in every tile would cost as much as the product itself). A
product with a running log-sum-exp then goes through the vocabulary without writing a logit, and a small
kernel picks blank and label. Gradients: a product whose epilogue writes d loss / d logits of a chunk, of
bounded size. cuBLAS computes dW and dh from it, and dh goes back through the activation while it is summed by
frame and by state. Nothing is atomic, so all outputs are deterministic.

Products of fp16 and bf16 sum in fp32. Products of fp32 follow torch's own switch for CUDA: exact fp32 unless
TF32 is allowed. h is rounded once, to the dtype of f, and so is the output layer's weight.
"""

import functools
import math

import torch
import triton
from torch import Tensor

import maya.kernels.joint.jit as jit
import maya.kernels.joint.product_jit as product_jit
from maya.kernels.joint.dropout import signed32
from maya.kernels.joint.rows import (
    JointGradients,
    JointSettings,
    OutputLayer,
    RowGradients,
    RowList,
    RowScores,
)
from maya.kernels.slices import slices
from maya.kernels.triton_common import Tiles, launching_on, product_precision

HIDDEN_BYTES = 1 << 27  # of h, in the scores
LOGIT_BYTES = 1 << 30  # of d loss / d logits, in the gradients: 16384 rows of 32768 in 16 bits
ROW_STEP = 128  # chunks hold whole row tiles
LOG2E = math.log2(math.e)
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
# As TILES, for the products with d loss / d logits of counted rows: rows, columns and depth of a product. All
# divide the rows and columns of TILES, because the kernels read whole tiles of the gradient without a mask.
PRODUCT_TILES = {
    (8, 2): Tiles(128, 128, 32, 8, 4),
    (9, 2): Tiles(128, 128, 64, 8, 3),
    (8, 4): Tiles(64, 64, 32, 4, 3),
    (9, 4): Tiles(64, 64, 32, 4, 3),
}
# Most registers of a thread in the gradients of logits and of h: two programs fit on a processor, and none is
# spilled. The gradient of the weight would spill ten.
GRADIENT_REGISTERS = {(9, 2): 128}
SMALL_TILES = Tiles(16, 32, 16, 1, 1)  # for the interpreter, whose time depends on the number of steps
POINTWISE = {"BR": 16, "BH": 128}  # rows and columns of a program of the pointwise kernels
SUMMED = {"BT": 16, "BV": 128}  # row tiles of a step and columns of a program of the bias's gradient


def tiles_for(dtype: torch.dtype, device: torch.device) -> Tiles:
    """The tiles for a device; an unknown one gets those of the smallest."""
    return TILES[_key(dtype, device)] if device.type == "cuda" else SMALL_TILES


def product_tiles_for(dtype: torch.dtype, device: torch.device) -> Tiles:
    return PRODUCT_TILES[_key(dtype, device)] if device.type == "cuda" else SMALL_TILES


def gradient_registers_for(dtype: torch.dtype, device: torch.device) -> int | None:
    """The limit was found for one generation; in 128 registers, sm_100 spills."""
    if device.type != "cuda":
        return None
    return GRADIENT_REGISTERS.get((torch.cuda.get_device_capability(device)[0], dtype.itemsize))


def _key(dtype: torch.dtype, device: torch.device) -> tuple[int, int]:
    major = torch.cuda.get_device_capability(device)[0]
    return 9 if major in (9, 10) else 8, dtype.itemsize


def joint_scores_triton(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, settings: JointSettings
) -> RowScores:
    """See `joint_scores`; not for fp64. Extra memory is bounded by HIDDEN_BYTES."""
    f2, g2, layer = prepared(f2, g2, layer)
    joint = JointKernels(f2, g2, layer, settings)
    return scores_by_chunk(joint, layer, rows, joint.chunk_rows(HIDDEN_BYTES, f2.shape[1]))


def scores_by_chunk(joint: "JointKernels", layer: OutputLayer, rows: RowList, chunk_rows: int) -> RowScores:
    """The scores of rows, of which `chunk_rows` are in memory at a time."""
    n = len(rows)
    norm = joint.f.new_empty(n, 2, dtype=torch.float32)
    # Two allocations: a pointer into a common one is aligned for some n only, and would compile twice.
    blank, label = norm.new_empty(n), norm.new_empty(n)
    durations = None
    if layer.duration_weight is not None:
        durations = norm.new_empty(n, layer.duration_weight.shape[0])
    with launching_on(joint.f):
        for part in slices(n, chunk_rows):
            chunk = contiguous(rows.take(part))
            hidden = joint.hidden(chunk)
            joint.score(hidden, chunk.label, norm[part], blank[part], label[part])
            if durations is not None:
                durations[part] = duration_scores(hidden, layer)
    return RowScores(norm, blank, label, durations)


def joint_gradients_triton(
    f2: Tensor, g2: Tensor, layer: OutputLayer, rows: RowList, row_grads: RowGradients,
    settings: JointSettings, needed: tuple[bool, ...],
) -> JointGradients:  # fmt: skip
    """See `joint_gradients`; not for fp64. The norm must be that of `joint_scores_triton`.

    Extra memory is LOGIT_BYTES and dW in fp32. With a row list that is counted, the host waits for nothing:
    all chunks are launched, and the kernels of those past the count return at once.
    """
    width = f2.shape[1]
    f2, g2, layer = prepared(f2, g2, layer)
    joint = JointKernels(f2, g2, layer, settings)
    grads = JointGradients.zeros(f2, g2, layer, needed, torch.float32)
    sums = RowSums(joint, rows, grads)
    # With these values, a row that is not visited has a gradient of 0.
    inputs = ((row_grads.norm, float("inf")), (row_grads.blank, 0.0), (row_grads.label, 0.0))
    row_inputs = [sums.visited(x.to(torch.float32), value).contiguous() for x, value in inputs]
    d_durations = None
    if row_grads.durations is not None:
        d_durations = sums.visited(row_grads.durations.to(torch.float32), 0.0)
    with launching_on(f2):
        for part in slices(len(rows), joint.chunk_rows(LOGIT_BYTES, joint.stride)):
            chunk = contiguous(rows.take(part))
            joint.count = sums.count(part)
            hidden = joint.hidden(chunk)
            dx = joint.logit_gradient(hidden, chunk.label, [x[part] for x in row_inputs], grads.bias)
            if grads.weight is not None:
                joint.add_weight_gradient(dx, hidden, grads.weight)
            dh = joint.hidden_gradient(dx, len(chunk)) if needed[0] or needed[1] else None
            add_durations(layer, grads, None if d_durations is None else d_durations[part], hidden, dh)
            if dh is not None:
                sums.add(dh, chunk, part)
    return unpadded(grads, width)


def duration_scores(hidden: Tensor, layer: OutputLayer) -> Tensor:
    """(R, D) log probabilities of the durations."""
    assert layer.duration_weight is not None
    scores = product(hidden, layer.duration_weight.t())
    if layer.duration_bias is not None:
        scores += layer.duration_bias
    return scores.log_softmax(-1)


def add_durations(
    layer: OutputLayer, grads: JointGradients, d_durations: Tensor | None, hidden: Tensor, dh: Tensor | None
) -> None:
    """Adds what the duration logits of a chunk contribute to dh (R, H) and to their parameters' gradients."""
    if layer.duration_weight is None or d_durations is None:
        return
    if dh is not None:
        dh.addmm_(d_durations, layer.duration_weight.float())
    if grads.duration_weight is not None:
        grads.duration_weight.addmm_(d_durations.t(), hidden.float())
    if grads.duration_bias is not None:
        grads.duration_bias += d_durations.sum(0)


def unpadded(grads: JointGradients, width: int) -> JointGradients:
    """Without the channels that `prepared` added."""
    return JointGradients(*(x[:, :width] if x is not None and x.dim() == 2 else x for x in grads.tensors))


def prepared(f2: Tensor, g2: Tensor, layer: OutputLayer) -> tuple[Tensor, Tensor, OutputLayer]:
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
    """The launches, with all arguments that do not change from chunk to chunk.

    Each result of a chunk is written over by that of the next. A buffer is allocated once, for the first, the
    largest chunk. Chunks of changing sizes would leave more memory reserved than is in use.
    """

    def __init__(
        self, f2: Tensor, g2: Tensor, layer: OutputLayer, settings: JointSettings, tiles: Tiles | None = None
    ) -> None:
        """tiles: of the logits, None for those of the device."""
        self.f, self.g, self.weight = f2, g2, layer.weight
        self.settings = settings
        self.count: Tensor | None = None  # int64 [1]: rows of this chunk to visit; None: all
        self.vocab, self.width = self.weight.shape
        self.tiles = tiles or tiles_for(f2.dtype, f2.device)
        self.product_tiles = product_tiles_for(f2.dtype, f2.device)
        usual = self.tiles == tiles_for(f2.dtype, f2.device)
        self.registers = gradient_registers_for(f2.dtype, f2.device) if usual else None
        # 32 bits each, which Triton takes as signed.
        threshold = signed32(int(settings.dropout * 2**32))
        self.dropout = (signed32(settings.seed), threshold, 1 / (1 - settings.dropout))
        self.pointwise = {"ACTIVATION": settings.activation, "DROPOUT": settings.dropout > 0, **POINTWISE}
        self.precision = product_precision(f2.dtype)
        self.bias = self._padded_bias(layer.bias)
        self.buffers: dict[str, Tensor] = {}

    @property
    def stride(self) -> int:
        """Columns of d loss / d logits: whole tiles, so that no store needs a mask."""
        return triton.cdiv(self.vocab, self.tiles.columns) * self.tiles.columns

    def chunk_rows(self, most_bytes: int, columns: int) -> int:
        """Rows of a chunk whose (rows, columns) of f's dtype take at most most_bytes, in whole row tiles."""
        step = self._row_step()
        return max(step, most_bytes // (columns * self.f.itemsize) // step * step)

    def hidden(self, rows: RowList) -> Tensor:
        """h of a chunk, (R, H), in the dtype of f; 0 for rows that are not visited."""
        out = self._buffer("hidden", len(rows), self.width, self.f.dtype)
        grid = (triton.cdiv(len(out), POINTWISE["BR"]), triton.cdiv(self.width, POINTWISE["BH"]))
        jit.hidden_kernel[grid](
            self.f, self.g, rows.frame, rows.state, out, self.count, len(rows), self.width,
            *self.dropout, **self.pointwise,
        )  # fmt: skip
        return out[: len(rows)]

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
        self, hidden: Tensor, label: Tensor, norm_and_masses: list[Tensor], bias_grad: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """d loss / d logits, (whole row tiles, stride), in the dtype of h; only (R, V) of it is defined.

        Its sum over rows, in fp32, is added to bias_grad.
        """
        n, (row_tiles, column_tiles) = hidden.shape[0], self._tile_counts(hidden)
        out = self._buffer("dx", n, self.stride, hidden.dtype)
        sums = None
        if bias_grad is not None:
            sums = self._buffer("sums", row_tiles, self.stride, torch.float32, step=1)
        jit.logit_gradient_kernel[(row_tiles * column_tiles,)](
            hidden, self.weight, self.bias, label, *norm_and_masses, out, sums, self.count,
            n, self.width, self.vocab, self.stride, self.settings.blank, **self._tile_constants(),
            maxnreg=self.registers,
        )  # fmt: skip
        if bias_grad is not None:
            product_jit.bias_gradient_kernel[(triton.cdiv(self.vocab, SUMMED["BV"]),)](
                sums, bias_grad, self.count, n, self.vocab, self.stride, ROWS=self.tiles.rows, **SUMMED
            )
        return out

    def add_weight_gradient(self, dx: Tensor, hidden: Tensor, total: Tensor) -> None:
        """total += dx^T h; dx of `logit_gradient`, h (R, H), total (V, H) fp32."""
        if self.count is None:
            add_product(total, dx[: len(hidden), : self.vocab].t(), hidden)
            return
        tiles = self._product_tiles()
        programs = triton.cdiv(self.vocab, tiles.rows) * triton.cdiv(self.width, tiles.columns)
        product_jit.weight_gradient_kernel[(programs,)](
            dx, hidden, total, self.count, len(hidden), self.width, self.vocab, self.stride,
            **tiles.constants("BV", "BH", "BR", self.precision),
        )  # fmt: skip

    def hidden_gradient(self, dx: Tensor, n: int) -> Tensor:
        """dh = dx W, (R = n, H) fp32; anything in rows that are not visited."""
        if self.count is None:
            return product(dx[:n, : self.vocab], self.weight)
        tiles = self._product_tiles()
        out = self._buffer("dh", n, self.width, torch.float32)
        programs = triton.cdiv(n, tiles.rows) * triton.cdiv(self.width, tiles.columns)
        product_jit.hidden_gradient_kernel[(programs,)](
            dx, self.weight, out, self.count, n, self.width, self.vocab, self.stride,
            **tiles.constants("BR", "BH", "BV", self.precision), maxnreg=self.registers,
        )  # fmt: skip
        return out[:n]

    def add_by(
        self, target: Tensor, dh: Tensor, rows: RowList, out: Tensor, *, ascending: bool = False
    ) -> None:
        """out[target[r]] += dh[r] * d h[r] / d (f + g); dh (R, H) and out (M, H) fp32.

        target: (R,) ints; rows with M are left out. ascending: they ascend, so that they need no sort.
        """
        order = None
        if not ascending:
            target, order = torch.sort(target, stable=True)
        ends = torch.arange(out.shape[0] + 1, device=out.device, dtype=target.dtype)
        starts = torch.searchsorted(target, ends)
        jit.segment_kernel[(out.shape[0], triton.cdiv(self.width, POINTWISE["BH"]))](
            self.f, self.g, dh, rows.frame, rows.state, order, starts, out, self.width, *self.dropout,
            **self.pointwise,
        )  # fmt: skip

    def _product_tiles(self) -> Tiles:
        """The products read whole tiles, of rows and columns that `logit_gradient` has written."""
        tiles = self.product_tiles
        if self.tiles.rows % tiles.depth or self.stride % tiles.depth or self.stride % tiles.rows:
            raise ValueError(f"joint: {tiles} do not divide {self.tiles}")
        return tiles

    def _padded_bias(self, bias: Tensor | None) -> Tensor:
        """(stride,) fp32, in base 2 and -inf from V on, so that its loads need no mask for any V."""
        out = self.weight.new_full((self.stride,), float("-inf"), dtype=torch.float32)
        out[: self.vocab] = 0.0 if bias is None else bias.float() * LOG2E
        return out

    def _buffer(self, name: str, rows: int, columns: int, dtype: torch.dtype, step: int = 0) -> Tensor:
        """(rows in whole tiles, columns), the same memory for every chunk."""
        step = step or self._row_step()
        rows = triton.cdiv(rows, step) * step
        if name not in self.buffers or len(self.buffers[name]) < rows:
            self.buffers[name] = self.f.new_empty(rows, columns, dtype=dtype)
        return self.buffers[name][:rows]

    def _row_step(self) -> int:
        return max(ROW_STEP, self.tiles.rows, self.product_tiles.rows)

    def _tile_counts(self, hidden: Tensor) -> tuple[int, int]:
        return triton.cdiv(hidden.shape[0], self.tiles.rows), triton.cdiv(self.vocab, self.tiles.columns)

    def _tile_constants(self) -> dict[str, str | int]:
        """The tiles of the logits. Their loads have no mask, so they must cover H exactly."""
        if self.width % self.tiles.depth:
            raise ValueError(f"joint: {self.width} channels are no multiple of {self.tiles.depth}")
        return self.tiles.constants("BR", "BV", "BH", self.precision)


class RowSums:
    """Adds the rows of dh to df and dg, a chunk at a time, in the order of the rows."""

    def __init__(self, joint: JointKernels, rows: RowList, grads: JointGradients) -> None:
        self.joint, self.by_frame, self.grads = joint, rows.by_frame, grads
        self.live = self.counted = None
        if rows.count is not None:
            row = torch.arange(len(rows), device=rows.frame.device)
            self.live = row < rows.count
            self.counted = torch.stack([rows.count - row, row], 1)
        # 32 bits sort in half of the passes of 64. Rows that are not visited come last and are left out.
        self.frame, self.state = (
            self._targets(x, out) for x, out in ((rows.frame, grads.f), (rows.state, grads.g))
        )

    def _targets(self, index: Tensor, out: Tensor | None) -> Tensor | None:
        if out is None:
            return None
        index = index.to(torch.int32)
        return index if self.live is None else torch.where(self.live, index, len(out))

    def count(self, part: slice) -> Tensor | None:
        """int64 [1]: how many rows are to be visited from the start of `part` on; None: all."""
        return None if self.counted is None else self.counted[part.start]

    def visited(self, x: Tensor, other: float) -> Tensor:
        """x (R, ...) with `other` in rows that are not visited."""
        if self.live is None:
            return x
        return torch.where(self.live.view(-1, *[1] * (x.dim() - 1)), x, other)

    def add(self, dh: Tensor, chunk: RowList, part: slice) -> None:
        if self.grads.f is not None and self.frame is not None:
            self.joint.add_by(self.frame[part], dh, chunk, self.grads.f, ascending=self.by_frame)
        if self.grads.g is not None and self.state is not None:
            self.joint.add_by(self.state[part], dh, chunk, self.grads.g)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in fp32, without rounding the sums to the dtype of a and b."""
    if a.dtype == torch.float32:
        return torch.mm(a, b)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b in fp32, in one pass over `total` where torch can."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif a.is_cuda and adds_in_fp32(a.dtype, a.device):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += product(a, b)


@functools.cache
def adds_in_fp32(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this torch's addmm takes an fp32 sum beside factors of `dtype`. It refuses without waiting."""
    total, factor = (torch.zeros(16, 16, dtype=x, device=device) for x in (torch.float32, dtype))
    try:
        torch.addmm(total, factor, factor, out_dtype=torch.float32, out=total)
    except (TypeError, RuntimeError, NotImplementedError):
        return False
    return True


def split_count(row_tiles: int, at_once: int) -> int:
    """Parts of the vocabulary, so many that the device is occupied evenly to the end."""
    return min(MOST_SPLITS, triton.cdiv(WAVES * at_once, row_tiles))


def concurrent_programs(device: torch.device) -> int:
    """Programs of the product that run at the same time."""
    if device.type != "cuda":
        return 1
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


def contiguous(rows: RowList) -> RowList:
    utterance, frame, state, label = (
        x.contiguous() for x in (rows.utterance, rows.frame, rows.state, rows.label)
    )
    return RowList(utterance, frame, state, label, rows.by_frame)
