"""Log-mel features of audio that arrives in pieces."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.errors import MayaError
from maya.features.logmel import LogMel


class LogMelStream:
    """Push pieces, then finish; together they give what `LogMel` gives for the whole, to rounding.

    A frame comes out once its last sample is there: half a window, 12.5 ms, after its centre. All rows of
    a batch begin and end together. Raises MayaError for features that need the whole utterance: normalised
    over it, or with the mirrored ends of `legacy`.
    """

    def __init__(self, logmel: LogMel) -> None:
        if logmel.cfg.normalize != "none" or logmel.cfg.legacy:
            raise MayaError(
                "features of audio that is still coming cannot be had with features.normalize="
                f"{logmel.cfg.normalize} and legacy={logmel.cfg.legacy}; it takes none and false"
            )
        self.logmel = logmel
        self.reset()

    def reset(self) -> None:
        """Forget what was pushed."""
        self._last: Tensor | None = None  # (B, 1): the last sample, for the pre-emphasis of the next
        self._pending: Tensor | None = None  # (B, n): pre-emphasised, from the beginning of the next frame on
        self._samples = self._frames = 0  # pushed, given out

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """(B, n) the next samples, n >= 0 -> (B, t, num_mels) the frames they complete, t >= 0."""
        cfg = self.logmel.cfg
        audio = audio.float()
        if self._pending is None or self._last is None:
            self._last = audio.new_zeros(len(audio), 1)
            self._pending = audio.new_zeros(len(audio), cfg.n_fft // 2)  # the silence before frame 0's centre
        if audio.shape[1]:
            before = torch.cat([self._last, audio[:, :-1]], dim=1)
            self._pending = torch.cat([self._pending, audio - cfg.preemphasis * before], dim=1)
            self._last = audio[:, -1:]
            self._samples += audio.shape[1]
        # The window stands in the middle of the transform; the rest is multiplied by zero.
        reach = (cfg.n_fft + self.logmel.window_samples) // 2
        return self._advance(max(0, (self._pending.shape[1] - reach) // self.logmel.hop_samples + 1))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """(B, t, num_mels): the frames that reach past the end. The stream is at a start again after it."""
        if self._pending is None:
            raise MayaError("a feature stream was finished before any audio was pushed; push (B, n) first")
        feats = self._advance(self._samples // self.logmel.hop_samples - self._frames)
        self.reset()
        return feats

    def _advance(self, frames: int) -> Tensor:
        assert self._pending is not None
        pending, hop = self._pending, self.logmel.hop_samples
        # A frame may be complete before the length says that it exists: audio ends within its window.
        frames = min(frames, self._samples // hop - self._frames)
        if frames <= 0:
            return pending.new_zeros(len(pending), 0, self.logmel.cfg.num_mels)
        self._frames += frames
        self._pending = pending[:, frames * hop :]
        needed = (frames - 1) * hop + self.logmel.cfg.n_fft
        return self.logmel.of_samples(F.pad(pending[:, :needed], (0, max(0, needed - pending.shape[1]))))
