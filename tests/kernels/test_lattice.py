"""The forward-backward shared by RNN-T and TDT: what must hold for posteriors whatever the weights."""

import pytest
import torch

from maya.kernels.lattice import Arcs, forward_backward


@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (1, 2), (0, 1, 5)])
def test_posteriors_are_expectations_over_paths(durations: tuple[int, ...]) -> None:
    frames, labels = [9, 6, 2], [4, 0, 1]

    def weight() -> torch.Tensor:
        return torch.randn(3, 9, 5, dtype=torch.float64)

    arcs = Arcs(blank={d: weight() for d in durations if d}, label={d: weight() for d in durations})
    result = forward_backward(arcs, frames, labels, with_posteriors=True)
    moves = [(d, 0, p) for d, p in result.blank.items()] + [(d, 1, p) for d, p in result.label.items()]
    # Every path spends all frames and emits all labels, so their expected numbers are exact.
    spent = sum(d * p.sum((1, 2)) for d, _, p in moves)
    emitted = sum(advance * p.sum((1, 2)) for _, advance, p in moves)
    torch.testing.assert_close(spent, torch.tensor(frames, dtype=torch.float64))
    torch.testing.assert_close(emitted, torch.tensor(labels, dtype=torch.float64))
    # What leaves the start is certain, and what arrives in a node leaves it.
    total = sum(p for _, _, p in moves)
    torch.testing.assert_close(total[:, 0, 0], torch.ones(3, dtype=torch.float64))
    arrived = torch.zeros(3, 9 + 6, 5 + 1, dtype=torch.float64)
    for d, advance, p in moves:
        arrived[:, d : d + 9, advance : advance + 5] += p
    inner = arrived[:, :9, :5].clone()
    inner[:, 0, 0] += 1
    for row, (t, u) in enumerate(zip(frames, labels, strict=True)):
        torch.testing.assert_close(inner[row, :t, : u + 1], total[row, :t, : u + 1])
        assert arrived[row, t, u] == pytest.approx(1.0)  # all mass lands on the end


def test_without_posteriors_the_log_probability_is_the_same() -> None:
    cells = torch.randn(2, 5, 4, dtype=torch.float64)
    arcs = Arcs(blank={1: cells, 2: 2 * cells}, label={0: cells - 1, 1: -cells})
    both, forward = (forward_backward(arcs, [5, 4], [3, 1], with_posteriors=x) for x in (True, False))
    torch.testing.assert_close(both.log_prob, forward.log_prob, rtol=1e-14, atol=0)
    assert not forward.blank and not forward.label
