"""Heads that score the encoder's frames: CTC, and which language is spoken."""

import torch
from torch import Tensor, nn


class CTCHead(nn.Module):
    """A 1×1 convolution from encoder frames to CTC logits: NeMo's ConvASRDecoder.

    `outputs` counts blank. icefall's head is the same, with dropout before it.
    """

    def __init__(self, dim: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        conv = nn.Conv1d(dim, outputs, kernel_size=1)
        nn.init.xavier_uniform_(conv.weight)
        self.decoder_layers = nn.Sequential(conv)

    def forward(self, enc: Tensor) -> Tensor:
        """enc (B, S, D) → log-probabilities (B, S, V), fp32 even under autocast."""
        conv = self.decoder_layers[0]
        assert isinstance(conv, nn.Conv1d)
        logits = nn.functional.linear(self.dropout(enc), conv.weight.squeeze(-1), conv.bias)
        return logits.float().log_softmax(-1) if logits.dtype != torch.float64 else logits.log_softmax(-1)


class LanguageHead(nn.Module):
    """Which language is spoken: mean and standard deviation of the encoder's frames → a score per language.

    Statistics pooling as in x-vectors (Snyder et al. 2018, "Spoken Language Recognition using X-vectors").
    """

    def __init__(self, dim: int, languages: int) -> None:
        super().__init__()
        self.out = nn.Linear(2 * dim, languages)

    def forward(self, enc: Tensor, enc_lens: Tensor) -> Tensor:
        """enc (B, S, D) zero beyond enc_lens (B,) → log-probabilities (B, languages), fp32 at least."""
        wide = enc if enc.dtype == torch.float64 else enc.float()
        frames = enc_lens.clamp(min=1)[:, None]
        mean = wide.sum(1) / frames
        variance = (wide.square().sum(1) / frames - mean.square()).clamp(min=0)
        # The small constant keeps the root's slope finite where a channel does not vary.
        logits = self.out(torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1))
        return logits.to(wide.dtype).log_softmax(-1)
