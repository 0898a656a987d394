"""The rows of a sparse table on a device: which columns each row has."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class SparseRows(nn.Module):
    """A table of R rows and `width` columns with E entries, each known by its place 0 ... E - 1.

    Buffers: keys (E,) int64, row * width + column, ascending; first (R + 1,) int64, where each row begins.
    """

    keys: Tensor
    first: Tensor

    def __init__(self, keys: NDArray[np.int64], rows: int, width: int) -> None:
        super().__init__()
        self.width = width
        first = np.searchsorted(keys, np.arange(rows + 1) * width)
        self.most = int(np.diff(first).max()) if rows else 0
        self.register_buffer("keys", torch.from_numpy(keys.astype(np.int64)))
        self.register_buffer("first", torch.from_numpy(first.astype(np.int64)))
        self.pads = False  # for tests: as on an accelerator

    def find(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """rows, columns (N,) -> the place of each entry (N,), and whether the table has it (N,) bool."""
        if not len(self.keys):
            return torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
        wanted = rows * self.width + columns
        place = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        return place, self.keys[place] == wanted

    def entries(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """rows (N,) -> all entries of these rows: the index into `rows`, place and column, (A,) each.

        Only the device knows the number of entries. Off the CPU, where asking would mean to wait, each row
        gets as many as the row with the most has; those that it lacks have the column `width`.
        """
        first = self.first[rows]
        counts = self.first[rows + 1] - first
        if rows.device.type == "cpu" and not self.pads:
            row = torch.repeat_interleave(counts)
            place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row] + first[row]
            return row, place, self.keys[place] - rows[row] * self.width
        steps = torch.arange(self.most, device=first.device)
        place = (first[:, None] + steps).clamp(max=max(0, len(self.keys) - 1))
        column = torch.where(
            steps < counts[:, None], self.keys[place] - rows[:, None] * self.width, self.width
        )
        row = torch.arange(len(first), device=first.device)[:, None].expand_as(place)
        return row.flatten(), place.flatten(), column.flatten()
