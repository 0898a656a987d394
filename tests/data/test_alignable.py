import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maya.data.table.alignable import FrameClock, ctc_frames


@given(st.lists(st.integers(0, 2), max_size=7))
def test_ctc_needs_at_least_ctc_frames(tokens: list[int]) -> None:
    """torch's own loss is finite with so many frames and infinite with one less."""
    needed = ctc_frames(tokens)
    for frames in {max(needed, 1), needed - 1} - {0, -1}:
        log_probs = torch.full((frames, 1, 4), 0.25).log()
        target = torch.tensor([tokens], dtype=torch.long).reshape(1, -1) + 1
        lengths = torch.tensor([frames]), torch.tensor([len(tokens)])
        loss = torch.nn.functional.ctc_loss(log_probs, target, *lengths, blank=0, reduction="none")
        assert bool(loss.isfinite()) == (frames >= needed)


@pytest.mark.parametrize(
    ("samples", "fastest", "frames"), [(16000, 1.0, 13), (16000, 1.25, 10), (1279, 1.0, 1), (0, 1.0, 0)]
)
def test_frames_after_subsampling(samples: int, fastest: float, frames: int) -> None:
    clock = FrameClock(sample_rate=16000, hop_samples=160, subsampling=8, fastest=fastest)
    assert clock.frames(samples) == frames == clock.frames_of(np.array([samples / 16000]))[0]


@given(st.integers(0, 10**6), st.sampled_from([1.0, 1.1, 0.9, 1.25]), st.sampled_from([1, 4, 8]))
def test_columns_of_durations_give_the_same_frames(samples: int, fastest: float, subsampling: int) -> None:
    clock = FrameClock(sample_rate=16000, hop_samples=160, subsampling=subsampling, fastest=fastest)
    assert clock.frames_of(np.array([samples / 16000]))[0] == clock.frames(samples)
