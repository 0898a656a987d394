"""A head that makes audio of the masked frames of a separating encoder."""

from typing import Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.encoders.separation.filterbank import Framing
from maya.errors import MayaError
from maya.features.frames import frame_mask
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep
from maya.losses.separation import pit_si_sdr_loss
from maya.ranges import NonNegFloat, PosFloat, PosInt


@config
class SeparationConfig(HeadConfig):
    """The inverse of the encoder's filterbank, and the loss of the audio against the batch's sources.

    sources, kernel_size, stride, padded: those of the encoder. clamp_db: a ratio above it earns nothing more,
    so solved mixtures do not lead. auxiliary: weight of the same loss of the encoder's coarser stages, of an
    encoder that has them (SepReformer).
    """

    kind: Literal["separation"] = "separation"
    sources: PosInt = 2
    kernel_size: PosInt = 16
    stride: PosInt = 8
    padded: bool = True
    clamp_db: PosFloat = 30.0
    auxiliary: NonNegFloat = 0.0

    def build(self, context: HeadContext) -> "SeparationHead":
        return SeparationHead(self, context)


class SeparationHead(Head):
    """Masked frames → audio of each source. State: `decoder.weight` (filters, 1, kernel)."""

    cfg: SeparationConfig
    conditioned = False

    def __init__(self, cfg: SeparationConfig, context: HeadContext) -> None:
        super().__init__()
        if context.dim % cfg.sources:
            raise MayaError(
                f"{context.dim} channels cannot be of {cfg.sources} sources: give the separation head the "
                "sources of an encoder that separates (conv_tasnet, sepreformer)"
            )
        self.cfg, self.framing = cfg, Framing(cfg.kernel_size, cfg.stride, cfg.padded)
        self.stages = tuple(range(len(context.hidden_dims))) if cfg.auxiliary else ()
        if cfg.auxiliary and not self.stages:
            raise MayaError("this encoder has no stages for auxiliary losses: set auxiliary=0")
        filters = context.dim // cfg.sources
        self.decoder = nn.ConvTranspose1d(filters, 1, cfg.kernel_size, stride=cfg.stride, bias=False)

    @property
    def hidden(self) -> tuple[int, ...]:
        return self.stages

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("loss", "auxiliary") if self.cfg.auxiliary else ("loss",)

    def part_weights(self, step: int) -> dict[str, float]:
        return {"auxiliary": self.cfg.auxiliary}

    def audio(self, frames: Tensor, audio_lens: Tensor, samples: int) -> Tensor:
        """frames (B, S, sources · filters) → (B, sources, samples), zero beyond audio_lens (B,). Raises
        MayaError for frames of another filterbank."""
        expected = self.framing.frames(samples)
        if frames.shape[1] != expected:
            raise MayaError(
                f"{samples} samples have {expected} windows of the separation head and {frames.shape[1]} of "
                "the encoder: give both the same kernel_size, stride and padded"
            )
        audio = self.framing.synthesize(self.rows(frames), self.decoder.weight, samples)
        return audio.view(len(frames), self.cfg.sources, samples) * frame_mask(audio_lens, samples)[:, None]

    def rows(self, frames: Tensor) -> Tensor:
        """(B, S, sources · filters) → (B · sources, filters, S)."""
        return frames.transpose(1, 2).reshape(len(frames) * self.cfg.sources, -1, frames.shape[1])

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        if batch.sources is None:
            raise MayaError(
                "the batch holds no sources: set data.mixing.sources to the number of speakers in a mixture "
                "(of a table; lhotse cuts cannot be mixed yet)"
            )
        if batch.sources.shape[1] != self.cfg.sources:
            raise MayaError(
                f"mixtures of {batch.sources.shape[1]} speakers do not fit a separation head of "
                f"{self.cfg.sources}: make data.mixing.sources and the model's sources equal"
            )
        losses = {"loss": self._loss(encoded.frames, batch)}
        if self.cfg.auxiliary:
            stages = [self._loss(encoded.hidden[number], batch) for number in self.hidden]
            losses["auxiliary"] = torch.stack(stages).mean(0)
        return losses

    def _loss(self, frames: Tensor, batch: Batch) -> Tensor:
        assert batch.sources is not None
        audio = self.audio(frames, batch.audio_lens, batch.audio.shape[1])
        loss, _ = pit_si_sdr_loss(audio, batch.sources, batch.audio_lens)
        return loss.clamp(min=-self.cfg.clamp_db)
