"""Entries of sparse rows, packed as on the CPU and padded as on an accelerator."""

import numpy as np
import pytest
import torch

from maya.decode.lm.sparse_rows import SparseRows

TABLE = {(0, 2): 0, (0, 3): 1, (2, 0): 2, (2, 1): 3, (2, 4): 4}  # place by row and column


@pytest.mark.parametrize("pads", [False, True])
def test_entries_and_search(pads: bool) -> None:
    rows = SparseRows(np.array([r * 5 + c for r, c in TABLE]), rows=4, width=5)
    rows.pads = pads
    asked = torch.tensor([2, 3, 0, 0])
    listed = zip(*(x.tolist() for x in rows.entries(asked)), strict=True)
    entries = {(row, column): place for row, place, column in listed if column < rows.width}
    expected = {(i, c): p for i, r in enumerate(asked.tolist()) for (row, c), p in TABLE.items() if row == r}
    assert entries == expected
    place, hit = rows.find(torch.tensor([0, 1, 2, 3]), torch.tensor([3, 3, 4, 0]))
    assert hit.tolist() == [True, False, True, False] and place[hit].tolist() == [1, 4]


def test_empty_table() -> None:
    rows = SparseRows(np.empty(0, np.int64), rows=2, width=3)
    assert rows.most == 0 and not rows.find(torch.tensor([0, 1]), torch.tensor([0, 2]))[1].any()
