"""The interface of features: waveforms in, feature frames out. Features of your own subclass both classes."""

from typing import Any, Protocol

from torch import Tensor, nn

from maya.config import Kinds, register_builder
from maya.errors import MayaError
from maya.features.frames import frame_samples


class FeaturesConfig(Kinds):
    """The base of feature configurations. A subclass has the fields `kind`, `num_mels` (size F of a frame),
    `sample_rate` (Hz) and `hop_ms` (from one frame to the next)."""

    __slots__ = ()

    @property
    def num_mels(self) -> int:
        """F."""
        raise NotImplementedError

    @property
    def sample_rate(self) -> int:
        """Hz."""
        raise NotImplementedError

    @property
    def hop_ms(self) -> float:
        """Milliseconds from one frame to the next."""
        raise NotImplementedError

    @property
    def n_fft(self) -> int:
        """Samples of the Fourier transform; 0 for features that use none."""
        return 0

    @property
    def padding_value(self) -> float:
        """The value of features beyond an utterance's end."""
        return 0.0

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return frame_samples(self.hop_ms, self.sample_rate)

    def frames(self, samples: Any) -> Any:
        """Frames of a number of samples: an int, or a tensor or array of integers."""
        return samples // self.hop_samples


class FeatureStream(Protocol):
    """Features of audio that arrives in pieces: `push` each piece, then `finish`."""

    def push(self, audio: Tensor) -> Tensor:
        """(B, n) the next samples, n >= 0 -> (B, t, num_mels) the frames they complete, t >= 0."""

    def finish(self) -> Tensor:
        """(B, t, num_mels): the frames that reach past the end. It resets the stream."""


class Features(nn.Module):
    """The base of features modules. `class Mine(Features, config=MyConfig)` registers the class for a
    configuration; its constructor takes the configuration."""

    cfg: Any
    warpable = False  # True: `forward` takes `warps` (B, 3) or None, see maya.features.warp

    def __init_subclass__(cls, *, config: type | None = None) -> None:
        super().__init_subclass__()
        if config is not None:
            register_builder(config, cls)

    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """audio (B, N) in [-1, 1], audio_lens (B,) samples -> (B, T, F) fp32, feat_lens (B,) int64. A row
        must not depend on the rest of its batch."""
        raise NotImplementedError

    def feat_lens(self, audio_lens: Tensor) -> Tensor:
        """Frames of utterances of `audio_lens` (...,) samples."""
        return self.cfg.frames(audio_lens)

    def stream(self) -> FeatureStream:
        """The same features of audio that arrives in pieces. Raises MayaError for features that need the
        whole utterance."""
        raise MayaError(f"features of kind {self.cfg.kind!r} cannot stream; transcribe whole files")
