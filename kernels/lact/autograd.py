"""The plan forward and backward. Saves the inputs and the states between updates, and recomputes the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.lact.assembly import Assembly, HeadParts
from maya.kernels.lact.plan import Span, with_gradient
from maya.kernels.lact.reference import Inputs
from maya.kernels.lact.state import FastWeights, Rule
from maya.kernels.lact.torch_op import TorchOps
from maya.kernels.lact.update import (
    Slots,
    StackedWeights,
    StateGradients,
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
# Positions of the tensors that `LactFunction` takes; the state comes last. DOUT: the gradient of its output.
Q, K, V, RATES, MASK, GATE, SCALE, NORM_UP, NORM_DOWN, W0, W1, W2, MOMENTUM_UP, MOMENTUM_DOWN = range(14)
INPUTS = DOUT = 14


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
        torch.cat([n0, n2], 2), n1, w0, w1, w2, momentum_up, momentum_down,
    )  # fmt: skip
    if up is not None:
        w0, w2 = up.split(hidden, 2)
    if momentum_up is not None:
        m0, m2 = momentum_up.split(hidden, 2)
    w1, m1 = (w1 if down is None else down), (m1 if momentum_down is None else momentum_down)
    return out, FastWeights(w0, w1, w2, m0, m1, m2)


class LactFunction(torch.autograd.Function):
    """Inputs: q, k, v, rates, mask, gate, step_scale, norms of up and down, w0, w1, w2, momentum of up and
    down, all with separate axes B and H. Returns the output, then up, down and their momentum, None for those
    that do not change.
    """

    @staticmethod
    def forward(ctx: Any, settings: Settings, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        q = inputs[Q]
        assert q is not None
        ops = settings.ops
        out = Assembly(q, [span for span in settings.plan if span.apply], ahead=ops.gathers_ahead)
        after = [HeadParts(*q.shape[::2]) if settings.changes(i) else None for i in range(4)]
        saved: list[Tensor | None] = []
        for group in _groups(settings, settings.plan, inputs):
            state, before = group.state, []
            for span in settings.plan:
                if span.update:
                    before.append(state)
                    state.low, state = None, update(ops, state, group.update_inputs(span))
                if span.apply:
                    slot = out.slot(group.rows, span)
                    out.put(group.rows, span, apply(ops, state, group.frames(Q, span), slot))
            for parts, x in zip(after, state.parts, strict=True):
                if parts is not None:
                    parts.put(group.rows, x)
            if any(ctx.needs_input_grad):
                # After the last update, the backward needs the weights for products alone.
                saved += [
                    *(x for state in before[1:] for x in state.parts),
                    *state.for_products(q.dtype, group.size),
                ]
        results = [None if parts is None else parts.tensor for parts in after]
        ctx.settings = settings
        ctx.save_for_backward(*inputs, *saved)
        return out.tensor, *results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *dafter: Tensor | None) -> tuple[Tensor | None, ...]:
        settings, tensors = ctx.settings, ctx.saved_tensors
        inputs, saved = tensors[:INPUTS], iter(tensors[INPUTS:])
        spans = with_gradient(settings.plan, grad is not None, any(x is not None for x in dafter))
        grads = _Gradients(settings, inputs, spans)
        for group in _groups(settings, spans, (*inputs, grad)):
            states = [group.state]
            states += [StackedWeights.of(next(saved) for _ in range(4)) for _ in range(settings.updates - 1)]
            states[settings.updates :] = [StackedWeights(*(low := (next(saved), next(saved))), low=low)]
            del states[sum(span.update for span in spans) + 1 :]
            grads.through(group, states, [group.gradient(x) for x in dafter])
        return None, *grads.tensors()


class _Gradients:
    """Gradients of all inputs, computed group by group. spans: those through which gradients flow."""

    def __init__(self, settings: Settings, inputs: Sequence[Tensor | None], spans: Sequence[Span]) -> None:
        self.settings, self.spans = settings, spans
        self.frames: dict[int, Assembly] = {}
        for i in (Q, K, V, RATES, GATE):
            x, used = inputs[i], [span for span in spans if (span.apply if i == Q else span.update)]
            if x is not None and used:
                self.frames[i] = Assembly(x, used, ahead=settings.ops.gathers_ahead)
        q = inputs[Q]
        assert q is not None
        self.norms = [HeadParts(*q.shape[::2]) for _ in range(2)]
        self.state = [HeadParts(*q.shape[::2]) for _ in range(4)]
        self.scale: Tensor | None = None

    def tensors(self) -> list[Tensor | None]:
        """In the order of the inputs; None for zero."""
        frames = {i: x.tensor for i, x in self.frames.items()}
        up, down, *momenta = (x.tensor for x in self.state)
        d0, d2 = (None, None) if up is None else up.chunk(2, 2)
        norms = [x.tensor for x in self.norms]
        return [*(frames.get(i) for i in range(SCALE)), self.scale, *norms, d0, down, d2, *momenta]

    def through(self, group: "_Group", states: list[StackedWeights], dstate: StateGradients) -> None:
        """One group. states: before the first update and after each; dstate: of the last one."""
        ops = self.settings.ops
        norms: dict[int, list[Tensor]] = {0: [], 1: []}
        scales: list[Tensor] = []
        for span in reversed(self.spans):
            if span.apply:
                q, dout = group.frames(Q, span), group.frames(DOUT, span)
                slot = self.frames[Q].slot(group.rows, span)
                weights, dtype = states[-1].for_products(q.dtype, len(q)), group.state.up.dtype
                dq = apply_backward(ops, weights, q, dout, dstate, dtype, slot)
                self.frames[Q].put(group.rows, span, dq)
            if span.update:
                states.pop()
                x, places = group.update_inputs(span), {i: self.frames[i] for i in (K, V, RATES)}
                slots = Slots(*(place.slot(group.rows, span) for place in places.values()))
                frames, other, dstate = update_backward(ops, states[-1], x, dstate, slots)
                for place, y in zip(places.values(), (frames.k, frames.v, frames.rates), strict=True):
                    place.put(group.rows, span, y)
                for i, y in other.norms.items():
                    norms[i].append(y)
                scales += other.scale
                if other.beta is not None:
                    self.frames[GATE].put(group.rows, span, group.gate_gradient(span, other.beta))
        for parts, y in zip([*self.norms, *self.state], [*map(_total, norms.values()), *dstate], strict=True):
            parts.put(group.rows, y)
        if scales:
            scale = torch.cat(scales, 1).unflatten(0, (-1, group.heads)).sum((0, 2))
            self.scale = scale if self.scale is None else self.scale + scale


def _total(parts: list[Tensor]) -> Tensor | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return torch.stack(parts).sum(0)


class _Group:
    """A group of utterances: views with N = B H as first axis. spans: those that it will go through."""

    def __init__(
        self, settings: Settings, spans: Sequence[Span], inputs: Sequence[Tensor | None], rows: slice
    ) -> None:
        self.settings, self.inputs, self.rows = settings, inputs, rows
        q = inputs[Q]
        assert q is not None
        self.batch, self.length, self.heads, _ = q[rows].shape
        self.state = self._initial_state()
        self._gathered: dict[int, Tensor] = {}
        applies, updates = (sum(getattr(span, kind) for span in spans) for kind in ("apply", "update"))
        self._uses = dict.fromkeys((K, V, RATES, GATE), updates) | dict.fromkeys((Q, DOUT), applies)
        self._updates = list(dict.fromkeys((span.start, span.end) for span in spans if span.update))

    @property
    def size(self) -> int:
        """N."""
        return self.batch * self.heads

    def _initial_state(self) -> StackedWeights:
        w0, w1, w2 = self.inputs[W0:MOMENTUM_UP]
        assert w0 is not None and w1 is not None and w2 is not None
        momenta = self.merged(self.inputs[MOMENTUM_UP]), self.merged(self.inputs[MOMENTUM_DOWN])
        if all(w.stride(0) == 0 for w in (w0, w1, w2)):  # all utterances share them
            return StackedWeights(torch.cat([w0[0], w2[0]], 1), w1[0].contiguous(), *momenta)
        up, down = torch.cat([w0[self.rows], w2[self.rows]], 2).flatten(0, 1), self.merged(w1)
        assert down is not None
        return StackedWeights(up, down, *momenta)

    def merged(self, x: Tensor | None) -> Tensor | None:
        """(B, H, ...) of all utterances as (N, ...) of this group."""
        return None if x is None else x[self.rows].flatten(0, 1).contiguous()

    def gradient(self, x: Tensor | None) -> Tensor | None:
        """The same, as a tensor that may be overwritten."""
        merged = self.merged(x)
        return None if merged is None else merged.clone()

    def mask(self, start: int, end: int) -> Tensor | None:
        """(B, T) bool."""
        mask = self.inputs[MASK]
        return None if mask is None else mask[self.rows, start:end]

    def frames(self, i: int, span: Span) -> Tensor:
        """The span (N, T, ...) of an input (B, L, H, ...), 0 on frames that do not exist."""
        x, ops = self.inputs[i], self.settings.ops
        assert x is not None
        ahead = ops.gathers_ahead
        start, end = (0, self.length) if ahead else (span.start, span.end)
        whole = self._gathered.pop(i, None)
        if whole is None:
            # The gradient of the output does not count on missing frames, because q is 0 there.
            mask = None if i == DOUT else self.mask(start, end)
            whole = ops.gather(x[self.rows, start:end], mask)
        self._uses[i] -= 1
        if ahead and self._uses[i]:
            self._gathered[i] = whole
        return whole[:, span.start - start : span.end - start]

    @cached_property
    def counts(self) -> dict[tuple[int, int], tuple[Tensor | None, Tensor]]:
        """For the spans of updates: which of N have frames there (None: all), and 1 / their number, (N,)."""
        up = self.state.up
        if self.inputs[MASK] is None:
            return {
                (start, end): (None, up.new_full((self.size,), 1 / (end - start)))
                for start, end in self._updates
            }
        mask = self.mask(0, self.length)
        assert mask is not None
        total = torch.nn.functional.pad(mask.cumsum(1), (1, 0))
        before, after = (
            torch.stack([total[:, i] for i in ends]) for ends in zip(*self._updates, strict=True)
        )
        frames = (after - before).to(up.dtype).repeat_interleave(self.heads, 1)
        learned, share = frames > 0, 1 / frames.clamp(min=1)
        return {key: (learned[i], share[i]) for i, key in enumerate(self._updates)}

    @cached_property
    def norms(self) -> tuple[Tensor, Tensor]:
        norm_up, norm_down = (self.merged(self.inputs[i]) for i in (NORM_UP, NORM_DOWN))
        assert norm_up is not None and norm_down is not None
        return norm_up, norm_down

    @cached_property
    def scale(self) -> Tensor | None:
        scale = self.inputs[SCALE]
        return None if scale is None else scale.repeat(self.batch)

    def update_inputs(self, span: Span) -> UpdateInputs:
        learned, share = self.counts[span.start, span.end]
        rule = self.settings.rule
        beta = None if self.inputs[GATE] is None else self.frames(GATE, span).sum(1) * share
        k, v, rates = (self.frames(i, span) for i in (K, V, RATES))
        return UpdateInputs(
            k=k, v=v, rates=rates, share=share if rule.normalize == "frames" else None, learned=learned,
            beta=beta, norms=self.norms, scale=self.scale, rule=rule,
        )  # fmt: skip

    def gate_gradient(self, span: Span, dbeta: Tensor) -> Tensor:
        """Gradient (N, T) of the gates of a span from that of their mean."""
        mask = self.mask(span.start, span.end)
        each = (dbeta * self.counts[span.start, span.end][1])[:, None]
        if mask is None:
            return each.expand(-1, span.end - span.start)
        return each * mask.repeat_interleave(self.heads, 0)


def _groups(settings: Settings, spans: Sequence[Span], inputs: Sequence[Tensor | None]) -> Iterator[_Group]:
    q, w0 = inputs[Q], inputs[W0]
    assert q is not None and w0 is not None
    longest = max((span.end - span.start for span in settings.plan), default=1)
    widest = q.shape[2] * longest * 2 * w0.shape[2]
    step = GROUP_ELEMENTS.get(q.device.type, 1 << 24) // max(1, widest)
    return (_Group(settings, spans, inputs, rows) for rows in slices(q.shape[0], step))
