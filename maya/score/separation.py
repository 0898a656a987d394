"""Measures of separated signals: SI-SDR and its improvement, PESQ and STOI; means with intervals."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maya.errors import MayaError
from maya.losses.separation import pit_si_sdr_loss, si_sdr
from maya.score import resampling
from maya.score.wer import Interval

MEASURES = {"si_sdr": "SI-SDR, dB", "si_sdri": "SI-SDRi, dB", "pesq": "PESQ", "pesqi": "PESQi",
            "stoi": "STOI", "stoii": "STOIi"}  # fmt: skip
_PESQ_MODES = {8000: "nb", 16000: "wb"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SeparationScores:
    """Measures of one mixture by their names in `MEASURES`, means over its sources; NaN where a measure does
    not apply. order: (K,) the estimate of each source."""

    values: dict[str, float]
    order: tuple[int, ...]


def separation_scores(
    estimates: Tensor, sources: Tensor, mixture: Tensor, sample_rate: int, *, perceptual: bool = False
) -> SeparationScores:
    """estimates, sources (K, N), mixture (N,) → measures, for the order of estimates with the best SI-SDR.
    The names that end with i are improvements over the mixture.

    perceptual: PESQ and STOI too. Raises MayaError where their packages are missing.
    """
    lens = torch.tensor([sources.shape[1]])
    _, order = pit_si_sdr_loss(estimates[None], sources[None], lens)
    ordered, each = estimates[order[0]], lens.expand(len(sources))
    after, before = si_sdr(ordered, sources, each), si_sdr(mixture.expand_as(sources), sources, each)
    values = {"si_sdr": float(after.mean()), "si_sdri": float((after - before).mean())}
    if perceptual:
        for name, measure in (("pesq", pesq), ("stoi", stoi)):
            pairs = [
                (measure(e, s, sample_rate), measure(mixture, s, sample_rate))
                for e, s in zip(ordered, sources, strict=True)
            ]
            values[name] = float(np.mean([a for a, _ in pairs]))
            values[f"{name}i"] = float(np.mean([a - b for a, b in pairs]))
    return SeparationScores(values=values, order=tuple(order[0].tolist()))


def pesq(estimate: Tensor, source: Tensor, sample_rate: int) -> float:
    """PESQ (ITU-T P.862) of (N,), narrow-band at 8 kHz and wide-band at 16 kHz; NaN at other rates, and where
    PESQ finds no speech."""
    package = _package("pesq")
    if sample_rate not in _PESQ_MODES:
        return float("nan")
    try:
        return float(package.pesq(sample_rate, source.numpy(), estimate.numpy(), _PESQ_MODES[sample_rate]))
    except (package.NoUtterancesError, package.BufferTooShortError):
        return float("nan")


def stoi(estimate: Tensor, source: Tensor, sample_rate: int) -> float:
    """STOI (Taal et al. 2011) of (N,), 0 to 1."""
    return float(_package("pystoi").stoi(source.numpy(), estimate.numpy(), sample_rate))


def means(
    scores: Sequence[SeparationScores], blocks: Sequence[Hashable] | None = None
) -> dict[str, tuple[float, Interval]]:
    """The mean of each measure and its 95 % bootstrap interval, over the mixtures in which it applies.
    blocks: a label for each mixture, such as a speaker; those with one label are drawn together."""
    out = {}
    for name in MEASURES:
        rows = np.array([score.values.get(name, np.nan) for score in scores], np.float64)
        kept = np.isfinite(rows)
        if kept.any():
            sums = np.stack([rows[kept], np.ones(kept.sum())], 1)
            own = None if blocks is None else [b for b, keep in zip(blocks, kept, strict=True) if keep]
            out[name] = resampling.of_sums(sums, lambda s: s[:, 0] / s[:, 1], blocks=own)
    return out


def _package(name: str):  # type: ignore[no-untyped-def]
    try:
        if name == "pesq":
            import pesq as package  # noqa: PLC0415
        else:
            import pystoi as package  # noqa: PLC0415
    except ImportError:
        raise MayaError(f"{name} is not installed: pip install 'maya-asr[separation]'") from None
    return package
