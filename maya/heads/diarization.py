"""A head that says who speaks when: a Transformer over the frames and a sigmoid for each speaker.

The first output is the speaker who speaks first, and so on, as in Sortformer (Park et al. 2024,
arXiv:2409.06656): half of the loss is binary cross entropy with the speakers in the order of their first
speech, the other half that of the best of all orders (EEND, Fujita et al. 2019, arXiv:1909.05952).

The label is that of events, with a name for each speaker: "0.3-2.41 anna; 2.1-3.0 ben; 4-5.5 anna".
`maya.data.loading.meetings` makes recordings with such labels.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maya.config import config
from maya.data.loading.batch import Batch
from maya.data.table.spans import events_in
from maya.encoders import frame_mask
from maya.encoders.base import Encoded
from maya.encoders.positions import sinusoids
from maya.errors import MayaError
from maya.heads.base import HeadContext, HeadTrack, LossStep
from maya.heads.frames import FrameHead, FrameStream, SpanConfig, track_of
from maya.losses.separation import best_order
from maya.ranges import Count, OddInt, PosInt, Range, Share


@config
class DiarizationConfig(SpanConfig):
    """speakers: of a recording at most. hidden: channels of the Transformer. n_layers, n_heads: its size.
    sort_share: of the loss with sorted speakers; the rest is that of the best order. median_frames:
    probabilities are smoothed by a median over so many steps before they become turns."""

    kind: Literal["diarization"] = "diarization"
    label: str = "turns"
    hidden: PosInt = 192
    speakers: Annotated[int, Range(min=1, max=5)] = 4
    n_layers: Count = 2
    n_heads: PosInt = 4
    sort_share: Share = 0.5
    median_frames: OddInt = 5
    off: Share = 0.5

    def build(self, context: HeadContext) -> "DiarizationHead":
        if self.hidden % self.n_heads or self.hidden % 2:
            raise MayaError(
                f"hidden={self.hidden} of the diarization head must be even and a multiple of its "
                f"n_heads={self.n_heads}"
            )
        return DiarizationHead(self, context)


class DiarizationHead(FrameHead):
    """The probability of each speaker at each step; several may speak at once."""

    cfg: DiarizationConfig
    parts = ("loss", "sorted")

    def __init__(self, cfg: DiarizationConfig, context: HeadContext) -> None:
        super().__init__(cfg, context, cfg.speakers)
        layer = nn.TransformerEncoderLayer(
            cfg.hidden, cfg.n_heads, 4 * cfg.hidden, cfg.dropout, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(cfg.hidden)
        self.transformer = nn.TransformerEncoder(layer, cfg.n_layers, norm, enable_nested_tensor=False)
        self.names = tuple(chr(ord("A") + k) for k in range(cfg.speakers))

    def across(self, x: Tensor, lens: Tensor) -> Tensor:
        """Attention to all frames of the row. Positions are added: who was first depends on them."""
        places = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        mask = frame_mask(lens.clamp(min=1), x.shape[1])  # attention to no frame at all would be NaN
        positions = sinusoids(places, self.cfg.hidden).to(x.dtype)
        out: Tensor = self.transformer(x + positions, src_key_padding_mask=~mask)
        return out

    def part_weights(self, step: int) -> dict[str, float]:
        return {"loss": 1 - self.cfg.sort_share, "sorted": self.cfg.sort_share}

    def targets(self, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
        """((B, steps, speakers) 1 where a speaker speaks, in the order of their first speech, (B,) whether
        the utterance has the label). Raises MayaError for a label of too many speakers."""
        values, speeds = self.given(batch)
        out = np.zeros((batch.size, steps, self.cfg.speakers), np.float32)
        for row, value, speed in zip(out, values, speeds, strict=True):
            times, turns = self.times(steps, speed), events_in(value)
            names = arrivals(turns)
            if len(names) > self.cfg.speakers:
                raise MayaError(
                    f"a label {self.cfg.label!r} has {len(names)} speakers and the diarization head "
                    f"{self.cfg.speakers}: raise its option speakers, or leave such recordings out"
                )
            for name, start, end in turns:
                row[(times >= start) & (times < end), names.index(name)] = 1.0
        return torch.from_numpy(out), torch.tensor([value is not None for value in values])

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        """Binary cross entropy, the mean over frames and speakers, in both orders."""
        outputs = self(encoded)
        targets, has = (x.to(outputs.device) for x in self.targets(batch, outputs.shape[1]))
        used = frame_mask(encoded.lens * self.cfg.upsampling, outputs.shape[1]) & has[:, None]
        pairs = pair_entropies(outputs, targets.to(outputs.dtype), used.to(outputs.dtype))
        best, _ = best_order(-pairs)
        return {"loss": -best, "sorted": pairs.diagonal(dim1=1, dim2=2).mean(-1)}

    def made(self, outputs: Tensor) -> HeadTrack:
        values = median(outputs.sigmoid(), self.cfg.median_frames)
        return track_of(values, self.names, self.seconds, self.cfg)

    def stream(self) -> FrameStream:
        raise MayaError("a diarization head attends to the whole recording and cannot stream")


def arrivals(turns: Sequence[tuple[str, float, float]]) -> list[str]:
    """The names of (name, start, end) in the order of their first start."""
    return list(dict.fromkeys(name for name, _, _ in sorted(turns, key=lambda turn: turn[1])))


def pair_entropies(logits: Tensor, targets: Tensor, used: Tensor) -> Tensor:
    """(B, K, K): the binary cross entropy of speaker k of the targets with output l at [b, k, l], the mean
    over the steps where used (B, S) is 1; 0 where there are none. logits, targets: (B, S, K)."""
    # BCE of logit x and target t is softplus(x) - x t: a matrix product gives all pairs at once.
    logits = logits * used[..., None]
    silent = (functional.softplus(logits) * used[..., None]).sum(1)
    total = silent[:, None, :] - torch.einsum("bsk,bsl->bkl", targets, logits)
    return total / used.sum(1).clamp(min=1)[:, None, None]


def median(values: Tensor, size: int) -> Tensor:
    """Median over `size` steps (odd) around each of (n, K); the edges are repeated."""
    if size == 1 or not len(values):
        return values
    padded = functional.pad(values.T[None], (size // 2, size // 2), mode="replicate")[0]
    return padded.unfold(-1, size, 1).median(-1).values.T
