"""The plan from its first span to its last, and back: saves inputs and states between updates, makes the rest
again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.lact.plan import Span
from maya.kernels.lact.reference import Inputs
from maya.kernels.lact.state import FastWeights, Rule
from maya.kernels.lact.torch_op import TorchOps
from maya.kernels.lact.update import (
    Lesson,
    LessonGradients,
    State,
    apply,
    apply_backward,
    update,
    update_backward,
)

# Elements of a group's widest tensor. Utterances do not depend on each other, so that as many are worked on
# at a time as on a CPU stay in the cache, and elsewhere fit well.
GROUP_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 29}
# Places of the tensors that `LactFunction` takes; the state comes last.
Q, K, V, RATES, MASK, GATE, SCALE, NORM_UP, NORM_DOWN, STATE = range(10)
GIVEN = STATE + 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is no tensor."""

    ops: TorchOps
    plan: tuple[Span, ...]
    rule: Rule

    @property
    def updates(self) -> int:
        return sum(span.update for span in self.plan)

    def changes(self, place: int) -> bool:
        """Whether the part `place` of the state can be another after the plan."""
        return self.updates > 0 and (self.rule.update_weights == "all" or place % 2 == 1)


def lact_autograd(
    x: Inputs, weights: FastWeights, plan: tuple[Span, ...], rule: Rule, ops: TorchOps
) -> tuple[Tensor, FastWeights]:
    """`lact_reference` on a backend's parts, with a backward of its own."""
    w0, w1, w2, m0, m1, m2 = weights
    batch, hidden, dtype = w0.shape[0], w0.shape[2], w0.dtype
    work = Work(ops=ops, plan=plan, rule=rule)
    momentum_up, momentum_down = None, None
    if x.gate is not None and work.changes(1):
        momentum_down = torch.zeros_like(w1) if m1 is None else m1
        if work.changes(0):
            momentum_up = torch.cat([torch.zeros_like(w0) if m is None else m for m in (m0, m2)], 2)
    n0, n1, n2 = (n.to(dtype).expand(batch, -1, -1) for n in x.norms)
    out, up, down, momentum_up, momentum_down = LactFunction.apply(
        work, x.q, x.k, x.v, x.rates.to(dtype), x.mask,
        *(None if y is None else y.to(dtype) for y in (x.gate, x.step_scale)),
        torch.cat([n0, n2], 2), n1, torch.cat([w0, w2], 2), w1, momentum_up, momentum_down,
    )  # fmt: skip
    if up is not None:
        w0, w2 = up.split(hidden, 2)
    if momentum_up is not None:
        m0, m2 = momentum_up.split(hidden, 2)
    w1, m1 = (w1 if down is None else down), (m1 if momentum_down is None else momentum_down)
    return out, FastWeights(w0, w1, w2, m0, m1, m2)


class LactFunction(torch.autograd.Function):
    """Tensors in: q, k, v, rates, mask, gate, step_scale, norms of up and down, up, down and their momentum,
    all with B and H apart. Out: the output, then up, down and momentum after the plan, those that change.
    """

    @staticmethod
    def forward(ctx: Any, work: Work, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        q = given[Q]
        assert q is not None
        out = q.new_zeros(q.shape)
        changing = [x if work.changes(i) else None for i, x in enumerate(given[STATE:])]
        after = [None if x is None else x.new_empty(x.shape) for x in changing]
        saved: list[Tensor | None] = []
        for piece in _pieces(work, given):
            states = [piece.state]
            for span in work.plan:
                if span.update:
                    states.append(update(work.ops, states[-1], piece.lesson(span)))
                if span.apply:
                    piece.add(out, span, apply(work.ops, states[-1], piece.frames(Q, span)))
            piece.set_state(after, states[-1])
            if any(ctx.needs_input_grad):
                saved += [x for state in states[1:-1] for x in state]
        ctx.work = work
        ctx.save_for_backward(*given, *after, *saved)
        return out, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *of_after: Tensor | None) -> tuple[Tensor | None, ...]:
        work, tensors = ctx.work, ctx.saved_tensors
        given, after = tensors[:GIVEN], tensors[GIVEN : GIVEN + 4]
        saved = iter(tensors[GIVEN + 4 :])
        grads = [None if x is None or i == MASK else x.new_zeros(x.shape) for i, x in enumerate(given)]
        last = [x if y is None else y for x, y in zip(given[STATE:], after, strict=True)]
        for piece in _pieces(work, given):
            states = [piece.state]
            states += [State.of(next(saved) for _ in range(4)) for _ in range(work.updates - 1)]
            states.append(State.of(piece.merged(x) for x in last))
            of_state = State.of(piece.gradient(x, y) for x, y in zip(last, of_after, strict=True))
            done = work.updates
            for span in reversed(work.plan):
                if span.apply:
                    of_out = piece.merged(grad[:, span.start : span.end].transpose(1, 2))
                    assert of_out is not None
                    of_q = apply_backward(work.ops, states[done], piece.frames(Q, span), of_out, of_state)
                    piece.add(grads[Q], span, of_q)
                if span.update:
                    done -= 1
                    lesson = piece.lesson(span)
                    found, of_state = update_backward(work.ops, states[done], lesson, of_state)
                    piece.add_lesson(grads, span, lesson, found)
            piece.set_state(grads[STATE:], of_state)
        return None, *grads


class _Piece:
    """Some of the utterances: spans of theirs with N = B H in front, and the way back."""

    def __init__(self, work: Work, given: Sequence[Tensor | None], rows: slice) -> None:
        self.work, self.given, self.rows = work, given, rows
        q = given[Q]
        assert q is not None
        self.batch, _, self.heads, _ = q[rows].shape
        self.state = State.of(self.merged(x) for x in given[STATE:])

    def merged(self, x: Tensor | None) -> Tensor | None:
        """(B, H, ...) of all utterances as (N, ...) of these."""
        return None if x is None else x[self.rows].flatten(0, 1).contiguous()

    def apart(self, x: Tensor) -> Tensor:
        """(N, ...) as (B, H, ...)."""
        return x.unflatten(0, (self.batch, self.heads))

    def gradient(self, like: Tensor | None, grad: Tensor | None) -> Tensor | None:
        """(N, ...), what is known of the gradient of `like`, to be added to."""
        known = self.merged(like if grad is None else grad)
        if like is None or known is None:
            return None
        return torch.zeros_like(known) if grad is None else known.clone()

    def mask(self, span: Span) -> Tensor | None:
        """(B, T) bool."""
        mask = self.given[MASK]
        return None if mask is None else mask[self.rows, span.start : span.end]

    def frames(self, place: int, span: Span) -> Tensor:
        """(N, T, ...) of one of the tensors (B, L, H, ...), 0 on frames that do not exist."""
        x, mask = self.given[place], self.mask(span)
        assert x is not None
        part = x[self.rows, span.start : span.end].transpose(1, 2)
        found = part.new_empty(part.shape).copy_(part)
        if mask is not None:
            found.masked_fill_(~mask.view(self.batch, 1, -1, *(1,) * (x.dim() - 3)), 0.0)
        return found.flatten(0, 1)

    def lesson(self, span: Span) -> Lesson:
        gate, scale, mask = self.given[GATE], self.given[SCALE], self.mask(span)
        frames: Tensor | None = None
        count: Tensor | int = span.end - span.start
        if mask is not None:
            frames = mask.sum(1).to(self.state.up.dtype).repeat_interleave(self.heads)
            count = frames.clamp(min=1)
        beta = None if gate is None else self.frames(GATE, span).sum(1) / count
        k, v, rates = (self.frames(place, span) for place in (K, V, RATES))
        norm_up, norm_down = (self.merged(self.given[place]) for place in (NORM_UP, NORM_DOWN))
        assert norm_up is not None and norm_down is not None
        return Lesson(
            k=k, v=v, rates=rates, frames=frames, beta=beta, norms=(norm_up, norm_down),
            scale=None if scale is None else scale.repeat(self.batch), rule=self.work.rule,
        )  # fmt: skip

    def add(self, total: Tensor | None, span: Span, x: Tensor) -> None:
        """x (N, T, ...) to its place in (B, L, H, ...)."""
        assert total is not None
        total[self.rows, span.start : span.end] += self.apart(x).transpose(1, 2)

    def add_lesson(
        self, grads: Sequence[Tensor | None], span: Span, lesson: Lesson, found: LessonGradients
    ) -> None:
        for place, x in ((K, found.k), (V, found.v), (RATES, found.rates)):
            self.add(grads[place], span, x)
        for place, x in zip((NORM_UP, NORM_DOWN), found.norms, strict=True):
            of_norm = grads[place]
            assert of_norm is not None
            of_norm[self.rows] += self.apart(x)
        of_scale = grads[SCALE]
        if of_scale is not None and found.scale is not None:
            of_scale += self.apart(found.scale).sum(0)
        if found.beta is not None:
            count = lesson.k.shape[1] if lesson.frames is None else lesson.frames.clamp(min=1)
            share = (found.beta / count)[:, None].expand(-1, lesson.k.shape[1])
            mask = self.mask(span)
            if mask is not None:
                share = share * mask.repeat_interleave(self.heads, 0)
            self.add(grads[GATE], span, share)

    def set_state(self, targets: Sequence[Tensor | None], state: State) -> None:
        """A state to its place in tensors (B, H, ...), where they are wanted."""
        for target, x in zip(targets, state, strict=True):
            if target is not None and x is not None:
                target[self.rows] = self.apart(x)


def _pieces(work: Work, given: Sequence[Tensor | None]) -> Iterator[_Piece]:
    q, up = given[Q], given[STATE]
    assert q is not None and up is not None
    longest = max((span.end - span.start for span in work.plan), default=1)
    widest = q.shape[2] * longest * 2 * up.shape[2]
    step = max(1, GROUP_ELEMENTS.get(q.device.type, 1 << 24) // max(1, widest))
    for start in range(0, q.shape[0], step):
        yield _Piece(work, given, slice(start, start + step))
