"""Long recordings block by block, so that hours of audio are never in memory whole."""

from collections.abc import Iterator

import torch

from maya.audio.decoding import Source, open_audio
from maya.audio.load import select_channel
from maya.audio.resampling import ResamplingStream
from maya.errors import MayaError


def audio_blocks(
    source: Source, sample_rate: int = 16000, channel: int | None = None, *, seconds: float = 30.0
) -> Iterator[torch.Tensor]:
    """The audio that `maya.audio.load.load_audio` gives, (N,) float32 at `sample_rate`, in blocks (n,).

    A block is about `seconds` long. The errors are those of `load_audio`; one in the middle of a recording is
    raised when its block is read.
    """
    with open_audio(source, whole=False) as audio:
        if audio.num_samples == 0:
            raise MayaError(f"{audio.name} holds no audio samples")
        resampler = ResamplingStream(audio.sample_rate, sample_rate)
        for samples in audio.blocks(max(1, int(seconds * audio.sample_rate))):
            block = resampler.push(select_channel(samples, channel, audio.name))
            if len(block):
                yield torch.from_numpy(block)
        if len(rest := resampler.finish()):
            yield torch.from_numpy(rest)
