"""Configuration of FastConformer: sizes, context, regularisation, and the combinations that are refused."""

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

from maya.config import config
from maya.encoders.base import EncoderConfig, Miniatures
from maya.encoders.conformer.attention import span_of
from maya.encoders.conformer.subsampling import Subsampling, subsampled_lens
from maya.encoders.lact.fast_weights import TRACELESS, FastWeightConfig, check_fast_weights
from maya.errors import MayaError
from maya.ranges import BelowOne, ContextFrames, Count, OddInt, PosInt, Share

_NARROWEST = 16  # width of a head in a miniature


@config
class FastConformerConfig(EncoderConfig):
    """Size, context and regularisation. The defaults are FastConformer-Large, 109 M parameters."""

    traceless: ClassVar[tuple[str, ...]] = (
        "xscaling", "causal_downsampling", "conv_context", *(f"fast_weights.{name}" for name in TRACELESS),
    )  # fmt: skip

    kind: Literal["fastconformer"] = "fastconformer"
    feat_in: PosInt = 80
    d_model: PosInt = 512
    n_layers: PosInt = 17
    n_heads: PosInt = 8
    ff_expansion: PosInt = 4
    conv_kernel: OddInt = 9  # odd
    subsampling_factor: PosInt = 8  # 4 or 8
    # striding: full convolutions throughout, as in Conformer (Gulati et al. 2020, arXiv:2005.08100).
    subsampling: Subsampling = "dw_striding"
    subsampling_channels: PosInt = 256
    # Multiply the subsampled frames by sqrt(d_model). It leaves no trace in a checkpoint's shapes: when
    # importing, take it from the model's own configuration.
    xscaling: bool = True
    use_bias: bool = True  # of every linear and convolution inside the layers, except linear_pos
    untie_biases: bool = True  # False: one pos_bias_u and pos_bias_v for all layers
    # Frames (after subsampling) that a frame sees to its left and right, -1 for all. With several, training
    # draws one for each batch with probabilities att_context_probs (none given: all alike), and evaluation
    # takes the first unless another is asked for.
    att_context_size: tuple[tuple[ContextFrames, ContextFrames], ...] = ((-1, -1),)
    att_context_probs: tuple[Share, ...] = ()
    # regular: a band of L + 1 + R frames. chunked_limited: chunks of R + 1 frames, with L frames before them.
    att_context_style: Literal["regular", "chunked_limited"] = "regular"
    # NeMo's models for whole utterances and chunks in one: frames before a chunk, in it and after it, the
    # choices of each. Streams encode windows of these frames, in which attention keeps to the chunks.
    att_chunk_context_size: tuple[tuple[Count, ...], ...] = ()
    # Of a bounded regular context: so many frames, one every spacing from the first on, see all and are seen
    # by all, with projections of their own or not.
    global_tokens: Count = 0
    global_tokens_spacing: PosInt = 1
    global_attn_separate: bool = False
    # Fast weights (LaCT) in the place of attention, which then has no part in the layers; None: attention.
    fast_weights: FastWeightConfig | None = None
    # Hidden channels of a feed-forward layer (ReLU) on each frame behind the layers, as NeMo's models with
    # prompts have one; 0: none.
    output_hidden: Count = 0
    causal_downsampling: bool = False  # subsampling that looks back alone
    conv_context: Literal["symmetric", "causal"] = "symmetric"  # of the layers' convolutions
    conv_norm: Literal["batch_norm", "layer_norm"] = "batch_norm"
    masked_norm: bool = True  # False: batch statistics count padded frames too, as NeMo's do
    dropout: BelowOne = 0.1
    dropout_pre_encoder: BelowOne = 0.1
    dropout_emb: BelowOne = 0.0
    dropout_att: BelowOne = 0.1
    layer_drop: BelowOne = 0.0  # chance that training skips the last layer; it grows linearly from the first
    activation_checkpointing: bool = False  # recompute each layer in the backward pass to save memory

    def subsampled(self, frames: Any) -> Any:
        return subsampled_lens(frames, self.subsampling_factor, self.causal_downsampling)

    def miniatures(self) -> Miniatures:
        """Equal layers keep equal amounts, so one and two of them tell about all; so do two widths, but for
        fast weights, whose matrices are square."""
        single = replace(self, n_layers=1, layer_drop=0.0, dropout_emb=0.0, output_hidden=0)
        count, fast = self.n_layers, self.fast_weights
        if fast is not None:
            parts = [(single, 2.0 - count, 0.0), (replace(single, n_layers=2), count - 1.0, 1.0)]
            return Miniatures(parts, 48 if fast.order == "whole" else math.lcm(48, fast.chunk), pairs=False)
        narrow = _NARROWEST * self.n_heads
        ratio, parts = self.d_model / narrow, []
        for width, of_width in ((narrow, 2 - ratio), (2 * narrow, ratio - 1)):
            small = replace(single, d_model=width)
            parts.append((small, of_width * (2 - count), 0.0))
            parts.append((replace(small, n_layers=2), of_width * (count - 1), of_width))
        return Miniatures(parts)


def check(cfg: FastConformerConfig) -> None:
    """Refuse a configuration that cannot be built, with the reason (MayaError)."""
    if cfg.d_model % cfg.n_heads:
        raise MayaError(f"encoder.d_model={cfg.d_model} must be a multiple of encoder.n_heads={cfg.n_heads}")
    if cfg.d_model % 2:
        raise MayaError(f"encoder.d_model={cfg.d_model} must be even")
    if cfg.fast_weights is not None:
        check_fast_weights(cfg.fast_weights, cfg.d_model)
        if not cfg.untie_biases or cfg.global_tokens:
            raise MayaError(
                "encoder.fast_weights stand in the place of attention: encoder.untie_biases=false and "
                "encoder.global_tokens, which are about attention, do not go with them"
            )
    contexts, chances = cfg.att_context_size, cfg.att_context_probs
    if not contexts:
        raise MayaError("encoder.att_context_size needs a pair of frames, (-1, -1) for all of them")
    for context in contexts:
        span_of(context, cfg.att_context_style)
    bounded = all(span_of(c, cfg.att_context_style).bounded for c in contexts)
    sizes = cfg.att_chunk_context_size
    if sizes and (len(sizes) != 3 or not all(sizes) or 0 in sizes[1]):
        raise MayaError(
            f"encoder.att_chunk_context_size={sizes} has to list frames before, in and after a chunk"
        )
    if cfg.global_tokens and (cfg.att_context_style != "regular" or not bounded):
        raise MayaError(
            "encoder.global_tokens needs a regular att_context_size without -1, such as (128, 128), not "
            f"{contexts}"
        )
    if chances and (len(chances) != len(contexts) or sum(chances) <= 0):
        raise MayaError(
            f"encoder.att_context_probs={chances} has to give each of the {len(contexts)} contexts a chance"
        )
