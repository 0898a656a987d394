"""A small causal encoder: gated recurrent units on log-mel features. A frame depends on the past alone, so a
stream gives what the whole gives, and its state is one tensor."""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.encoders.base import Encoded, Encoder, EncoderConfig, EncoderStream, check_hidden
from maya.errors import MayaError
from maya.features.frames import frame_mask
from maya.ranges import BelowOne, PosInt

_SCALE = 0.1  # of features: log energies of audio in [-1, 1] lie between -17 and 6


@config
class RecurrentConfig(EncoderConfig):
    """`subsampling_factor` feature frames are joined to one; then `n_layers` GRU layers with residuals."""

    kind: Literal["recurrent"] = "recurrent"
    feat_in: PosInt = 40
    d_model: PosInt = 96
    n_layers: PosInt = 2
    subsampling_factor: PosInt = 2
    dropout: BelowOne = 0.0  # before each layer


class RecurrentEncoder(Encoder, config=RecurrentConfig):
    """See `RecurrentConfig`."""

    front = ("input",)

    def __init__(self, cfg: RecurrentConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.input = nn.Linear(cfg.feat_in * cfg.subsampling_factor, cfg.d_model)
        grus = (nn.GRU(cfg.d_model, cfg.d_model, batch_first=True) for _ in range(cfg.n_layers))
        self.layers = nn.ModuleList(grus)
        self.dropout = nn.Dropout(cfg.dropout)

    def initial_state(self, batch: int) -> Tensor:
        """(B, layers, D): the state before the first frame."""
        return self.input.weight.new_zeros(batch, self.cfg.n_layers, self.cfg.d_model)

    def step(self, x: Tensor, state: Tensor, hidden: Collection[int] = ()) -> tuple[Encoded, Tensor]:
        """x (B, S · factor, F), the next features of each stream → frames (B, S, D), state."""
        joined = self.input.in_features
        x = self.input(_SCALE * x.reshape(len(x), -1, joined)).tanh()
        states, after = {0: x}, []
        for number, layer in enumerate(self.layers, 1):
            y, last = layer(self.dropout(x), state[:, number - 1][None].contiguous())
            x = states[number] = x + y
            after.append(last[0])
        lens = torch.full((len(x),), x.shape[1], device=x.device)
        return Encoded(x, lens, {n: states[n] for n in hidden}), torch.stack(after, 1)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        check_hidden(hidden, self.cfg.n_layers)
        x = x * frame_mask(x_lens, x.shape[1])[..., None].to(x.dtype)
        factor = self.cfg.subsampling_factor
        # A GRU refuses a batch without any frame.
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % factor if x.shape[1] else factor))
        encoded, _ = self.step(x, self.initial_state(len(x)), hidden)
        lens = self.subsampled_lens(x_lens)
        mask = frame_mask(lens, encoded.frames.shape[1])[..., None].to(x.dtype)
        return Encoded(encoded.frames * mask, lens, {n: y * mask for n, y in encoded.hidden.items()})

    def stream(
        self, batch: int, context: tuple[int, int] | None = None, *, padding_value: float = 0.0
    ) -> "RecurrentStream":
        if context is not None:
            raise MayaError("a recurrent encoder has all of the past as context: leave the context out")
        return RecurrentStream(self, batch)


class RecurrentStream(EncoderStream):
    """The state of B streams, and the features that do not fill a frame yet."""

    def __init__(self, encoder: RecurrentEncoder, batch: int) -> None:
        self.encoder, self.state = encoder, encoder.initial_state(batch)
        self.rest = self.state.new_zeros(batch, 0, encoder.cfg.feat_in)

    def completes(self, features: int) -> bool:
        return self.rest.shape[1] + features >= self.encoder.cfg.subsampling_factor

    def push(self, feats: Tensor, final: bool = False, *, same_speaker: bool = False) -> Encoded:
        factor, x = self.encoder.cfg.subsampling_factor, torch.cat([self.rest, feats], 1)
        if final:
            x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % factor))
        whole = x.shape[1] // factor * factor
        self.rest = x[:, whole:]
        if not whole:
            frames = x.new_zeros(len(x), 0, self.encoder.cfg.d_model)
            return Encoded(frames, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        encoded, self.state = self.encoder.step(x[:, :whole], self.state)
        return encoded
