"""Models that separate the sources of a waveform: whole recordings, and streams."""

from dataclasses import replace

import torch
from torch import Tensor

from maya.encoders.base import EncoderStream
from maya.encoders.separation.config import SeparatorConfig
from maya.errors import MayaError
from maya.features import WaveformConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.heads import SeparationConfig, SeparationHead
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel


def separation_model(
    encoder: SeparatorConfig, sample_rate: int, head: SeparationConfig | None = None
) -> SpeechModelConfig:
    """The configuration of a model of a separating encoder and the head that fits it. head: its other
    options."""
    head = replace(
        head or SeparationConfig(), sources=encoder.sources, kernel_size=encoder.kernel_size,
        stride=encoder.stride, padded=encoder.padded,
    )  # fmt: skip
    return SpeechModelConfig(
        features=WaveformConfig(sample_rate=sample_rate, normalize=False),
        specaugment=SpecAugmentConfig(freq_masks=0, time_masks=0), encoder=encoder,
        heads={"separation": head},
    )  # fmt: skip


def separation_head(model: SpeechModel) -> SeparationHead:
    """The head that separates. Raises MayaError for a model without."""
    for head in model.named_heads().values():
        if isinstance(head, SeparationHead):
            return head
    raise MayaError(
        f"this model does not separate; its heads are {', '.join(model.heads) or 'none'}: use a run of "
        "egs/separation, or a Conv-TasNet"
    )


@torch.inference_mode()
def separate(model: SpeechModel, audio: Tensor, audio_lens: Tensor) -> Tensor:
    """audio (B, N) at the model's rate, audio_lens (B,) → (B, sources, N) fp32, zero beyond the lengths."""
    head = separation_head(model)
    encoded = model.encode_audio(audio, audio_lens)
    return head.audio(encoded.frames, audio_lens, audio.shape[1]).float()


class SeparationStream:
    """B recordings that are separated while they come, by a causal encoder; the state has a fixed size.

    `push` gives the samples that no later frame changes: a window of the filterbank behind the input.
    Together they equal `separate` of the whole. Raises MayaError for an encoder that cannot stream.
    """

    def __init__(self, model: SpeechModel, batch: int = 1) -> None:
        self.head = separation_head(model)
        self.framing, self.batch = self.head.framing, batch
        self.encoder: EncoderStream = model.encoder.stream(batch)
        self.device = self.head.decoder.weight.device
        self._tail = self.head.decoder.weight.new_zeros(batch * self.head.cfg.sources, 0)
        self._taken = self._given = 0
        self._skip = self.framing.pad  # samples before the first

    @torch.inference_mode()
    def push(self, audio: Tensor, final: bool = False) -> Tensor:
        """audio (B, n), the next samples → (B, sources, m), the next samples of each source."""
        self._taken += audio.shape[1]
        frames = self.encoder.push(audio.to(self.device)[:, :, None], final).frames
        count, stride, kernel = frames.shape[1], self.framing.stride, self.framing.kernel
        sums = self._tail
        if count:
            sums = torch.nn.functional.conv_transpose1d(
                self.head.rows(frames), self.head.decoder.weight, stride=stride
            )[:, 0]
            sums[:, : self._tail.shape[1]] += self._tail
        ready = count * stride
        out, self._tail = (sums, sums[:, :0]) if final else (sums[:, :ready], sums[:, ready:])
        assert self._tail.shape[1] <= kernel
        skip = min(self._skip, out.shape[1])
        out, self._skip = out[:, skip:], self._skip - skip
        if final:
            missing = self._taken - self._given
            out = torch.nn.functional.pad(out, (0, max(0, missing - out.shape[1])))[:, :missing]
        self._given += out.shape[1]
        return out.view(self.batch, self.head.cfg.sources, out.shape[1]).float()
