"""The diarization head: its loss against brute force, the order of arrival, padding, and decoding."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as entropy

from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import DiarizationConfig, HeadContext, LossStep
from maya.heads.diarization import arrivals, median
from tests.heads.test_classify import batch_of

LABELS: list[str | None] = ["0.4-0.8 ann; 0.1-0.5 ben; 0.6-0.7 cy", "0.0-0.3 ann", "none"]


def head_of(**options: Any) -> Any:
    torch.manual_seed(1)
    context = HeadContext(dim=6, labels=3, blank=3, hidden_dims=(6, 6), frame_seconds=0.04)
    return DiarizationConfig(hidden=8, n_heads=2, **options).build(context)


def test_the_loss_is_that_of_all_orders_tried_one_by_one() -> None:
    head, batch = head_of(), batch_of([1.0] * 3, {"turns": LABELS})
    lens = [25, 11, 20]
    encoded = Encoded(torch.randn(3, 25, 6), torch.tensor(lens))
    losses, logits = head.losses(encoded, batch, LossStep()), head(encoded)
    targets, _ = head.targets(batch, 25)
    for row, size in enumerate(lens):
        own, goal = logits[row, :size], targets[row, :size]
        values = [float(entropy(own[:, order], goal)) for order in map(list, permutations(range(4)))]
        assert float(losses["loss"][row]) == pytest.approx(min(values), abs=1e-6)
        assert float(losses["sorted"][row]) == pytest.approx(values[0], abs=1e-6)
    total = head.total(losses, 0)
    assert torch.allclose(total, 0.5 * losses["loss"] + 0.5 * losses["sorted"])


def test_speakers_are_in_the_order_of_their_first_speech() -> None:
    head = head_of()
    targets, has = head.targets(batch_of([1.0] * 3, {"turns": LABELS}), 25)
    assert has.all() and arrivals([("b", 2.0, 3.0), ("a", 1.0, 5.0), ("b", 0.5, 0.6)]) == ["b", "a"]
    assert targets[0, :, 0].nonzero()[:, 0].tolist() == list(range(2, 12))  # ben, from 0.1 to 0.5 s
    assert targets[0, :, 1].nonzero()[:, 0].tolist() == list(range(10, 20))  # ann, who overlaps
    assert targets[0, :, 2].sum() > 0 and targets[0, :, 3].sum() == 0 and targets[2].sum() == 0
    many = "; ".join(f"{i}-{i + 1} s{i}" for i in range(5))
    with pytest.raises(MayaError, match="5 speakers and the diarization head 4"):
        head.targets(batch_of([1.0], {"turns": [many]}), 25)


def test_a_padded_row_equals_the_row_alone() -> None:
    head = head_of(layers="all").double().eval()
    frames = torch.randn(1, 12, 6, dtype=torch.float64)
    padded = torch.cat([frames, 9.0 * torch.ones(1, 8, 6, dtype=torch.float64)], 1)
    hidden = lambda x: {0: x, 1: 2 * x}  # noqa: E731
    alone = Encoded(frames, torch.tensor([12]), hidden(frames))
    both = torch.cat([padded, torch.randn(1, 20, 6, dtype=torch.float64)])
    together = Encoded(both, torch.tensor([12, 20]), hidden(both))
    assert torch.allclose(head(together)[:1, :12], head(alone), atol=1e-12)
    batch = batch_of([0.48, 0.8], {"turns": ["0.1-0.3 a", None]})
    losses = head.losses(together, batch, LossStep())
    single = head.losses(alone, batch_of([0.48], {"turns": ["0.1-0.3 a"]}), LossStep())
    assert all(torch.allclose(losses[name][:1], single[name], atol=1e-12) for name in head.parts)


def test_turns_are_smoothed_and_may_overlap() -> None:
    head = head_of(speakers=2, min_seconds=0.2, gap_seconds=0.1, median_frames=3)
    logits = torch.full((40, 2), -5.0)
    logits[5:20, 0], logits[12, 0], logits[30, 0] = 5.0, -5.0, 5.0  # a hole and a spike of one step
    logits[15:25, 1] = 5.0
    track = head.made(logits)
    turns = [(e.label, round(e.start, 2), round(e.end, 2)) for e in track.events]
    assert turns == [("A", 0.2, 0.8), ("B", 0.6, 1.0)] and track.columns == ("A", "B")
    assert head.made(logits[:0]).events == ()
    assert median(torch.tensor([[0.0], [3.0], [1.0], [2.0]]), 3)[:, 0].tolist() == [0.0, 1.0, 2.0, 2.0]


def test_a_head_learns_who_speaks() -> None:
    """Frames that say which of two voices sounds, with the voices drawn anew for each recording."""
    head = head_of(speakers=2, n_layers=1)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    label: list[str | None] = ["0.0-0.4 x; 0.4-1.0 y", "0.0-0.6 y; 0.5-1.0 x"] * 4
    batch = batch_of([1.0] * 8, {"turns": label})
    goal, _ = head.targets(batch, 25)
    for _ in range(100):
        voices = torch.randn(8, 2, 6)
        encoded = Encoded(goal @ voices, torch.full((8,), 25))
        loss = head.total(head.losses(encoded, batch, LossStep()), 0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.15


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MayaError, match="multiple of its n_heads"):
        DiarizationConfig(hidden=10, n_heads=4).build(HeadContext(dim=4, labels=1, blank=1))
    with pytest.raises(MayaError, match="cannot stream"):
        head_of().stream()
