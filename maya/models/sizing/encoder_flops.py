"""Operations of the encoders: products and convolutions, two for each multiplication, per utterance."""

from maya.encoders import AnyEncoderConfig, FastConformerConfig, LaCTConfig, ZipformerConfig
from maya.encoders.lact.fast_weights import FastWeightConfig, plan

NEWTON_SCHULZ = 5  # steps of the orthogonal gradient, three products each


def layer_flops(enc: AnyEncoderConfig, frames: int, batch: int) -> float:
    """All layers for an utterance of `frames` encoder frames, in a batch that shares the positions."""
    if isinstance(enc, ZipformerConfig):
        return _stacks(enc, frames * enc.output_downsampling, batch)
    if isinstance(enc, LaCTConfig):
        return enc.n_layers * _lact_layer(enc, frames)
    return enc.n_layers * _conformer_layer(enc, frames, batch)


def front_flops(enc: AnyEncoderConfig, feature_frames: int) -> float:
    """What stands before the layers."""
    if isinstance(enc, ZipformerConfig):
        return _zipformer_front(enc, feature_frames)
    channels, bins, frames = enc.subsampling_channels, enc.feat_in, feature_frames
    total = 0.0
    for stage in range(enc.subsampling_factor.bit_length() - 1):
        frames, bins = (frames + 1) // 2, (bins + 1) // 2
        of_cell = 9 * channels + (channels * channels if stage else 0)
        total += 2.0 * of_cell * frames * bins
    return total + 2.0 * channels * bins * enc.d_model * frames


def _conformer_layer(enc: FastConformerConfig, frames: int, batch: int) -> float:
    """Whole attention: products with weights, with keys, positions and values; or fast weights."""
    width = enc.d_model
    per_frame = 2.0 * width * width * (4 * enc.ff_expansion + 4 + 3) + 2.0 * width * enc.conv_kernel
    if enc.fast_weights is not None:
        return per_frame * frames + fast_weight_flops(enc.fast_weights, width, frames)
    positions = 2.0 * width * width * (2 * frames - 1) / batch
    attention = 2.0 * width * frames * (frames + (2 * frames - 1) + frames)
    return per_frame * frames + positions + attention


def _lact_layer(enc: LaCTConfig, frames: int) -> float:
    """Two feed-forwards, four projections, attention over a window, the convolution, fast weights."""
    width = enc.d_model
    per_frame = 2.0 * width * (4 * enc.ff_dim + 4 * width + 3 * width) + 2.0 * width * enc.conv_kernel
    span = enc.span
    blocks = -(-frames // span.block) * span.block * span.window
    keys = frames * frames if frames <= span.window else blocks
    return per_frame * frames + 4.0 * width * keys + fast_weight_flops(enc, width, frames)


def fast_weight_flops(cfg: FastWeightConfig, width: int, frames: int) -> float:
    """Rates and gates, and for each frame that is learnt from or read the products with the three matrices of
    every head: three to read, three for the hidden layer and the error, three for the gradients."""
    heads, size = cfg.fast_heads, width // cfg.fast_heads
    matrices = 2.0 * heads * cfg.fast_expansion * size * size  # one product with one matrix, for a frame
    gates = heads * (2 + int(cfg.momentum) + (2 if cfg.update_weights == "all" else 0))
    total = 2.0 * width * gates * frames
    for span in plan(cfg, frames):
        length = span.end - span.start
        if span.apply:
            total += 3 * matrices * length
        if span.update:
            learnt = 3 if cfg.update_weights == "all" else 1
            total += (3 + learnt) * matrices * length
            if cfg.orthogonalize:
                cubes = 2.0 * heads * size**3 * (2 * cfg.fast_expansion + 1)
                total += learnt * NEWTON_SCHULZ * cubes
    return total


def _stacks(enc: ZipformerConfig, frames: int, batch: int) -> float:
    """All stacks of a Zipformer for an utterance of so many 20 ms frames."""
    total = 0.0
    for index, factor in enumerate(enc.downsampling):
        size = -(-frames // factor)
        total += enc.layers[index] * _zipformer_layer(enc, index, size, batch)
    return total


def _zipformer_layer(enc: ZipformerConfig, index: int, frames: int, batch: int) -> float:
    """Three feed-forwards, three modules that share attention weights, two convolutions."""
    width, heads, kernel = enc.dims[index], enc.heads[index], enc.conv_kernels[index]
    feed_forward = 2.0 * 2 * width * 3 * enc.ff_dims[index]  # of 3/4, 1 and 5/4 of that width
    taps = kernel + kernel // 2 + 1 if enc.causal else kernel
    convolutions = 2 * (2.0 * width * 3 * width + 2.0 * width * taps)
    if enc.fast_weights is not None:
        mixers = 2.0 * 4 * width * width * frames + fast_weight_flops(enc.fast_weights, width, frames)
        return (feed_forward + convolutions) * frames + 2 * mixers
    query, value, pos_head = enc.query_head_dim, enc.value_head_dim, enc.pos_head_dim
    hidden = 3 * width // 4
    per_frame = 2.0 * width * heads * (2 * query + pos_head)
    per_frame += 2.0 * width * (3 * hidden) + 2.0 * hidden * width
    per_frame += 2 * (2.0 * width * heads * value * 2)
    pairs = 2.0 * heads * (query + 1) + 2.0 * hidden + 2 * 2.0 * heads * value  # a key's mask is a channel
    shifted = 2.0 * heads * pos_head * frames * (2 * frames - 1)
    positions = 2.0 * enc.pos_dim * heads * pos_head * (2 * frames - 1) / batch
    return (per_frame + feed_forward + convolutions) * frames + pairs * frames**2 + shifted + positions


def _zipformer_front(enc: ZipformerConfig, feature_frames: int) -> float:
    """Three convolutions that do not pad in time, ConvNeXt and the projection."""
    first, second, third = enc.front_channels
    frames, bins = max(0, feature_frames - 2), enc.feat_in
    total = 2.0 * 9 * first * frames * bins
    frames, bins = max(0, (frames - 3) // 2 + 1), (bins - 3) // 2 + 1
    total += 2.0 * 9 * first * second * frames * bins
    frames, bins = max(0, frames - 2), (bins - 3) // 2 + 1
    total += 2.0 * 9 * second * third * frames * bins
    convnext = 49 * third + 6 * third * third
    return total + 2.0 * frames * bins * (convnext + third * enc.dims[0])
