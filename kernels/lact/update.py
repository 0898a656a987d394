"""One span, forward and backward, on the backends' parts: the update of the fast weights, and the apply."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from maya.kernels.lact.newton_schulz import backward as newton_schulz_backward
from maya.kernels.lact.newton_schulz import forward_with_history
from maya.kernels.lact.state import Rule
from maya.kernels.lact.torch_op import TorchOps, product

UP, DOWN = 0, 1


class State(NamedTuple):
    """Fast weights as the fast forms hold them, N = B H: up (N, 2 Dh, D), w0 over w2, and down (N, D, Dh);
    then their momentum, or None. Gradients of a state are one too.
    """

    up: Tensor
    down: Tensor
    momentum_up: Tensor | None = None
    momentum_down: Tensor | None = None

    @classmethod
    def of(cls, parts: Iterable[Tensor | None]) -> "State":
        up, down, momentum_up, momentum_down = parts
        assert up is not None and down is not None
        return cls(up, down, momentum_up, momentum_down)

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down


@dataclass(slots=True, kw_only=True)
class Lesson:
    """What an update learns from, and how. k, v: (N, T, D); rates: (N, T, 3), 0 on frames that are none.

    frames: (N,), those that exist, or None: all T. beta: (N,) or None: no momentum. norms: of the rows of up
    (N, 2 Dh) and down (N, D). scale: (N,) or None: 1.
    """

    k: Tensor
    v: Tensor
    rates: Tensor
    frames: Tensor | None
    beta: Tensor | None
    norms: tuple[Tensor, Tensor]
    scale: Tensor | None
    rule: Rule

    @property
    def learned(self) -> Tensor | None:
        """(N,), false where nothing may change; None: true everywhere."""
        return None if self.frames is None else self.frames > 0

    @property
    def changes(self) -> tuple[int, ...]:
        """Which of up and down are learned."""
        return (DOWN,) if self.rule.update_weights == "w1" else (UP, DOWN)

    def mean(self, total: Tensor) -> Tensor:
        """A sum over the frames, (N, R, C), as the rule wants it; also its own backward."""
        if self.rule.normalize == "none":
            return total
        if self.frames is None:
            return total / self.k.shape[1]
        return total / self.frames.clamp(min=1)[:, None, None]


@dataclass(slots=True, kw_only=True)
class LessonGradients:
    """Of the fields of `Lesson`."""

    k: Tensor
    v: Tensor
    rates: Tensor
    beta: Tensor | None
    norms: list[Tensor]
    scale: Tensor | None


@dataclass(slots=True)
class _Step:
    """Of up and down, where they are learned: the momentum after the step, which without a gate is the
    gradient itself, and what is added to the weights; the iterates of Newton-Schulz.
    """

    momenta: dict[int, Tensor]
    steps: dict[int, Tensor]
    history: list[Tensor]


def apply(ops: TorchOps, state: State, q: Tensor) -> Tensor:
    """f(q), (N, T, D)."""
    up, down = state.up.to(q.dtype), state.down.to(q.dtype)
    return torch.bmm(ops.swiglu(q, up), down.mT)


def apply_backward(ops: TorchOps, state: State, q: Tensor, grad: Tensor, of_state: State) -> Tensor:
    """Gradient of q; that of the weights is added to `of_state`."""
    up, down = state.up.to(q.dtype), state.down.to(q.dtype)
    halves, hidden, _ = ops.terms(q, grad, up, down, None)
    of_state.down.add_(product(grad.mT, hidden, state.down.dtype))
    of_state.up.add_(product(halves.mT, q, state.up.dtype))
    return torch.bmm(halves, up)


def update(ops: TorchOps, state: State, x: Lesson) -> State:
    """The state after a step."""
    up, down = state.up.to(x.k.dtype), state.down.to(x.k.dtype)
    totals: dict[int, Tensor] = {}
    if UP in x.changes:
        halves, hidden, _ = ops.terms(x.k, x.v, up, down, x.rates)
        totals[UP] = product(halves.mT, x.k, state.up.dtype)
    else:
        hidden = _rated(ops.swiglu(x.k, up), x)
    totals[DOWN] = product(x.v.mT, hidden, state.down.dtype)
    made = _step(state, totals, x)
    after: list[Tensor | None] = list(state)
    for i in x.changes:
        after[i] = ops.add_renormalise(state.weights[i], made.steps[i], x.norms[i], x.scale, x.learned)
        if x.beta is not None:
            after[2 + i] = made.momenta[i]
    return State.of(after)


def update_backward(ops: TorchOps, state: State, x: Lesson, of_after: State) -> tuple[LessonGradients, State]:
    """Gradients of the lesson and of the state before, from those of the state after; all is made again."""
    if UP not in x.changes:
        return _linear_attention_backward(ops, state, x, of_after)
    up, down = state.up.to(x.k.dtype), state.down.to(x.k.dtype)
    halves, hidden, kept = ops.terms(x.k, x.v, up, down, x.rates, keep=True)
    totals = {UP: product(halves.mT, x.k, state.up.dtype), DOWN: product(x.v.mT, hidden, state.down.dtype)}
    found, of_state, of_totals = _step_backward(ops, state, totals, x, of_after)
    p_up, p_down = of_totals[UP].to(x.k.dtype), of_totals[DOWN].to(x.k.dtype)
    of_both, of_delta, found.rates = ops.second_order(
        kept, torch.bmm(x.k, p_up.mT), torch.bmm(x.v, p_down), x.rates
    )
    found.k = torch.baddbmm(torch.bmm(halves, p_up), of_both, up)
    found.v = torch.baddbmm(torch.bmm(hidden, p_down.mT), of_delta, down.mT)
    of_state.up.add_(product(of_both.mT, x.k, of_state.up.dtype))
    of_state.down.add_(product(x.v.mT, of_delta, of_state.down.dtype))
    return found, of_state


def _linear_attention_backward(
    ops: TorchOps, state: State, x: Lesson, of_after: State
) -> tuple[LessonGradients, State]:
    """`update_backward` where only w1 learns: the sum is of rate * v hidden^T."""
    up = state.up.to(x.k.dtype)
    hidden = ops.swiglu(x.k, up)
    totals = {DOWN: product(x.v.mT, _rated(hidden, x), state.down.dtype)}
    found, of_state, of_totals = _step_backward(ops, state, totals, x, of_after)
    p_down = of_totals[DOWN].to(x.k.dtype)
    without_rate = torch.bmm(hidden, p_down.mT)
    halves, _, _ = ops.terms(x.k, _rated(x.v, x), up, p_down, None)
    of_rate = torch.linalg.vecdot(x.v.to(x.rates.dtype), without_rate.to(x.rates.dtype))
    found.rates = torch.nn.functional.pad(of_rate[..., None], (1, 1))
    found.v = _rated(without_rate, x)
    found.k = torch.bmm(halves, up)
    of_state.up.add_(product(halves.mT, x.k, of_state.up.dtype))
    return found, of_state


def _rated(y: Tensor, x: Lesson) -> Tensor:
    """y (N, T, any) times the rate of w1."""
    return y * x.rates[..., 1:2].to(y.dtype)


def _step(state: State, totals: dict[int, Tensor], x: Lesson) -> _Step:
    """From the sums over frames to what is added to the weights."""
    momenta = {i: x.mean(total) for i, total in totals.items()}
    if x.beta is not None:
        for i, gradient in momenta.items():
            before = state[2 + i]
            assert before is not None
            kept = torch.addcmul(gradient, before, x.beta[:, None, None])
            momenta[i] = kept if x.learned is None else torch.where(x.learned[:, None, None], kept, before)
    if x.rule.orthogonalize == "none":
        return _Step(momenta, momenta, [])
    stack, history = forward_with_history(_stacked(momenta), x.rule.orthogonalize)
    return _Step(momenta, _unstacked(stack, momenta), history)


def _step_backward(
    ops: TorchOps, state: State, totals: dict[int, Tensor], x: Lesson, of_after: State
) -> tuple[LessonGradients, State, dict[int, Tensor]]:
    """Back to the sums over frames: gradients of the lesson but for k, v and rates, as yet empty; of
    the state as far as it was added to; of the sums.
    """
    made = _step(state, totals, x)
    found = LessonGradients(
        k=x.k, v=x.v, rates=x.rates, beta=None, norms=[torch.zeros_like(n) for n in x.norms], scale=None
    )
    of_steps: dict[int, Tensor] = {}
    of_state: list[Tensor | None] = list(of_after)
    for i in x.changes:
        of_state[i], of_steps[i], found.norms[i], of_scale = ops.add_renormalise_backward(
            of_after.weights[i], state.weights[i], made.steps[i], x.norms[i], x.scale, x.learned
        )
        found.scale = of_scale if found.scale is None or of_scale is None else found.scale + of_scale
    of_momenta = of_steps
    if x.rule.orthogonalize != "none":
        of_stack = newton_schulz_backward(_stacked(of_steps), made.history, x.rule.orthogonalize)
        of_momenta = _unstacked(of_stack, of_steps)
    if x.beta is not None:
        of_beta = torch.zeros_like(x.beta)
        for i, grad in of_momenta.items():
            before, later = state[2 + i], of_after[2 + i]
            assert before is not None and later is not None
            total = grad + later
            of_before = total * x.beta[:, None, None]
            of_momenta[i] = total
            if x.learned is not None:
                of_momenta[i] = total * x.learned[:, None, None]
                of_before = torch.where(x.learned[:, None, None], of_before, total)
            of_beta += (of_momenta[i] * before).sum((1, 2))
            of_state[2 + i] = of_before
        found.beta = of_beta
    return found, State.of(of_state), {i: x.mean(grad) for i, grad in of_momenta.items()}


def _stacked(parts: dict[int, Tensor]) -> Tensor:
    """Each matrix on its own, one way up, wide: (3 N or N, rows, columns)."""
    down = parts[DOWN].mT
    matrices = down
    if UP in parts:
        matrices = torch.cat([parts[UP].reshape(-1, *down.shape[1:]), down])
    return matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices


def _unstacked(stack: Tensor, like: dict[int, Tensor]) -> dict[int, Tensor]:
    """What `_stacked` put together, in the shapes of `like`."""
    n, channels, hidden = like[DOWN].shape
    matrices = stack if stack.shape[1:] == (hidden, channels) else stack.mT
    found = {DOWN: matrices[-n:].mT}
    if UP in like:
        found[UP] = matrices[: 2 * n].reshape(like[UP].shape)
    return {i: found[i] for i in like}
