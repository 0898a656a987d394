"""A batch without its padding. This only makes a CPU faster: the layers are the same without it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# A batch is packed when that saves more than this share of its frames; each utterance costs a few calls more.
PACK_ABOVE = 0.1  # with gradients; another share would change the bits of trainings
PACK_ABOVE_IN_INFERENCE = 0.03
# Without gradients it must save so many frames an utterance, too: the calls take 30 microseconds a layer, a
# frame of 192 channels 15.
FRAMES_OF_CALLS = 2


@dataclass(frozen=True, slots=True)
class Rows:
    """Utterances laid one after another into a batch of one, `gap` zero frames between them.

    Every layer but attention then sees (1, N, D). A gap keeps a convolution from reaching into a neighbour;
    without one the convolution makes its own, see `with_gaps`.
    """

    lens: tuple[int, ...]
    gap: int

    @property
    def _sizes(self) -> list[int]:
        sizes = [size for n in self.lens for size in (n, self.gap)]
        return sizes[:-1]

    def split(self, x: Tensor) -> list[Tensor]:
        """(1, N, ...) -> (1, lens[b], ...) for each utterance."""
        return list(x.split(self._sizes, dim=1)[::2])

    def join(self, rows: list[Tensor]) -> Tensor:
        """The inverse of `split`; the gaps become zero."""
        blank = rows[0].new_zeros(1, self.gap, *rows[0].shape[2:])
        pieces = [piece for row in rows for piece in (row, blank)]
        return torch.cat(pieces[:-1], dim=1)

    def pack(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (1, N, D)."""
        return self.join([row[None, :n] for row, n in zip(x.unbind(0), self.lens, strict=True)])

    def unpack(self, x: Tensor, size: int) -> Tensor:
        """(1, N, D) -> (B, size, D), zero beyond each utterance."""
        return torch.cat([F.pad(row, (0, 0, 0, size - row.shape[1])) for row in self.split(x)])

    def valid(self, device: torch.device) -> Tensor:
        """(1, N) bool, False in the gaps."""
        flags = torch.tensor([True, False] * len(self.lens), device=device)[:-1]
        return flags.repeat_interleave(torch.tensor(self._sizes, device=device))[None]


def with_gaps(function: Callable[[Tensor], Tensor], x: Tensor, rows: Rows | None, gap: int) -> Tensor:
    """`function` of frames x (1, N, D), for which at least `gap` zero frames are between utterances."""
    if rows is None or rows.gap >= gap:
        return function(x)
    apart = Rows(lens=rows.lens, gap=gap)
    return rows.join(apart.split(function(apart.join(rows.split(x)))))


def rows_to_pack(lens: Tensor, size: int, gap: int, max_without: int = 0) -> Rows | None:
    """How to pack a batch (B, size, D) of `lens` (B,), or None where that is not worth it.

    Without gradients up to `max_without` frames have no gaps. On a GPU packing is never worth it: reading the
    lengths would stop it, and products of one utterance would not fill it.
    """
    if lens.device.type != "cpu" or len(lens) < 2 or torch.compiler.is_compiling():
        return None
    without = not torch.is_grad_enabled() and int(lens.sum()) <= max_without
    gap = 0 if without else gap
    rows = Rows(lens=tuple(lens.tolist()), gap=gap)
    frames = sum(rows.lens) + gap * (len(rows.lens) - 1)
    if torch.is_grad_enabled():
        is_worth_it = frames < (1 - PACK_ABOVE) * size * len(lens)
    else:
        saved = size - frames / len(lens)
        is_worth_it = saved > PACK_ABOVE_IN_INFERENCE * size and saved >= FRAMES_OF_CALLS
    return rows if any(rows.lens) and is_worth_it else None
