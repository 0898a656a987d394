"""The order of updates and applies over a sequence: a list of spans, executed one after the other.

The usual orders are `whole`, `passes`, `chunk_causal` and `strictly_causal`; any other list is allowed.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Frames [start, end). update: a step of the fast weights on them. apply: compute their output.

    With both, the update comes first, so the frames see the weights after their own update.
    """

    start: int
    end: int
    update: bool
    apply: bool


def whole(length: int) -> list[Span]:
    """Update on all frames in one step, then apply to all: not causal."""
    return [Span(0, length, True, True)] if length else []


def passes(length: int, chunk: int, times: int = 1) -> list[Span]:
    """Update chunk by chunk, `times` times, then apply to all: not causal, several inner steps."""
    updates = [Span(start, end, True, False) for start, end in _chunks(length, chunk)] * times
    return [*updates, Span(0, length, False, True)] if length else []


def chunk_causal(length: int, chunk: int) -> list[Span]:
    """Update on a chunk, then apply to it: a frame sees its whole chunk and all earlier ones."""
    return [Span(start, end, True, True) for start, end in _chunks(length, chunk)]


def strictly_causal(length: int, chunk: int) -> list[Span]:
    """Apply to a chunk, then update on it: a frame sees earlier chunks only."""
    steps = ((False, True), (True, False))
    return [Span(start, end, *step) for start, end in _chunks(length, chunk) for step in steps]


def check_plan(op: str, plan: Sequence[Span], length: int) -> tuple[Span, ...]:
    """The plan as a tuple. Raises ValueError for a span outside the frames, an idle one, or two outputs of a
    frame.
    """
    spans = tuple(Span(*span) for span in plan)
    for span in spans:
        if not 0 <= span.start < span.end <= length:
            raise ValueError(f"{op}: {span} does not lie in the {length} frames")
        if not (span.update or span.apply):
            raise ValueError(f"{op}: {span} neither updates nor applies; leave it out")
    reads = sorted(span for span in spans if span.apply)
    for before, after in zip(reads, reads[1:], strict=False):
        if after.start < before.end:
            raise ValueError(f"{op}: {before} and {after} apply to the same frames, which have one output")
    return spans


def with_gradient(plan: Sequence[Span], output: bool, state: bool) -> list[Span]:
    """The parts of the plan through which gradients flow, if the output or the state after it has one."""
    spans = []
    for start, end, update, apply in reversed(plan):
        apply = apply and output
        state = state or apply
        if update and state or apply:
            spans.append(Span(start, end, update and state, apply))
    return spans[::-1]


def disjoint(spans: Sequence[Span]) -> bool:
    """Whether no two spans share a frame."""
    ordered = sorted(spans)
    return all(a.end <= b.start for a, b in zip(ordered, ordered[1:], strict=False))


def covers(spans: Sequence[Span], length: int) -> bool:
    """Whether each of the frames lies in exactly one span."""
    return disjoint(spans) and sum(span.end - span.start for span in spans) == length


def _chunks(length: int, chunk: int) -> list[tuple[int, int]]:
    if chunk < 1:
        raise ValueError(f"a chunk must have at least 1 frame, not {chunk}")
    return [(start, min(start + chunk, length)) for start in range(0, length, chunk)]
