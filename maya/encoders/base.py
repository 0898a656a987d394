"""The interface of encoders: features in, frames out. An encoder of your own subclasses both classes.

@config
class GRUConfig(EncoderConfig):
    kind: Literal["gru"] = "gru"
    feat_in: PosInt = 80
    d_model: PosInt = 256
    subsampling_factor: PosInt = 4

class GRUEncoder(Encoder, config=GRUConfig): ...
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from maya.config import Kinds, register_builder
from maya.data.loading.batch import HostCopy
from maya.errors import MayaError
from maya.features.base import FeaturesConfig
from maya.features.span_mask import MaskedFeatures

_ROUNDING = 1e-3  # of a sample, by which a duration in seconds may be off


class EncoderConfig(Kinds):
    """The base of encoder configurations. A subclass has the fields `kind`, `feat_in` (mel bins F), `d_model`
    (channels D of its output) and `subsampling_factor` (feature frames in an encoder frame).

    traceless: names of fields that change what the weights do, and the shape of none of them. Training that
    starts from another model's encoder refuses other values.
    """

    __slots__ = ()
    traceless: ClassVar[tuple[str, ...]] = ()

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

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Channels of the hidden states from layer 0 on, see `Encoder.forward`; by default a layer for each
        of `n_layers`, all of them as wide as the output. Empty: it tells none."""
        return (self.d_model,) * (getattr(self, "n_layers", -1) + 1)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the blocks are computed again in the backward pass; a field of encoders that can do it."""
        return False

    @activation_checkpointing.setter
    def activation_checkpointing(self, value: bool) -> None:
        raise MayaError("this encoder has no activation checkpointing")

    def subsampled(self, frames: Any) -> Any:
        """Encoder frames for a number of feature frames: an int, or a tensor or array of integers."""
        return -(-frames // self.subsampling_factor)

    def miniatures(self) -> "Miniatures":
        """Small encoders from which the memory of training this one follows; by default itself."""
        return Miniatures([(self, 1.0, 1.0)])


@dataclass(frozen=True, slots=True)
class Miniatures:
    """How an encoder's memory follows from smaller ones, for `maya.models.sizing`.

    parts: configurations, each with the factor by which what it keeps for the backward pass counts, and the
    factor for memory that passes. frames: encoder frames to count at, with their multiples. pairs: whether
    memory may grow with pairs of frames.
    """

    parts: Sequence[tuple[EncoderConfig, float, float]]
    frames: int = 24
    pairs: bool = True


@dataclass(frozen=True, slots=True)
class FrameClock:
    """Samples, seconds and encoder frames of a model. It needs the configurations alone.

    Frame s begins at s * seconds: the clocks of NeMo and icefall count from the audio's start.
    """

    features: FeaturesConfig
    encoder: EncoderConfig

    @property
    def seconds(self) -> float:
        """Seconds from one encoder frame to the next."""
        return self.features.hop_samples * self.encoder.subsampling_factor / self.features.sample_rate

    @property
    def offset(self) -> float:
        """Seconds from the audio's start to the start of frame 0."""
        return 0.0

    def frames(self, samples: Any) -> Any:
        """Encoder frames S of a number of samples: an int, or a tensor or array of integers."""
        return self.encoder.subsampled(self.features.frames(samples))

    def samples(self, seconds: NDArray[np.float64], speed: float = 1.0) -> NDArray[np.int64]:
        """Samples of durations (n,) in seconds, stored at any rate and then played at `speed`."""
        # As many samples as `maya.audio.load.resample` gives.
        stored = np.ceil(np.asarray(seconds) * self.features.sample_rate - _ROUNDING)
        return np.floor(stored / speed).astype(np.int64)

    def frames_of(self, seconds: NDArray[np.float64], speed: float = 1.0) -> NDArray[np.int64]:
        """Encoder frames of durations (n,) in seconds, played at `speed`."""
        return self.frames(self.samples(seconds, speed))


@dataclass(slots=True)
class Encoded:
    """What an encoder puts out. Unpacks as `frames, lens`.

    frames: (B, S, D), zero at and beyond lens.       lens: (B,) int64.
    hidden: (B, S, D_l) by layer number, for the layers that were requested; zero beyond lens too.
    host_lens: a copy of lens on the CPU, which the model computes from the batch; see `lens_on_host`.
    masked: the features before spans of them were hidden, of a model with a head that predicts these.
    """

    frames: Tensor
    lens: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)
    host_lens: HostCopy | None = None
    masked: MaskedFeatures | None = None

    @property
    def lens_on_host(self) -> Tensor:
        """`lens` on the CPU if it is known there, otherwise as it is: (B,) int64."""
        copy = self.host_lens
        return copy.values if copy is not None and copy.of is self.lens else self.lens

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.frames, self.lens))


class EncoderStream:
    """The encoder's side of B streams that begin and end together.

    same_speaker: whether the encoder learns from an utterance, so that `push` takes `same_speaker`.
    """

    same_speaker: bool = False

    def describe(self) -> str:
        """One line for people on what a stream keeps."""
        return "possible"

    def completes(self, features: int) -> bool:
        """Whether so many features more may complete a frame, so that pushing them costs a step."""
        return True

    def push(self, feats: Tensor, final: bool = False, *, same_speaker: bool = False) -> Encoded:
        """feats (B, t, F), the next features, t >= 0 -> the frames (B, S, D) that they complete, and with
        `final` all remaining ones. With `final` and `same_speaker` the next utterance, which may be pushed
        from then on, begins with what the encoder has learnt from this one."""
        raise NotImplementedError

    @staticmethod
    def push_each(
        streams: "Sequence[EncoderStream]", feats: Sequence[Tensor], finals: Sequence[bool], *,
        same_speaker: bool = False,
    ) -> list[Tensor]:  # fmt: skip
        """`push` for streams of one row each, of one encoder and one context, which began at any time.

        feats: (1, t, F) of each, t >= 0 -> frames (1, S, D) of each. An encoder that can computes them as one
        batch.
        """
        rows = zip(streams, feats, finals, strict=True)
        return [stream.push(own, final, same_speaker=same_speaker).frames for stream, own, final in rows]


class Encoder(nn.Module):
    """The base of encoders. `class Mine(Encoder, config=MyConfig)` registers the class for a configuration;
    its constructor takes the configuration."""

    front: ClassVar[tuple[str, ...]] = ()  # children that stand before the first block, such as a subsampling
    adapts: ClassVar[bool] = False  # whether the class has `adapt`
    quick_layers: bool = False  # whether its linear layers are all `maya.kernels.onednn.QuickLinear`
    cfg: Any

    def __init_subclass__(cls, *, config: type | None = None) -> None:
        super().__init_subclass__()
        if config is not None:
            register_builder(config, cls)

    def forward(self, x: Tensor, x_lens: Tensor, *, hidden: Collection[int] = ()) -> Encoded:
        """x (B, T, F), x_lens (B,) int64 feature frames -> `Encoded`. The frames of a row must not depend on
        padding nor on the other rows.

        hidden: numbers of layers whose hidden states are returned too. Layer 0 is the input of the first
        block and layer i the output of block i, at the encoder's frame rate.
        """
        raise NotImplementedError

    def read_start(self) -> None:
        """Read the weights that a new training begins with, of an encoder that brings some."""

    def subsampled_lens(self, lens: Tensor) -> Tensor:
        """Encoder frames for `lens` (...,) int64 feature frames."""
        return self.cfg.subsampled(lens)

    def clock(self, features: FeaturesConfig) -> FrameClock:
        """The clock of this encoder behind these features."""
        return FrameClock(features, self.cfg)

    def blocks(self) -> list[nn.Module]:
        """The layers from the input to the output: for freezing, layer-wise rates and LoRA."""
        layers = getattr(self, "layers", None)
        return list(layers) if isinstance(layers, nn.ModuleList) else []

    def stream(
        self, batch: int, context: tuple[int, int] | None = None, *, padding_value: float = 0.0
    ) -> EncoderStream:
        """`batch` streams before their first piece.

        context: (left, right) frames as the encoder counts them; None for the first that it was built for.
        padding_value: of features beyond the end, `FeaturesConfig.padding_value`. Raises MayaError for an
        encoder that cannot stream.
        """
        kind = getattr(self.cfg, "kind", type(self).__name__)
        raise MayaError(f"an encoder of kind {kind!r} cannot stream; transcribe whole files")

    def adapt(
        self, x: Tensor, x_lens: Tensor, weights: Any = None, *, rows: Tensor | None = None,
        hidden: Collection[int] = (),
    ) -> tuple[Encoded, Any]:  # fmt: skip
        """`forward` that continues to learn after an earlier utterance of the same speakers. Returns also the
        state after this utterance.

        weights: the state after the earlier utterance, of B rows or of one row for all; None for the first
        utterance. rows (B,) int64: the row of that state that each utterance continues. Raises MayaError for
        an encoder that does not learn from utterances.
        """
        kind = getattr(self.cfg, "kind", type(self).__name__)
        raise MayaError(f"an encoder of kind {kind!r} does not learn from utterances; tune the model instead")

    def join_memories(self, memories: Sequence[Any]) -> Any:
        """The states of several utterances, as `adapt` returned them, as one with a row for each; None: a row
        that begins anew. Only of an encoder that learns from utterances."""
        raise NotImplementedError

    def split_memory(self, state: Any) -> list[Any]:
        """The rows of a state, each as a state of its own."""
        raise NotImplementedError

    def stop_updates(self) -> bool:
        """In evaluation learn nothing from utterances any more. False if the encoder never does: it has no
        module with a method `stop_updates`."""
        parts: list[Any] = [m for m in self.modules() if m is not self and hasattr(m, "stop_updates")]
        for part in parts:
            part.stop_updates()
        return bool(parts)


def check_hidden(hidden: Collection[int], blocks: int) -> None:
    """Raises MayaError for the number of a layer that an encoder of `blocks` blocks does not have."""
    for number in hidden:
        if not 0 <= number <= blocks:
            raise MayaError(f"the encoder has no hidden layer {number}; its layers are 0 to {blocks}")
