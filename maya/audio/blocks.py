"""Long recordings block by block, so that hours of audio are never in memory whole."""

from collections.abc import Iterator

import torch

from maya.audio.decoding import Source, check_rate, name_of, sample_blocks
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
    name, resampler = name_of(source), None
    for samples, rate in sample_blocks(source, seconds):
        if resampler is None:
            check_rate(rate, sample_rate)
            resampler = ResamplingStream(rate, sample_rate)
        block = resampler.push(select_channel(samples, channel, name))
        if len(block):
            yield torch.from_numpy(block)
    if resampler is None:
        raise MayaError(f"{name} holds no audio samples")
    if len(rest := resampler.finish()):
        yield torch.from_numpy(rest)
