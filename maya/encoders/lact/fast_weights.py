"""The fast-weight branch of a layer: large-chunk test-time training (Zhang et al. 2025, arXiv:2505.23884).

A small network of each utterance and head learns while it listens, by gradient steps that pull f(k) towards
v, and is read at q. `maya.kernels.lact` has the operator; here stand the parameters around it.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.config import config
from maya.errors import MayaError
from maya.kernels.lact import (
    FastWeights,
    Span,
    chunk_causal,
    initial,
    lact,
    passes,
    row_norms,
    strictly_causal,
    whole,
)
from maya.ranges import PosFloat, PosInt

L2_EPS = 1e-5
# Of the norm of each head's output, whose mean square is about 1 / (4 d^2) at first: 2e-6 for d = 384.
RMS_EPS = 1e-8
ROTARY_BASE = 10000.0


@config
class FastWeightConfig:
    """How many fast weights a layer has, and when and how they learn.

    Orders: "whole" learns from all frames of an utterance in one step and then reads all; "passes" learns
    chunk by chunk, `passes` times over, and then reads all; "chunk_causal" learns from a chunk, then reads
    it; "causal" reads a chunk, then learns from it. Only the last two can stream. In order "causal" an
    utterance that is shorter than a chunk is read by weights that have learnt nothing.
    """

    fast_heads: PosInt = 4
    fast_expansion: PosInt = 2  # hidden over input width of a head's network
    order: Literal["whole", "passes", "chunk_causal", "causal"] = "whole"
    chunk: PosInt = 64  # encoder frames of one step, in every order but "whole"
    passes: PosInt = 1
    # Each step's gradient is replaced by the orthogonal matrix nearest to it (five Newton-Schulz steps): its
    # size then says nothing, and only the ratio of the rates between frames counts.
    orthogonalize: bool = False
    normalize: bool = True  # the gradient is a mean over the frames of a step, not a sum
    momentum: bool = False  # of the steps of an utterance, so not of order "whole"
    update_weights: Literal["all", "w1"] = "all"  # "w1": the output matrix alone, which is linear attention
    # Step size before training. 10 turns the output of a new layer by a quarter on 5 s of speech in order
    # "whole", by more in the orders of several steps; 1 would hardly move it.
    base_rate: PosFloat = 10.0
    fast_rotary: bool = False  # positions of queries and keys, counted from the utterance's start
    update_at_test: bool = True  # False: in evaluation nothing is learnt, which shows what learning is worth


def check_fast_weights(cfg: FastWeightConfig, width: int) -> None:
    """Refuse fast weights that cannot be built in layers of `width` channels, with the reason (MayaError)."""
    if width % cfg.fast_heads or (cfg.fast_rotary and width // cfg.fast_heads % 2):
        raise MayaError(
            f"fast_heads={cfg.fast_heads} must divide the layers' {width} channels, and the quotient be even "
            "where fast_rotary=true"
        )
    if cfg.momentum and cfg.order == "whole":
        raise MayaError("momentum=true needs several steps, which order=whole does not make; set one of them")


def plan(cfg: FastWeightConfig, frames: int, *, update: bool = True) -> list[Span]:
    """What is learnt from and read, in which order; without `update` all is read by weights as they are."""
    if not update:
        return [Span(0, frames, False, True)] if frames else []
    match cfg.order:
        case "whole":
            return whole(frames)
        case "passes":
            return passes(frames, cfg.chunk, cfg.passes)
        case "chunk_causal":
            return chunk_causal(frames, cfg.chunk)
        case "causal":
            return strictly_causal(frames, cfg.chunk)


def rotate(x: Tensor, places: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): x (B, S, H, K), places (S,) or (B, S) -> as x."""
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    rate = ROTARY_BASE ** (-torch.arange(half, dtype=wide, device=x.device) / half)
    angle = (places[..., None] * rate)[..., None, :]  # (..., S, 1, K / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class FastWeightBranch(nn.Module):
    """q, k, v (B, S, D), which attention may share -> (B, S, D), zero before training: the gate is closed.

    q and k get a scale and an offset of their own, go through SiLU and to length 1 in each head; v through
    SiLU. The step sizes are `base_rate` times softplus of a projection of the layer's input, in fp32, 1 where
    that is 0. The output is normalised in each head (RMSNorm) and gated.
    """

    def __init__(self, width: int, cfg: FastWeightConfig) -> None:
        super().__init__()
        check_fast_weights(cfg, width)
        self.cfg = cfg
        heads = cfg.fast_heads
        size = width // heads
        hidden = size * cfg.fast_expansion
        self.w0 = nn.Parameter(torch.empty(heads, hidden, size))
        self.w1 = nn.Parameter(torch.empty(heads, size, hidden))
        self.w2 = nn.Parameter(torch.empty(heads, hidden, size))
        self.qk_scale = nn.Parameter(torch.empty(2, width))
        self.qk_offset = nn.Parameter(torch.empty(2, width))
        self.rates = nn.Linear(width, heads * (3 if cfg.update_weights == "all" else 1))
        self.momentum = nn.Linear(width, heads) if cfg.momentum else None
        self.step_scale = nn.Parameter(torch.empty(heads))
        self.norm = nn.Parameter(torch.empty(heads, size))
        self.gate = nn.Linear(width, heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rows of length about 1, all else neutral, the gate closed."""
        nn.init.normal_(self.w0, std=self.w0.shape[-1] ** -0.5)
        nn.init.normal_(self.w1, std=self.w1.shape[-1] ** -0.5)
        nn.init.normal_(self.w2, std=self.w2.shape[-1] ** -0.5)
        for ones in (self.qk_scale, self.step_scale, self.norm):
            nn.init.ones_(ones)
        nn.init.zeros_(self.qk_offset)
        self.rates.reset_parameters()
        if self.momentum is not None:
            self.momentum.reset_parameters()
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    @property
    def learns(self) -> bool:
        """Whether this mode makes steps at all."""
        return self.training or self.cfg.update_at_test

    def stop_updates(self) -> None:
        """In evaluation learn nothing any more."""
        self.cfg.update_at_test = False

    def initial(self, batch: int) -> FastWeights:
        """The learned weights as the state of `batch` utterances before their first frame; no copy."""
        w0, w1, w2 = (w if w.dtype == torch.float64 else w.float() for w in (self.w0, self.w1, self.w2))
        return initial(w0, w1, w2, batch)

    def forward(
        self,
        x: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        valid: Tensor,
        weights: FastWeights | None = None,
        first: Tensor | None = None,
    ) -> tuple[Tensor, FastWeights]:
        """Learn and read.

        Args:
            x: (B, S, D) the layer's input, from which rates and gates are taken.
            q, k, v: (B, S, D).
            valid: (B, S) bool, False on padding, of which nothing is learnt.
            weights: the state before, None for an utterance's start.
            first: (B,) the number of the first frame, None for 0.

        Returns:
            (B, S, D), zero on padding, and the state after.
        """
        cfg, start = self.cfg, self.initial(len(x))
        q, k = (self._key(y, i, first) for i, y in enumerate((q, k)))
        v = F.silu(v).unflatten(-1, (cfg.fast_heads, -1))
        wide, gate = x if x.dtype == torch.float64 else x.float(), None
        with torch.autocast(x.device.type, enabled=False):
            rates = cfg.base_rate * F.softplus(self.rates(wide) + math.log(math.e - 1))
            if self.momentum is not None:
                gate = self.momentum(wide).sigmoid()
        rates = rates.unflatten(-1, (cfg.fast_heads, -1))
        if cfg.update_weights == "w1":
            rates = F.pad(rates, (1, 1))
        # Products are made in the type of v, under autocast that of a layer's linear maps.
        y, after = lact(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            rates,
            start if weights is None else weights,
            plan(cfg, x.shape[1], update=self.learns),
            mask=valid,
            momentum_gate=gate,
            row_norms=None if weights is None else row_norms(start),
            step_scale=self.step_scale,
            orthogonalize="muon5" if cfg.orthogonalize else "none",
            normalize="frames" if cfg.normalize else "none",
            update_weights=cfg.update_weights,
        )
        y = F.rms_norm(y, y.shape[-1:], eps=RMS_EPS) * self.norm
        return (y * F.silu(self.gate(x))[..., None]).flatten(2), after

    def _key(self, x: Tensor, index: int, first: Tensor | None) -> Tensor:
        """Queries (0) or keys (1) as the network reads them: (B, S, D) -> (B, S, H, d) of length 1."""
        x = F.silu(x * self.qk_scale[index] + self.qk_offset[index]).unflatten(-1, (self.cfg.fast_heads, -1))
        x = x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + L2_EPS)
        if not self.cfg.fast_rotary:
            return x
        places = torch.arange(x.shape[1], device=x.device)
        return rotate(x, places if first is None else first[:, None] + places)


def reset_fast_weights(model: nn.Module) -> None:
    """Reset the fast weights of all parts of a model; after their linear maps, as the gates start closed."""
    for part in model.modules():
        if isinstance(part, FastWeightBranch):
            part.reset_parameters()
