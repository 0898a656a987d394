"""Whisper's encoder: two convolutions, sinusoids, and Transformer blocks with their norms first."""

import math
from collections.abc import Collection
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.config import config
from maya.encoders.base import Encoded, Encoder, EncoderConfig, check_hidden
from maya.encoders.whisper.blocks import WhisperBlock
from maya.errors import MayaError
from maya.features.frames import frame_mask
from maya.ranges import PosInt


@config
class WhisperEncoderConfig(EncoderConfig):
    """The defaults are those of Whisper tiny.

    positions: frames of the window that it was trained on; 1500 are 30 s. whole: every utterance has all of
    them, silence included, as Whisper's decoder reads them; otherwise only its own, as CTC needs them, and
    as tuning on short utterances can afford. It is not `traceless`: tuning may change it.
    """

    traceless: ClassVar[tuple[str, ...]] = ("heads",)

    kind: Literal["whisper"] = "whisper"
    feat_in: PosInt = 80
    d_model: PosInt = 384
    n_layers: PosInt = 4
    heads: PosInt = 6
    positions: PosInt = 1500
    whole: bool = True

    @property
    def subsampling_factor(self) -> int:
        return 2

    def subsampled(self, frames: Any) -> Any:
        """All positions with `whole`, even for no frame."""
        return frames * 0 + self.positions if self.whole else (frames + 1) // 2


class WhisperEncoder(Encoder, config=WhisperEncoderConfig):
    """Log-mel frames (B, T, F) to (B, S, D), S = positions with `whole`, otherwise half of T."""

    front = ("conv1", "conv2")

    def __init__(self, cfg: WhisperEncoderConfig) -> None:
        if cfg.d_model % cfg.heads or cfg.d_model % 2:
            raise MayaError(
                f"the d_model of Whisper must be even and a multiple of heads={cfg.heads}, not {cfg.d_model}"
            )
        super().__init__()
        self.cfg = cfg
        self.conv1 = nn.Conv1d(cfg.feat_in, cfg.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(cfg.d_model, cfg.d_model, 3, stride=2, padding=1)
        # Checkpoints hold the sinusoids, which are not learnt.
        self.positional_embedding = nn.Parameter(_sinusoids(cfg), requires_grad=False)
        self.layers = nn.ModuleList(WhisperBlock(cfg.d_model, cfg.heads) for _ in range(cfg.n_layers))
        self.ln_post = nn.LayerNorm(cfg.d_model)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        """See `Encoder.forward`. Features beyond an utterance's end count with `whole`: they are the silence
        of WhisperMel. Raises MayaError for more frames than the window has."""
        check_hidden(hidden, len(self.layers))
        limit = 2 * self.cfg.positions
        if x.shape[1] > limit:
            raise MayaError(
                f"Whisper takes {limit} frames ({limit / 100:g} s) at most, and got {x.shape[1]}; cut the "
                "audio, or leave longer utterances out"
            )
        lens = self.subsampled_lens(x_lens)
        if self.cfg.whole:
            x = F.pad(x, (0, 0, 0, limit - x.shape[1]))
            inner, mask, seen = None, None, None
        else:
            x = x[:, : max(1, int(x_lens.max()))]
            inner = frame_mask(x_lens, x.shape[1])[:, None]
            mask = frame_mask(lens, (x.shape[1] + 1) // 2)[..., None]
            seen = mask.mT[:, None] | (lens == 0)[:, None, None, None]  # a row without frames stays finite
        y = self.frames(x.mT, inner)
        states = {0: y} if 0 in hidden else {}
        for number, layer in enumerate(self.layers, start=1):
            y = layer(y, seen)
            if number in hidden:
                states[number] = y
        y = self.ln_post(y)
        if mask is not None:
            y, states = y * mask, {number: state * mask for number, state in states.items()}
        return Encoded(y, lens, states)

    def frames(self, mel: Tensor, inner: Tensor | None = None) -> Tensor:
        """mel (B, F, T) -> the blocks' input (B, S, D). inner: (B, 1, T) bool, False on padding."""
        y = F.gelu(self.conv1(mel if inner is None else mel * inner))
        y = F.gelu(self.conv2(y if inner is None else y * inner)).mT
        return y + self.positional_embedding[: y.shape[1]]


def _sinusoids(cfg: WhisperEncoderConfig) -> Tensor:
    """(positions, D): sines in the first half of the channels, cosines in the second."""
    half = cfg.d_model // 2
    rates = torch.exp(-math.log(10000.0) / max(1, half - 1) * torch.arange(half))
    angles = torch.arange(cfg.positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
