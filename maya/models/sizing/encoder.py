"""Operations and memory of any encoder, measured while it runs.

Operations are counted on the meta device, at the real size and without any numbers. Memory is counted on a
few short batches of real numbers, on the small encoders that `EncoderConfig.miniatures` names.
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maya.config import from_dict, to_dict
from maya.encoders import Encoder, EncoderConfig
from maya.encoders.zipformer.regularizers import set_batch_count
from maya.heads.cost import Terms
from maya.models.sizing.live import Live, as_on_cuda, backward

_WARM = 1e9  # batches, after which all schedules have ended


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderMemory:
    """kept: bytes that the blocks keep for the backward pass. front: bytes that the modules before them keep.
    work: further bytes at the highest point of the blocks' backward pass. widest: bytes per encoder frame of
    the largest tensor before the blocks."""

    kept: Terms
    front: Terms
    work: Terms
    widest: float


def encoder_flops(cfg: EncoderConfig, feature_frames: int, batch: int = 1) -> tuple[float, float]:
    """Operations of a forward pass per utterance, in a batch that may share work such as positions: before
    the first block, and from there on. Two for each multiplication of a product or convolution."""
    kind: Any = type(cfg)
    return _encoder_flops(json.dumps(to_dict(cfg)), kind, feature_frames, batch)


@lru_cache
def _encoder_flops(cfg_json: str, kind: type, feature_frames: int, batch: int) -> tuple[float, float]:
    cfg: EncoderConfig = from_dict(kind, json.loads(cfg_json))
    try:
        front, every = _count_flops(cfg, "meta", feature_frames, batch)
    except (RuntimeError, NotImplementedError):  # it does something that needs numbers
        batch = 1
        front, every = _count_flops(cfg, "cpu", feature_frames, batch)
    return front / batch, (every - front) / batch


def _count_flops(cfg: EncoderConfig, device: str, frames: int, batch: int) -> tuple[int, int]:
    """Before the first block, and in all."""
    front = 0
    with torch.device(device), torch.random.fork_rng(devices=[]):
        encoder: Encoder = cfg.build().eval()
        x, lens = torch.zeros(batch, frames, cfg.feat_in), torch.full((batch,), frames)
    counter = FlopCounterMode(display=False)

    def before(module: nn.Module, args: Any) -> None:
        nonlocal front
        front = counter.get_total_flops()

    for block in encoder.blocks()[:1]:
        block.register_forward_pre_hook(before)
    # Plain products are counted as they are, fused attention on a CPU not at all.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        encoder(x, lens)
    return front, counter.get_total_flops()


def encoder_memory(cfg: EncoderConfig, *, cuda: bool, bf16: bool) -> EncoderMemory:
    """Memory of training in fp32 on a CPU, or as it would be on CUDA. Takes seconds, once."""
    kind: Any = type(cfg)
    return _encoder_memory(json.dumps(to_dict(cfg)), kind, cuda, bf16)


@lru_cache
def _encoder_memory(cfg_json: str, kind: type, cuda: bool, bf16: bool) -> EncoderMemory:
    cfg: EncoderConfig = from_dict(kind, json.loads(cfg_json))
    small = cfg.miniatures()
    sizes = [(1, 1), (3, 1), (1, 3), (3, 3), (1, 2)][: 5 if small.pairs else 4]
    shapes = [(b, n * small.frames) for b, n in sizes]
    kept = front = work = np.zeros(len(shapes))
    widest = 0.0
    for part, of_kept, of_work in small.parts:
        counts = _count(part, shapes, cuda=cuda, bf16=bf16)
        kept = kept + of_kept * np.array([c.kept for c in counts])
        front = front + of_kept * np.array([c.front for c in counts])
        work = work + of_work * np.array([c.work for c in counts])
        widest += of_kept * counts[0].widest / np.prod(shapes[0])  # short, so that it is in one piece
    return EncoderMemory(
        kept=_terms(shapes, kept, pairs=small.pairs),
        front=_terms(shapes, front, pairs=False),
        work=_work(shapes, work, pairs=small.pairs),
        widest=float(widest),
    )


@dataclass(frozen=True, slots=True)
class _Counts:
    kept: int
    front: int
    work: int
    widest: int


def _count(cfg: EncoderConfig, shapes: list[tuple[int, int]], *, cuda: bool, bf16: bool) -> list[_Counts]:
    """Bytes of one training step for each of the shapes: utterances, and encoder frames of each."""
    with torch.random.fork_rng(devices=[]), ExitStack() as stack:
        encoder: Encoder = cfg.build().train()
        set_batch_count(encoder, _WARM)
        longest = feature_frames(cfg, max(frames for _, frames in shapes))
        with torch.no_grad():  # makes tables, such as positions, which later batches share
            encoder(torch.zeros(1, longest, cfg.feat_in), torch.full((1,), longest))
        if cuda:
            stack.enter_context(as_on_cuda(encoder, bf16=bf16))
        return [_count_step(encoder, *shape, cuda and bf16) for shape in shapes]


def _count_step(encoder: Encoder, batch: int, frames: int, bf16: bool) -> _Counts:
    torch.manual_seed(0)  # the same random decisions for all batches and encoders
    live = Live()
    entry: list[Any] = []  # at the first block: bytes kept before it, the largest of them, its input

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not entry:  # checkpointing runs a block twice
            entry.extend((live.now, live.largest, args[0]))

    hooks = [block.register_forward_pre_hook(before) for block in encoder.blocks()[:1]]
    length = feature_frames(encoder.cfg, frames)
    x = torch.zeros(batch, length, encoder.cfg.feat_in, requires_grad=True)
    with live:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = encoder(x, torch.full((batch,), length)).frames
        front, widest, source = entry or (0, 0, x)
        kept = live.peak = live.now
        backward(y.sum(), source)  # no gradients of parameters: they are counted apart
    for hook in hooks:
        hook.remove()
    return _Counts(kept - front, front, live.peak - kept, widest)


def feature_frames(cfg: EncoderConfig, frames: int) -> int:
    """The most feature frames that become `frames` encoder frames."""
    length = frames * cfg.subsampling_factor
    while cfg.subsampled(length) > frames:
        length -= 1
    while cfg.subsampled(length + 1) <= frames:
        length += 1
    return length


def _terms(shapes: list[tuple[int, int]], counts: np.ndarray, *, pairs: bool) -> Terms:
    """The counts as a polynomial; a constant is left out."""
    columns = np.array([[1.0, s, b, b * s, *([b * s * s] if pairs else [])] for b, s in shapes])
    _, length, utterance, frame, *pair = np.linalg.lstsq(columns, counts, rcond=None)[0].tolist()
    return Terms(length=length, utterance=utterance, frame=frame, pair=pair[0] if pair else 0.0)


def _work(shapes: list[tuple[int, int]], counts: np.ndarray, *, pairs: bool) -> Terms:
    """The same for memory that passes, of which nothing is below zero."""
    columns = np.array([[1.0, b * s, *([b * s * s] if pairs else [])] for b, s in shapes])
    _, frame, *pair = np.linalg.lstsq(columns, counts, rcond=None)[0].tolist()
    return Terms(frame=max(0.0, frame), pair=max(0.0, pair[0]) if pair else 0.0)
