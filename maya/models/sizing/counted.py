"""What Zipformers, LaCT and fast weights keep for the backward pass, counted while small ones run.

They run on a few short batches while every block of memory is counted, see `maya.models.sizing.activations`.
Layers that are all alike are counted as they are: two of them keep twice what one does. The stacks of a
Zipformer differ, so two whole ones run, one twice as wide as the other: what frames keep is extended to the
real width in a straight line, and pairs of frames depend on the number of heads alone.
"""

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from maya.config import from_dict, to_dict
from maya.encoders import AnyEncoderConfig, FastConformerConfig, LaCTConfig, ZipformerConfig, build_encoder
from maya.encoders.zipformer.front import LOST_FRAMES, Conv2dSubsampling
from maya.encoders.zipformer.regularizers import set_batch_count
from maya.models.sizing.activations import Live

_DIVISORS = (8, 4, 2)
TERM_NAMES = ("length", "utterance", "frame", "pair")
_WARM = 1e9  # batches, after which all schedules have ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Bytes for B utterances of S encoder frames: length·S + B·(utterance + frame·S + pair·S²)."""

    length: float = 0.0
    utterance: float = 0.0
    frame: float = 0.0
    pair: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderMemory:
    """kept: for the backward pass, by the layers. front: the same by what stands before them.
    work: beside them at the highest point of the backward pass."""

    kept: Counts
    front: Counts
    work: Counts


def is_counted(cfg: AnyEncoderConfig) -> bool:
    """Whether `encoder_memory` is for this encoder; plain FastConformers have `layer_memory`."""
    return not isinstance(cfg, FastConformerConfig) or cfg.fast_weights is not None


def encoder_memory(cfg: AnyEncoderConfig, *, cuda: bool, bf16: bool) -> EncoderMemory:
    """Count an encoder in fp32 on a CPU, or as it would be on CUDA. Takes seconds, once."""
    kind = {"fastconformer": FastConformerConfig, "lact": LaCTConfig, "zipformer": ZipformerConfig}[cfg.kind]
    return _encoder_memory(json.dumps(to_dict(cfg)), kind, cuda, bf16)


@lru_cache
def _encoder_memory(cfg_json: str, kind: type, cuda: bool, bf16: bool) -> EncoderMemory:
    cfg: AnyEncoderConfig = from_dict(kind, json.loads(cfg_json))
    return _zipformer(cfg, cuda, bf16) if isinstance(cfg, ZipformerConfig) else _layers(cfg, cuda, bf16)


def _zipformer(cfg: ZipformerConfig, cuda: bool, bf16: bool) -> EncoderMemory:
    """From two narrow encoders, and the front end at its own width."""
    narrow, ratio = _narrow(cfg)
    shapes = _shapes(cfg)
    pairs = cfg.fast_weights is None
    sides = [[_count(narrow(scale), *shape, cuda, bf16) for shape in shapes] for scale in (1, 2)]
    kept = [_terms(shapes, [count[0] for count in side], pairs=pairs) for side in sides]
    work = [_work(shapes, [count[1] for count in side], pairs=pairs) for side in sides]
    front = _terms(shapes, [_front(cfg, *shape, cuda, bf16) for shape in shapes], pairs=False)
    return EncoderMemory(
        kept=_extended(kept[0], kept[1], ratio), front=front, work=_extended(work[0], work[1], ratio)
    )


def _layers(cfg: FastConformerConfig | LaCTConfig, cuda: bool, bf16: bool) -> EncoderMemory:
    """From encoders of one layer and of two, as wide as they are: equal layers keep equal amounts."""
    shapes = _shapes(cfg)
    small = replace(cfg, feat_in=16, subsampling_channels=2)
    if isinstance(small, FastConformerConfig):
        small = replace(small, layer_drop=0.0, dropout_emb=0.0)
    one, two = (
        [_count(replace(small, n_layers=layers), *shape, cuda, bf16) for shape in shapes] for layers in (1, 2)
    )
    more = [second[0] - first[0] for first, second in zip(one, two, strict=True)]
    kept = _terms(shapes, more, pairs=False)
    return EncoderMemory(
        kept=Counts(**{name: cfg.n_layers * getattr(kept, name) for name in TERM_NAMES}),
        front=Counts(),
        work=_work(shapes, [count[1] for count in two], pairs=False),
    )


def _narrow(cfg: ZipformerConfig) -> tuple[Callable[[int], ZipformerConfig], float]:
    """The configuration `scale` times as wide as the narrowest, and how much wider the real one is."""
    fields = ("dims", "unmasked_dims", "ff_dims")
    heads = ("query_head_dim", "value_head_dim", "pos_head_dim")

    def fits(divisor: int) -> bool:
        wide = all(n % (4 * divisor) == 0 for name in fields for n in getattr(cfg, name))
        least = 4 * cfg.fast_weights.fast_heads if cfg.fast_weights else 4
        return (
            wide
            and all(getattr(cfg, name) % divisor == 0 for name in heads)
            and all(n % (divisor * least) == 0 for n in cfg.dims)
        )

    divisor = next((d for d in _DIVISORS if fits(d)), 1)

    def narrow(scale: int) -> ZipformerConfig:
        sizes = {name: tuple(n * scale // divisor for n in getattr(cfg, name)) for name in fields}
        widths = {name: getattr(cfg, name) * scale // divisor for name in heads}
        small = {"dropout": 0.0, "causal": False, "front_channels": (2, 2, 2), "feat_in": 7}
        return replace(cfg, **(sizes | widths | small))

    return narrow, float(divisor)


def _front(cfg: ZipformerConfig, batch: int, frames: int, cuda: bool, bf16: bool) -> float:
    """Bytes that the front end keeps."""
    with torch.random.fork_rng(devices=[]), ExitStack() as stack:
        torch.manual_seed(0)
        invariant = cfg.padding == "invariant"
        front = Conv2dSubsampling(cfg.feat_in, cfg.dims[0], 0.1, invariant, cfg.front_channels).train()
        set_batch_count(front, _WARM)
        length = frames * cfg.subsampling_factor + LOST_FRAMES
        x = torch.zeros(batch, length, cfg.feat_in, requires_grad=True)
        live = stack.enter_context(Live())
        stack.enter_context(_precision(cuda, bf16))
        out = front(x, torch.full((batch,), length))  # held, or its blocks would go
        return float(live.now) if out else 0.0


def _shapes(cfg: AnyEncoderConfig) -> list[tuple[int, int]]:
    """(utterances, encoder frames) to count at: whole groups of every stack, whole chunks of fast weights,
    and more frames than a window of attention has."""
    if isinstance(cfg, ZipformerConfig):
        group = math.lcm(cfg.output_downsampling, *cfg.downsampling) // cfg.output_downsampling
        fast, least = cfg.fast_weights, 24
    else:
        group, fast = 1, cfg if isinstance(cfg, LaCTConfig) else cfg.fast_weights
        least = cfg.span.window + 1 if isinstance(cfg, LaCTConfig) else 48
    if fast is not None and fast.order != "whole":
        group = math.lcm(group, fast.chunk)
    first = group * -(-least // group)
    return [(batch, frames) for frames in (first, 3 * first) for batch in (1, 3)]


def _count(
    cfg: AnyEncoderConfig, batch: int, frames: int, cuda: bool, bf16: bool
) -> tuple[float, float, float]:
    """Bytes that the layers keep after the forward pass, bytes above that in the backward pass, and what is
    kept before the layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder(cfg).train()
        set_batch_count(encoder, _WARM)
        length = frames * cfg.subsampling_factor
        if isinstance(cfg, ZipformerConfig):
            length += LOST_FRAMES
        x = torch.zeros(batch, length, cfg.feat_in, requires_grad=True)
        lens = torch.full((batch,), length)
        live, front = Live(), 0.0

        def after_front(module: torch.nn.Module, args: object, out: object) -> None:
            nonlocal front
            front = live.now

        embed = encoder.encoder_embed if isinstance(cfg, ZipformerConfig) else encoder.pre_encode
        assert isinstance(embed, torch.nn.Module)
        embed.register_forward_hook(after_front)
        with live:
            with _precision(cuda, bf16):
                y, _ = encoder(x, lens)
            kept = live.now
            live.peak = live.now
            torch.autograd.grad(y.sum(), x)  # no gradients of parameters: they are counted apart
    return kept - front, live.peak - kept, front


def _precision(cuda: bool, bf16: bool) -> torch.autocast:
    """What training does on a GPU is done on the CPU: products in bf16, norms in fp32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=cuda and bf16)


def _terms(shapes: list[tuple[int, int]], counts: list[float], *, pairs: bool) -> Counts:
    """The counts as a polynomial; what depends on no size is left out. Without pairs of frames there is
    something for each utterance, such as fast weights."""
    columns = [[1.0, s, b * s, b * s * s if pairs else b] for b, s in shapes]
    _, length, frame, last = np.linalg.solve(np.array(columns), np.array(counts, np.float64)).tolist()
    return Counts(length=length, frame=frame, **{"pair" if pairs else "utterance": last})


def _work(shapes: list[tuple[int, int]], counts: list[float], *, pairs: bool) -> Counts:
    """The same of what passes, of which nothing is below zero."""
    columns = [[1.0, b * s, *([b * s * s] if pairs else [])] for b, s in shapes]
    found = np.linalg.lstsq(np.array(columns), np.array(counts, np.float64), rcond=None)[0].tolist()
    return Counts(frame=max(0.0, found[1]), pair=max(0.0, found[2]) if pairs else 0.0)


def _extended(narrow: Counts, wider: Counts, ratio: float) -> Counts:
    """From widths 1 and 2 to `ratio`: in a straight line; what is one for each utterance, matrices of fast
    weights, as a·w + b·w²."""

    def at(name: str) -> float:
        first, second = getattr(narrow, name), getattr(wider, name)
        if name == "pair":
            return float(second)
        if name == "utterance":
            square = max(0.0, second - 2 * first) / 2
            return float((first - square) * ratio + square * ratio**2)
        return float(first + (second - first) * (ratio - 1))

    return Counts(**{name: at(name) for name in TERM_NAMES})


def widest_of_front(cfg: ZipformerConfig) -> float:
    """Numbers per encoder frame in the widest tensor of a Zipformer's front end, ConvNeXt's hidden layer."""
    bins = Conv2dSubsampling(cfg.feat_in, 4, 0.0, False, cfg.front_channels).bins
    return 3.0 * cfg.front_channels[-1] * bins * cfg.output_downsampling
