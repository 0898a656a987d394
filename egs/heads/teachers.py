"""Pitch by teachers: CREPE (torchcrepe, the tiny model) and pYIN (librosa); both are optional packages."""

import functools
import sys
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.errors import MayaError
from maya.heads.frames import hertz_of

RATE = 16000
HOP_SECONDS = 0.02
LOWEST, HIGHEST = 60.0, 500.0  # Hz; of speech
_WINDOW = 1024  # samples that CREPE hears
_PERIODIC = 0.5  # CREPE's highest bin, from which a frame counts as voiced
_QUIET_DB = 40.0  # a frame so far below the loudest is silence, whatever CREPE says


@functools.cache
def _crepe() -> Any:
    # torchcrepe imports torchaudio for reading files, which we do ourselves; few torch releases have a build.
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    try:
        import torchcrepe
    except ImportError as error:
        raise MayaError(f"pitch needs pip install 'maya-asr[pitch]' ({error.name} is missing)") from error
    torchcrepe.load.model("cpu", "tiny")
    return torchcrepe.infer.model


@torch.inference_mode()
def crepe_pitch(audio: Tensor) -> np.ndarray:
    """Audio (N,) at 16 kHz → (n,) Hz every 20 ms, 0 where unvoiced; value i is of the time i · 20 ms."""
    hop = round(HOP_SECONDS * RATE)
    padded = torch.nn.functional.pad(audio, (_WINDOW // 2, _WINDOW // 2))
    frames = padded.unfold(0, _WINDOW, hop)
    level = frames.square().mean(1).clamp(min=1e-12).log10() * 10
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames / frames.std(1, keepdim=True).clamp(min=1e-10)
    model = _crepe()
    bins = torch.cat([model(part) for part in frames.split(512)])
    hertz = torch.arange(bins.shape[1])
    hertz = 10 * 2 ** ((1997.3794084376191 + 20 * hertz) / 1200)
    bins = bins * ((hertz >= LOWEST) & (hertz <= HIGHEST))
    voiced = (bins.amax(1) >= _PERIODIC) & (level >= level.max() - _QUIET_DB)
    return (hertz_of(bins) * voiced).numpy()


def pyin_pitch(audio: Tensor) -> np.ndarray:
    """As `crepe_pitch`, by pYIN (Mauch & Dixon 2014)."""
    try:
        import librosa
    except ImportError as error:
        raise MayaError(f"pitch needs pip install 'maya-asr[pitch]' ({error.name} is missing)") from error
    options = {"fmin": LOWEST, "fmax": HIGHEST, "sr": RATE, "frame_length": _WINDOW}
    hertz, voiced, _ = librosa.pyin(audio.numpy(), hop_length=round(HOP_SECONDS * RATE), **options)
    return np.where(voiced, np.nan_to_num(hertz), 0.0).astype(np.float32)
