"""Log-mel spectrogram, equal to NeMo's front end for FastConformer models."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maya.config import config
from maya.errors import MayaError
from maya.features.base import Features, FeaturesConfig
from maya.features.frames import check_frames, frame_mask, frame_samples
from maya.features.warp import warped_filters
from maya.kernels import host, onednn
from maya.ranges import Count, NonNegFloat, PosFloat, PosInt, Share

LOG_GUARD = 2.0**-24  # added before the logarithm, so that digital silence has a finite level
STD_GUARD = 1e-5  # added to the standard deviation, not to the variance
# Audio of more than twice this many frames is transformed in stretches of this size, because spectra are six
# times as large as the features (an hour at 80 mel bins: 0.7 GB beside 0.1).
STRETCH_FRAMES = 16384
_QUIETER_DB = 25.0  # between the loudest word of an utterance and the quietest that is to be heard
BLOCK_FRAMES = 600  # of spectra that a CPU's cache holds: 1 MB


@config
class LogMelConfig(FeaturesConfig):
    """Options of the features. The defaults are those of NeMo's FastConformer recipes."""

    kind: Literal["logmel"] = "logmel"
    sample_rate: PosInt = 16000  # Hz
    num_mels: PosInt = 80
    n_fft: PosInt = 512
    window_ms: PosFloat = 25.0
    hop_ms: PosFloat = 10.0
    preemphasis: Share = 0.97
    dither: NonNegFloat = 1e-5  # standard deviation of the noise added to the waveform while training
    # per_feature: each mel bin to mean 0 and variance 1 over the utterance. peak: levels below the loudest
    # mel energy of the utterance, down to `floor_db`, see `_below_peak`.
    normalize: Literal["per_feature", "peak", "none"] = "per_feature"
    floor_db: PosFloat = 45.0  # of normalize=peak
    peak_frames: Count = 0  # of normalize=peak: the loudest of so many frames on either side; 0: of all
    # True: as NeMo before 2.5, with which parakeet-tdt-1.1b and others were trained. The batch is reflected
    # at its ends, an utterance has one frame more, and audio beyond its end is not silenced.
    legacy: bool = False

    def frames(self, samples: Any) -> Any:
        """One frame a hop, and one more under `legacy`; none for no samples."""
        return samples // self.hop_samples + (samples > 0) * int(self.legacy)


class LogMel(Features, config=LogMelConfig):
    """Waveform to log-mel features: dither, pre-emphasis, STFT, power, Slaney mel, log, normalisation.

    Always computed in fp32, under autocast too. Without `legacy`, the features of an utterance do not depend
    on its batch; with it, its last two frames can.

    Buffers: `window` (window,) and `fb` (1, num_mels, n_fft // 2 + 1), named and shaped as NeMo's
    `preprocessor.featurizer`.
    """

    warpable = True
    window: Tensor
    fb: Tensor

    def __init__(self, cfg: LogMelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        check_frames(cfg.sample_rate, cfg.hop_ms)
        self.window_samples = frame_samples(cfg.window_ms, cfg.sample_rate)
        self.hop_samples = cfg.hop_samples
        if not 0 < self.window_samples <= cfg.n_fft:
            raise MayaError(
                f"the window of {self.window_samples} samples has to hold one or more, and at most "
                f"features.n_fft={cfg.n_fft}; change features.window_ms or features.n_fft"
            )
        if cfg.n_fft % 2:  # a frame is centred on its hop, with half a transform on either side
            raise MayaError(
                f"features.n_fft={cfg.n_fft} is odd; take an even number, such as {cfg.n_fft + 1}"
            )
        self.register_buffer("window", torch.empty(self.window_samples))
        self.register_buffer("fb", torch.empty(1, cfg.num_mels, cfg.n_fft // 2 + 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the buffers; call it after `to_empty` when the module was built on the meta device."""
        if self.fb.is_meta:
            return
        cfg = self.cfg
        self.window.copy_(torch.hann_window(self.window_samples, periodic=False, device="cpu"))
        self.fb.copy_(slaney_filterbank(cfg.num_mels, cfg.n_fft, cfg.sample_rate))

    def stream(self) -> "LogMelStream":
        """Raises MayaError for features that are normalised over the whole utterance, and for `legacy`."""
        return LogMelStream(self)

    @torch.no_grad()
    def forward(
        self, audio: Tensor, audio_lens: Tensor, warps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features of a padded batch.

        Args:
            audio: (B, N) waveforms in [-1, 1], any floating type, N >= 0.
            audio_lens: (B,) int64, valid samples of each row.
            warps: (B, 3) factors by which formants are moved, see `maya.features.warp`; None moves none.

        Returns:
            feats (B, T, num_mels) fp32 with T = max(1, N // hop) (N // hop + 1 under `legacy`), zero at
            and beyond feat_lens (B,) int64. A row with fewer samples than one hop has no frames.
        """
        lens = self.feat_lens(audio_lens)
        with torch.autocast(audio.device.type, enabled=False):
            frames = max(1, audio.shape[1] // self.hop_samples + int(self.cfg.legacy))
            by_rows = warps is None and self._takes_rows(audio, audio_lens)
            if by_rows:
                feats = self._by_rows(audio, audio_lens, frames)
            elif self.training or warps is not None or frames <= 2 * STRETCH_FRAMES:
                blocks = self._blocks(audio, audio_lens, *([] if warps is None else [warps]))
                feats = torch.cat([self._log_of(self._power(x.float(), n), *w) for x, n, *w in blocks])
                feats = feats[:, :frames]
            else:
                feats = self._in_stretches(audio, audio_lens, frames)
            valid = frame_mask(lens, frames)[:, :, None]
            if self.cfg.normalize == "per_feature":
                parts = [x.split(1 if by_rows else len(x) or 1) for x in (feats, valid, lens)]
                for part in zip(*parts, strict=True):
                    _standardize(*part)
            elif self.cfg.normalize == "peak":
                feats = _below_peak(feats, valid, self.cfg.floor_db, self.cfg.peak_frames)
            return _silenced(feats, valid, lens), lens

    def _takes_rows(self, audio: Tensor, audio_lens: Tensor) -> bool:
        """Whether `_by_rows` applies. It draws nothing, and reads lengths on the host."""
        is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        is_free = audio.is_cpu and not is_traced and host.reads_freely(audio_lens)
        return is_free and not self.training and not self.cfg.legacy

    def _by_rows(self, audio: Tensor, audio_lens: Tensor, frames: int) -> Tensor:
        """(B, N), (B,) -> log-mel (B, frames, num_mels), zero beyond each row's frames. This only makes a CPU
        faster: padding costs nothing, and the spectra of a stretch stay in the cache."""
        feats = torch.zeros(len(audio), frames, self.cfg.num_mels, device=audio.device)
        half, hop = self.cfg.n_fft // 2, self.hop_samples
        for row, length, out in zip(audio, audio_lens.tolist(), feats, strict=True):
            total = length // hop
            for first in range(0, total, BLOCK_FRAMES):
                last = min(first + BLOCK_FRAMES, total)
                begin, end = first * hop - half, min((last - 1) * hop + half, length)
                samples = torch.zeros((last - first - 1) * hop + 2 * half, device=audio.device)
                start = max(begin, 0)
                inner = samples[start - begin : end - begin]
                now = row[start:end].float()
                torch.mul(now[:-1], self.cfg.preemphasis, out=inner[1:])
                torch.sub(now[1:], inner[1:], out=inner[1:])
                before = row[start - 1].float() if start else 0.0
                inner[0] = now[0] - self.cfg.preemphasis * before
                out[first:last] = self.log_mel_of(samples[None])[0]
        return feats

    def _in_stretches(self, audio: Tensor, audio_lens: Tensor, frames: int) -> Tensor:
        """(B, N), (B,) -> log-mel (B, frames, num_mels), equal to the whole; nothing is drawn."""
        feats = torch.empty(len(audio), frames, self.cfg.num_mels, device=audio.device)
        half, size = self.cfg.n_fft // 2, audio.shape[1]
        for first in range(0, frames - STRETCH_FRAMES + 1, STRETCH_FRAMES):
            # The last one takes the rest: reflection needs more samples than it reflects.
            last = first + STRETCH_FRAMES if frames - first >= 2 * STRETCH_FRAMES else frames
            begin, end = first * self.hop_samples - half, (last - 1) * self.hop_samples + half
            # One sample more, for the pre-emphasis of the next.
            start = max(0, begin - 1)
            samples = self._emphasised(audio[:, start : min(end, size)].float(), audio_lens - start)
            samples = samples[:, max(0, begin) - start :]
            mode = "reflect" if self.cfg.legacy else "constant"
            samples = F.pad(samples, (max(0, -begin), max(0, end - size)), mode=mode)
            feats[:, first:last] = self.log_mel_of(samples)
        return feats

    def _emphasised(self, audio: Tensor, audio_lens: Tensor) -> Tensor:
        """(B, N) pre-emphasised; zero beyond (B,) lengths, but under `legacy`."""
        if self.cfg.preemphasis:
            audio = torch.cat([audio[:, :1], audio[:, 1:] - self.cfg.preemphasis * audio[:, :-1]], dim=1)
        if self.cfg.legacy:
            return audio
        beyond = ~frame_mask(audio_lens, audio.shape[1])
        return audio.masked_fill(beyond, 0.0)

    def _power(self, audio: Tensor, audio_lens: Tensor) -> Tensor:
        """(B, N) -> power spectrum (B, N // hop + 1, n_fft // 2 + 1)."""
        cfg = self.cfg
        if self.training and cfg.dither > 0:
            audio = audio + cfg.dither * torch.randn_like(audio)
        audio = self._emphasised(audio, audio_lens)
        if cfg.legacy and audio.shape[1] <= cfg.n_fft // 2:  # reflection needs more samples than it reflects
            audio = F.pad(audio, (0, cfg.n_fft // 2 + 1 - audio.shape[1]))
        return self._transform(audio, "reflect" if cfg.legacy else "constant")

    def log_mel_of(self, samples: Tensor) -> Tensor:
        """(B, N) pre-emphasised, N >= n_fft -> log-mel of every whole transform in it, not normalised.

        The result is (B, (N - n_fft) // hop + 1, num_mels); nothing is added at the ends.
        """
        with torch.autocast(samples.device.type, enabled=False):
            return self._log_of(self._transform(samples, None))

    def _blocks(self, audio: Tensor, *of_rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Rows of these tensors whose spectra fit in a CPU's cache, which takes half the time; elsewhere all
        rows at once."""
        rows = max(1, BLOCK_FRAMES * self.hop_samples // max(1, audio.shape[1]))
        whole = self.training or not audio.is_cpu or len(audio) == 0
        return zip(*(x.split(len(audio) if whole else rows) for x in (audio, *of_rows)), strict=True)

    def _log_of(self, power: Tensor, warps: Tensor | None = None) -> Tensor:
        """Power spectrum (B, T, n_fft // 2 + 1), warps (B, 3) or None -> log-mel (B, T, num_mels)."""
        filters = self.fb[0].float()
        if warps is not None:
            warped = warped_filters(filters, warps, self.cfg.sample_rate / 2)
            return torch.log(power @ warped.transpose(1, 2) + LOG_GUARD)
        # In training the product stays as it was, so that recorded runs repeat to the bit.
        fast = not self.training and onednn.available()
        mel = onednn.linear(power, filters) if fast else power @ filters.t()
        return torch.log(mel + LOG_GUARD)

    def _transform(self, audio: Tensor, pad_mode: str | None) -> Tensor:
        """Power spectrum; frames are centred on hops, the ends padded, unless `pad_mode` is None."""
        spectrum = torch.stft(
            audio,
            self.cfg.n_fft,
            hop_length=self.hop_samples,
            win_length=self.window_samples,
            window=self.window.float(),
            center=pad_mode is not None,
            pad_mode=pad_mode or "constant",
            return_complex=True,
        )
        # torch.stft lays frames out first and returns a transposed view, so this transpose costs nothing.
        squares = torch.view_as_real(spectrum.transpose(1, 2)).square()
        return squares[..., 0] + squares[..., 1]  # a sum over two is six times as slow


class LogMelStream:
    """`push` pieces, then `finish`. Together they equal `LogMel` of the whole, to rounding.

    A frame is returned when its last sample has arrived: half a window, 12.5 ms, after its centre. All rows
    of a batch begin and end together. Raises MayaError for features that need the whole utterance: normalised
    over it, or with the mirrored ends of `legacy`.
    """

    def __init__(self, logmel: LogMel) -> None:
        if logmel.cfg.normalize != "none" or logmel.cfg.legacy:
            raise MayaError(
                "streaming needs features.normalize=none and features.legacy=false, not "
                f"{logmel.cfg.normalize} and {logmel.cfg.legacy}"
            )
        self.logmel = logmel
        self.reset()

    def reset(self) -> None:
        """Drop all audio that was pushed."""
        self._last: Tensor | None = None  # (B, 1): the last sample, for the pre-emphasis of the next
        self._pending: Tensor | None = None  # (B, n): pre-emphasised, from the start of the next frame
        self._samples = self._frames = 0  # samples pushed, frames returned

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
        # The window is in the middle of the transform; the rest is multiplied by zero.
        reach = (cfg.n_fft + self.logmel.window_samples) // 2
        return self._advance(max(0, (self._pending.shape[1] - reach) // self.logmel.hop_samples + 1))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """(B, t, num_mels): the frames that reach past the end. It resets the stream."""
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
        return self.logmel.log_mel_of(F.pad(pending[:, :needed], (0, max(0, needed - pending.shape[1]))))


def _standardize(feats: Tensor, valid: Tensor, lens: Tensor) -> Tensor:
    """Zero mean, unit variance for each utterance and mel bin over its valid frames (NeMo "per_feature").

    The variance divides by n - 1; a single frame, whose variance is undefined, becomes zero. `feats` is
    changed in place, because features of hours are large, and returned.
    """
    n = lens.clamp(min=1)[:, None, None]
    mean = _silenced(feats, valid, lens).sum(1, keepdim=True) / n
    centred = _silenced(feats.sub_(mean), valid, lens)
    parts = [part.square().sum(1, keepdim=True) for part in centred.split(2 * STRETCH_FRAMES, dim=1)]
    std = (sum(parts[1:], parts[0]) / (n - 1).clamp(min=1)).sqrt()
    return centred.div_(std + STD_GUARD)


def _silenced(feats: Tensor, valid: Tensor, lens: Tensor) -> Tensor:
    """`feats` (B, T, F), with zeros in place beyond their lengths. On a CPU only those are written."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not (feats.is_cpu and host.reads_freely(lens)) or is_traced:
        return feats.masked_fill_(~valid, 0.0)
    for row, length in zip(feats, lens.tolist(), strict=True):
        row[length:].zero_()
    return feats


def _below_peak(feats: Tensor, valid: Tensor, floor_db: float, reach: int = 0) -> Tensor:
    """Log-mel (B, T, F) as levels from -1, `floor_db` or more below the utterance's loudest, to 3, the
    loudest: of speech with pauses the mean is near 0.

    An utterance's gain does not change them, nor how much silence is around it, and what is quieter than the
    floor is all alike: digital silence, and the noise of a quiet room. Per-feature statistics depend on both,
    and take from a single short word much of what tells it from others. But the colour of a microphone stays:
    train with `data.augment.equalizer_prob`.

    With `reach` above 0 each frame has a loudest level of its own: that within so many frames, averaged over
    as many, and at most `_QUIETER_DB` below the utterance's.
    """
    loudest = feats.masked_fill(~valid, -math.inf).amax(2, keepdim=True)
    top = loudest.amax(1, keepdim=True)
    if reach:
        size = min(reach, feats.shape[1] - 1)
        local = F.max_pool1d(loudest.transpose(1, 2), 2 * size + 1, 1, size).transpose(1, 2)
        local = torch.maximum(local, top - _QUIETER_DB * math.log(10) / 10).masked_fill(~valid, 0.0)
        sums = torch.cat([local, valid.to(local.dtype)], 2).transpose(1, 2)
        sums = F.avg_pool1d(sums, 2 * size + 1, 1, size)
        top = (sums[:, :1] / sums[:, 1:].clamp(min=1e-9)).transpose(1, 2)
    decibels = (feats - top) * (10 / math.log(10))
    return 4 * (1 + decibels / floor_db).clamp(min=0) - 1


def slaney_filterbank(num_mels: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangular mel filters of equal area, (1, num_mels, n_fft // 2 + 1) fp32, from 0 Hz to Nyquist.

    The mel scale of Slaney's Auditory Toolbox (1998): linear (200/3 Hz a mel) to 1 kHz, logarithmic
    (a factor of 6.4 in 27 mels) above; the same as `librosa.filters.mel` with its defaults.
    """
    hz_per_mel, knee_hz = 200.0 / 3, 1000.0
    knee_mel, log_step = knee_hz / hz_per_mel, math.log(6.4) / 27
    nyquist = sample_rate / 2
    top = nyquist / hz_per_mel if nyquist < knee_hz else knee_mel + math.log(nyquist / knee_hz) / log_step
    mels = torch.linspace(0, top, num_mels + 2, dtype=torch.float64, device="cpu")
    edges = torch.where(mels < knee_mel, mels * hz_per_mel, knee_hz * torch.exp(log_step * (mels - knee_mel)))
    bins = torch.linspace(0, nyquist, n_fft // 2 + 1, dtype=torch.float64, device="cpu")
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rise, fall).clamp(min=0) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return filters.float()[None]
