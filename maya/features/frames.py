"""How many samples a window and a hop have."""

from maya.errors import MayaError

_ROUNDING = 1e-6  # of a sample, by which a product of floats may be off


def check_frames(sample_rate: int, hop_ms: float) -> None:
    """MayaError for a sample rate that no audio has, or a hop without samples."""
    if not 1000 <= sample_rate <= 768_000:
        raise MayaError(
            f"features.sample_rate={sample_rate} is no rate of audio; take one such as 8000 or 16000"
        )
    if frame_samples(hop_ms, sample_rate) < 1:
        raise MayaError(
            f"features.hop_ms={hop_ms:g} is less than a sample at {sample_rate} Hz; raise it to 10"
        )


def frame_samples(milliseconds: float, sample_rate: int) -> int:
    """Samples in so many milliseconds at `sample_rate` Hz, rounded down as NeMo, Kaldi and lhotse do it: at
    11 025 Hz a window of 25 ms has 275 samples, and a hop of 10 ms has 110."""
    return int(sample_rate * milliseconds / 1000 + _ROUNDING)
