"""A multi-layer perceptron over means of features: a lower bound for every other encoder."""

from collections.abc import Collection
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.encoders.base import Encoded, Encoder, EncoderConfig, check_hidden
from maya.features.frames import frame_mask
from maya.ranges import BelowOne, Count, PosInt

_SMALLEST = 1e-5  # keeps the root's slope finite where a feature does not vary


@config
class MLPConfig(EncoderConfig):
    """subsampling_factor: feature frames that a frame pools. pooling: their mean, or mean and standard
    deviation. context: pooled frames on either side that the first layer also reads. n_layers: hidden layers,
    each with dropout."""

    traceless: ClassVar[tuple[str, ...]] = ("subsampling_factor",)

    kind: Literal["mlp"] = "mlp"
    feat_in: PosInt = 80
    d_model: PosInt = 256
    subsampling_factor: PosInt = 4
    pooling: Literal["mean", "statistics"] = "mean"
    context: Count = 0
    n_layers: PosInt = 2
    dropout: BelowOne = 0.1


class MLPEncoder(Encoder, config=MLPConfig):
    """(B, T, F) → (B, S, d_model), S = T / subsampling_factor rounded up."""

    front = ("norm", "input")

    def __init__(self, cfg: MLPConfig) -> None:
        super().__init__()
        self.cfg = cfg
        size = cfg.feat_in * (2 if cfg.pooling == "statistics" else 1) * (2 * cfg.context + 1)
        self.norm, self.input = nn.LayerNorm(size), nn.Linear(size, cfg.d_model)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.GELU(), nn.Dropout(cfg.dropout), nn.Linear(cfg.d_model, cfg.d_model))
            for _ in range(cfg.n_layers)
        )

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, len(self.layers))
        factor, lens = self.cfg.subsampling_factor, self.subsampled_lens(x_lens)
        seen = frame_mask(x_lens, x.shape[1])[..., None]
        room = (0, 0, 0, -x.shape[1] % factor)
        parts = nn.functional.pad(x.masked_fill(~seen, 0.0), room).unflatten(1, (-1, factor))
        used = nn.functional.pad(seen, room).unflatten(1, (-1, factor)).to(x.dtype)
        count = used.sum(2).clamp(min=1)
        pooled = parts.sum(2) / count
        if self.cfg.pooling == "statistics":
            variance = ((parts - pooled[:, :, None]) * used).square().sum(2) / count
            pooled = torch.cat([pooled, (variance + _SMALLEST).sqrt()], -1)
        valid, side = frame_mask(lens, pooled.shape[1])[..., None], self.cfg.context
        around = nn.functional.pad(pooled * valid, (0, 0, side, side)).unfold(1, 2 * side + 1, 1)
        states = [self.input(self.norm(around.flatten(2)))]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return Encoded(states[-1] * valid, lens, {number: states[number] * valid for number in hidden})
