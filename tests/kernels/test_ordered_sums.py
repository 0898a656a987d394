"""Sums have one order on every device."""

from typing import Any

import torch

from maya.kernels.joint import torch_op
from maya.kernels.ordered_sums import add_at, add_tokens


class Elsewhere:
    """A tensor that says it is not on the CPU, and knows no operator whose sums have no order there."""

    is_cpu = False

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.shape, self.device = x, x.shape, x.device

    def index_put_(self, *args: Any, **options: Any) -> None:
        self.x.index_put_(*args, **options)


def test_sums_off_the_cpu_go_through_a_sort_and_are_those_of_the_cpu() -> None:
    targets, mass = torch.tensor([[1, 1, 0], [2, 2, 2]]), torch.rand(2, 4, 3)
    index, rows = torch.tensor([3, 0, 3, 3]), torch.rand(4, 5)
    tokens, counts, sums = torch.zeros(2, 2, 4, 5), torch.zeros(2, 6), torch.zeros(2, 6, 5)
    for where in (lambda x: x, Elsewhere):
        n = int(where is Elsewhere)
        total: Any = where(tokens[n])
        add_tokens(total, targets, mass)
        total = where(counts[n])
        add_at(total, index, rows[:, 0])
        total = where(sums[n])
        torch_op._add_rows(total, index, rows)
    torch.testing.assert_close(tokens[0], tokens[1])
    torch.testing.assert_close(counts[0], counts[1])
    torch.testing.assert_close(sums[0], sums[1])
