"""FastConformer encoder (Rekesh et al. 2023, arXiv:2305.05084), parameter for parameter NeMo's `encoder`."""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maya.config import config
from maya.encoders.dropout import Dropout, dropout
from maya.encoders.masked_norm import MaskedBatchNorm, untracked_statistics
from maya.encoders.subsampling import DepthwiseStridedSubsampling, subsampled_lens
from maya.errors import MayaError

PosBias = tuple[nn.Parameter, nn.Parameter]


@config
class FastConformerConfig:
    """Size and regularisation. The defaults are FastConformer-Large, 109 M parameters."""

    feat_in: int = 80
    d_model: int = 512
    n_layers: int = 17
    n_heads: int = 8
    ff_expansion: int = 4
    conv_kernel: int = 9  # odd
    subsampling_factor: int = 8  # 4 or 8
    subsampling_channels: int = 256
    # Multiply the subsampled frames by sqrt(d_model). It leaves no trace in a checkpoint's shapes: when
    # importing, take it from the model's own configuration.
    xscaling: bool = True
    use_bias: bool = True  # of every linear and convolution inside the layers, except linear_pos
    untie_biases: bool = True  # False: one pos_bias_u and pos_bias_v for all layers
    conv_norm: Literal["batch_norm", "layer_norm"] = "batch_norm"
    masked_norm: bool = True  # False: batch statistics count padded frames too, as NeMo's do
    dropout: float = 0.1
    dropout_pre_encoder: float = 0.1
    dropout_emb: float = 0.0
    dropout_att: float = 0.1
    layer_drop: float = 0.0  # chance that training skips the last layer; it grows linearly from the first
    activation_checkpointing: bool = False  # recompute each layer in the backward pass to save memory


class FastConformer(nn.Module):
    """Subsampling, then conformer layers with relative-position attention over the whole utterance.

    A strict `load_state_dict` takes NeMo's weights once "encoder." is stripped. May be built on the meta
    device: the only state that is not a parameter or buffer, the position table, is made on first use.
    """

    def __init__(self, cfg: FastConformerConfig) -> None:
        super().__init__()
        if cfg.d_model % cfg.n_heads:
            raise MayaError(
                f"encoder.d_model={cfg.d_model} must be a multiple of encoder.n_heads={cfg.n_heads}"
            )
        if cfg.d_model % 2 or cfg.conv_kernel % 2 == 0:
            raise MayaError(
                f"encoder.d_model={cfg.d_model} must be even and encoder.conv_kernel={cfg.conv_kernel} odd"
            )
        self.cfg = cfg
        self.pre_encode = DepthwiseStridedSubsampling(
            cfg.feat_in, cfg.d_model, cfg.subsampling_factor, cfg.subsampling_channels
        )
        shared = None
        if not cfg.untie_biases:
            head = (cfg.n_heads, cfg.d_model // cfg.n_heads)
            shared = (nn.Parameter(torch.empty(head)), nn.Parameter(torch.empty(head)))
            self.pos_bias_u, self.pos_bias_v = shared
        self.layers = nn.ModuleList(ConformerLayer(cfg, shared) for _ in range(cfg.n_layers))
        self._positions: Tensor | None = None
        self.init_weights()

    def init_weights(self) -> None:
        """Inside the layers torch's defaults (which is what NeMo trains from), position biases zero; in front
        of them weights that keep the variance (He et al. 2015, arXiv:1502.01852), biases zero.

        With torch's defaults the subsampling hands on 0.01 of variation over time on top of 0.06 that does
        not vary, and a model spends hundreds of steps on finding the speech in it. Call this after `to_empty`
        when the encoder was built on the meta device.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d, nn.LayerNorm, MaskedBatchNorm)):
                module.reset_parameters()
            elif isinstance(module, RelPositionAttention):
                nn.init.zeros_(module.pos_bias_u)
                nn.init.zeros_(module.pos_bias_v)
        for module in self.pre_encode.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # A depthwise convolution is followed by a pointwise one, without a ReLU between them.
                halved = isinstance(module, nn.Conv2d) and module.groups == 1
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if halved else "linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.cfg.xscaling:  # unit variance enters the layers either way
            with torch.no_grad():
                self.pre_encode.out.weight.div_(math.sqrt(self.cfg.d_model))

    def subsampled_lens(self, lens: Tensor) -> Tensor:
        """Encoder frames for `lens` (...,) int64 feature frames."""
        return subsampled_lens(lens, self.cfg.subsampling_factor)

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode features.

        Args:
            x: (B, T, F) features, zero beyond their lengths or not.
            x_lens: (B,) int64 frames, 0..T.

        Returns:
            enc (B, S, D), zero at and beyond enc_lens (B,) int64; S = T / factor, each halving rounded up.
        """
        cfg = self.cfg
        x, lens = self.pre_encode(x, x_lens)
        if cfg.xscaling:
            x = x * math.sqrt(cfg.d_model)
        x = dropout(x, cfg.dropout_pre_encoder, self.training)
        positions = dropout(self._position_table(x), cfg.dropout_emb, self.training)
        frames = torch.arange(x.shape[1], device=x.device)
        valid = frames < lens[:, None]
        # An empty row may look at its first (padded) frame: softmax over nothing would be NaN.
        hidden = (frames >= lens.clamp(min=1)[:, None])[:, None, None]
        key_bias = torch.zeros_like(hidden, dtype=torch.float32).masked_fill_(hidden, -math.inf)
        for index, layer in enumerate(self.layers):
            drop = cfg.layer_drop * (index + 1) / cfg.n_layers if self.training else 0.0
            # Drawn on the host, so that skipping costs no device synchronisation.
            if drop and torch.rand((), device="cpu").item() < drop:
                x = _touch(x, layer)
                continue
            if cfg.activation_checkpointing and torch.is_grad_enabled():
                contexts = partial(_checkpoint_contexts, layer)
                y = checkpoint(layer, x, positions, valid, key_bias, use_reentrant=False, context_fn=contexts)
            else:
                y = layer(x, positions, valid, key_bias)
            x = x + (y - x) / (1 - drop) if drop else y
        return x * valid[..., None].to(x.dtype), lens

    def _position_table(self, x: Tensor) -> Tensor:
        """(2S - 1, D) sinusoids of the relative positions S-1 .. -(S-1), sine and cosine interleaved."""
        size, width = x.shape[1:]
        table = self._positions
        if table is None or table.device != x.device or table.shape[0] < 2 * size - 1:
            # A table first made for inference must serve training later.
            with torch.inference_mode(False):
                table = _sinusoids(max(size, 512), width, x.device)
            self._positions = table
        middle = table.shape[0] // 2
        return table[middle - size + 1 : middle + size].to(x.dtype)


def _sinusoids(reach: int, width: int, device: torch.device) -> Tensor:
    """(2 * reach - 1, width) fp32, positions reach-1 .. -(reach-1): sin, cos of pos / 10000^(2i/width)."""
    place = torch.arange(reach - 1, -reach, -1, dtype=torch.float32, device=device)
    even = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angle = place[:, None] * torch.exp(even * (-math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def _touch(x: Tensor, layer: nn.Module) -> Tensor:
    """`x` itself, with `layer`'s parameters in its graph: DDP waits for a gradient from each, here zero."""
    corners = torch.stack([p.flatten()[:1].sum() for p in layer.parameters()])
    return x + (corners * 0).sum().to(x.dtype)


def _checkpoint_contexts(layer: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For the first forward pass and for the one repeated in the backward pass."""
    return nullcontext(), untracked_statistics(layer)


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, each on a residual branch; final norm."""

    def __init__(self, cfg: FastConformerConfig, shared_pos_bias: PosBias | None) -> None:
        super().__init__()
        self.norm_feed_forward1 = nn.LayerNorm(cfg.d_model)
        self.feed_forward1 = FeedForward(cfg)
        self.norm_conv = nn.LayerNorm(cfg.d_model)
        self.conv = ConvModule(cfg)
        self.norm_self_att = nn.LayerNorm(cfg.d_model)
        self.self_attn = RelPositionAttention(cfg, shared_pos_bias)
        self.norm_feed_forward2 = nn.LayerNorm(cfg.d_model)
        self.feed_forward2 = FeedForward(cfg)
        self.norm_out = nn.LayerNorm(cfg.d_model)
        self.dropout = Dropout(cfg.dropout)

    def forward(self, x: Tensor, positions: Tensor, valid: Tensor, key_bias: Tensor) -> Tensor:
        """(B, S, D), (2S - 1, D), (B, S) bool, (B, 1, 1, S) of 0 and -inf -> (B, S, D)."""
        x = torch.add(x, self.dropout(self.feed_forward1(self.norm_feed_forward1(x))), alpha=0.5)
        x = x + self.dropout(self.self_attn(self.norm_self_att(x), positions, key_bias))
        x = x + self.dropout(self.conv(self.norm_conv(x), valid))
        x = torch.add(x, self.dropout(self.feed_forward2(self.norm_feed_forward2(x))), alpha=0.5)
        return self.norm_out(x)


class FeedForward(nn.Module):
    """Linear, SiLU, dropout, linear."""

    def __init__(self, cfg: FastConformerConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(cfg.d_model, cfg.d_model * cfg.ff_expansion, bias=cfg.use_bias)
        self.linear2 = nn.Linear(cfg.d_model * cfg.ff_expansion, cfg.d_model, bias=cfg.use_bias)
        self.dropout = Dropout(cfg.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.silu(self.linear1(x))))


class RelPositionAttention(nn.Module):
    """Multi-head attention with Transformer-XL relative positions (Dai et al. 2019, arXiv:1901.02860).

    score(i, j) = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(K); the second term enters torch's fused
    attention as an additive bias.
    """

    def __init__(self, cfg: FastConformerConfig, shared_pos_bias: PosBias | None) -> None:
        super().__init__()
        self.heads, self.head_size = cfg.n_heads, cfg.d_model // cfg.n_heads
        self.dropout_p = cfg.dropout_att
        self.linear_q = nn.Linear(cfg.d_model, cfg.d_model, bias=cfg.use_bias)
        self.linear_k = nn.Linear(cfg.d_model, cfg.d_model, bias=cfg.use_bias)
        self.linear_v = nn.Linear(cfg.d_model, cfg.d_model, bias=cfg.use_bias)
        self.linear_out = nn.Linear(cfg.d_model, cfg.d_model, bias=cfg.use_bias)
        self.linear_pos = nn.Linear(cfg.d_model, cfg.d_model, bias=False)
        if shared_pos_bias is None:
            self.pos_bias_u = nn.Parameter(torch.empty(self.heads, self.head_size))
            self.pos_bias_v = nn.Parameter(torch.empty(self.heads, self.head_size))
        else:
            self.pos_bias_u, self.pos_bias_v = shared_pos_bias

    def forward(self, x: Tensor, positions: Tensor, key_bias: Tensor) -> Tensor:
        """(B, S, D), (2S - 1, D), (B, 1, 1, S) of 0 and -inf -> (B, S, D).

        Only keys are masked: a padded query attends to the valid frames and yields a finite value that
        nothing reads.
        """
        batch, size, width = x.shape
        shape = (batch, size, self.heads, self.head_size)
        q = self.linear_q(x).view(shape)
        k = self.linear_k(x).view(shape).transpose(1, 2)
        v = self.linear_v(x).view(shape).transpose(1, 2)
        p = self.linear_pos(positions).view(-1, self.heads, self.head_size)
        scale = 1 / math.sqrt(self.head_size)
        q_v = ((q + self.pos_bias_v) * scale).transpose(1, 2)
        bias = _relative_shift(q_v @ p.permute(1, 2, 0))
        bias = bias + key_bias.to(bias.dtype)
        q_u = (q + self.pos_bias_u).transpose(1, 2)
        dropout_p = self.dropout_p if self.training else 0.0
        y = F.scaled_dot_product_attention(q_u, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)
        return self.linear_out(y.transpose(1, 2).reshape(batch, size, width))


def _relative_shift(scores: Tensor) -> Tensor:
    """(B, H, S, 2S - 1) over relative positions -> view (B, H, S, S) over keys: [i, j] = scores[i, S-1-i+j].

    Rows read one element earlier each, so in memory the result is a plain strided window.
    """
    size = scores.shape[2]
    scores = scores.contiguous()
    stride = scores.stride()
    window = (stride[0], stride[1], stride[2] - 1, 1)
    return scores.as_strided((*scores.shape[:2], size, size), window, scores.storage_offset() + size - 1)


class ConvModule(nn.Module):
    """Pointwise, GLU, depthwise, norm, SiLU, pointwise; frames-by-channels all the way.

    Keeping channels last saves four layout changes a layer; the depthwise convolution then runs as a
    channels-last two-dimensional one, the fastest exact form on a CPU (1.4 times conv1d's speed at 256
    channels, forward and backward).
    """

    def __init__(self, cfg: FastConformerConfig) -> None:
        super().__init__()
        width, kernel, bias = cfg.d_model, cfg.conv_kernel, cfg.use_bias
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=bias)
        # NeMo calls it batch_norm whatever it is.
        self.batch_norm: nn.Module
        if cfg.conv_norm == "batch_norm":
            self.batch_norm = MaskedBatchNorm(width, masked=cfg.masked_norm)
        else:
            self.batch_norm = nn.LayerNorm(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=bias)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, S, D), (B, S) bool -> (B, S, D)."""
        x = F.glu(_pointwise(x, self.pointwise_conv1))
        x = x * valid[..., None].to(x.dtype)
        conv = self.depthwise_conv
        image = x.transpose(1, 2)[:, :, None]  # (B, D, 1, S): channels last, no copy
        weight, reach = conv.weight[:, :, None], conv.kernel_size[0] // 2
        image = F.conv2d(image, weight, conv.bias, padding=(0, reach), groups=conv.groups)
        x = image[:, :, 0].transpose(1, 2)
        x = self.batch_norm(x, valid) if isinstance(self.batch_norm, MaskedBatchNorm) else self.batch_norm(x)
        return _pointwise(F.silu(x), self.pointwise_conv2)


def _pointwise(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """A kernel-1 convolution applied to (..., D) as the matrix product it is."""
    return F.linear(x, conv.weight[:, :, 0], conv.bias)
