"""wav2vec2, XLS-R, MMS, HuBERT, WavLM, data2vec, W2V-BERT 2.0, Whisper, Qwen2-Audio and AST as encoders."""

from collections.abc import Collection
from typing import Self

import torch
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, check_hidden
from maya.encoders.hugging_face.backbones import BACKBONES
from maya.encoders.hugging_face.config import HuggingFaceConfig
from maya.encoders.hugging_face.four_bit import to_four_bit
from maya.encoders.hugging_face.start import read_start
from maya.errors import MayaError
from maya.features.frames import frame_mask
from maya.kernels import host


class HuggingFaceEncoder(Encoder, config=HuggingFaceConfig):
    """One of transformers' encoders (B, T, F) → (B, S, D), whose rows do not depend on padding.

    Random until `read_start`, which a new training calls. With `output` "weighted", `layer_weights` (L + 1,)
    are learnt: their softmax weighs the states, of which 0 is the input of the first layer.
    """

    def __init__(self, cfg: HuggingFaceConfig) -> None:
        super().__init__()
        self.cfg = cfg
        if cfg.frozen_layers > cfg.n_layers:
            raise MayaError(f"encoder.frozen_layers={cfg.frozen_layers}, but the encoder has {cfg.n_layers}")
        self.backbone = BACKBONES[cfg.family.takes](cfg)
        self.front = tuple(f"backbone.model.{name}" for name in self.backbone.front)  # type: ignore[misc]
        if cfg.output == "weighted":
            self.layer_weights = nn.Parameter(torch.zeros(cfg.n_layers + 1))
            if (unread := self.backbone.last_norm) is not None:
                unread.requires_grad_(False)
        self._held: list[nn.Module] = []
        if cfg.four_bit:
            if cfg.family.takes != "mel":
                raise MayaError("encoder.four_bit is for the encoders of Whisper and Qwen2-Audio only")
            to_four_bit(nn.ModuleList(self.blocks()))
            self._held = [*self.backbone.requires_grad_(False).modules()]
        if cfg.frozen_layers and not cfg.four_bit:
            blocks = self.blocks()
            learning = {id(p) for block in blocks[cfg.frozen_layers :] for p in block.parameters()}
            for p in self.backbone.parameters():
                p.requires_grad_(id(p) in learning)
            self._held = [
                m for m in self.backbone.modules() if not any(p.requires_grad for p in m.parameters())
            ]

    def read_start(self) -> None:
        if self.cfg.folder:
            read_start(self.backbone.model, self.cfg)

    def blocks(self) -> list[nn.Module]:
        return self.backbone.layers

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but what is frozen stays without dropout."""
        super().train(mode)
        for module in self._held:
            module.eval()
        return self

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, self.cfg.n_layers)
        weighted = self.cfg.output == "weighted"
        frames, states = self.backbone(x, x_lens, weighted or bool(hidden))
        lens = self.subsampled_lens(x_lens)
        # Filled up to 30 s there are many more frames than the utterances have.
        longest = (
            int(lens.max()) if len(lens) and host.reads_freely(lens) else self.cfg.subsampled(x.shape[1])
        )
        size = max(1, longest)
        valid = frame_mask(lens, size)[:, :, None]
        if weighted:
            shares = self.layer_weights.softmax(0)
            if self.cfg.norm_layers:
                states = [nn.functional.layer_norm(s.float(), s.shape[-1:]) for s in states]
            frames = sum((s * w for s, w in zip(states, shares, strict=True)), torch.zeros_like(states[0]))
        # Not a product: beyond an utterance there may be anything.
        kept = {i: states[i][:, :size].masked_fill(~valid, 0.0) for i in hidden}
        return Encoded(frames[:, :size].masked_fill(~valid, 0.0), lens, kept)
