"""Configuration of Zipformer: sizes, presets, chunks, and checks."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from maya.config import config
from maya.encoders.base import EncoderConfig, Miniatures
from maya.encoders.lact.fast_weights import TRACELESS, FastWeightConfig, check_fast_weights
from maya.errors import MayaError
from maya.ranges import BelowOne, ChunkFrames, ContextFrames, NonNegFloat, NotEmpty, OddInt, PosInt, Range

LOST_FRAMES = 7  # feature frames: the front end's convolutions do not pad in time


@config
class ZipformerConfig(EncoderConfig):
    """Size and behaviour; tuples have a number for each stack. The defaults are Zipformer-M, 64 M parameters.

    Chunks and left context are counted in 20 ms frames, the front end's output.
    """

    traceless: ClassVar[tuple[str, ...]] = tuple(f"fast_weights.{name}" for name in TRACELESS)

    kind: Literal["zipformer"] = "zipformer"
    feat_in: Annotated[int, Range(min=7)] = 80  # the front end's convolutions need 7
    front_channels: tuple[PosInt, PosInt, PosInt] = (8, 32, 128)  # the front end's three convolutions
    downsampling: tuple[PosInt, ...] = (1, 2, 4, 8, 4, 2)
    output_downsampling: PosInt = 2  # 2: output at 25 Hz, 4: at 12.5 Hz, which halves the heads' work
    layers: tuple[PosInt, ...] = (2, 2, 3, 4, 3, 2)
    dims: Annotated[tuple[PosInt, ...], NotEmpty()] = (192, 256, 384, 512, 384, 256)
    unmasked_dims: tuple[PosInt, ...] = (192, 192, 256, 256, 256, 192)  # channels never masked in training
    ff_dims: tuple[PosInt, ...] = (512, 768, 1024, 1536, 1024, 768)
    heads: tuple[PosInt, ...] = (4, 4, 4, 8, 4, 4)
    conv_kernels: tuple[OddInt, ...] = (31, 31, 15, 15, 15, 31)
    query_head_dim: PosInt = 32
    value_head_dim: PosInt = 12
    pos_head_dim: PosInt = 4
    pos_dim: PosInt = 48
    causal: bool = False  # convolutions that can work chunk by chunk
    # Training draws one of them for each batch; -1: the utterance is one chunk.
    chunk_frames: tuple[ChunkFrames, ...] = (16, 32, 64, -1)
    left_context_frames: tuple[ContextFrames, ...] = (64, 128, 256, -1)  # likewise; -1: all earlier frames
    # Fast weights (LaCT) instead of all attention; None: attention.
    fast_weights: FastWeightConfig | None = None
    # "icefall": an utterance's last frames depend on the padding of its batch, as in icefall.
    padding: Literal["invariant", "icefall"] = "invariant"
    dropout: BelowOne | None = None  # None: 0.3 falling to 0.1 over 20 000 batches
    warmup_batches: NonNegFloat = 4000.0  # over which layer skipping falls
    activation_checkpointing: bool = False  # recompute each layer in the backward pass to save memory

    @property
    def d_model(self) -> int:
        """Channels of the output."""
        return max(self.dims)

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Channels of the front end and of the stacks."""
        return (self.dims[0], *self.dims)

    @property
    def subsampling_factor(self) -> int:
        """Feature frames to an output frame."""
        return 2 * self.output_downsampling

    def subsampled(self, frames: Any) -> Any:
        halved = (frames - LOST_FRAMES) // 2
        return -(-halved * (halved > 0) // self.output_downsampling)

    def miniatures(self) -> Miniatures:
        """Stacks differ, so whole encoders are counted, of two widths; with fast weights, whose matrices are
        square, of three. Pairs of frames keep as much in all of them."""
        group = math.lcm(self.output_downsampling, *self.downsampling) // self.output_downsampling
        fast = self.fast_weights
        if fast is not None and fast.order != "whole":
            group = math.lcm(group, fast.chunk)
        ratio = next((n for n in (8, 4, 2) if self._divisible(n)), 1)
        widths = {1: (1,), 2: (2,)}.get(ratio, (1, 2) if fast is None else (1, 2, 4))
        parts = [(self._narrow(ratio, w), *(_extended(widths, w, ratio),) * 2) for w in widths]
        return Miniatures(parts, group * -(-24 // group), pairs=fast is None)

    def _divisible(self, n: int) -> bool:
        """Whether all widths can be divided by n."""
        heads = 1 if self.fast_weights is None else self.fast_weights.fast_heads
        widths = (*self.dims, *self.unmasked_dims, *self.ff_dims)
        sizes = (self.query_head_dim, self.value_head_dim, self.pos_head_dim)
        fits = all(w % (4 * n) == 0 for w in widths) and all(size % n == 0 for size in sizes)
        return fits and all(w % (4 * heads * n) == 0 for w in self.dims)

    def _narrow(self, ratio: int, scale: int) -> "ZipformerConfig":
        """`scale` / `ratio` of the width, without dropout, not causal."""
        names = ("dims", "unmasked_dims", "ff_dims")
        sizes: dict[str, Any] = {
            name: tuple(n * scale // ratio for n in getattr(self, name)) for name in names
        }
        for name in ("query_head_dim", "value_head_dim", "pos_head_dim"):
            sizes[name] = getattr(self, name) * scale // ratio
        return replace(self, dropout=0.0, causal=False, **sizes)


def _extended(points: tuple[int, ...], point: int, at: float) -> float:
    """The weight of the value at `point` in the polynomial through `points`, at `at` (Lagrange)."""
    return math.prod((at - other) / (point - other) for other in points if other != point)


def small(**options: Any) -> ZipformerConfig:
    """Zipformer-S, 22 M parameters."""
    sizes = {
        "layers": (2,) * 6,
        "dims": (192, *(256,) * 5),
        "unmasked_dims": (192,) * 6,
        "ff_dims": (512, *(768,) * 5),
    }
    return ZipformerConfig(**(sizes | options))


def medium(**options: Any) -> ZipformerConfig:
    """Zipformer-M, 64 M parameters."""
    return ZipformerConfig(**options)


def large(**options: Any) -> ZipformerConfig:
    """Zipformer-L, 147 M parameters."""
    sizes = {
        "layers": (2, 2, 4, 5, 4, 2),
        "dims": (192, 256, 512, 768, 512, 256),
        "unmasked_dims": (192, 192, 256, 320, 256, 192),
        "ff_dims": (512, 768, 1536, 2048, 1536, 768),
    }
    return ZipformerConfig(**(sizes | options))


@dataclass(frozen=True, slots=True)
class Chunking:
    """What a frame of a causal encoder sees, in 20 ms frames: its chunk of `chunk` frames, and `left_frames`
    // `chunk` chunks (at least one) before it; -1 for no limit."""

    chunk: int
    left_frames: int = -1


WHOLE = Chunking(-1, -1)


def check(cfg: ZipformerConfig) -> None:
    """Raises MayaError with the reason for a configuration that cannot be built."""
    stacks = {name: getattr(cfg, name) for name in ("layers", "dims", "unmasked_dims", "ff_dims", "heads")}
    stacks |= {"conv_kernels": cfg.conv_kernels}
    for name, sizes in stacks.items():
        if len(sizes) != len(cfg.downsampling) or not sizes:
            raise MayaError(
                f"encoder.{name}={sizes} must hold a number for each of the {len(cfg.downsampling)} stacks "
                f"of encoder.downsampling={cfg.downsampling}"
            )
    if any(low > width for low, width in zip(cfg.unmasked_dims, cfg.dims, strict=True)):
        raise MayaError(f"encoder.unmasked_dims={cfg.unmasked_dims} must not exceed encoder.dims={cfg.dims}")
    if cfg.pos_dim % 2 or any(d % 4 for d in cfg.dims):
        raise MayaError(
            f"encoder.pos_dim={cfg.pos_dim} must be even and encoder.dims={cfg.dims} multiples of 4"
        )
    if cfg.fast_weights is not None:
        for width in cfg.dims:
            check_fast_weights(cfg.fast_weights, width)
        if cfg.causal:
            raise MayaError(
                "a Zipformer with encoder.fast_weights cannot have encoder.causal=true; use the LaCT encoder "
                "to stream with fast weights"
            )
    if cfg.causal:
        if not (cfg.chunk_frames and cfg.left_context_frames):
            raise MayaError("a causal encoder needs encoder.chunk_frames and encoder.left_context_frames")
        for chunk in cfg.chunk_frames:
            for left_frames in cfg.left_context_frames:
                check_chunking(cfg, Chunking(chunk, left_frames))


def check_chunking(cfg: ZipformerConfig, chunking: Chunking) -> None:
    """Raises MayaError for chunks that do not fit the encoder."""
    chunk, left_frames = chunking.chunk, chunking.left_frames
    if chunk < 0:
        return
    if not cfg.causal:
        raise MayaError(f"an encoder that is not causal cannot work in chunks of {chunk} frames")
    if chunk == 0 or any(chunk % factor for factor in cfg.downsampling):
        raise MayaError(
            f"a chunk of {chunk} frames is not a multiple of encoder.downsampling={cfg.downsampling}"
        )
    reach = max(k // 2 * f for k, f in zip(cfg.conv_kernels, cfg.downsampling, strict=True))
    if left_frames >= 0 and max(1, left_frames // chunk) * chunk < reach:
        raise MayaError(
            f"{left_frames} frames of left context in chunks of {chunk} are fewer than the {reach} that the "
            "convolutions reach back"
        )
