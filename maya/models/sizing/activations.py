"""What an encoder's layers keep for the backward pass, counted while a small one of the same kind runs.

What is kept in a layer grows with its width, with heads times pairs of frames, and with nothing else. So two
layers as narrow as their heads allow run on a few short batches while every block of memory is counted, and
the counts are scaled to the width that was asked for. No table of tensors has to be kept true by hand.

For CUDA the same layers run on the CPU with what autocast would do there: products in bf16, norms in fp32,
attention as the memory-efficient kernel keeps it (q, k, v, bias, output, row sums), masks of dropout a byte.
"""

import json
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from maya.config import from_dict, to_dict
from maya.encoders.conformer.fastconformer import FastConformer, FastConformerConfig

_NARROWEST = 16  # width of a head while counting
_SHAPES = ((2, 24), (4, 24), (2, 72), (4, 72))  # utterances, frames


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMemory:
    """Bytes of one layer for B utterances of S frames: length·S + B·(frame·S + pair·S²).

    kept: for the backward pass. work: beside it, at the highest point of that layer's backward pass.
    input_frame: of its input, per frame, which is all that activation checkpointing keeps.
    """

    kept_length: float
    kept_frame: float
    kept_pair: float
    work_frame: float
    work_pair: float
    input_frame: float


def layer_memory(cfg: FastConformerConfig, *, cuda: bool, bf16: bool) -> LayerMemory:
    """Count a layer of `cfg`, in fp32 on a CPU, or as it would be on CUDA. Takes a second, once."""
    # How many layers there are, and whether they are checkpointed, makes no difference to one.
    one = replace(cfg, n_layers=1, activation_checkpointing=False)
    return _layer_memory(json.dumps(to_dict(one)), cuda, bf16)


@lru_cache
def _layer_memory(cfg_json: str, cuda: bool, bf16: bool) -> LayerMemory:
    cfg = from_dict(FastConformerConfig, json.loads(cfg_json))
    width = _NARROWEST * cfg.n_heads
    small = replace(cfg, d_model=width, feat_in=16, subsampling_channels=2, layer_drop=0.0, dropout_emb=0.0)
    if cuda:
        small = replace(small, dropout=0.0, dropout_att=0.0)  # its masks are counted apart
    counts = {(layers, *shape): _count(replace(small, n_layers=layers), *shape, cuda, bf16)
              for layers in (1, 2) for shape in _SHAPES}  # fmt: skip
    kept = {shape: counts[2, *shape][0] - counts[1, *shape][0] for shape in _SHAPES}
    work = {shape: counts[2, *shape][1] for shape in _SHAPES}
    scale = cfg.d_model / width
    length, frame, pair = _terms(kept)
    _, work_frame, work_pair = _terms(work)
    masks = 0.0
    if cuda and cfg.dropout > 0:
        # After each of the four branches, and within the feed-forward ones.
        masks = (4 + 2 * cfg.ff_expansion) * float(cfg.d_model)
    return LayerMemory(
        kept_length=length * scale,
        kept_frame=frame * scale + masks,
        kept_pair=pair,
        work_frame=max(0.0, work_frame) * scale,
        work_pair=max(0.0, work_pair),
        input_frame=counts[2, *_SHAPES[0]][2] * scale,
    )


def _terms(counts: dict[tuple[int, int], int]) -> tuple[float, float, float]:
    """length, frame and pair of counts by (utterances, frames); what depends on neither is left out."""
    rows = np.array([[1, s, b * s, b * s * s] for b, s in counts], np.float64)
    _, length, frame, pair = np.linalg.lstsq(rows, np.array(list(counts.values()), np.float64), rcond=None)[0]
    return float(length), float(frame), float(pair)


def _count(
    cfg: FastConformerConfig, batch: int, frames: int, cuda: bool, bf16: bool
) -> tuple[int, int, float]:
    """Bytes kept after the forward pass, bytes above that in the backward pass, bytes of a frame."""
    with torch.random.fork_rng(devices=[]):
        encoder = FastConformer(cfg).train()
    length = frames * cfg.subsampling_factor
    x = torch.zeros(batch, length, cfg.feat_in, requires_grad=True)
    lens = torch.full((batch,), length)
    inputs: list[float] = []
    encoder.layers[-1].register_forward_pre_hook(
        lambda _, args: inputs.append(args[0].element_size() * args[0].shape[-1])
    )
    live = Live()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if cuda:
            stack.enter_context(_AsOnCuda(bf16))
        stack.enter_context(live)
        y, _ = encoder(x, lens)
        kept = live.now
        live.peak = live.now
        torch.autograd.grad(y.sum(), x)  # no gradients of parameters: they are counted apart
    return kept, live.peak - kept, inputs[0]


class Live(TorchDispatchMode):
    """Bytes of all blocks of memory that operators have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self._add(x.untyped_storage())
        return out

    def _add(self, block: torch.UntypedStorage) -> None:
        name = block._cdata
        if name in self._seen:
            return
        size = block.nbytes()
        self._seen.add(name)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(block, self._drop, name, size)

    def _drop(self, name: int, size: int) -> None:
        self._seen.discard(name)
        self.now -= size


_PRODUCTS = {
    F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, F.conv1d, F.conv2d,
    torch.conv1d, torch.conv2d,
}  # fmt: skip


class _AsOnCuda(TorchFunctionMode):
    """Autocast's rules of CUDA, on CPU tensors; without bf16, only the attention kernel."""

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self._low = torch.bfloat16 if bf16 else torch.float32

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k, v, bias = (x.to(self._low) for x in (*args[:3], kwargs["attn_mask"]))
            return _MemoryEfficient.apply(q, k, v, bias)
        if func in _PRODUCTS:
            args, kwargs = self._cast((args, kwargs), self._low)
        elif func is F.layer_norm:
            args, kwargs = self._cast((args, kwargs), torch.float32)
        return func(*args, **kwargs)

    @staticmethod
    def _cast(tree: Any, dtype: torch.dtype) -> Any:
        return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, tree)


class _MemoryEfficient(torch.autograd.Function):
    """Keeps and makes what CUDA's memory-efficient attention does; the numbers mean nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        batch, heads, size, width = q.shape
        out = q.new_zeros(batch, size, heads, width).transpose(1, 2)
        ctx.save_for_backward(q, k, v, bias, out, q.new_zeros(batch, heads, size, dtype=torch.float32))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(x) for x in ctx.saved_tensors[:4])
