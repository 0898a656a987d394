"""The fast-weight branch of a layer: large-chunk test-time training (Zhang et al. 2025, arXiv:2505.23884).

Each utterance and head has a small network f. Gradient steps move f(k) towards v; the output is f(q). The
operator is in `maya.kernels.lact`; this file has the parameters around it.
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
RMS_EPS = 1e-8  # small, because a head's output has an initial mean square of 1 / (4 d^2): 2e-6 for d = 384
ROTARY_BASE = 10000.0
TRACELESS = ("orthogonalize", "normalize", "base_rate", "fast_rotary")  # see EncoderConfig


@config
class FastWeightConfig:
    """Size of the fast weights of a layer, and when and how they learn.

    Orders of learning and reading (computing outputs):

    * "whole": learn from all frames in one step, then read all;
    * "passes": learn chunk by chunk, `passes` times over, then read all;
    * "chunk_causal": learn from a chunk, then read it;
    * "causal": read a chunk, then learn from it. Utterances shorter than a chunk are read without learning.

    Only the last two can stream.
    """

    fast_heads: PosInt = 4
    fast_expansion: PosInt = 2  # hidden width of a head's network / its input width
    order: Literal["whole", "passes", "chunk_causal", "causal"] = "whole"
    chunk: PosInt = 64  # encoder frames of one step, in every order but "whole"
    passes: PosInt = 1
    # Replace each step's gradient by the nearest orthogonal matrix (five Newton-Schulz steps). The size of
    # the gradient is then lost: only ratios of rates between frames matter.
    orthogonalize: bool = False
    normalize: bool = True  # the gradient is a mean over the frames of a step, not a sum
    momentum: bool = False  # needs several steps, so not with order "whole"
    update_weights: Literal["all", "w1"] = "all"  # "w1": only the output matrix, which is linear attention
    # Step size before training. In order "whole" 10 changes the output of a new layer by a quarter on 5 s of
    # speech, in the orders of several steps by more; 1 would hardly change it.
    base_rate: PosFloat = 10.0
    fast_rotary: bool = False  # rotary positions of queries and keys, from the utterance's start
    update_at_test: bool = True  # False: no learning in evaluation, for comparison
    learning: bool = True  # False: none in training either: a control with as many parameters
    detach_memory: bool = False  # in training, no gradient from an utterance to those heard before it


def check_fast_weights(cfg: FastWeightConfig, width: int) -> None:
    """Raises MayaError with the reason for fast weights that do not fit layers of `width` channels."""
    if width % cfg.fast_heads or (cfg.fast_rotary and width // cfg.fast_heads % 2):
        raise MayaError(
            f"fast_heads={cfg.fast_heads} must divide the layers' {width} channels; with fast_rotary=true "
            "the quotient must be even"
        )
    if cfg.momentum and cfg.order == "whole":
        raise MayaError("momentum=true needs several steps, but order=whole makes one; change one of them")


def plan(cfg: FastWeightConfig, frames: int, *, update: bool = True) -> list[Span]:
    """The spans to learn from and to read, in order. Without `update` all is read and nothing learned."""
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
    """q, k, v (B, S, D), which attention may share -> (B, S, D). Zero before training: the gate is closed.

    q and k are scaled, shifted, put through SiLU and normalised to length 1 in each head; v goes through
    SiLU. The step sizes are `base_rate` times softplus of a projection of the layer's input, in fp32; the
    softplus is shifted to be 1 at 0. The output is normalised in each head (RMSNorm) and gated.
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
        """Rows of length about 1, neutral scales and offsets, a closed gate."""
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
        """Whether the fast weights learn in this mode."""
        return self.cfg.learning and (self.training or self.cfg.update_at_test)

    def stop_updates(self) -> None:
        """Do not learn in evaluation any more."""
        self.cfg.update_at_test = False

    def initial(self, batch: int) -> FastWeights:
        """The state of `batch` utterances before their first frame: the model's weights, not copied."""
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
            x: (B, S, D) the layer's input, for rates and gates.
            q, k, v: (B, S, D).
            valid: (B, S) bool, False on padding, which is not learned from.
            weights: the state before, None at the start of an utterance.
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
        # Products are computed in the type of v: under autocast that of linear layers.
        y, after = lact(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            rates,
            start if weights is None else weights,
            plan(cfg, x.shape[1], update=self.learns),
            mask=valid,
            momentum_gate=gate,
            row_norms=row_norms(self.initial(1)),  # the same in every utterance
            step_scale=self.step_scale,
            orthogonalize="muon5" if cfg.orthogonalize else "none",
            normalize="frames" if cfg.normalize else "none",
            update_weights=cfg.update_weights,
        )
        y = F.rms_norm(y, y.shape[-1:], eps=RMS_EPS) * self.norm
        if not cfg.learning and self.training:  # DDP waits for a gradient from each parameter
            unused = [rates, self.step_scale, *([] if gate is None else [gate])]
            y = y + 0.0 * torch.stack([u.sum() for u in unused]).sum().to(y.dtype)
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
    """Reset the fast weights of all modules of a model. Call it after the reset of linears: gates start
    closed."""
    for part in model.modules():
        if isinstance(part, FastWeightBranch):
            part.reset_parameters()
