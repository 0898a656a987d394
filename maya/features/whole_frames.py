"""Kaldi's filter bank of frames that lie wholly in the audio, as W2V-BERT 2.0, AST and BEATs take it."""

from typing import Any, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.errors import MayaError
from maya.features.base import Features, FeaturesConfig
from maya.features.fbank import Fbank, FbankConfig
from maya.features.frames import frame_mask
from maya.ranges import Finite, PosFloat, PosInt

VARIANCE_GUARD = 1e-7
WINDOW, HOP = 400, 160  # samples at 16 kHz


@config
class SeamlessFbankConfig(FeaturesConfig):
    """The features of SeamlessM4T and W2V-BERT 2.0: `bins` filters, each with mean 0 and variance 1 over the
    utterance, and `stack` frames of 10 ms in one."""

    kind: Literal["seamless_fbank"] = "seamless_fbank"
    bins: PosInt = 80
    stack: PosInt = 2

    @property
    def num_mels(self) -> int:
        return self.bins * self.stack

    @property
    def sample_rate(self) -> int:
        return 16000

    @property
    def hop_ms(self) -> float:
        return 10.0 * self.stack

    def frames(self, samples: Any) -> Any:
        """Frames of whole stacks."""
        return _whole(samples) // self.stack


@config
class ASTFbankConfig(FeaturesConfig):
    """The features of the Audio Spectrogram Transformer: (x - mean) / (2 std), in `length` frames."""

    kind: Literal["ast_fbank"] = "ast_fbank"
    num_mels: PosInt = 128
    length: PosInt = 1024
    mean: Finite = -4.2677393
    std: PosFloat = 4.5689974

    @property
    def sample_rate(self) -> int:
        return 16000

    @property
    def hop_ms(self) -> float:
        return 10.0

    def frames(self, samples: Any) -> Any:
        return _whole(samples)


@config
class BeatsFbankConfig(FeaturesConfig):
    """The features of BEATs: (x - mean) / (2 std), of audio as 16-bit integers."""

    kind: Literal["beats_fbank"] = "beats_fbank"
    num_mels: PosInt = 128
    mean: Finite = 15.41663
    std: PosFloat = 6.55582

    @property
    def sample_rate(self) -> int:
        return 16000

    @property
    def hop_ms(self) -> float:
        return 10.0

    def frames(self, samples: Any) -> Any:
        return _whole(samples)


def _whole(samples: Any) -> Any:
    """Windows of 25 ms that lie in so many samples: an int, or a tensor or array of integers."""
    count = (samples - WINDOW) // HOP + 1
    return count * (count > 0)


class _Bank(Features):
    """(B, N) → (B, T, bins): log energies of whole frames, of audio times `gain`."""

    def __init__(self, cfg: Any, bins: int, gain: float) -> None:
        super().__init__()
        self.cfg, self.gain = cfg, gain
        self.bank = Fbank(FbankConfig(num_mels=bins, high_hz=0.0))

    def energies(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """The log energies, and the number of frames (B,)."""
        frames = max(1, _whole(audio.shape[1]))
        rows = self.bank._rows(len(audio), audio.shape[1], audio.device)
        rows[:, : audio.shape[1]] = audio.float() * self.gain
        return self.bank._frames(rows, frames), _whole(audio_lens)


class SeamlessFbank(_Bank, config=SeamlessFbankConfig):
    """Equal to transformers' SeamlessM4TFeatureExtractor up to rounding. Zero beyond an utterance's end."""

    def __init__(self, cfg: SeamlessFbankConfig) -> None:
        super().__init__(cfg, cfg.bins, 2.0**15)

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        feats, frames = self.energies(audio, audio_lens)
        valid, count = frame_mask(frames, feats.shape[1])[:, :, None], frames[:, None, None]
        feats = (feats - (feats * valid).sum(1, keepdim=True) / count.clamp(min=1)) * valid
        variance = feats.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
        feats = feats / (variance + VARIANCE_GUARD).sqrt()
        stack = self.cfg.stack
        feats = torch.nn.functional.pad(feats, (0, 0, 0, -feats.shape[1] % stack))
        feats = feats.reshape(len(feats), -1, stack * self.cfg.bins)
        lens = frames // stack
        return feats * frame_mask(lens, feats.shape[1])[:, :, None], lens


class ASTFbank(_Bank, config=ASTFbankConfig):
    """Equal to transformers' ASTFeatureExtractor up to rounding."""

    def __init__(self, cfg: ASTFbankConfig) -> None:
        super().__init__(cfg, cfg.num_mels, 1.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the buffers; call it after `to_empty` when the module was built on the meta device."""
        self.bank.reset_parameters()
        if not self.bank.window.is_meta:
            self.bank.window[:WINDOW] = torch.hann_window(WINDOW, periodic=False, device="cpu")

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, length, num_mels). Raises MayaError for audio of more than `length` frames."""
        feats, frames = self.energies(audio, audio_lens)
        length = self.cfg.length
        if feats.shape[1] > length and bool((frames > length).any()):
            raise MayaError(
                f"audio of {int(frames.max()) / 100:.1f} s does not fit into the {length / 100:g} s of "
                "features.length; cut it, or leave longer utterances out"
            )
        feats = feats[:, :length] * frame_mask(frames, feats.shape[1])[:, :length, None]
        feats = torch.nn.functional.pad(feats, (0, 0, 0, length - feats.shape[1]))
        return (feats - self.cfg.mean) / (2 * self.cfg.std), frames


class BeatsFbank(_Bank, config=BeatsFbankConfig):
    """Equal to torchaudio's kaldi.fbank as BEATs calls it, up to rounding. Zero beyond an utterance's end."""

    def __init__(self, cfg: BeatsFbankConfig) -> None:
        super().__init__(cfg, cfg.num_mels, 2.0**15)

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        feats, frames = self.energies(audio, audio_lens)
        feats = (feats - self.cfg.mean) / (2 * self.cfg.std)
        return feats * frame_mask(frames, feats.shape[1])[:, :, None], frames
