"""Streams for encoders that need the audio around a frame: buffered streaming.

The audio is encoded in windows of left context, chunk and right context. The frames of the chunk go to the
stream decoder, whose state passes from one chunk to the next, so that nothing has to be merged. This is
NeMo's buffered streaming, in which 10 s, 10 s and 5 s are close to the whole recording.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maya.config import config
from maya.decode.long.pieces import samples_of_frame
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from maya.ranges import NonNegFloat, PosFloat


@config
class BufferConfig:
    """Seconds of audio around and in a chunk. A word is recognised up to chunk + right seconds after it was
    spoken. Windows overlap, so that each second is encoded (left + chunk + right) / chunk times."""

    left_seconds: NonNegFloat = 10.0
    chunk_seconds: PosFloat = 10.0
    right_seconds: NonNegFloat = 5.0

    @property
    def latency_seconds(self) -> float:
        """The longest time from a sound to its recognition, without that of the computation."""
        return self.chunk_seconds + self.right_seconds


def chunk_sizes(model: SpeechModel) -> tuple[tuple[int, ...], ...]:
    """Frames before, in and after a chunk, the choices of each, that a model was trained for; () for none."""
    sizes: tuple[tuple[int, ...], ...] = getattr(model.cfg.encoder, "att_chunk_context_size", ())
    return sizes


def trained_buffer(model: SpeechModel) -> BufferConfig | None:
    """The largest chunk and context that a model was trained for; None for one trained for none."""
    sizes, seconds = chunk_sizes(model), model.cfg.clock.seconds
    if not sizes:
        return None
    before, chunk, after = (max(choices) * seconds for choices in sizes)
    return BufferConfig(left_seconds=before, chunk_seconds=chunk, right_seconds=after)


@dataclass(frozen=True, slots=True)
class AudioWindow:
    """samples (n,) to encode; of its frames `skip` are left context, and `take` follow for the decoder (None:
    all that remain). context: of attention, for a model that was trained for chunks."""

    samples: Tensor
    skip: int
    take: int | None
    context: tuple[int, int, int] | None = None


class WindowBuffer:
    """The windows of audio that comes in pieces. It keeps the left context and what follows it."""

    def __init__(self, cfg: BufferConfig, model: SpeechModel) -> None:
        clock = model.cfg.clock
        self.frame = samples_of_frame(clock)
        self.left_frames = round(cfg.left_seconds / clock.seconds)
        self.chunk_frames = max(1, round(cfg.chunk_seconds / clock.seconds))
        self.right_frames = round(cfg.right_seconds / clock.seconds)
        self.context: tuple[int, int, int] | None = None
        if chunk_sizes(model):
            # Chunks are counted from the window's first frame, so whole ones stand before it.
            self.left_frames -= self.left_frames % self.chunk_frames
            self.context = (self.left_frames, self.chunk_frames, self.right_frames)
        self._samples = torch.zeros(0)
        self._skip = 0  # frames of left context at the start of the samples

    @property
    def stored_samples(self) -> int:
        """Samples that are kept for later windows."""
        return len(self._samples)

    def push(self, samples: Tensor) -> list[AudioWindow]:
        """(n,) -> the windows that are complete."""
        self._samples = torch.cat([self._samples, samples])
        windows = []
        while (
            len(self._samples) >= (needed := self._skip + self.chunk_frames + self.right_frames) * self.frame
        ):
            windows.append(
                AudioWindow(self._samples[: needed * self.frame], self._skip, self.chunk_frames, self.context)
            )
            drop = max(0, self._skip + self.chunk_frames - self.left_frames)
            self._samples = self._samples[drop * self.frame :].clone()
            self._skip += self.chunk_frames - drop
        return windows

    def finish(self) -> AudioWindow:
        """The last window. The buffer then begins anew."""
        window = AudioWindow(self._samples, self._skip, None, self.context)
        self._samples, self._skip = torch.zeros(0), 0
        return window


def encode_windows(model: SpeechModel, windows: Sequence[AudioWindow]) -> list[Tensor]:
    """The frames of each window's chunk: (S, D). The windows are one batch."""
    device = next(model.parameters()).device
    chunks = [torch.zeros(0, model.cfg.encoder.d_model, device=device) for _ in windows]
    full = [place for place, window in enumerate(windows) if len(window.samples)]
    if not full:
        return chunks
    lens = torch.tensor([len(windows[place].samples) for place in full], device=device)
    audio = pad_sequence([windows[place].samples for place in full], batch_first=True)
    if (context := windows[full[0]].context) is None:
        encoded = model.encode_audio(audio.to(device), lens)
    else:
        encoded = model.encoder(*model.features(audio.to(device), lens), context=context)
    for place, frames, length in zip(full, encoded.frames, encoded.lens.tolist(), strict=True):
        window = windows[place]
        end = length if window.take is None else window.skip + window.take
        if end > length:
            raise MayaError("the right context is too short for this encoder; raise right_seconds")
        chunks[place] = frames[window.skip : max(window.skip, end)]
    return chunks
