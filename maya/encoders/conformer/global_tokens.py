"""Local attention with global tokens (Beltagy et al. 2020, arXiv:2004.05150), as NeMo has it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.encoders.conformer.attention import HIDDEN, Frames, Keys, RelPositionAttention
from maya.kernels.onednn import QuickLinear


class GlobalTokenAttention(RelPositionAttention):
    """Attention over a bounded span; frames 0, spacing, 2 * spacing, ... see all and are seen by all.

    Scores with global frames have no position term. As in NeMo, a global frame that also lies within the span
    counts twice. With `separate`, those scores and what global frames gather have projections of their own,
    named as NeMo's: global_q, global_k, global_v.
    """

    def __init__(
        self, width: int, heads: int, *, bias: bool, dropout: float, tokens: int, spacing: int, separate: bool
    ) -> None:
        super().__init__(width, heads, bias=bias, dropout=dropout)
        self.tokens, self.spacing, self.separate = tokens, spacing, separate
        if separate:
            self.global_q = QuickLinear(width, width, bias=bias)
            self.global_k = QuickLinear(width, width, bias=bias)
            self.global_v = QuickLinear(width, width, bias=bias)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """(B, S, D) -> (B, S, D); `frames` not packed, its span bounded."""
        q, k, v = (self.split_heads(linear, x) for linear in (self.linear_q, self.linear_k, self.linear_v))
        p = self.split_heads(self.linear_pos, frames.positions)
        all_q, all_k, all_v = q, k, v
        if self.separate:
            linears = (self.global_q, self.global_k, self.global_v)
            all_q, all_k, all_v = (self.split_heads(linear, x) for linear in linears)
        places = torch.arange(0, min(x.shape[1], self.tokens * self.spacing), self.spacing, device=x.device)
        hidden = torch.zeros_like(frames.valid, dtype=q.dtype).masked_fill_(~frames.valid, HIDDEN)
        # (B, S, H, G): each frame's score with each global one.
        scores = torch.einsum("bshk,bghk->bshg", all_q, all_k[:, places]) / self.head_size**0.5
        scores = scores + hidden[:, None, None, places]
        y = self.attend_local(q, Keys(k, v, frames.valid), p, frames.span, (scores, v[:, places]))
        gathered = F.scaled_dot_product_attention(
            all_q[:, places].transpose(1, 2),
            all_k.transpose(1, 2),
            all_v.transpose(1, 2),
            attn_mask=hidden[:, None, None],
            dropout_p=self.dropout_p if self.training else 0.0,
        )
        return self.linear_out(y.index_copy(1, places, gathered.transpose(1, 2)).flatten(2))
