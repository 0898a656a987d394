"""A lower bound for other encoders: means of some feature frames, and linear layers that see no further."""

from collections.abc import Collection
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.config import config
from maya.encoders.base import Encoded, Encoder, EncoderConfig, check_hidden
from maya.features.frames import frame_mask
from maya.ranges import BelowOne, Count, PosInt


@config
class MLPConfig(EncoderConfig):
    """subsampling_factor: feature frames of which an encoder frame is the mean. context: means on either side
    that the first layer also sees."""

    kind: Literal["mlp"] = "mlp"
    feat_in: PosInt = 80
    d_model: PosInt = 256
    n_layers: PosInt = 3
    subsampling_factor: PosInt = 4
    context: Count = 3
    dropout: BelowOne = 0.1


class MLPEncoder(Encoder, config=MLPConfig):
    """Features (B, T, F) → (B, S, D), S = T / subsampling_factor rounded up."""

    front = ("input",)

    def __init__(self, cfg: MLPConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.input = nn.Linear((2 * cfg.context + 1) * cfg.feat_in, cfg.d_model)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(cfg.d_model),
                nn.GELU(),
                nn.Dropout(cfg.dropout),
                nn.Linear(cfg.d_model, cfg.d_model),
            )
            for _ in range(cfg.n_layers)
        )

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        """See `Encoder.forward`. The last mean of an utterance is of the frames that it has."""
        check_hidden(hidden, len(self.layers))
        factor, side, lens = self.cfg.subsampling_factor, self.cfg.context, self.subsampled_lens(x_lens)
        valid = frame_mask(x_lens, x.shape[1])[..., None]
        x = F.pad(x.masked_fill(~valid, 0.0), (0, 0, 0, -x.shape[1] % factor))
        count = x.shape[1] // factor
        steps = torch.arange(count, device=x.device)
        frames = (x_lens[:, None] - factor * steps).clamp(1, factor)[..., None]
        means = x.reshape(len(x), count, factor, -1).sum(2) / frames
        seen = F.pad(means, (0, 0, side, side)).unfold(1, 2 * side + 1, 1).flatten(2)
        mask = frame_mask(lens, count)[..., None]
        y = self.input(seen) * mask
        states = {0: y}
        for number, layer in enumerate(self.layers, start=1):
            y = states[number] = (y + layer(y)) * mask
        return Encoded(y, lens, {number: states[number] for number in hidden})
