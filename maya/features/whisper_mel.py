"""Whisper's log-mel spectrogram, as OpenAI's code and transformers' WhisperFeatureExtractor compute it."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.config import config
from maya.errors import MayaError
from maya.features.base import Features, FeaturesConfig
from maya.features.frames import check_frames, frame_mask
from maya.features.logmel import slaney_filterbank
from maya.ranges import NonNegFloat, PosInt

ENERGY_FLOOR = 1e-10  # of a filter, before the logarithm
RANGE = 8.0  # powers of ten below the loudest filter, which nothing falls below
N_FFT = 400


@config
class WhisperMelConfig(FeaturesConfig):
    """num_mels: 80, of large-v3 and turbo 128. seconds: to which every utterance is filled up with silence;
    the stock encoder takes 30. 0: each is as long as it is, see `HuggingFaceConfig.whole`."""

    kind: Literal["whisper_mel"] = "whisper_mel"
    sample_rate: PosInt = 16000  # Hz
    num_mels: PosInt = 80
    seconds: NonNegFloat = 30.0

    @property
    def hop_ms(self) -> float:
        return 10.0

    @property
    def n_fft(self) -> int:
        return N_FFT


class WhisperMel(Features, config=WhisperMelConfig):
    """Waveform to log-mel: power of a periodic Hann window, Slaney mel, log10, at most 8 below the loudest of
    the utterance, then (x + 4) / 4.

    Buffers, not part of the state dict: `window` (400,), `fb` (1, num_mels, 201).
    """

    window: Tensor
    fb: Tensor

    def __init__(self, cfg: WhisperMelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        check_frames(cfg.sample_rate, cfg.hop_ms)
        self.register_buffer("window", torch.empty(N_FFT), persistent=False)
        self.register_buffer("fb", torch.empty(1, cfg.num_mels, N_FFT // 2 + 1), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the buffers; call it after `to_empty` when the module was built on the meta device."""
        if self.fb.is_meta:
            return
        self.window.copy_(torch.hann_window(N_FFT, device="cpu"))
        self.fb.copy_(slaney_filterbank(self.cfg.num_mels, N_FFT, self.cfg.sample_rate))

    @torch.no_grad()
    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N), (B,) → (B, T, num_mels), (B,). With `seconds` T is theirs and frames beyond an utterance
        are those of silence, which depend on its level; without, T is the longest's, and they are zero.

        Raises MayaError for audio of more than `seconds`.
        """
        lens = self.feat_lens(audio_lens)
        audio = audio.float().masked_fill(~frame_mask(audio_lens, audio.shape[1]), 0.0)
        with torch.autocast(audio.device.type, enabled=False):
            if self.cfg.seconds:
                return self._log_mel(self._filled(audio, audio_lens)), lens
            feats = torch.zeros(
                len(audio), max(1, audio.shape[1] // self.cfg.hop_samples), self.cfg.num_mels,
                device=audio.device,
            )  # fmt: skip
            # The ends are mirrored and the loudest filter counts, so each row is computed by itself.
            for row, out, size, frames in zip(audio, feats, audio_lens.tolist(), lens.tolist(), strict=True):
                samples = row[None, : max(size, N_FFT // 2 + 1)]
                samples = F.pad(samples, (0, max(0, N_FFT // 2 + 1 - samples.shape[1])))
                if frames:
                    out[:frames] = self._log_mel(samples)[0, :frames]
        return feats, lens

    def _filled(self, audio: Tensor, audio_lens: Tensor) -> Tensor:
        samples = round(self.cfg.seconds * self.cfg.sample_rate)
        if audio.shape[1] > samples and bool((audio_lens > samples).any()):
            raise MayaError(
                f"audio of {int(audio_lens.max()) / self.cfg.sample_rate:.1f} s does not fit into the "
                f"{self.cfg.seconds:g} s of features.seconds; cut it, or leave longer utterances out"
            )
        return F.pad(audio, (0, samples - audio.shape[1]))

    def _log_mel(self, audio: Tensor) -> Tensor:
        """(B, N) → (B, N // hop, num_mels)."""
        hop = self.cfg.hop_samples
        spectrum = torch.stft(audio, N_FFT, hop, window=self.window.float(), return_complex=True)
        frames = audio.shape[1] // hop
        power = spectrum[..., :frames].abs().square()
        mel = (self.fb.float() @ power).clamp(min=ENERGY_FLOOR).log10()
        mel = torch.maximum(mel, mel.amax((1, 2), keepdim=True) - RANGE)
        return ((mel + 4.0) / 4.0).mT
