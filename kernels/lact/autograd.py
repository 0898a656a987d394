"""The plan forward and backward. Saves the inputs and the states between updates, and recomputes the rest."""

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
    StackedWeights,
    UpdateGradients,
    UpdateInputs,
    apply,
    apply_backward,
    update,
    update_backward,
)
from maya.kernels.slices import slices

# Elements of a group's widest tensor. Utterances are independent, so they are computed in groups, which on a
# CPU are small enough for the cache.
GROUP_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 29}
# Positions of the tensors that `LactFunction` takes; the state comes last.
Q, K, V, RATES, MASK, GATE, SCALE, NORM_UP, NORM_DOWN, STATE = range(10)
INPUTS = STATE + 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The arguments that are not tensors."""

    ops: TorchOps
    plan: tuple[Span, ...]
    rule: Rule

    @property
    def updates(self) -> int:
        return sum(span.update for span in self.plan)

    def changes(self, part: int) -> bool:
        """Whether the plan can change this part of the state."""
        return self.updates > 0 and (self.rule.update_weights == "all" or part % 2 == 1)


def lact_autograd(
    x: Inputs, weights: FastWeights, plan: tuple[Span, ...], rule: Rule, ops: TorchOps
) -> tuple[Tensor, FastWeights]:
    """`lact_reference` from a backend's parts, with its own backward."""
    w0, w1, w2, m0, m1, m2 = weights
    batch, hidden, dtype = w0.shape[0], w0.shape[2], w0.dtype
    settings = Settings(ops=ops, plan=plan, rule=rule)
    momentum_up, momentum_down = None, None
    if x.gate is not None and settings.changes(1):
        momentum_down = torch.zeros_like(w1) if m1 is None else m1
        if settings.changes(0):
            momentum_up = torch.cat([torch.zeros_like(w0) if m is None else m for m in (m0, m2)], 2)
    n0, n1, n2 = (n.to(dtype).expand(batch, -1, -1) for n in x.norms)
    out, up, down, momentum_up, momentum_down = LactFunction.apply(
        settings, x.q, x.k, x.v, x.rates.to(dtype), x.mask,
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
    """Inputs: q, k, v, rates, mask, gate, step_scale, norms of up and down, up, down and their momentum, all
    with separate axes B and H. Returns the output, then the parts of the state that change.
    """

    @staticmethod
    def forward(ctx: Any, settings: Settings, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
        q = inputs[Q]
        assert q is not None
        out = q.new_zeros(q.shape)
        changing = [x if settings.changes(i) else None for i, x in enumerate(inputs[STATE:])]
        after = [None if x is None else x.new_empty(x.shape) for x in changing]
        saved: list[Tensor | None] = []
        for group in _groups(settings, inputs):
            states = [group.state]
            for span in settings.plan:
                if span.update:
                    states.append(update(settings.ops, states[-1], group.update_inputs(span)))
                if span.apply:
                    group.add(out, span, apply(settings.ops, states[-1], group.frames(Q, span)))
            group.set_state(after, states[-1])
            if any(ctx.needs_input_grad):
                saved += [x for state in states[1:-1] for x in state]
        ctx.settings = settings
        ctx.save_for_backward(*inputs, *after, *saved)
        return out, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *dafter: Tensor | None) -> tuple[Tensor | None, ...]:
        settings, tensors = ctx.settings, ctx.saved_tensors
        inputs, after = tensors[:INPUTS], tensors[INPUTS : INPUTS + 4]
        saved = iter(tensors[INPUTS + 4 :])
        grads = [None if x is None or i == MASK else x.new_zeros(x.shape) for i, x in enumerate(inputs)]
        last = [x if y is None else y for x, y in zip(inputs[STATE:], after, strict=True)]
        for group in _groups(settings, inputs):
            states = [group.state]
            states += [StackedWeights.of(next(saved) for _ in range(4)) for _ in range(settings.updates - 1)]
            states.append(StackedWeights.of(group.merged(x) for x in last))
            dstate = StackedWeights.of(group.gradient(x, y) for x, y in zip(last, dafter, strict=True))
            i_state = settings.updates
            for span in reversed(settings.plan):
                if span.apply:
                    dout = group.merged(grad[:, span.start : span.end].transpose(1, 2))
                    assert dout is not None
                    dq = apply_backward(settings.ops, states[i_state], group.frames(Q, span), dout, dstate)
                    group.add(grads[Q], span, dq)
                if span.update:
                    i_state -= 1
                    x = group.update_inputs(span)
                    dx, dstate = update_backward(settings.ops, states[i_state], x, dstate)
                    group.add_gradients(grads, span, x, dx)
            group.set_state(grads[STATE:], dstate)
        return None, *grads


class _Group:
    """A group of utterances: views with N = B H as first axis, and writing back."""

    def __init__(self, settings: Settings, inputs: Sequence[Tensor | None], rows: slice) -> None:
        self.settings, self.inputs, self.rows = settings, inputs, rows
        q = inputs[Q]
        assert q is not None
        self.batch, _, self.heads, _ = q[rows].shape
        self.state = StackedWeights.of(self.merged(x) for x in inputs[STATE:])

    def merged(self, x: Tensor | None) -> Tensor | None:
        """(B, H, ...) of all utterances as (N, ...) of this group."""
        return None if x is None else x[self.rows].flatten(0, 1).contiguous()

    def apart(self, x: Tensor) -> Tensor:
        """(N, ...) as (B, H, ...)."""
        return x.unflatten(0, (self.batch, self.heads))

    def gradient(self, like: Tensor | None, grad: Tensor | None) -> Tensor | None:
        """A new gradient (N, ...) of `like`, equal to `grad` or zero."""
        start = self.merged(like if grad is None else grad)
        if like is None or start is None:
            return None
        return torch.zeros_like(start) if grad is None else start.clone()

    def mask(self, span: Span) -> Tensor | None:
        """(B, T) bool."""
        mask = self.inputs[MASK]
        return None if mask is None else mask[self.rows, span.start : span.end]

    def frames(self, i: int, span: Span) -> Tensor:
        """The span (N, T, ...) of an input (B, L, H, ...), 0 on frames that do not exist."""
        x, mask = self.inputs[i], self.mask(span)
        assert x is not None
        part = x[self.rows, span.start : span.end].transpose(1, 2)
        out = part.new_empty(part.shape).copy_(part)
        if mask is not None:
            out.masked_fill_(~mask.view(self.batch, 1, -1, *(1,) * (x.dim() - 3)), 0.0)
        return out.flatten(0, 1)

    def update_inputs(self, span: Span) -> UpdateInputs:
        gate, scale, mask = self.inputs[GATE], self.inputs[SCALE], self.mask(span)
        frames: Tensor | None = None
        count: Tensor | int = span.end - span.start
        if mask is not None:
            frames = mask.sum(1).to(self.state.up.dtype).repeat_interleave(self.heads)
            count = frames.clamp(min=1)
        beta = None if gate is None else self.frames(GATE, span).sum(1) / count
        k, v, rates = (self.frames(i, span) for i in (K, V, RATES))
        norm_up, norm_down = (self.merged(self.inputs[i]) for i in (NORM_UP, NORM_DOWN))
        assert norm_up is not None and norm_down is not None
        return UpdateInputs(
            k=k, v=v, rates=rates, frames=frames, beta=beta, norms=(norm_up, norm_down),
            scale=None if scale is None else scale.repeat(self.batch), rule=self.settings.rule,
        )  # fmt: skip

    def add(self, total: Tensor | None, span: Span, x: Tensor) -> None:
        """Adds x (N, T, ...) to its span of a tensor (B, L, H, ...)."""
        assert total is not None
        total[self.rows, span.start : span.end] += self.apart(x).transpose(1, 2)

    def add_gradients(
        self, grads: Sequence[Tensor | None], span: Span, x: UpdateInputs, dx: UpdateGradients
    ) -> None:
        """Adds the gradients of an update's inputs to those of all utterances."""
        for i, grad in ((K, dx.k), (V, dx.v), (RATES, dx.rates)):
            self.add(grads[i], span, grad)
        for i, grad in zip((NORM_UP, NORM_DOWN), dx.norms, strict=True):
            dnorm = grads[i]
            assert dnorm is not None
            dnorm[self.rows] += self.apart(grad)
        dscale = grads[SCALE]
        if dscale is not None and dx.scale is not None:
            dscale += self.apart(dx.scale).sum(0)
        if dx.beta is not None:
            count = x.k.shape[1] if x.frames is None else x.frames.clamp(min=1)
            share = (dx.beta / count)[:, None].expand(-1, x.k.shape[1])
            mask = self.mask(span)
            if mask is not None:
                share = share * mask.repeat_interleave(self.heads, 0)
            self.add(grads[GATE], span, share)

    def set_state(self, targets: Sequence[Tensor | None], state: StackedWeights) -> None:
        """Writes a state to its i in tensors (B, H, ...), except those that are None."""
        for target, x in zip(targets, state, strict=True):
            if target is not None and x is not None:
                target[self.rows] = self.apart(x)


def _groups(settings: Settings, inputs: Sequence[Tensor | None]) -> Iterator[_Group]:
    q, up = inputs[Q], inputs[STATE]
    assert q is not None and up is not None
    longest = max((span.end - span.start for span in settings.plan), default=1)
    widest = q.shape[2] * longest * 2 * up.shape[2]
    step = GROUP_ELEMENTS.get(q.device.type, 1 << 24) // max(1, widest)
    return (_Group(settings, inputs, rows) for rows in slices(q.shape[0], step))
