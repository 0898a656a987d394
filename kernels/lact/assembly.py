"""Results of all utterances, assembled from groups of utterances and spans of frames."""

from collections.abc import Sequence

from torch import Tensor

from maya.kernels.lact.plan import Span, covers, disjoint


class Assembly:
    """A tensor (B, L, H, ...) like `like`, whose spans are computed one by one, group after group.

    If no spans overlap, each is written once. Otherwise they are added up. Frames outside all spans are 0.
    ahead: a group has a buffer (N, L, ...) first, N = B H, in which products can write their results.
    """

    def __init__(self, like: Tensor, spans: Sequence[Span], *, ahead: bool) -> None:
        self.once, self.full = disjoint(spans), covers(spans, like.shape[1])
        self.ahead, self.spans = ahead and len(spans) > 0, len(spans)
        shape = like.shape
        self.tensor = like.new_empty(shape) if self.full or self.ahead else like.new_zeros(shape)
        self._buffer: Tensor | None = None
        self._slot: Tensor | None = None
        self._pending = 0

    def slot(self, rows: slice, span: Span) -> Tensor | None:
        """Where the span (N, T, ...) of a group can be written; None if it must be handed to `put`."""
        if not (self.ahead and self.once):
            return None
        self._slot = self._group_buffer(rows)[:, span.start : span.end]
        return self._slot

    def put(self, rows: slice, span: Span, x: Tensor | None) -> None:
        """Takes the span (N, T, ...) of a group, which may be its slot."""
        assert x is not None
        if not self.ahead:
            target = self.tensor[rows, span.start : span.end]
            part = x.unflatten(0, (-1, self.tensor.shape[2])).transpose(1, 2)
            target.copy_(part) if self.once else target.add_(part)
            return
        buffer = self._group_buffer(rows)
        if x is not self._slot:
            target = buffer[:, span.start : span.end]
            target.copy_(x) if self.once else target.add_(x)
        self._pending -= 1
        if not self._pending:
            self.tensor[rows] = buffer.unflatten(0, (-1, self.tensor.shape[2])).transpose(1, 2)
            self._buffer = self._slot = None

    def _group_buffer(self, rows: slice) -> Tensor:
        if self._buffer is None:
            batch, length, heads, *rest = self.tensor[rows].shape
            shape = (batch * heads, length, *rest)
            new = self.tensor.new_empty if self.once and self.full else self.tensor.new_zeros
            self._buffer, self._pending = new(shape), self.spans
        return self._buffer


class HeadParts:
    """A tensor (B, H, ...), from the parts (N, ...) of groups. tensor: None while no part has come.

    A part of all utterances is not copied.
    """

    def __init__(self, batch: int, heads: int) -> None:
        self.batch, self.heads = batch, heads
        self.tensor: Tensor | None = None

    def put(self, rows: slice, x: Tensor | None) -> None:
        if x is None:
            return
        part = x.unflatten(0, (-1, self.heads))
        if len(part) == self.batch:
            self.tensor = part
            return
        if self.tensor is None:
            self.tensor = part.new_empty(self.batch, *part.shape[1:])
        self.tensor[rows] = part
