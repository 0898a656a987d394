"""The SEANet encoder (Tagliasacchi et al. 2020) of EnCodec and SpeechTokenizer, for rows of any length.

Its convolutions see an utterance mirrored at both ends. Here each row is mirrored at its own end, not where
the batch ends.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from maya.encoders.speech_tokenizer.config import SpeechTokenizerConfig

Rows = tuple[Tensor, Tensor]  # (B, C, T), and the lengths (B,), at least 1
_FIRST, _LAST = 7, 7  # sizes of the first and the last convolution


class SeanetConv(nn.Module):
    """A convolution, with so much of the mirrored row behind its end that the last window is full."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation)
        total = (kernel - 1) * dilation - (stride - 1)
        self.stride, self.right = stride, total // 2
        self.lead = total - self.right

    def forward(self, x: Tensor, lens: Tensor) -> Rows:
        """What lies beyond the lengths does not matter."""
        out_lens = -(-lens // self.stride)
        frames, room = -(-x.shape[2] // self.stride), self.right + self.stride - 1
        if self.lead + room:
            x = mirrored(x, lens, self.lead, self.right + out_lens * self.stride - lens, room)
        return self.conv(x)[:, :, :frames], out_lens


def mirrored(x: Tensor, lens: Tensor, lead: int, right: Tensor, room: int) -> Tensor:
    """x (B, C, T), lens (B,), right (B,) up to `room` → (B, C, lead + T + room): each row between `lead` and
    `right` mirrored frames. A row too short to be mirrored ends in zeros first, as in the original."""
    batch, channels, size = x.shape
    last = torch.maximum(lens, right.clamp(min=lead) + 1)[:, None] - 1
    after = lens[:, None] + torch.arange(room, device=x.device)

    def at(place: Tensor) -> Tensor:
        source = place.clamp(0, size - 1)[:, None].expand(-1, channels, -1)
        is_inside = (place >= 0) & (place < lens[:, None])
        return x.gather(2, source).masked_fill(~is_inside[:, None], 0.0)

    before = torch.arange(lead, 0, -1, device=x.device).expand(batch, -1)
    out = torch.cat([at(before), x, x.new_zeros(batch, channels, room)], 2)
    place = (lead + after)[:, None].expand(-1, channels, -1)
    return out.scatter_(2, place, at(torch.where(after <= last, after, 2 * last - after)))


class SeanetBlock(nn.Module):
    """ELU, a dilated convolution to half the channels, ELU, and one back; the projected input is added."""

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        inner, outer = SeanetConv(dim, dim // 2, kernel, 1, dilation), SeanetConv(dim // 2, dim, 1)
        self.block = nn.ModuleList([nn.ELU(), inner, nn.ELU(), outer])
        self.shortcut = SeanetConv(dim, dim, 1)

    def forward(self, x: Tensor, lens: Tensor) -> Rows:
        y, _ = run(self.block, x, lens)
        return self.shortcut(x, lens)[0] + y, lens


class SeanetLSTM(nn.Module):
    """An LSTM whose input is added; with two directions it is added to both."""

    def __init__(self, dim: int, layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, layers, bidirectional=bidirectional, batch_first=True)

    def forward(self, x: Tensor, lens: Tensor) -> Rows:
        rows = x.transpose(1, 2)
        packed = rnn.pack_padded_sequence(rows, lens.cpu(), batch_first=True, enforce_sorted=False)
        y, _ = rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=rows.shape[1])
        return (y + rows.repeat(1, 1, 1 + self.lstm.bidirectional)).transpose(1, 2), lens


def seanet(cfg: SpeechTokenizerConfig) -> nn.ModuleList:
    """The layers from the waveform (B, 1, N) to (B, dimension, S), numbered as in the published files."""
    width = cfg.n_filters
    layers: list[nn.Module] = [SeanetConv(1, width, _FIRST)]
    for stride in reversed(cfg.strides):
        for i in range(cfg.residual_layers):
            layers.append(SeanetBlock(width, cfg.residual_kernel, cfg.dilation_base**i))
        layers += [nn.ELU(), SeanetConv(width, 2 * width, 2 * stride, stride)]
        width *= 2
    if cfg.lstm_layers:
        layers.append(SeanetLSTM(width, cfg.lstm_layers, cfg.bidirectional))
    layers += [nn.ELU(), SeanetConv(width * (1 + cfg.bidirectional), cfg.dimension, _LAST)]
    return nn.ModuleList(layers)


def run(layers: nn.ModuleList, x: Tensor, lens: Tensor) -> Rows:
    """The output of layers in order, of which activations take no lengths."""
    for layer in layers:
        if isinstance(layer, nn.ELU):
            x = layer(x)
        else:
            x, lens = layer(x, lens)
    return x, lens
