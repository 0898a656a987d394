"""From encoder frames to one vector for an utterance: a sum of layers, and statistics over time.

The sum of layers is SUPERB's (Yang et al. 2021); statistics pooling is x-vector's (Snyder et al. 2018);
attentive statistics are ECAPA-TDNN's (Desplanques et al. 2020).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from maya.encoders import frame_mask
from maya.encoders.base import Encoded
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.errors import MayaError

_SMALLEST = 1e-5  # keeps the root's slope finite where a channel does not vary


class LayerSum(nn.Module):
    """softmax(w)-weighted sum of all hidden states, each normalised; a layer of another width than the output
    is projected. `dims`: channels from layer 0 on."""

    def __init__(self, dims: tuple[int, ...], dim: int) -> None:
        super().__init__()
        if not dims:
            raise MayaError(
                "this encoder does not tell the channels of its layers; set the head's layers=last"
            )
        self.weight = nn.Parameter(torch.zeros(len(dims)))
        self.projections = nn.ModuleList(
            nn.Identity() if width == dim else nn.Linear(width, dim, bias=False) for width in dims
        )

    def forward(self, encoded: Encoded) -> Encoded:
        """The frames (B, S, dim) of the sum; zero beyond the lengths, as hidden states are."""
        total: Tensor | None = None
        for number, (share, project) in enumerate(zip(self.weight.softmax(0), self.projections, strict=True)):
            layer = encoded.hidden[number]
            term = share * project(nn.functional.layer_norm(layer, layer.shape[-1:]))
            total = term if total is None else total + term
        assert total is not None
        return Encoded(total.to(encoded.frames.dtype), encoded.lens, {}, encoded.host_lens)


@dataclass(slots=True)
class Sums:
    """Weighted sums over the frames so far: highest score, Σ w, Σ w·x and Σ w·x², with
    w = exp(score − highest); (B, 1) or (B, D) each, fp32 at least."""

    highest: Tensor
    weight: Tensor
    first: Tensor
    second: Tensor

    def __add__(self, other: "Sums") -> "Sums":
        highest = torch.maximum(self.highest, other.highest)
        own, rest = (self.highest - highest).exp(), (other.highest - highest).exp()
        return Sums(
            highest, own * self.weight + rest * other.weight, own * self.first + rest * other.first,
            own * self.second + rest * other.second,
        )  # fmt: skip

    def mean(self) -> Tensor:
        """(B, D)."""
        return self.first / self.weight

    def statistics(self) -> Tensor:
        """(B, 2D) mean and standard deviation."""
        mean = self.mean()
        variance = (self.second / self.weight - mean.square()).clamp(min=0)
        return torch.cat([mean, (variance + _SMALLEST).sqrt()], dim=-1)


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over the frames."""

    streams = True

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """x (B, S, D) zero beyond lens (B,) → (B, 2D), fp32 at least."""
        return self.of_sums(self.sums(x, lens))

    def of_sums(self, sums: Sums) -> Tensor:
        """What is pooled from the sums of all frames."""
        return sums.statistics()

    def sums(self, x: Tensor, lens: Tensor) -> Sums:
        """The sums of these frames."""
        wide = _wide(x)
        frames = lens.clamp(min=1)[:, None].to(wide.dtype)
        return Sums(torch.zeros_like(frames), frames, wide.sum(1), wide.square().sum(1))


class MeanPooling(StatisticsPooling):
    """The mean over the frames alone: (B, D)."""

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        return self.of_sums(self.sums(x, lens))

    def of_sums(self, sums: Sums) -> Tensor:
        return sums.mean()


class AttentivePooling(nn.Module):
    """Attentive statistics: each channel weighs each frame by softmax of Linear(tanh(Linear(x))).

    global_context: the weights also see the mean and the standard deviation of the utterance. Without it they
    depend on the frame alone, so that running sums give the same in a stream.
    """

    def __init__(self, dim: int, width: int, global_context: bool) -> None:
        super().__init__()
        self.global_context, self.streams = global_context, not global_context
        self.inner = nn.Linear(dim * (3 if global_context else 1), width)
        self.score = nn.Linear(width, dim)

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """As `StatisticsPooling.forward`."""
        return self.of_sums(self.sums(x, lens))

    def of_sums(self, sums: Sums) -> Tensor:
        """What is pooled from the sums of all frames."""
        return sums.statistics()

    def sums(self, x: Tensor, lens: Tensor) -> Sums:
        """The sums of these frames."""
        seen, wide = x, _wide(x)
        if self.global_context:
            whole = StatisticsPooling()(x, lens).to(x.dtype)
            seen = torch.cat([x, whole[:, None].expand(-1, x.shape[1], -1)], -1)
        # A row without a frame keeps its first, which is zero: softmax needs one.
        used = frame_mask(lens.clamp(min=1), x.shape[1])[..., None]
        scores = _wide(self.score(torch.tanh(self.inner(seen)))).masked_fill(~used, -torch.inf)
        highest = scores.amax(1).detach()
        weights = (scores - highest[:, None]).exp()
        first = (weights * wide).sum(1)
        return Sums(highest, weights.sum(1), first, (weights * wide.square()).sum(1))


class UnbiasedStatistics(nn.Module):
    """Mean and unbiased standard deviation, sqrt(var + 1e-7), in two passes: wespeaker's TSTP."""

    streams = False

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """x (B, S, D) zero beyond lens (B,) → (B, 2D), fp32 at least; one frame has no variance."""
        valid, wide = frame_mask(lens, x.shape[1])[..., None], _wide(x)
        frames = lens[:, None].to(wide.dtype)
        mean = wide.sum(1) / frames.clamp(min=1)
        spread = ((wide - mean[:, None]) * valid).square().sum(1)
        return torch.cat([mean, (spread / (frames - 1).clamp(min=1) + 1e-7).sqrt()], -1)


class EcapaPooling(nn.Module):
    """Attentive statistics as SpeechBrain's and wespeaker's ECAPA-TDNN compute them; they differ in details.

    speechbrain: ReLU and batch norm before tanh; biased deviations of at least 1e-6. wespeaker: neither; the
    deviation of the context is unbiased. global_context: see `AttentivePooling`.
    """

    streams = False

    def __init__(
        self, dim: int, width: int, *, global_context: bool, variant: Literal["speechbrain", "wespeaker"]
    ) -> None:
        super().__init__()
        self.global_context, self.two_pass = global_context, variant == "speechbrain"
        self.inner = nn.Linear(dim * (3 if global_context else 1), width)
        self.norm = MaskedBatchNorm(width) if self.two_pass else None
        self.score = nn.Linear(width, dim)

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """x (B, S, D) zero beyond lens (B,) → (B, 2D) mean and standard deviation, fp32 at least."""
        valid = frame_mask(lens.clamp(min=1), x.shape[1])  # a row without a frame keeps its first, a zero
        seen = _wide(x) * valid[..., None]
        inner = self._inner(x, seen, valid)
        if self.norm is not None:
            inner = self.norm(inner.relu(), valid)
        scores = _wide(self.score(inner.tanh())).masked_fill(~valid[..., None], -torch.inf)
        weights = scores.softmax(1)
        mean = (weights * seen).sum(1)
        if self.two_pass:
            variance = (weights * (seen - mean[:, None]).square()).sum(1).clamp(min=1e-12)
        else:
            variance = ((weights * seen.square()).sum(1) - mean.square()).clamp(min=1e-7)
        return torch.cat([mean, variance.sqrt()], -1)

    def _inner(self, x: Tensor, seen: Tensor, valid: Tensor) -> Tensor:
        """Linear of [x, mean, deviation], whose last two are multiplied once and not for each frame."""
        if not self.global_context:
            return self.inner(x)
        dim, frames = x.shape[-1], valid.sum(1)[:, None, None].to(seen.dtype)
        mean = seen.sum(1, keepdim=True) / frames
        spread = ((seen - mean) * valid[..., None]).square().sum(1, keepdim=True)
        if self.two_pass:
            deviation = (spread / frames).clamp(min=1e-12).sqrt()
        else:
            deviation = (spread / (frames - 1).clamp(min=1) + 1e-7).sqrt()
        whole, weight = torch.cat([mean, deviation], -1).to(x.dtype), self.inner.weight
        once = nn.functional.linear(whole, weight[:, dim:], self.inner.bias)
        return nn.functional.linear(x, weight[:, :dim]) + once


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
