"""Silero's voice activity network for 16 kHz in plain torch.

The architecture and the weights are those of silero-vad 6.2 (Silero Team, MIT licence). Its package is not
imported, because that sets torch to one thread in the whole process: only its weights are read.
"""

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.errors import MayaError
from maya.files import packaged_file

RATE = 16000
WINDOW = 512  # samples that a probability is for
_CONTEXT = 64  # samples before them that the network reads too
_FILES = ("silero_vad.jit", "silero_vad_16k.safetensors")  # of weights, the better one first
# Their names of weights and ours.
_NAMES = (
    (r"^_model\.stft\.forward_basis_buffer$", "stft_conv.weight"),
    (r"^_model\.decoder\.decoder\.2\.", "final_conv."),
    (r"^(_model\.decoder\.rnn|lstm_cell)\.(\w+)$", r"lstm.\2_l0"),
    *((rf"^_model\.encoder\.{i}\.reparam_conv\.", f"conv{i + 1}.") for i in range(4)),
)
_FEW_WINDOWS = 4
_WINDOWS_AT_ONCE = 4096  # through the convolutions


class SileroVAD(nn.Module):
    """Probabilities of speech. Put it in evaluation mode; it has no other."""

    window, rate = WINDOW, RATE

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """The state of B streams before their first window: the last 64 samples (B, 64), h and c (B, 128)."""
        like = self.conv1.weight
        return like.new_zeros(batch, _CONTEXT), like.new_zeros(batch, 128), like.new_zeros(batch, 128)

    @torch.no_grad()
    def forward(self, audio: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """audio (B, T * 512) at 16 kHz, the next T windows of each stream -> probabilities (B, T), state."""
        context, h, c = state
        batch, count = len(audio), audio.shape[1] // WINDOW
        if count == 0:
            return audio.new_zeros(batch, 0), state
        extended = torch.cat([context, audio], 1)
        windows = extended.unfold(1, _CONTEXT + WINDOW, WINDOW).reshape(batch * count, -1)
        encoded = torch.cat([self._encode(part) for part in windows.split(_WINDOWS_AT_ONCE)])
        out, h, c = self._remember(encoded.view(batch, count, -1), h, c)
        logits = F.linear(out.relu(), self.final_conv.weight[:, :, 0], self.final_conv.bias)[..., 0]
        return logits.sigmoid(), (extended[:, -_CONTEXT:].clone(), h, c)

    def _remember(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The LSTM over (B, T, 128). For a few windows, as of streams, its cell takes a fifth of the time."""
        lstm: Any = self.lstm
        if x.shape[1] > _FEW_WINDOWS:
            out, (h, c) = lstm(x, (h[None], c[None]))
            return out, h[0], c[0]
        weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0
        outputs = []
        for window in x.unbind(1):
            h, c = torch.lstm_cell(window, (h, c), *weights)
            outputs.append(h)
        return torch.stack(outputs, 1), h, c

    def _encode(self, windows: Tensor) -> Tensor:
        """(N, 576) -> (N, 128)."""
        x = self.stft_conv(F.pad(windows[:, None], (0, _CONTEXT), mode="reflect"))
        x = (x[:, :129].square() + x[:, 129:].square()).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        return x[..., 0]


def packaged_weights() -> Path | None:
    """The file of weights in the installed package silero-vad; None where it is not installed.

    That is its TorchScript model. The package's safetensors hold an earlier training of the same network,
    whose probabilities differ by up to 0.24 (silero-vad 6.2.3 and its issue 768).
    """
    return packaged_file("silero-vad", _FILES)


def load_silero(weights: str | Path = "") -> SileroVAD:
    """The network with the weights of a file, by default those of the installed package.

    weights: a `silero_vad.jit` or `silero_vad_16k.safetensors`. Raises MayaError where there are none, and
    for a file of other weights.
    """
    path = Path(weights) if weights else packaged_weights()
    if path is None or not path.is_file():
        missing = "the package silero-vad is not installed; pip install silero-vad"
        place = f"there is no file {weights}" if weights else missing
        raise MayaError(f"no weights for voice activity: {place}")
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else _read_torchscript(path)
    tensors = {_own_name(name): x for name, x in tensors.items() if not name.startswith("_model_8k.")}
    model = SileroVAD()
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise MayaError(f"{path} does not hold the weights of silero-vad's network for 16 kHz") from None
    return model.eval()


def _own_name(name: str) -> str:
    """The name of a weight in `SileroVAD` for that in silero-vad's files."""
    for pattern, own in _NAMES:
        name = re.sub(pattern, own, name)
    return name


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch names no other reader of such files
            weights: dict[str, Tensor] = torch.jit.load(str(path), map_location="cpu").state_dict()
    except RuntimeError:
        raise MayaError(f"{path} is not a TorchScript file") from None
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file: a length of 8 bytes, a JSON header, the data.

    Raises MayaError for a file that is not one.
    """
    data = path.read_bytes()
    try:
        size = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        return {name: _tensor(entry, memoryview(data)[8 + size :]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MayaError(f"{path} is not a safetensors file of float32 tensors") from None


def _tensor(entry: dict[str, Any], data: memoryview) -> Tensor:
    begin, end = entry["data_offsets"]
    if entry["dtype"] != "F32" or end - begin != 4 * math.prod(entry["shape"]):
        raise ValueError(entry)
    return torch.from_numpy(np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"]).copy())
