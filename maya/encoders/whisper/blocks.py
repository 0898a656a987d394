"""The Transformer block of Whisper's encoder and decoder. Parameters have OpenAI's names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]  # each (B, H, positions, K)


class WhisperAttention(nn.Module):
    """Multi-head attention, whose keys have no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def keys_values(self, x: Tensor) -> KeysValues:
        """(B, S, D) -> keys and values, each (B, H, S, K)."""
        return self.split(self.key(x)), self.split(self.value(x))

    def forward(
        self, x: Tensor, keys_values: KeysValues, seen: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """x (B, U, D) -> (B, U, D); `seen` bool broadcasts to (B, H, U, S)."""
        q = self.split(self.query(x))
        y = F.scaled_dot_product_attention(q, *keys_values, attn_mask=seen, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))

    def scores(self, x: Tensor, keys: Tensor) -> Tensor:
        """x (B, U, D), keys (B, H, S, K) -> what the softmax is taken of, (B, H, U, S) fp32 at least."""
        q = self.split(self.query(x))
        scores = q @ keys.mT * q.shape[-1] ** -0.5
        return scores if scores.dtype == torch.float64 else scores.float()

    def split(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, H, S, K)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class WhisperBlock(nn.Module):
    """Self-attention, in the decoder attention to the frames, and a feed-forward network of four times the
    width; each after a norm, and added to its input."""

    def __init__(self, dim: int, heads: int, cross: bool = False) -> None:
        super().__init__()
        self.attn = WhisperAttention(dim, heads)
        self.attn_ln = nn.LayerNorm(dim)
        if cross:
            self.cross_attn = WhisperAttention(dim, heads)
            self.cross_attn_ln = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp_ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """A block of the encoder: x (B, S, D) -> (B, S, D). seen (B, 1, 1, S) bool, False on padding."""
        y = self.attn_ln(x)
        x = x + self.attn(y, self.attn.keys_values(y), seen)
        return x + self.mlp(self.mlp_ln(x))

    def decode(
        self, x: Tensor, past: KeysValues | None, frames: KeysValues, seen: Tensor | None,
        scores: list[Tensor] | None = None,
    ) -> tuple[Tensor, KeysValues]:  # fmt: skip
        """A block of the decoder: x (N, U, D), all of a sequence, or its next token after `past` (U = 1) -> x
        and the keys and values of all. frames: keys and values (B, H, S, K) of the B utterances, of which
        each has N / B sequences. scores: takes those of the attention to the frames, (N, H, U, S).
        """
        y = self.attn_ln(x)
        k, v = self.attn.keys_values(y)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        x = x + self.attn(y, (k, v), causal=past is None)
        # Queries do not meet in cross-attention: the sequences of an utterance may stand in one row.
        y = self.cross_attn_ln(x).view(len(frames[0]), -1, x.shape[-1])
        if scores is not None:
            scores.append(self.cross_attn.scores(y, frames[0]))
        x = x + self.cross_attn(y, frames, seen).view(x.shape)
        return x + self.mlp(self.mlp_ln(x)), (k, v)
