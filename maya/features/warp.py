"""Vocal-tract length perturbation: formants moved by a warp of the frequency axis under the mel filters.

Jaitly and Hinton 2013, "Vocal Tract Length Perturbation (VTLP) improves speech recognition". A factor above 1
moves formants up, as a shorter vocal tract does. Duration and tempo stay as they are, unlike under a change
of speed; harmonics move with the formants.
"""

import torch
from torch import Tensor

KNOTS_HZ = (500.0, 1500.0, 3000.0)  # about the first three formants; a warp has a factor at each
_TOP_HZ = 4800.0  # above it the warp runs linearly to the Nyquist frequency, which stays in place


def warped_filters(filters: Tensor, warps: Tensor, nyquist: float) -> Tensor:
    """Mel filters (M, J) of J frequency bins from 0 to `nyquist` Hz, warps (B, 3) factors at `KNOTS_HZ` ->
    (B, M, J) filters of the same type. They read from a power spectrum what `filters` would read from the
    spectrum whose formants are moved by the factors: up where these are above 1.

    Between the knots the logarithm of the factor is interpolated linearly over log frequency; outside it is
    that of the nearest knot. Factors of 1 return the filters, to rounding.
    """
    bins = filters.shape[1]
    source = source_hz(torch.linspace(0, nyquist, bins, device=filters.device), warps, nyquist)
    place = (source * ((bins - 1) / nyquist)).clamp(0, bins - 1)
    low = place.long().clamp(max=bins - 2)
    part = (place - low).to(filters.dtype)[:, None]
    rows = filters.expand(len(warps), -1, -1)
    index = low[:, None].expand(rows.shape)
    warped = torch.zeros_like(rows).scatter_add(2, index, rows * (1 - part))
    return warped.scatter_add(2, index + 1, rows * part)


def source_hz(hz: Tensor, warps: Tensor, nyquist: float) -> Tensor:
    """hz (J,), rising, warps (B, 3) -> (B, J): the frequency of the unwarped spectrum that moves to each."""
    knots = torch.tensor(KNOTS_HZ, device=hz.device).log()
    at = hz.clamp(min=1.0).log()[None]
    logs = warps.to(hz.dtype).log()
    log_factor = logs[:, :1].expand(-1, len(hz))
    for i in range(len(KNOTS_HZ) - 1):
        share = ((at - knots[i]) / (knots[i + 1] - knots[i])).clamp(0, 1)
        log_factor = log_factor + share * (logs[:, i + 1] - logs[:, i])[:, None]
    top = min(_TOP_HZ, 0.6 * nyquist) * warps[:, -1:].clamp(max=1.0)
    edge = top / warps[:, -1:]  # moves to `top`
    above = edge + (hz - top) * (nyquist - edge) / (nyquist - top)
    source = torch.where(hz <= top, hz / log_factor.exp(), above)
    return source.cummax(1).values  # knots far apart must not fold the axis
