"""How many samples a window and a hop have."""

_ROUNDING = 1e-6  # of a sample, by which a product of floats may be off


def frame_samples(milliseconds: float, sample_rate: int) -> int:
    """Samples in so many milliseconds at `sample_rate` Hz, rounded down as NeMo, Kaldi and lhotse do it: at
    11 025 Hz a window of 25 ms has 275 samples, and a hop of 10 ms has 110."""
    return int(sample_rate * milliseconds / 1000 + _ROUNDING)
