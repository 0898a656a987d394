"""BEATs' encoder: patches of 16 × 16, a convolution for positions, and attention with gated distances."""

import math
from collections.abc import Collection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, check_hidden
from maya.encoders.beats.config import BeatsConfig
from maya.encoders.state_files import fill, read_torch, state_dict, without_weight_norm
from maya.errors import MayaError
from maya.features.frames import frame_mask

_BIAS = "self_attn.relative_attention_bias.weight"


class BeatsAttention(nn.Module):
    """Attention to which a bias of the distance is added, times a gate of the query (Chi et al. 2022,
    arXiv:2106.16138): a (b · u − 1) + 2 with a and b sigmoids of linear sums and a learnt u of each head."""

    def __init__(self, cfg: BeatsConfig) -> None:
        super().__init__()
        dim = cfg.d_model
        self.heads, self.dropout = cfg.heads, cfg.attention_dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.grep_linear = nn.Linear(dim // cfg.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, cfg.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
        """x (B, P, D), bias (H, P, P) of distances, hidden (B, 1, 1, P) bool True on padding → (B, P, D)."""
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))  # fmt: skip
        a, b = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, -1)
        mask = ((a * (b * self.grep_a - 1.0) + 2.0) * bias).masked_fill(hidden, -torch.inf).to(q.dtype)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class BeatsLayer(nn.Module):
    """Attention and a feed-forward network, each with its norm behind the sum."""

    def __init__(self, cfg: BeatsConfig) -> None:
        super().__init__()
        self.self_attn = BeatsAttention(cfg)
        self.self_attn_layer_norm = nn.LayerNorm(cfg.d_model)
        self.fc1, self.fc2 = nn.Linear(cfg.d_model, cfg.ff_dim), nn.Linear(cfg.ff_dim, cfg.d_model)
        self.final_layer_norm = nn.LayerNorm(cfg.d_model)
        self.dropout = nn.Dropout(cfg.dropout)
        self.residual = (2 * cfg.n_layers) ** 0.25 if cfg.deep_norm else 1.0
        gain = (8 * cfg.n_layers) ** -0.25 if cfg.deep_norm else 1.0
        for part in (self.self_attn.v_proj, self.self_attn.out_proj, self.fc1, self.fc2):
            nn.init.xavier_normal_(part.weight, gain=gain)

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x * self.residual + self.dropout(self.self_attn(x, bias, hidden)))
        y = self.fc2(F.gelu(self.fc1(x)))
        return self.final_layer_norm(x * self.residual + self.dropout(y))


class BeatsEncoder(Encoder, config=BeatsConfig):
    """Filter bank (B, T, 128) → (B, S, D), S = T // 16. States of layers are of frames too."""

    front = ("patch_embedding", "patch_norm", "post_extract_proj", "pos_conv")

    def __init__(self, cfg: BeatsConfig) -> None:
        super().__init__()
        if cfg.d_model % cfg.heads or cfg.d_model % cfg.position_groups or cfg.feat_in % cfg.patch:
            raise MayaError(
                "d_model must be a multiple of heads and of position_groups, feat_in one of patch"
            )
        self.cfg, size = cfg, cfg.patch
        self.patch_embedding = nn.Conv2d(1, cfg.patch_dim, size, size, bias=cfg.patch_bias)
        self.patch_norm = nn.LayerNorm(cfg.patch_dim)
        same = cfg.patch_dim == cfg.d_model
        self.post_extract_proj = nn.Identity() if same else nn.Linear(cfg.patch_dim, cfg.d_model)
        kernel = cfg.position_kernel
        self.pos_conv = nn.Conv1d(
            cfg.d_model, cfg.d_model, kernel, padding=kernel // 2, groups=cfg.position_groups
        )
        self.layer_norm = nn.LayerNorm(cfg.d_model)
        self.dropout = nn.Dropout(cfg.dropout)
        self.relative_attention_bias = nn.Embedding(cfg.buckets, cfg.heads)
        self.layers = nn.ModuleList(BeatsLayer(cfg) for _ in range(cfg.n_layers))

    def read_start(self) -> None:
        if self.cfg.start:
            path = Path(self.cfg.start)
            fill(self, our_tensors(state_dict(read_torch(path), path)), path, "BEATs")

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, len(self.layers))
        cfg = self.cfg
        lens = self.subsampled_lens(x_lens)
        x = F.pad(x, (0, 0, 0, max(0, cfg.patch - x.shape[1])))
        patches = self.patch_embedding(x[:, None]).flatten(2).mT  # time by time, from low bins to high ones
        y = self.post_extract_proj(self.patch_norm(patches))
        seen = frame_mask(lens * cfg.bands, y.shape[1])[..., None]
        y = y.masked_fill(~seen, 0.0)
        y = y + F.gelu(self.pos_conv(y.mT)[:, :, : y.shape[1]]).mT
        y = self.dropout(self.layer_norm(y))
        away = ~seen.mT[:, None] & (lens > 0)[:, None, None, None]  # a row without frames stays finite
        bias = self.distances(y.shape[1], y.device)
        states = {0: y}
        for number, layer in enumerate(self.layers, 1):
            y = states[number] = layer(y, bias, away)
        valid = frame_mask(lens, y.shape[1] // cfg.bands)[..., None]

        def by_time(state: Tensor) -> Tensor:
            return state.unflatten(1, (-1, cfg.bands)).mean(2) * valid

        return Encoded(by_time(y), lens, {number: by_time(states[number]) for number in hidden})

    def distances(self, size: int, device: torch.device) -> Tensor:
        """(H, P, P): the bias of each head for key − query. Half of the buckets are for later keys. In each
        half the nearest distances have one each, and others grow to `max_distance` (Raffel et al. 2020)."""
        place = torch.arange(size, device=device)
        distance = place[None] - place[:, None]
        half = self.cfg.buckets // 2
        exact = half // 2
        far = exact + (
            torch.log(distance.abs().clamp(min=1).float() / exact)
            / math.log(self.cfg.max_distance / exact) * (half - exact)
        ).long()  # fmt: skip
        bucket = torch.where(distance.abs() < exact, distance.abs(), far.clamp(max=half - 1))
        return self.relative_attention_bias(bucket + half * (distance > 0)).permute(2, 0, 1)


def our_tensors(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a published file by Maya's names, without the classes of fine-tuned models."""
    out = {}
    for name, x in without_weight_norm(stored).items():
        if name.startswith("predictor.") or (name.endswith(_BIAS) and ".layers.0." not in name):
            continue  # all layers share the bias of the first
        plain = name.removeprefix("encoder.").replace("pos_conv.0.", "pos_conv.")
        if name.startswith("layer_norm."):
            plain = "patch_norm." + name.removeprefix("layer_norm.")
        out[plain.removeprefix("layers.0.self_attn.") if name.endswith(_BIAS) else plain] = x
    return out
