"""Embeddings of voices: Resemblyzer's network in plain torch.

Architecture and weights are those of Resemblyzer 0.1.4 (Apache-2.0), a GE2E encoder (Wan et al. 2018, arXiv
1710.10467). Its package is not imported, because it needs webrtcvad and librosa: only its weights are read.
"""

import functools
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from maya.align.speakers.end_to_end import EndToEndSpeakers
from maya.align.speakers.trained import TrainedVoices, voices_of
from maya.errors import MayaError
from maya.features.logmel import slaney_filterbank
from maya.files import packaged_file

# From torch.load, for a file that is not torch's; from reading other contents; for other weights.
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
)

RATE = 16000
_HOP, _WINDOW, _MELS = 160, 400, 40
_FRAMES = 160  # of a part of an utterance, with which the network was trained
_LEVEL = -30.0  # dBFS that quieter audio is raised to
_COVERAGE = 0.75  # of the last part that has to be audio


class SpeakerEncoder(Protocol):
    """What tells voices apart. Products of its embeddings say how alike two voices are."""

    rate: int

    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        """windows: audio (N,) each, in [-1, 1] at `rate` Hz -> (B, D), each of length 1."""


class VoiceEncoder(nn.Module):
    """Three LSTM layers over mel energies; the last state tells the voice."""

    rate = RATE
    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.register_buffer("filters", slaney_filterbank(_MELS, _WINDOW, RATE)[0], persistent=False)

    def mels(self, audio: Tensor) -> Tensor:
        """Audio (..., N) -> mel energies, without a logarithm, (..., 1 + N // 160, 40)."""
        spectrum = torch.stft(
            audio, _WINDOW, _HOP, window=self.window, pad_mode="constant", return_complex=True
        )
        return (self.filters @ spectrum.abs().square()).transpose(-1, -2)

    def forward(self, mels: Tensor) -> Tensor:
        """(B, T, 40) -> (B, 256), each of length 1, without negative values."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)

    @torch.no_grad()
    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        """See `SpeakerEncoder`. A window takes one pass, whatever its length; 1.6 s are best."""
        embeddings = torch.zeros(len(windows), self.linear.out_features)
        for size in sorted({len(window) for window in windows}):
            rows = [row for row, window in enumerate(windows) if len(window) == size]
            audio = torch.stack([levelled(windows[row]) for row in rows])
            embeddings[rows] = self(self.mels(audio)[:, : max(1, size // _HOP)])
        return embeddings

    @torch.no_grad()
    def embed_utterance(self, audio: Tensor) -> Tensor:
        """Audio (N,) -> (256,) as the package computes it: the mean over parts of 1.6 s, 1.3 of them a
        second, padded with zeros; the last part counts if three quarters of it are audio. The package's
        `preprocess_wav`, which raises the level and cuts silence, is left to the caller."""
        step = round(RATE / 1.3 / _HOP)
        frames = math.ceil((len(audio) + 1) / _HOP)
        begins = list(range(0, max(1, frames - _FRAMES + step + 1), step))
        if len(begins) > 1 and (len(audio) - begins[-1] * _HOP) / (_FRAMES * _HOP) < _COVERAGE:
            begins.pop()
        missing = max(0, (begins[-1] + _FRAMES) * _HOP - len(audio))
        mels = self.mels(nn.functional.pad(audio, (0, missing)))
        parts = self(torch.stack([mels[begin : begin + _FRAMES] for begin in begins]))
        return nn.functional.normalize(parts.mean(0), dim=0)


def levelled(audio: Tensor) -> Tensor:
    """Audio (N,) raised to -30 dBFS where it is quieter: the network hears the level."""
    power = audio.square().mean().clamp(min=1e-12)
    return audio * torch.sqrt(10 ** (_LEVEL / 10) / power).clamp(min=1.0)


def load_encoder(weights: str = "") -> VoiceEncoder | TrainedVoices:
    """`load_speakers`, for embeddings. Raises MayaError for a diarization head, too, which gives none."""
    encoder = load_speakers(weights)
    if isinstance(encoder, EndToEndSpeakers):
        raise MayaError(
            f"{weights}: a diarization head says who speaks when in whole recordings and has no embeddings; "
            "for streams, and to compare voices, name a run with a speaker head"
        )
    return encoder


@functools.cache
def load_speakers(weights: str = "") -> VoiceEncoder | TrainedVoices | EndToEndSpeakers:
    """The encoder with the weights of Resemblyzer's `pretrained.pt`, by default those of the installed
    package, or the speaker or diarization head of a Maya checkpoint (a file).

    Raises MayaError where there are none, and for a file of other weights.
    """
    path = Path(weights) if weights else packaged_file("resemblyzer", ("pretrained.pt",))
    if path is None or not path.is_file():
        hint = f"there is no file {weights}" if weights else "pip install --no-deps resemblyzer"
        raise MayaError(f"no weights for telling speakers apart: {hint}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if "model_config" in content:
            return voices_of(content)
        encoder, tensors = VoiceEncoder(), content["model_state"]
        own = {name: x for name, x in tensors.items() if not name.startswith("similarity_")}
        encoder.load_state_dict(own)
    except MayaError as error:
        raise MayaError(f"{path}: {error}") from None
    except _UNREADABLE:
        raise MayaError(
            f"{path} does not hold the weights of Resemblyzer's encoder, nor of a Maya model"
        ) from None
    return encoder.eval().requires_grad_(False)
