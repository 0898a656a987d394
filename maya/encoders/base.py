"""The interface of encoders: features in, frames out. An encoder of your own subclasses both classes.

@config
class GRUConfig(EncoderConfig):
    kind: Literal["gru"] = "gru"
    feat_in: PosInt = 80
    d_model: PosInt = 256
    subsampling_factor: PosInt = 4

class GRUEncoder(Encoder, config=GRUConfig): ...
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from maya.config import Kinds, register_builder
from maya.errors import MayaError


class EncoderConfig(Kinds):
    """The base of encoder configurations. A subclass has the fields `kind`, `feat_in` (mel bins F), `d_model`
    (channels D of its output) and `subsampling_factor` (feature frames in an encoder frame)."""

    __slots__ = ()

    @property
    def feat_in(self) -> int:
        """F."""
        raise NotImplementedError

    @property
    def d_model(self) -> int:
        """D."""
        raise NotImplementedError

    @property
    def subsampling_factor(self) -> int:
        """Feature frames in an encoder frame."""
        raise NotImplementedError

    def subsampled(self, frames: Any) -> Any:
        """Encoder frames for a number of feature frames: an int, or a tensor or array of them."""
        return -(-frames // self.subsampling_factor)


@dataclass(slots=True)
class Encoded:
    """What an encoder puts out. Unpacks as `frames, lens`.

    frames: (B, S, D), zero at and beyond lens.       lens: (B,) int64.
    hidden: (B, S, D_l) by layer number, those that were asked for; layer 0 is the input of the first block.
    """

    frames: Tensor
    lens: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.frames, self.lens))


class EncoderStream(Protocol):
    """The encoder's side of B streams."""

    def push(self, feats: Tensor, final: bool = False) -> tuple[Tensor, Tensor]:
        """feats (B, t, F), the next features, t >= 0 -> enc (B, S, D), enc_lens (B,): the frames that they
        complete, and with `final` all remaining ones."""


class Encoder(nn.Module):
    """The base of encoders. `class Mine(Encoder, config=MyConfig)` registers the class for a configuration;
    its constructor takes the configuration."""

    cfg: Any

    def __init_subclass__(cls, *, config: type | None = None) -> None:
        super().__init_subclass__()
        if config is not None:
            register_builder(config, cls)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Sequence[int] = ()) -> Encoded:
        """x (B, T, F), x_lens (B,) int64 feature frames -> `Encoded`; `hidden` names layers whose output is
        wanted too. The frames of a row must not depend on padding nor on the other rows."""
        raise NotImplementedError

    def subsampled_lens(self, lens: Tensor) -> Tensor:
        """Encoder frames for `lens` (...,) int64 feature frames."""
        return self.cfg.subsampled(lens)

    def blocks(self) -> list[nn.Module]:
        """The layers from the input to the output: for freezing, layer-wise rates and LoRA."""
        layers = getattr(self, "layers", None)
        return list(layers) if isinstance(layers, nn.ModuleList) else []

    def stream(
        self, batch: int, context: tuple[int, int] | None = None, *, padding_value: float = 0.0
    ) -> EncoderStream:
        """`batch` streams before their first piece; `context` is (left, right) frames as the encoder counts
        them, `padding_value` that of features beyond the end. Raises MayaError for an encoder that cannot
        stream."""
        kind = getattr(self.cfg, "kind", type(self).__name__)
        raise MayaError(f"an encoder of kind {kind!r} cannot stream; transcribe whole files")


def frame_mask(lens: Tensor, size: int) -> Tensor:
    """lens (B,) -> (B, size) bool, True on frames that exist."""
    return torch.arange(size, device=lens.device) < lens[:, None]
