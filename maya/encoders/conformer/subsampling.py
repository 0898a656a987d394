"""Convolutional subsampling before an encoder: 10 ms frames in, 40 or 80 ms frames out."""

from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maya.errors import MayaError
from maya.kernels import host, onednn
from maya.kernels.onednn import QuickLinear

# Limit for the elements of the widest activation of one convolution call. Larger batches are split into
# parts: whole utterances, or stretches of one. cuDNN and torch index a convolution's tensors with 32 bits. On
# a CPU a part should fit into the cache and stay below 32 MB, above which glibc takes fresh pages for each
# allocation: 16 utterances of 5 s with 64 channels take 45 ms in parts of 10 MB, 90 ms in one (factor 8,
# forward and backward, 2 cores).
MAX_PART_ELEMENTS = 2**31 - 1
MAX_PART_ELEMENTS_CPU = 2_500_000
# Without gradients whole utterances share a part only as far as the cache of a core holds it.
MAX_ROWS_ELEMENTS_CPU = 1_000_000

Lens = TypeVar("Lens", Tensor, int)
Subsampling = Literal["dw_striding", "striding"]


def subsampled_lens(lens: Lens, factor: int, causal: bool = False) -> Lens:
    """Frames for `lens` frames, a number or (...,) int64, after log2(factor) halvings that round up.

    Causal convolutions, padded by 2 before and 1 after, make floor(n / 2) + 1 of n >= 1.
    """
    for _ in range(factor.bit_length() - 1):
        halved = lens // 2 + 1 if causal else (lens + 1) // 2
        lens = halved * (lens > 0)
    return lens


class DepthwiseStridedSubsampling(nn.Module):
    """FastConformer's front end (Rekesh et al. 2023, arXiv:2305.05084), NeMo's `dw_striding`.

    A full 3x3 convolution of stride 2, then pairs of depthwise 3x3 of stride 2 and pointwise, ReLU after
    each; then one linear layer over channels x frequency. With `kind` striding, Conformer's, a full
    convolution stands in the place of each pair, and is named conv.2, conv.4. Frames beyond an utterance's
    length are zero before each strided convolution, so an utterance does not depend on its batch (NeMo >=
    2.5). With `causal`, frame s depends only on feature frames up to factor * s.

    Parameters are named as NeMo's `encoder.pre_encode`: conv.0, conv.2, conv.3, conv.5, conv.6, out.
    """

    def __init__(
        self, feat_in: int, d_model: int, factor: int, channels: int, causal: bool = False,
        kind: Subsampling = "dw_striding",
    ) -> None:  # fmt: skip
        super().__init__()
        if factor not in (4, 8):
            raise MayaError(f"encoder.subsampling_factor={factor} must be 4 or 8")
        self.factor = factor
        self.channels = channels
        self.causal = causal
        # Output frames at the start of a stretch that its beginning affects.
        self.overlap = 2 if causal else 1
        padding = 2 if causal else 1  # on both sides; surplus frames at the end are cut off
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, stride=2, padding=padding), nn.ReLU()]
        for _ in range(factor.bit_length() - 2):
            groups = channels if kind == "dw_striding" else 1
            layers.append(nn.Conv2d(channels, channels, 3, stride=2, padding=padding, groups=groups))
            if kind == "dw_striding":
                layers.append(nn.Conv2d(channels, channels, 1))
            layers.append(nn.ReLU())
        self.conv = nn.Sequential(*layers)
        self.out = QuickLinear(channels * subsampled_lens(feat_in, factor, causal), d_model)

    def subsampled_lens(self, lens: Lens) -> Lens:
        """Output frames for `lens` input frames."""
        return subsampled_lens(lens, self.factor, self.causal)

    def forward(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, S, D), (B,); S = T / factor, each halving rounded up, and at least 1.

        Values at and beyond the returned lengths are finite and have no meaning.
        """
        out_lens = self.subsampled_lens(lens)
        if x.shape[1] == 0:  # a convolution needs a frame
            x = nn.functional.pad(x, (0, 0, 0, 1))
        frames, bins = x.shape[1:]
        per_frame = self.channels * self._halved(bins)
        on_cpu = x.device.type == "cpu"
        limit = MAX_PART_ELEMENTS_CPU if on_cpu else MAX_PART_ELEMENTS
        part = limit // (per_frame * self._halved(frames))
        keep = max(1, 2 * limit // (per_frame * self.factor) - self.overlap)
        if on_cpu and part < 2 and not torch.compiler.is_compiling():
            return self._row_by_row(x, lens.tolist(), keep), out_lens
        if _writes_padding(x, lens):
            part = min(part, MAX_ROWS_ELEMENTS_CPU // (per_frame * self._halved(frames)))
        parts = zip(x.split(max(1, part)), lens.split(max(1, part)), strict=True)
        rows = [self._stretches(x_part, lens_part, keep) for x_part, lens_part in parts]
        return rows[0] if len(rows) == 1 else torch.cat(rows), out_lens

    def convolve(self, x: Tensor, lens: Tensor | None, starts: Tensor | None = None) -> Tensor:
        """Only the convolutions, (B, T, F) -> (B, S, C * F').

        Frames before `starts` (B,), multiples of the factor, and from `lens` (B,) on are masked; None: no
        frame is.
        """
        masked = lens is not None
        if lens is not None and not _is_silent(x, lens, starts):
            x = x.masked_fill(_beyond(x.shape[1], lens, starts)[..., None], 0.0)
        # Permuted from (B, T, F, 1), the strides are channels last (those of `x[:, None]` are ambiguous), and
        # all later layers keep that layout: a third less time than channels first.
        x = x.unsqueeze(-1).permute(0, 3, 1, 2)
        layer: Any
        for layer in self.conv:
            if not isinstance(layer, nn.ReLU):
                frames, bins = (self._halved(n) for n in x.shape[2:])
                x = onednn.convolution(layer, x)
                if self.causal and layer.stride == (2, 2):
                    x = x[:, :, :frames, :bins]
            elif not masked:
                x = x.relu_()
            else:
                assert lens is not None
                lens = subsampled_lens(lens, 2, self.causal)
                starts = None if starts is None else starts // 2
                if starts is None and _writes_padding(x, lens):
                    x = x.relu_()
                    for row, n in zip(x, lens.tolist(), strict=True):
                        row[:, max(0, n) :].zero_()
                    continue
                mask = (~_beyond(x.shape[2], lens, starts)).to(x.dtype)[:, None, :, None]
                plain = self.causal or torch.compiler.is_compiling()
                x = x.relu() * mask if plain else _ReluMasked.apply(x, mask)
        # NeMo flattens channel-major, (C, F'); permuting the weight instead would need a copy, too.
        return x.transpose(1, 2).flatten(2)

    def _halved(self, n: int) -> int:
        return subsampled_lens(n, 2, self.causal)

    def _stretches(self, x: Tensor, lens: Tensor | None, keep: int) -> Tensor:
        """(B, T, F) -> (B, S, D) in stretches of `keep` output frames, equal to the whole."""
        parts: list[Tensor] = []
        whole, done = None, 0
        for begin, end, drop, kept in self._windows(x.shape[1], keep):
            window_lens = None if lens is None else (lens - begin).clamp(0, end - begin)
            y = self.out(self.convolve(x[:, begin:end], window_lens)[:, drop : drop + kept])
            if torch.is_grad_enabled():
                parts.append(y)
                continue
            if whole is None:  # joining parts at the end would hold hours of audio twice
                whole = y.new_empty(len(y), self.subsampled_lens(x.shape[1]), y.shape[2])
            whole[:, done : done + kept] = y
            done += kept
        if whole is not None:
            return whole
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _row_by_row(self, x: Tensor, lens: list[int], keep: int) -> Tensor:
        """`forward` for rows as large as a part: padding is cut off instead of masked."""
        longest = self.subsampled_lens(x.shape[1])
        if not any(lens):
            return self.out.bias.expand(len(x), longest, -1) + 0.0 * x.sum()
        nothing = x.new_zeros(1, 0, self.out.out_features)
        rows = [
            self._stretches(row[None, :n], None, keep) if n else nothing
            for row, n in zip(x.unbind(0), lens, strict=True)
        ]
        if len(rows) == 1 and rows[0].shape[1] == longest:
            return rows[0]
        return torch.cat([nn.functional.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows])

    def _windows(self, frames: int, keep: int) -> Iterator[tuple[int, int, int, int]]:
        """(begin, end, drop, kept): the next outputs are drop..drop + kept of inputs begin..end."""
        total = self.subsampled_lens(frames)
        for first in range(0, total, keep):
            drop = min(first, self.overlap)
            kept = min(keep, total - first)
            begin = self.factor * (first - drop)
            end = frames if first + kept == total else begin + self.factor * (drop + kept)
            yield begin, end, drop, kept


def init_front(front: DepthwiseStridedSubsampling) -> None:
    """Weights that preserve the variance, zero biases; see `FastConformer.init_weights`."""
    for module in front.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # A depthwise convolution is followed by a pointwise one, without a ReLU between them.
            halved = isinstance(module, nn.Conv2d) and module.groups == 1
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if halved else "linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _writes_padding(x: Tensor, lens: Tensor) -> bool:
    """Whether to zero padding in place: on a CPU, without a gradient, a mask costs two passes over `x`."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return host.reads_freely(lens) and x.is_cpu and not (torch.is_grad_enabled() or is_traced)


def _is_silent(x: Tensor, lens: Tensor, starts: Tensor | None) -> bool:
    """Whether the padding of x (B, T, F) is zero already, if it may be read: to copy x takes longer."""
    if starts is not None or not _writes_padding(x, lens):
        return False
    return not any(bool(row[max(0, n) :].any()) for row, n in zip(x, lens.tolist(), strict=True))


def _beyond(frames: int, lens: Tensor, starts: Tensor | None = None) -> Tensor:
    """(B, frames) bool, True on padding."""
    place = torch.arange(frames, device=lens.device)
    beyond = place >= lens[:, None]
    return beyond if starts is None else beyond | (place < starts[:, None])


class _ReluMasked(torch.autograd.Function):
    """relu(x) * mask for a mask of zeros and ones, in place.

    The convolution that made `x` does not need it again. ReLU's gradient needs only the sign of the output,
    which is zero where the mask is. So the mask costs no extra tensor and no extra backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        x.relu_().mul_(mask)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, output, 0), None
