"""Configuration of LaCT: sizes, orders, and checks."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from maya.config import config
from maya.encoders.base import EncoderConfig, Miniatures
from maya.encoders.conformer.attention import AttentionSpan
from maya.encoders.conformer.subsampling import subsampled_lens
from maya.encoders.lact.fast_weights import TRACELESS, FastWeightConfig, check_fast_weights
from maya.errors import MayaError
from maya.ranges import BelowOne, Count, OddInt, PosInt, Range


@config
class LaCTConfig(FastWeightConfig, EncoderConfig):
    """Size and behaviour of a LaCT encoder. The options of its fast weights are inherited.

    window: of attention, encoder frames to the left and to the right. The right side must be 0 in order
    causal, and 0 or -1 (to the end of the chunk) in order chunk_causal.
    """

    traceless: ClassVar[tuple[str, ...]] = (
        "n_heads", "rotary", "causal_downsampling", "conv_context", *TRACELESS,
    )  # fmt: skip

    kind: Literal["lact"] = "lact"
    feat_in: PosInt = 80
    d_model: PosInt = 768
    n_layers: PosInt = 12
    n_heads: PosInt = 12  # attention heads
    ff_dim: PosInt = 1024  # hidden width of each of the two feed-forwards of a layer
    conv_kernel: OddInt = 9  # odd
    subsampling_factor: PosInt = 8  # 4 or 8
    subsampling_channels: PosInt = 256
    window: tuple[Count, Annotated[int, Range(min=0, also=(-1,))]] = (32, 32)
    rotary: bool = True  # rotary positions in the attention; without them only convolutions see order
    qk_norm: bool = False  # RMSNorm of queries and keys
    use_bias: bool = True  # biases of all linears and convolutions in the layers
    causal_downsampling: bool = False  # subsampling without look-ahead
    conv_context: Literal["symmetric", "causal"] = "symmetric"  # the layers' convolutions
    conv_norm: Literal["batch_norm", "layer_norm"] = "batch_norm"
    masked_norm: bool = True  # False: batch statistics count padded frames too
    dropout: BelowOne = 0.1
    dropout_pre_encoder: BelowOne = 0.1
    dropout_att: BelowOne = 0.1
    activation_checkpointing: bool = False  # recompute each layer in the backward pass to save memory

    @property
    def span(self) -> AttentionSpan:
        """The frames that attention sees from each frame."""
        left_frames, right = self.window
        return (
            AttentionSpan(left_frames, self.chunk - 1, chunk=self.chunk)
            if right < 0
            else AttentionSpan(left_frames, right)
        )

    def subsampled(self, frames: Any) -> Any:
        return subsampled_lens(frames, self.subsampling_factor, self.causal_downsampling)

    def miniatures(self) -> Miniatures:
        """Layers are equal, so the memory of one and of two layers gives that of all. They are counted on
        whole chunks, and on more frames than a window has."""
        group = 1 if self.order == "whole" else self.chunk
        frames = group * -(-(self.span.window + 1) // group)
        single, two = (replace(self, n_layers=layers) for layers in (1, 2))
        parts = [(single, 2.0 - self.n_layers, 0.0), (two, self.n_layers - 1.0, 1.0)]
        return Miniatures(parts, frames, pairs=False)


def streaming(cfg: LaCTConfig, *, chunk: int = 32, order: str = "chunk_causal", **options: Any) -> LaCTConfig:
    """`cfg` changed so that it can stream: no look-ahead beyond the end of a chunk of `chunk` frames.

    Order chunk_causal looks ahead within the chunk, order causal not at all. Momentum is on.
    """
    changed: dict[str, Any] = {
        "order": order,
        "chunk": chunk,
        "momentum": True,
        "window": (max(cfg.window[0], chunk), -1 if order == "chunk_causal" else 0),
        "causal_downsampling": True,
        "conv_context": "causal",
        "conv_norm": "layer_norm",
    }
    return replace(cfg, **(changed | options))


def check(cfg: LaCTConfig) -> None:
    """Raises MayaError with the reason for a configuration that cannot be built."""
    check_fast_weights(cfg, cfg.d_model)
    head = cfg.d_model // cfg.n_heads
    if cfg.d_model % cfg.n_heads or (cfg.rotary and head % 2):
        raise MayaError(
            f"encoder.d_model={cfg.d_model} must be a multiple of encoder.n_heads={cfg.n_heads}, and with "
            "encoder.rotary=true the quotient must be even"
        )
    right = cfg.window[1]
    allowed = {"chunk_causal": right in (-1, 0), "causal": right == 0}.get(cfg.order, right >= 0)
    if not allowed:
        raise MayaError(
            f"encoder.window={cfg.window} does not suit encoder.order={cfg.order}: the right side is 0 in "
            "order causal, 0 or -1 in order chunk_causal, and 0 or more in the others"
        )
