"""Goodness of pronunciation: how well each phoneme of a text was said, by a head of CTC over phonemes.

The phonemes to be said are aligned with the audio by force. As in Kaldi, LPP(p) is the mean over a phoneme's
frames of log P(p | frame), and

    GOP(p) = LPP(p) - max_q LPP(q),

0 where the phoneme is the most likely, and below where another is (Witt and Young 2000; Hu et al. 2015).
P is over phonemes alone: blank, which CTC puts into most frames, is no phoneme.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maya.align.ctc import SkipGraph, align_graph
from maya.errors import MayaError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goodness:
    """Of U phonemes. gop, lpp: (U,) nats. start, end: (U,) first frame and frame after the last. lpr: (U, V)
    LPP of every unit less that of the phoneme, nats; the unit of the highest is what it sounds like."""

    gop: Floats
    lpp: Floats
    lpr: Floats
    start: NDArray[np.int64]
    end: NDArray[np.int64]


def goodness(log_probs: Floats, ids: NDArray[np.int64], blank: int) -> Goodness:
    """log_probs (S, V + 1) of CTC, blank last; ids (U,) in [0, V) of the phonemes that were to be said.
    Raises MayaError where they have no path through the frames."""
    if not len(ids):
        raise MayaError("goodness of pronunciation needs phonemes, and the text has none")
    values = np.asarray(log_probs, np.float64)
    graph = SkipGraph(tokens=np.asarray(ids, np.int64), first=np.arange(len(ids)), blank=blank)
    spans = align_graph(lambda begin, end: values[begin:end], len(values), graph)
    units = values[:, :blank]
    highest = units.max(1, keepdims=True)
    units = units - highest - np.log(np.exp(units - highest).sum(1, keepdims=True))
    means = np.stack([units[a:b].mean(0) for a, b in zip(spans.start, spans.end, strict=True)])
    lpp = means[np.arange(len(ids)), ids]
    lpr = means - lpp[:, None]
    return Goodness(gop=-lpr.max(1), lpp=lpp, lpr=lpr, start=spans.start, end=spans.end)
