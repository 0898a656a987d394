"""Log-mel filter-bank energies, equal to Kaldi's (icefall, lhotse), of whole batches or of a stream."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.errors import MayaError
from maya.features.base import Features, FeaturesConfig
from maya.features.frames import check_frames, frame_mask, frame_samples
from maya.features.warp import warped_filters
from maya.ranges import Finite, NonNegFloat, PosFloat, PosInt, Share

ENERGY_FLOOR = torch.finfo(torch.float32).eps  # Kaldi's floor of a filter's energy, before the logarithm
CPU_FRAMES = (
    512  # a block of 512 frames x 512 samples fits into a core's cache: 4 times faster than the whole
)
GPU_FRAMES = 1 << 16  # 128 MiB of windowed frames in a block


@config
class FbankConfig(FeaturesConfig):
    """Options of the features. The defaults are those of icefall's recipes: povey window, frames centred on
    their hop (Kaldi's `snip_edges=False`), no energy, no dither."""

    kind: Literal["fbank"] = "fbank"
    sample_rate: PosInt = 16000  # Hz
    num_mels: PosInt = 80
    window_ms: PosFloat = 25.0
    hop_ms: PosFloat = 10.0
    preemphasis: Share = 0.97
    low_hz: NonNegFloat = 20.0  # lower edge of the lowest filter
    high_hz: Finite = -400.0  # upper edge of the highest one; 0 or less counts from half the sample rate
    dither: NonNegFloat = 0.0  # standard deviation of the noise added to the waveform while training
    padding_value: Finite = math.log(1e-10)  # beyond an utterance's end; icefall's models expect this

    @property
    def n_fft(self) -> int:
        return 1 << (frame_samples(self.window_ms, self.sample_rate) - 1).bit_length()

    def frames(self, samples: Any) -> Any:
        """One frame a hop; half a hop or more at the end is a frame."""
        return (samples + self.hop_samples // 2) // self.hop_samples


class Fbank(Features, config=FbankConfig):
    """Waveform to filter-bank features: for each frame remove its mean, pre-emphasise, window, power
    spectrum, mel filters, floor, logarithm (Kaldi's compute-fbank-feats, for audio in [-1, 1]).

    Always computed in fp32, under autocast too. The mel filters and the window are computed in fp64, then
    rounded. Kaldi and torchaudio compute them in fp32, which explains most of the difference (about 5e-5, and
    5e-4 in a filter with almost no energy). Beyond the rounding of a matrix product, the features of an
    utterance do not depend on its batch.

    Buffers, not part of the state dict: `window` (n_fft,), zero past the window's end, and `fb`
    (1, num_mels, n_fft // 2 + 1).
    """

    warpable = True
    window: Tensor
    fb: Tensor

    def __init__(self, cfg: FbankConfig) -> None:
        super().__init__()
        self.cfg = cfg
        check_frames(cfg.sample_rate, cfg.hop_ms)
        self.window_samples = frame_samples(cfg.window_ms, cfg.sample_rate)
        self.hop_samples = cfg.hop_samples
        if not 0 < self.hop_samples <= self.window_samples:
            raise MayaError(
                f"features.hop_ms={cfg.hop_ms} has to be above 0 and at most "
                f"features.window_ms={cfg.window_ms}; change one of them"
            )
        self.n_fft = cfg.n_fft
        self.left_samples = self.window_samples // 2 - self.hop_samples // 2  # of frame 0, before the audio
        self.right_samples = self.window_samples - self.window_samples // 2  # at most so many after its end
        self.register_buffer("window", torch.empty(self.n_fft), persistent=False)
        self.register_buffer("fb", torch.empty(1, cfg.num_mels, self.n_fft // 2 + 1), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the buffers; call it after `to_empty` when the module was built on the meta device."""
        if self.fb.is_meta:
            return
        cfg = self.cfg
        self.window.zero_()[: self.window_samples] = povey_window(self.window_samples)
        self.fb.copy_(kaldi_filterbank(cfg.num_mels, self.n_fft, cfg.sample_rate, cfg.low_hz, cfg.high_hz))

    def stream(self) -> "FbankStream":
        return FbankStream(self)

    @torch.no_grad()
    def forward(
        self, audio: Tensor, audio_lens: Tensor, generator: torch.Generator | None = None,
        warps: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Features of a padded batch.

        Args:
            audio: (B, N) waveforms in [-1, 1], any floating type, N >= 0.
            audio_lens: (B,) int64, valid samples of each row.
            generator: for the dither, on the device of `audio`; None is torch's own.
            warps: (B, 3) factors by which formants are moved, see `maya.features.warp`; None moves none.

        Returns:
            feats (B, T, num_mels) fp32 with T = max(1, (N + hop // 2) // hop), `padding_value` at and
            beyond feat_lens (B,) int64. A row with fewer samples than half a hop has no frames. An
            utterance is mirrored at its ends (x1 x0 | x0 x1), repeatedly if it is short.
        """
        audio = audio.float()
        if audio.shape[1] == 0:  # there is nothing to mirror
            audio = nn.functional.pad(audio, (0, 1))
        if self.training and self.cfg.dither > 0:
            noise = torch.randn(audio.shape, generator=generator, device=audio.device)
            audio = audio + self.cfg.dither * noise
        lens = self.feat_lens(audio_lens)
        frames = max(1, (audio.shape[1] + self.hop_samples // 2) // self.hop_samples)
        rows = self._mirrored(audio, audio_lens)
        if warps is None:
            feats = self._frames(rows, frames)
        else:
            filters = warped_filters(self.fb[0].float(), warps, self.cfg.sample_rate / 2)
            parts = zip(rows.split(1), filters, strict=True)
            feats = torch.cat([self._frames(row, frames, own) for row, own in parts])
        return feats.masked_fill_(~frame_mask(lens, frames)[:, :, None], self.cfg.padding_value), lens

    def _mirrored(self, audio: Tensor, audio_lens: Tensor) -> Tensor:
        """(B, N) -> (B, L): each row with its mirrored ends around it, L a multiple of the hop."""
        left_samples, right = self.left_samples, self.right_samples
        lens = audio_lens.clamp(min=1)[:, None]
        rows = self._rows(len(audio), left_samples + audio.shape[1] + right, audio.device)
        rows[:, left_samples : left_samples + audio.shape[1]] = audio
        before = torch.arange(left_samples, 0, -1, device=audio.device) - 1
        after = torch.arange(right, device=audio.device)
        # Mirrored at both ends, an utterance of n samples repeats every 2n.
        before, after = before % (2 * lens), after % (2 * lens)
        before = torch.where(before < lens, before, 2 * lens - 1 - before)
        place = left_samples + lens + torch.arange(right, device=audio.device)
        after = torch.where(after < lens, lens - 1 - after, after - lens)
        rows[:, :left_samples] = audio.gather(1, before)
        return rows.scatter_(1, place, audio.gather(1, after))

    def _rows(self, count: int, samples: int, device: torch.device) -> Tensor:
        """Zeros (count, L). L is a multiple of the hop, more than `samples`, and at least a window."""
        hops = max(samples, self.window_samples) // self.hop_samples + 1
        return torch.zeros(count, hops * self.hop_samples, device=device)

    def _frames(self, rows: Tensor, frames: int, filters: Tensor | None = None) -> Tensor:
        """Features (B, frames, num_mels) of the first `frames` windows of `rows` (B, L), contiguous.

        L is a multiple of the hop, so the windows of all rows have one stride in memory; the few windows that
        run into the next row are wasted. A povey window is 0 at its first sample. Therefore the samples can
        be pre-emphasised before they are cut into windows, and the means subtracted afterwards.
        filters: (num_mels, n_fft // 2 + 1) in place of `fb`.
        """
        flat, size, hop = rows.view(-1), self.window_samples, self.hop_samples
        count = (flat.numel() - size) // hop + 1
        part = math.gcd(hop, size)
        sums = flat.view(-1, part).sum(1).unfold(0, size // part, hop // part).sum(1)
        means = sums.mul_((self.cfg.preemphasis - 1) / size)[:, None]
        out = flat.new_empty(len(rows) * (rows.shape[1] // hop), self.cfg.num_mels)
        step = CPU_FRAMES if flat.device.type == "cpu" else GPU_FRAMES
        # One workspace for all blocks: the system would page in fresh memory for each.
        emphasised = flat.new_zeros((min(step, count) - 1) * hop + size)
        padded = flat.new_zeros(min(step, count), self.n_fft)
        power = flat.new_empty(min(step, count), self.n_fft // 2 + 1)
        window, filters = self.window.float()[:size], (self.fb[0].float() if filters is None else filters).t()
        with torch.autocast(flat.device.type, enabled=False):
            for i in range(0, count, step):
                n = min(step, count - i)
                samples = flat[i * hop : (i + n - 1) * hop + size]
                later = emphasised[1 : len(samples)]
                torch.sub(samples[1:], samples[:-1], alpha=self.cfg.preemphasis, out=later)
                cut = emphasised.as_strided((n, size), (hop, 1))
                block = torch.mul(cut, window, out=padded[:n, :size])
                block.addcmul_(means[i : i + n], window)
                real, imag = torch.view_as_real(torch.fft.rfft(padded[:n])).unbind(-1)
                torch.mul(real, real, out=power[:n]).addcmul_(imag, imag)
                torch.mm(power[:n], filters, out=out[i : i + n])
        out.clamp_(min=ENERGY_FLOOR).log_()
        return out.view(len(rows), -1, self.cfg.num_mels)[:, :frames]


class FbankStream:
    """Features of audio that arrives in chunks: `push` each chunk, then `finish`. Together they equal `Fbank`
    of the whole, without dither.

    A frame is returned when its last sample has arrived: (window - hop) / 2 = 7.5 ms after the end of its
    hop. All rows of a batch begin and end together.
    """

    def __init__(self, fbank: Fbank) -> None:
        self.fbank = fbank
        self._pending: Tensor | None = None  # (B, n): samples from the start of the next frame
        self._begun = False  # whether `_pending` begins with the mirrored start

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """(B, n) the next samples, n >= 0 -> (B, t, num_mels) the frames they complete, t >= 0."""
        pending = audio.float() if self._pending is None else torch.cat([self._pending, audio.float()], 1)
        left_samples, size, hop = self.fbank.left_samples, self.fbank.window_samples, self.fbank.hop_samples
        if not self._begun and pending.shape[1] >= max(left_samples, size - left_samples):
            pending, self._begun = torch.cat([pending[:, :left_samples].flip(1), pending], 1), True
        ready = max(0, (pending.shape[1] - size) // hop + 1) if self._begun else 0
        self._pending = pending[:, ready * hop :]
        return self._frames(pending, ready)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """(B, t, num_mels): the frames that reach past the end of the audio. It resets the stream."""
        pending, begun = self._pending, self._begun
        self._pending, self._begun = None, False
        if pending is None:
            raise MayaError("a feature stream was finished before any audio was pushed; push (B, n) first")
        left_samples, right, hop = self.fbank.left_samples, self.fbank.right_samples, self.fbank.hop_samples
        samples = pending.shape[1] - (left_samples if begun else 0)
        if begun:
            pending = torch.cat([pending, pending[:, -right:].flip(1)], 1)
        elif samples:  # too short for a single mirror
            pending = self.fbank._mirrored(
                pending, torch.full((len(pending),), samples, device=pending.device)
            )
        return self._frames(pending, (samples + hop // 2) // hop)

    def _frames(self, samples: Tensor, frames: int) -> Tensor:
        if frames == 0:
            return samples.new_zeros(len(samples), 0, self.fbank.cfg.num_mels)
        rows = self.fbank._rows(len(samples), samples.shape[1], samples.device)
        rows[:, : samples.shape[1]] = samples
        return self.fbank._frames(rows, frames)


def povey_window(samples: int) -> Tensor:
    """Kaldi's window (samples,) fp32: a Hann window to the power 0.85, 0 at both ends."""
    return torch.hann_window(samples, periodic=False, dtype=torch.float64, device="cpu").pow(0.85).float()


def kaldi_filterbank(num_mels: int, n_fft: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Kaldi's mel filters, (1, num_mels, n_fft // 2 + 1) fp32: triangles of height 1 on the mel scale.

    mel = 1127 ln(1 + Hz / 700). The edges are equally spaced from `low_hz` to `high_hz`; 0 or less counts
    from half the sample rate. The bin at half the sample rate has no weight.
    """
    nyquist = sample_rate / 2
    top = high_hz if high_hz > 0 else nyquist + high_hz
    if not 0 <= low_hz < top <= nyquist:
        raise MayaError(
            f"features.low_hz={low_hz:g} and features.high_hz={high_hz:g} leave no band below half the "
            f"sample rate ({nyquist:g} Hz); Kaldi's are 20 and -400"
        )
    edges_mel = 1127 * torch.log1p(torch.tensor([low_hz, top], dtype=torch.float64, device="cpu") / 700)
    shares = torch.linspace(0, 1, num_mels + 2, dtype=torch.float64, device="cpu")
    edges = torch.lerp(edges_mel[0], edges_mel[1], shares)
    hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64, device="cpu") * sample_rate / n_fft
    bins = 1127 * torch.log1p(hz / 700)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rise, fall).clamp(min=0)
    filters[:, -1] = 0
    return filters.float()[None]
