"""SpeechTokenizer as an encoder: latents of 50 Hz, and their codes on 8 levels."""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from maya.encoders.base import Encoded, Encoder, check_hidden
from maya.encoders.speech_tokenizer.config import SpeechTokenizerConfig
from maya.encoders.speech_tokenizer.seanet import run, seanet
from maya.encoders.state_files import fill, read_torch, state_dict, without_weight_norm
from maya.errors import MayaError
from maya.features.frames import frame_mask


class SpeechTokenizerEncoder(Encoder, config=SpeechTokenizerConfig):
    """The waveform (B, N, 1) → (B, S, d_model), S = N / 320 rounded up.

    `codebooks` (levels, size, D) are no parameters, and do not learn. The gradient of code vectors goes to
    the latents (straight through). It has no blocks: LoRA and rates by layer have no place in it.
    """

    front = ("seanet",)
    codebooks: Tensor

    def __init__(self, cfg: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.seanet = seanet(cfg)
        self.register_buffer("codebooks", torch.randn(cfg.levels, cfg.codebook_size, cfg.dimension))
        if cfg.output == "semantic":
            same = cfg.dimension == cfg.semantic_dimension
            self.transform = nn.Identity() if same else nn.Linear(cfg.dimension, cfg.semantic_dimension)

    def read_start(self) -> None:
        if self.cfg.start:
            path = Path(self.cfg.start)
            tensors = our_tensors(state_dict(read_torch(path), path), path, self.cfg)
            fill(self, tensors, path, "a SpeechTokenizer")

    def latents(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """The waveform (B, N, 1), lens (B,) → (B, S, D), zero beyond the lengths, and these (B,)."""
        wave = nn.functional.pad(x[:, :, 0], (0, max(0, 1 - x.shape[1])))
        wave = wave.masked_fill(~frame_mask(x_lens, wave.shape[1]), 0.0)
        y, _ = run(self.seanet, wave[:, None], x_lens.clamp(min=1))
        lens = self.subsampled_lens(x_lens)
        return y.mT * frame_mask(lens, y.shape[2])[..., None], lens

    def quantize(self, latents: Tensor, levels: int) -> tuple[list[Tensor], list[Tensor]]:
        """(B, S, D) → codes (B, S) int64 and code vectors (B, S, D) of each level. A level takes the code
        nearest to what the levels before it leave."""
        remainder, codes, vectors = latents.detach().float(), [], []
        with torch.autocast(latents.device.type, enabled=False):
            for book in self.codebooks[:levels].float():
                distance = remainder.square().sum(-1, keepdim=True) - 2 * remainder @ book.T
                codes.append((distance + book.square().sum(-1)).argmin(-1))
                vectors.append(book[codes[-1]].to(latents.dtype))
                remainder = remainder - vectors[-1].float()
        return codes, vectors

    def codes(self, x: Tensor, x_lens: Tensor, levels: int | None = None) -> tuple[Tensor, Tensor]:
        """The waveform (B, N, 1), lens (B,) → codes (B, S, levels) int64 from the semantic level on, 0 beyond
        the lengths, and these (B,)."""
        latents, lens = self.latents(x, x_lens)
        codes = torch.stack(self.quantize(latents, levels or self.cfg.levels)[0], -1)
        return codes * frame_mask(lens, codes.shape[1])[..., None], lens

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        cfg = self.cfg
        check_hidden(hidden, cfg.levels)
        latents, lens = self.latents(x, x_lens)
        output = {"latents": 0, "semantic": 1, "quantized": cfg.levels}[cfg.output]
        valid = frame_mask(lens, latents.shape[1])[..., None]
        states = {0: latents}
        total = torch.zeros_like(latents)
        for level, vectors in enumerate(self.quantize(latents, max([output, *hidden]))[1], 1):
            total = total + vectors
            states[level] = (latents + (total - latents).detach()) * valid
        frames = states[output]
        if cfg.output == "semantic":
            frames = self.transform(frames) * valid
        return Encoded(frames, lens, {number: states[number] for number in hidden})


def our_tensors(stored: dict[str, Tensor], path: Path, cfg: SpeechTokenizerConfig) -> dict[str, Tensor]:
    """The tensors of a published file by Maya's names, without decoder and the averages of its training.
    Raises MayaError for a file of another model."""
    books = [f"quantizer.vq.layers.{i}._codebook.embed" for i in range(cfg.levels)]
    shape = (cfg.codebook_size, cfg.dimension)
    for name in books:
        if name not in stored:
            raise MayaError(f"{path} is no SpeechTokenizer of {cfg.levels} levels: it lacks {name}")
        if stored[name].shape != shape:
            raise MayaError(
                f"{path}: {name} has shape {tuple(stored[name].shape)}, and {shape} by config.json"
            )
    out = {
        name.replace("encoder.model.", "seanet.").replace(".conv.conv.", ".conv."): x
        for name, x in without_weight_norm(stored).items()
        if name.startswith("encoder.") or (name.startswith("transform.") and cfg.output == "semantic")
    }
    return out | {"codebooks": torch.stack([stored[name] for name in books])}
