"""emotion2vec's encoder: convolutions of the waveform, positions, and blocks with their norms behind."""

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, check_hidden
from maya.encoders.emotion2vec.config import Emotion2vecConfig
from maya.encoders.state_files import fill, read_torch, state_dict
from maya.errors import MayaError
from maya.features.frames import frame_mask

_AUDIO = "modality_encoders.AUDIO."
_TRAINING = (_AUDIO + "decoder.", "shared_decoder.", "_ema", "proj.", "recon_proj.")  # not of the encoder


class FrontLayer(nn.Module):
    """A convolution without bias or padding, a layer norm over channels, and GELU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, outputs, T')."""
        return F.gelu(self.norm(self.conv(x).mT).mT)


class Emotion2vecAttention(nn.Module):
    """Attention with a bias for each head."""

    def __init__(self, cfg: Emotion2vecConfig) -> None:
        super().__init__()
        self.heads, self.dropout = cfg.heads, cfg.attention_dropout
        self.qkv, self.proj = nn.Linear(cfg.d_model, 3 * cfg.d_model), nn.Linear(cfg.d_model, cfg.d_model)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, S, D), bias (B, H, S, S) → (B, S, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)
        return self.proj(y.transpose(1, 2).flatten(2))


class Emotion2vecBlock(nn.Module):
    """Attention and a feed-forward network, each with its norm behind the sum."""

    def __init__(self, cfg: Emotion2vecConfig) -> None:
        super().__init__()
        self.attn = Emotion2vecAttention(cfg)
        self.norm1, self.norm2 = (nn.LayerNorm(cfg.d_model, eps=cfg.norm_eps) for _ in range(2))
        self.fc1, self.fc2 = nn.Linear(cfg.d_model, cfg.ff_dim), nn.Linear(cfg.ff_dim, cfg.d_model)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attn(x, bias)))
        return self.norm2(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))


class Emotion2vecEncoder(Encoder, config=Emotion2vecConfig):
    """The normalised waveform (B, N, 1) → (B, S, D) at 50 Hz. Its layer drop and masks are left out."""

    front = ("convolutions", "input_norm", "input", "positions", "norm")

    def __init__(self, cfg: Emotion2vecConfig) -> None:
        super().__init__()
        if cfg.d_model % cfg.heads or cfg.d_model % cfg.position_groups:
            raise MayaError(f"d_model={cfg.d_model} must be a multiple of heads and of position_groups")
        if cfg.scales not in (1, cfg.n_layers) or cfg.scale_heads not in (1, cfg.heads):
            raise MayaError(
                f"{cfg.scales} scales of {cfg.scale_heads} heads fit neither all blocks nor each of "
                f"{cfg.n_layers} blocks with {cfg.heads} heads"
            )
        self.cfg, dim = cfg, cfg.d_model
        inputs = (1, *[cfg.conv_dim] * (len(cfg.conv_kernels) - 1))
        self.convolutions = nn.ModuleList(
            FrontLayer(size, cfg.conv_dim, kernel, stride)
            for size, kernel, stride in zip(inputs, cfg.conv_kernels, cfg.conv_strides, strict=True)
        )
        self.input_norm, self.input = nn.LayerNorm(cfg.conv_dim), nn.Linear(cfg.conv_dim, dim)
        kernel = max(3, cfg.position_width // cfg.position_layers)
        self.positions = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=cfg.position_groups)
            for _ in range(cfg.position_layers)
        )
        self.extra_tokens = nn.Parameter(torch.randn(1, cfg.extra_tokens, dim))
        self.alibi_scale = nn.Parameter(torch.ones(cfg.scales, 1, cfg.scale_heads, 1, 1))
        self.norm = nn.LayerNorm(dim, eps=cfg.norm_eps)
        self.dropout = nn.Dropout(cfg.dropout)
        self.layers = nn.ModuleList(Emotion2vecBlock(cfg) for _ in range(cfg.n_layers))

    def read_start(self) -> None:
        if self.cfg.start:
            path = Path(self.cfg.start)
            tensors = our_tensors(state_dict(read_torch(path), path), self.cfg.prenet_depth)
            if self.cfg.extra_tokens == 0:
                tensors["extra_tokens"] = self.extra_tokens.detach()
            fill(self, tensors, path, "an emotion2vec")

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, len(self.layers))
        cfg, lens = self.cfg, self.subsampled_lens(x_lens)
        x = F.pad(x, (0, 0, 0, max(0, cfg.receptive - x.shape[1])))
        y = x.masked_fill(~frame_mask(x_lens, x.shape[1])[..., None], 0.0).mT
        for conv in self.convolutions:
            y = conv(y)
        y = self.input(self.input_norm(y.mT))
        valid = frame_mask(lens, y.shape[1])[..., None]
        y = self._positioned(y * valid, valid)
        extra = cfg.extra_tokens
        y = torch.cat([self.extra_tokens.to(y.dtype).expand(len(y), -1, -1), y], 1)
        y = self.dropout(self.norm(y))
        states, biases = [y], self._biases(lens, y.shape[1])
        for layer, bias in zip(self.layers, biases, strict=True):
            states.append(layer(states[-1], bias))
        kept = {number: states[number][:, extra:] * valid for number in hidden}
        return Encoded(states[-1][:, extra:] * valid, lens, kept)

    def _positioned(self, x: Tensor, valid: Tensor) -> Tensor:
        """Frames (B, S, D) with their positions added; the convolutions see zeros beyond each row."""
        y = x
        for conv in self.positions:
            z = conv(y.mT)[:, :, : y.shape[1]].mT
            y = F.gelu(F.layer_norm(z, z.shape[-1:])) * valid
        return x + y

    def _biases(self, lens: Tensor, size: int) -> Iterator[Tensor]:
        """(B, H, S, S) for each layer: minus the distance of two frames times a slope of each head and the
        layer's scale, 0 beside an extra token, and −∞ on padding (ALiBi, Press et al. 2022, in both
        directions). One is kept at a time: each takes 76 MB for 25 s."""
        extra = self.cfg.extra_tokens
        place = torch.arange(size - extra, device=lens.device)
        distance = F.pad((place[None] - place[:, None]).abs().float(), (extra, 0, extra, 0))
        slopes = torch.tensor(head_slopes(self.cfg.heads), device=lens.device)[:, None, None]
        away = ~frame_mask(lens + extra, size) & ((lens + extra) > 0)[:, None]
        away = away[:, None, None]  # a row without any token stays finite
        scales = self.alibi_scale.float().clamp(min=0)
        nearness, bias = -distance * slopes, torch.empty(0)
        for number in range(len(self.layers)):
            if number < len(scales):  # one scale may be that of all layers
                bias = (nearness * scales[number]).masked_fill(away, -torch.inf)
            yield bias


def head_slopes(heads: int) -> list[float]:
    """ALiBi's slopes: 2^(−8 i / n) for n heads, i from 1, if n is a power of 2; otherwise those of the power
    below, and every second one of the power above."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    return slopes if power == heads else slopes + head_slopes(2 * power)[::2][: heads - power]


def our_tensors(stored: dict[str, Tensor], prenet_depth: int) -> dict[str, Tensor]:
    """The tensors of a published file by Maya's names, without what only its training needs and the layer of
    classes."""
    names = {
        r"local_encoder.conv_layers.{}.0.": "convolutions.{}.conv.",
        r"local_encoder.conv_layers.{}.2.1.": "convolutions.{}.norm.",
        r"relative_positional_encoder.{}.0.": "positions.{}.",
        r"context_encoder.blocks.{}.": "layers.{}.",
    }
    out = {}
    for name, x in stored.items():
        if name.startswith(_TRAINING):
            continue
        plain = name.removeprefix(_AUDIO)
        plain = plain.replace("project_features.1.", "input_norm.").replace("project_features.2.", "input.")
        plain = plain.removeprefix("context_encoder.") if plain.startswith("context_encoder.norm.") else plain
        if name.startswith("blocks."):
            number, rest = name.removeprefix("blocks.").split(".", 1)
            plain = f"layers.{int(number) + prenet_depth}.{rest}"
        for published, ours in names.items():
            head, tail = published.split("{}")
            number = plain.removeprefix(head).split(".")[0]
            if plain.startswith(head + number + tail) and number.isdigit():
                first = 1 if head.startswith("relative") else 0
                plain = ours.format(int(number) - first) + plain.removeprefix(head + number + tail)
                break
        out[plain.replace(".mlp.fc", ".fc")] = x.reshape(-1, *x.shape[-4:]) if plain == "alibi_scale" else x
    return out
