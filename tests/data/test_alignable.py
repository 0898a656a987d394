import torch
from hypothesis import given
from hypothesis import strategies as st

from maya.data.table.alignable import ctc_frames


@given(st.lists(st.integers(0, 2), max_size=7))
def test_ctc_needs_at_least_ctc_frames(tokens: list[int]) -> None:
    """torch's CTC loss is finite with that number of frames and infinite with one frame fewer."""
    needed = ctc_frames(tokens)
    for frames in {max(needed, 1), needed - 1} - {0, -1}:
        log_probs = torch.full((frames, 1, 4), 0.25).log()
        target = torch.tensor([tokens], dtype=torch.long).reshape(1, -1) + 1
        lengths = torch.tensor([frames]), torch.tensor([len(tokens)])
        loss = torch.nn.functional.ctc_loss(log_probs, target, *lengths, blank=0, reduction="none")
        assert bool(loss.isfinite()) == (frames >= needed)
