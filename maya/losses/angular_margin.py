"""Additive angular margin softmax (ArcFace, Deng et al. 2019, arXiv:1801.07698), with the extensions that
speaker recognition has added: sub-centres, and a penalty on the hardest wrong classes (inter-top-k, Zhao et
al. 2021, arXiv:2110.05042)."""

import math
from typing import Literal

import torch
from torch import Tensor

_LIMIT = 1 - 1e-7  # of a cosine: the slope of the sine is infinite at 1


def class_cosines(embeddings: Tensor, centres: Tensor, each: int) -> Tensor:
    """embeddings (B, E), centres (C · each, E), those of a class side by side → (B, C) cosines, of the
    nearest centre of each class. fp32 at least, also under autocast."""
    with torch.autocast(embeddings.device.type, enabled=False):
        wide = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
        unit = torch.nn.functional.normalize(embeddings.to(wide), dim=-1)
        cosines = unit @ torch.nn.functional.normalize(centres.to(wide), dim=-1).T
        return cosines.view(len(embeddings), -1, each).amax(-1)


def margin_logits(
    cosines: Tensor, targets: Tensor, *, margin: float, scale: float,
    beyond: Literal["linear", "shifted"] = "linear", hardest: int = 0, penalty: float = 0.0,
) -> Tensor:  # fmt: skip
    """Logits (B, C) of a softmax from cosines (B, C) fp32 or fp64.

    The right class, targets (B,) int64, has cos(θ + margin) while θ + margin is below π. Farther away it has
    "linear": cos θ − margin · sin margin, as in SpeechBrain, or "shifted": cos θ − 1 + cos margin, as in
    wespeaker, which does not jump there. The `hardest` wrong classes have cos(θ − penalty). All times
    `scale`. Cosines are kept within ±(1 − 1e-7).
    """
    cosines = cosines.clamp(-_LIMIT, _LIMIT)
    sines = (1.0 - cosines.square()).sqrt()
    # At cos θ = −cos m the jump of the second form is none: cos(π) = −1 = −cos m − (1 − cos m).
    drop = margin * math.sin(margin) if beyond == "linear" else 1.0 - math.cos(margin)
    moved = cosines * math.cos(margin) - sines * math.sin(margin)
    moved = torch.where(cosines > -math.cos(margin), moved, cosines - drop)
    right = torch.zeros_like(cosines, dtype=torch.bool).scatter(1, targets[:, None], True)
    logits = torch.where(right, moved, cosines)
    if hardest and penalty:
        top = cosines.masked_fill(right, -torch.inf).topk(min(hardest, cosines.shape[1] - 1), 1).indices
        wrong = torch.zeros_like(right).scatter(1, top, True)
        logits = torch.where(wrong, cosines * math.cos(penalty) + sines * math.sin(penalty), logits)
    return scale * logits


def scheduled_margin(margin: float, step: int, start: int, ramp: int) -> float:
    """0 before step `start`; then 1 − 0.001 ** (passed / ramp) of the margin, as wespeaker raises it; all of
    it after `ramp` further steps."""
    if step < start:
        return 0.0
    passed = step - start
    return margin if passed >= ramp else margin * (1.0 - 1e-3 ** (passed / ramp))
