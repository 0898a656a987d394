"""A head for pre-training without texts: predict discrete targets of frames that the encoder does not see.

Targets of BEST-RQ (Chiu et al. 2022, arXiv:2202.01855): the nearest codes of randomly projected features.
They are computed while training, and nothing of them is learnt.

Targets of HuBERT (Hsu et al. 2021, arXiv:2106.07447) and DELULU (Baali et al. 2025, arXiv:2510.17662): a
label with the numbers of clusters, such as k-means over MFCC or over embeddings of voices; egs/pretrain
computes them. The label is the seconds from one number to the next, then the numbers:
{"clusters": "0.02 17 17 52"}. HuBERT scores clusters by scaled cosines; here a linear layer does, as in
BEST-RQ.
"""

from dataclasses import field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders import frame_mask
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.features.span_mask import MaskedFeatures, SpanMaskConfig, normalized
from maya.heads.base import HeadContext, LossStep
from maya.heads.cost import HeadMemory, Terms
from maya.heads.frames import FrameConfig, FrameHead, FrameStream
from maya.ranges import PosInt, Seed, Share


@config
class MaskedPredictionConfig(FrameConfig):
    """Masked prediction. label: that holds clusters; empty: the targets are those of BEST-RQ.

    codes: of a codebook, or the number of clusters. codebooks, code_dim, seed: of BEST-RQ's random
    projections; each codebook has a projection and an output of its own. mask: the spans that training hides;
    SpecAugment should be off. unmasked_weight: of visible frames in the loss, beside 1 for hidden ones.
    """

    kind: Literal["masked_prediction"] = "masked_prediction"
    codes: PosInt = 8192
    codebooks: PosInt = 1
    code_dim: PosInt = 16
    seed: Seed = 0
    mask: SpanMaskConfig = field(default_factory=SpanMaskConfig)
    unmasked_weight: Share = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,) if self.label else ()

    @property
    def span_mask(self) -> SpanMaskConfig | None:
        return self.mask

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        # Scores and their log probabilities.
        terms = Terms(frame=2 * 4.0 * self.upsampling * self.codebooks * self.codes)
        return HeadMemory(kept={f"{name} head and loss": terms})

    def build(self, context: HeadContext) -> "MaskedPrediction":
        return MaskedPrediction(self, context)


class RandomCodes(nn.Module):
    """Codes of features: a random projection, and the nearest of random vectors by cosine.

    State: `projection` (codebooks, dim, code_dim), Xavier uniform, and `codebook` (codebooks, codes,
    code_dim) of vectors of length 1. Both are buffers, drawn from `seed`.
    """

    projection: Tensor
    codebook: Tensor

    def __init__(self, cfg: MaskedPredictionConfig, dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(cfg.seed)
        options: dict[str, Any] = {"generator": generator, "device": torch.device("cpu")}
        bound = (6.0 / (dim + cfg.code_dim)) ** 0.5
        projection = bound * (2.0 * torch.rand(cfg.codebooks, dim, cfg.code_dim, **options) - 1.0)
        codebook = torch.randn(cfg.codebooks, cfg.codes, cfg.code_dim, **options)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", functional.normalize(codebook, dim=-1))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x (B, n, dim) → (B, n, codebooks) int64, computed in fp32 also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            rows = torch.einsum("bnd,kdc->bnkc", x.float(), self.projection.float())
            # Of vectors of length 1 the nearest has the largest product; a factor of the row changes nothing.
            return torch.einsum("bnkc,kvc->bnkv", rows, self.codebook.float()).argmax(-1)


class MaskedPrediction(FrameHead):
    """Cross entropy of the targets of hidden frames, the mean over an utterance. Outside of training nothing
    is hidden, and all frames count alike."""

    cfg: MaskedPredictionConfig

    def __init__(self, cfg: MaskedPredictionConfig, context: HeadContext) -> None:
        super().__init__(cfg, context, cfg.codebooks * cfg.codes)
        self.tracks, self.stride = "", context.subsampling // cfg.upsampling
        if cfg.label and cfg.codebooks > 1:
            raise MayaError(
                "a label holds one cluster a frame: set codebooks=1 of the masked prediction head"
            )
        if context.subsampling % cfg.upsampling:
            raise MayaError(
                f"{context.subsampling} feature frames of an encoder frame cannot be {cfg.upsampling} equal "
                "steps: change upsampling of the masked prediction head"
            )
        self.random_codes = None if cfg.label else RandomCodes(cfg, self.stride * context.feature_dim)

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        scores = self(encoded)
        rows, steps = scores.shape[:2]
        targets, has = self.targets(encoded, batch, steps)
        nats = functional.cross_entropy(scores.view(-1, self.cfg.codes), targets.flatten(), reduction="none")
        weights = (frame_mask(encoded.lens * self.cfg.upsampling, steps) & has[:, None]).to(nats.dtype)
        if encoded.masked is not None and encoded.masked.hidden is not None:
            weights = weights * self.hidden_steps(encoded.masked, steps).clamp(min=self.cfg.unmasked_weight)
        total = (nats.view(rows, steps, -1).mean(-1) * weights).sum(1)
        return {"loss": total / weights.sum(1).clamp(min=1e-6)}

    def targets(self, encoded: Encoded, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
        """((B, steps, codebooks) int64, (B,) bool: whether the utterance has targets)."""
        device = encoded.frames.device
        if self.random_codes is None:
            numbers, has = self.clusters(batch, steps)
            return numbers.to(device)[..., None], has.to(device)
        if encoded.masked is None:
            raise MayaError("a masked prediction head needs the features: call the losses of a SpeechModel")
        masked = encoded.masked
        with torch.no_grad():
            stacked = self.stacked(normalized(masked.feats.float(), masked.lens), steps).flatten(2)
        return self.random_codes(stacked), torch.ones(len(stacked), dtype=torch.bool, device=device)

    def clusters(self, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
        """((B, steps) the label's clusters at the middle of each step, (B,) whether it has the label)."""
        values, speeds = self.given(batch)
        out = np.zeros((batch.size, steps), np.int64)
        for row, value, speed in zip(out, values, speeds, strict=True):
            if value is not None:
                seconds, numbers = clusters_in(value, self.cfg.codes)
                place = np.floor(self.times(steps, speed) / seconds + 1e-6).astype(int)
                row[:] = numbers[place.clip(max=len(numbers) - 1)]
        return torch.from_numpy(out), torch.tensor([value is not None for value in values])

    def stacked(self, x: Tensor, steps: int) -> Tensor:
        """(B, T, ...) of feature frames → (B, steps, stride, ...), cut, or filled with zeros."""
        out = x.new_zeros(len(x), steps * self.stride, *x.shape[2:])
        size = min(x.shape[1], out.shape[1])
        out[:, :size] = x[:, :size]
        return out.view(len(x), steps, self.stride, *x.shape[2:])

    def hidden_steps(self, masked: MaskedFeatures, steps: int) -> Tensor:
        """(B, steps) 1.0 where all frames of the utterance in a step are hidden."""
        assert masked.hidden is not None
        visible = frame_mask(masked.lens, masked.hidden.shape[1]) & ~masked.hidden
        return (~self.stacked(visible, steps).any(-1)).float()

    def stream(self) -> FrameStream:
        raise MayaError("a head of masked prediction is for training alone and says nothing of a stream")


def clusters_in(value: str, codes: int) -> tuple[float, np.ndarray]:
    """(seconds between two numbers, (n,) int64) of a label. Raises MayaError for text that is none, and for
    numbers outside of 0 .. codes - 1."""
    try:
        first, *rest = value.split()
        seconds, numbers = float(first), np.array(rest, np.int64)
    except ValueError:
        seconds, numbers = 0.0, np.zeros(0, np.int64)
    if not seconds > 0 or not len(numbers):
        raise MayaError(f"the label {value[:40]!r} is no list of clusters such as '0.02 17 17 52'")
    if not 0 <= numbers.min() <= numbers.max() < codes:
        raise MayaError(
            f"a label has cluster {numbers.max()}, and the masked prediction head has {codes} from 0 on: set "
            "its codes to the number of clusters"
        )
    return seconds, numbers
