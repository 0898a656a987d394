"""A Transformer over the codes of a frozen SpeechTokenizer: the second of two stages."""

from collections.abc import Collection
from typing import Self

import torch
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, check_hidden
from maya.encoders.positions import sinusoids
from maya.encoders.speech_tokenizer.config import CodesConfig
from maya.encoders.speech_tokenizer.encoder import SpeechTokenizerEncoder
from maya.encoders.whisper.blocks import WhisperBlock
from maya.errors import MayaError
from maya.features.frames import frame_mask


class CodesEncoder(Encoder, config=CodesConfig):
    """The waveform (B, N, 1) → (B, S, d_model). Only what stands behind the codes learns."""

    front = ("embeddings",)

    def __init__(self, cfg: CodesConfig) -> None:
        super().__init__()
        if cfg.levels > cfg.codec.levels:
            raise MayaError(f"encoder.levels={cfg.levels}, but the tokenizer has {cfg.codec.levels}")
        if cfg.d_model % cfg.heads or cfg.d_model % 2:
            raise MayaError(f"encoder.d_model={cfg.d_model} must be even and a multiple of heads={cfg.heads}")
        self.cfg = cfg
        self.codec = SpeechTokenizerEncoder(cfg.codec).requires_grad_(False).eval()
        self.embeddings = nn.Embedding(cfg.levels * cfg.codec.codebook_size, cfg.d_model)
        nn.init.normal_(self.embeddings.weight, std=cfg.levels**-0.5)
        self.dropout = nn.Dropout(cfg.dropout)
        self.layers = nn.ModuleList(WhisperBlock(cfg.d_model, cfg.heads) for _ in range(cfg.n_layers))
        self.norm = nn.LayerNorm(cfg.d_model)

    def read_start(self) -> None:
        self.codec.read_start()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but the tokenizer stays in evaluation mode."""
        super().train(mode)
        self.codec.eval()
        return self

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, len(self.layers))
        cfg = self.cfg
        with torch.no_grad():
            codes, lens = self.codec.codes(x, x_lens, cfg.levels)
        first = cfg.codec.codebook_size * torch.arange(cfg.levels, device=codes.device)
        y = self.embeddings(codes + first).sum(-2)
        places = torch.arange(y.shape[1], dtype=torch.float32, device=y.device)
        y = self.dropout(y + sinusoids(places, cfg.d_model).to(y.dtype))
        valid = frame_mask(lens, y.shape[1])[..., None]
        seen = valid.mT[:, None] | (lens == 0)[:, None, None, None]  # a row without frames stays finite
        states = [y]
        for layer in self.layers:
            states.append(layer(states[-1], seen))
        kept = {number: states[number] * valid for number in hidden}
        return Encoded(self.norm(states[-1]) * valid, lens, kept)
