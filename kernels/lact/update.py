"""Update and apply of the fast weights on one span, forward and backward, from the backends' parts."""

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


class StackedWeights(NamedTuple):
    """Fast weights as the fast forms store them, N = B H: up (N, 2 Dh, D), w0 over w2, and down (N, D, Dh);
    then their momentum, or None. The gradients of a state have the same type.
    """

    up: Tensor
    down: Tensor
    momentum_up: Tensor | None = None
    momentum_down: Tensor | None = None

    @classmethod
    def of(cls, parts: Iterable[Tensor | None]) -> "StackedWeights":
        up, down, momentum_up, momentum_down = parts
        assert up is not None and down is not None
        return cls(up, down, momentum_up, momentum_down)

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down


@dataclass(slots=True, kw_only=True)
class UpdateInputs:
    """Inputs of an update. k, v: (N, T, D), rates: (N, T, 3), all 0 on frames that do not exist.

    frames: (N,), the number of existing frames, or None if all T exist. beta: (N,), or None without momentum.
    norms: of the rows of up (N, 2 Dh) and down (N, D). scale: (N,), or None for 1.
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
        """(N,), false for states that must not change; None if all may."""
        return None if self.frames is None else self.frames > 0

    @property
    def changes(self) -> tuple[int, ...]:
        """The learned ones of up and down."""
        return (DOWN,) if self.rule.update_weights == "w1" else (UP, DOWN)

    def mean(self, total: Tensor) -> Tensor:
        """A sum over the frames, (N, R, C), normalised by the rule; also its own backward."""
        if self.rule.normalize == "none":
            return total
        if self.frames is None:
            return total / self.k.shape[1]
        return total / self.frames.clamp(min=1)[:, None, None]


@dataclass(slots=True, kw_only=True)
class UpdateGradients:
    """Gradients of the fields of `UpdateInputs`."""

    k: Tensor
    v: Tensor
    rates: Tensor
    beta: Tensor | None
    norms: list[Tensor]
    scale: Tensor | None


@dataclass(slots=True)
class _Step:
    """For the learned ones of up and down: momenta after the step (the gradients if there is no gate), and
    the steps that are added to the weights. history: the iterates of Newton-Schulz.
    """

    momenta: dict[int, Tensor]
    steps: dict[int, Tensor]
    history: list[Tensor]


def apply(ops: TorchOps, state: StackedWeights, q: Tensor) -> Tensor:
    """f(q), (N, T, D)."""
    up, down = state.up.to(q.dtype), state.down.to(q.dtype)
    return torch.bmm(ops.swiglu(q, up), down.mT)


def apply_backward(
    ops: TorchOps, state: StackedWeights, q: Tensor, grad: Tensor, dstate: StackedWeights
) -> Tensor:
    """Gradient of q. The gradient of the weights is added to `dstate`."""
    up, down = state.up.to(q.dtype), state.down.to(q.dtype)
    halves, hidden, _ = ops.terms(q, grad, up, down, None)
    dstate.down.add_(product(grad.mT, hidden, state.down.dtype))
    dstate.up.add_(product(halves.mT, q, state.up.dtype))
    return torch.bmm(halves, up)


def update(ops: TorchOps, state: StackedWeights, x: UpdateInputs) -> StackedWeights:
    """The state after a step."""
    up, down = state.up.to(x.k.dtype), state.down.to(x.k.dtype)
    totals: dict[int, Tensor] = {}
    if UP in x.changes:
        halves, hidden, _ = ops.terms(x.k, x.v, up, down, x.rates)
        totals[UP] = product(halves.mT, x.k, state.up.dtype)
    else:
        hidden = _rated(ops.swiglu(x.k, up), x)
    totals[DOWN] = product(x.v.mT, hidden, state.down.dtype)
    step = _step(state, totals, x)
    after: list[Tensor | None] = list(state)
    for i in x.changes:
        after[i] = ops.add_renormalise(state.weights[i], step.steps[i], x.norms[i], x.scale, x.learned)
        if x.beta is not None:
            after[2 + i] = step.momenta[i]
    return StackedWeights.of(after)


def update_backward(
    ops: TorchOps, state: StackedWeights, x: UpdateInputs, dafter: StackedWeights
) -> tuple[UpdateGradients, StackedWeights]:
    """Gradients of the inputs and of the state before the update. Recomputes the forward."""
    if UP not in x.changes:
        return _linear_attention_backward(ops, state, x, dafter)
    up, down = state.up.to(x.k.dtype), state.down.to(x.k.dtype)
    halves, hidden, saved = ops.terms(x.k, x.v, up, down, x.rates, keep=True)
    totals = {UP: product(halves.mT, x.k, state.up.dtype), DOWN: product(x.v.mT, hidden, state.down.dtype)}
    dx, dstate, dtotals = _step_backward(ops, state, totals, x, dafter)
    p_up, p_down = dtotals[UP].to(x.k.dtype), dtotals[DOWN].to(x.k.dtype)
    dac, ddelta, dx.rates = ops.second_order(saved, torch.bmm(x.k, p_up.mT), torch.bmm(x.v, p_down), x.rates)
    dx.k = torch.baddbmm(torch.bmm(halves, p_up), dac, up)
    dx.v = torch.baddbmm(torch.bmm(hidden, p_down.mT), ddelta, down.mT)
    dstate.up.add_(product(dac.mT, x.k, dstate.up.dtype))
    dstate.down.add_(product(x.v.mT, ddelta, dstate.down.dtype))
    return dx, dstate


def _linear_attention_backward(
    ops: TorchOps, state: StackedWeights, x: UpdateInputs, dafter: StackedWeights
) -> tuple[UpdateGradients, StackedWeights]:
    """`update_backward` if only w1 learns: the sum is of rate * v hidden^T."""
    up = state.up.to(x.k.dtype)
    hidden = ops.swiglu(x.k, up)
    totals = {DOWN: product(x.v.mT, _rated(hidden, x), state.down.dtype)}
    dx, dstate, dtotals = _step_backward(ops, state, totals, x, dafter)
    p_down = dtotals[DOWN].to(x.k.dtype)
    unrated = torch.bmm(hidden, p_down.mT)
    halves, _, _ = ops.terms(x.k, _rated(x.v, x), up, p_down, None)
    drate = torch.linalg.vecdot(x.v.to(x.rates.dtype), unrated.to(x.rates.dtype))
    dx.rates = torch.nn.functional.pad(drate[..., None], (1, 1))
    dx.v = _rated(unrated, x)
    dx.k = torch.bmm(halves, up)
    dstate.up.add_(product(halves.mT, x.k, dstate.up.dtype))
    return dx, dstate


def _rated(y: Tensor, x: UpdateInputs) -> Tensor:
    """y (N, T, any) times the rate of w1."""
    return y * x.rates[..., 1:2].to(y.dtype)


def _step(state: StackedWeights, totals: dict[int, Tensor], x: UpdateInputs) -> _Step:
    """Turns the sums over frames into the steps of the weights."""
    momenta = {i: x.mean(total) for i, total in totals.items()}
    if x.beta is not None:
        for i, gradient in momenta.items():
            before = state[2 + i]
            assert before is not None
            momentum = torch.addcmul(gradient, before, x.beta[:, None, None])
            learned = None if x.learned is None else x.learned[:, None, None]
            momenta[i] = momentum if learned is None else torch.where(learned, momentum, before)
    if x.rule.orthogonalize == "none":
        return _Step(momenta, momenta, [])
    stack, history = forward_with_history(_stacked(momenta), x.rule.orthogonalize)
    return _Step(momenta, _unstacked(stack, momenta), history)


def _step_backward(
    ops: TorchOps, state: StackedWeights, totals: dict[int, Tensor], x: UpdateInputs, dafter: StackedWeights
) -> tuple[UpdateGradients, StackedWeights, dict[int, Tensor]]:
    """Gradients of the inputs (k, v and rates are placeholders), of the state without the part through the
    sums, and of the sums over frames.
    """
    step = _step(state, totals, x)
    dx = UpdateGradients(
        k=x.k, v=x.v, rates=x.rates, beta=None, norms=[torch.zeros_like(n) for n in x.norms], scale=None
    )
    dsteps: dict[int, Tensor] = {}
    dstate: list[Tensor | None] = list(dafter)
    for i in x.changes:
        dstate[i], dsteps[i], dx.norms[i], dscale = ops.add_renormalise_backward(
            dafter.weights[i], state.weights[i], step.steps[i], x.norms[i], x.scale, x.learned
        )
        dx.scale = dscale if dx.scale is None or dscale is None else dx.scale + dscale
    dmomenta = dsteps
    if x.rule.orthogonalize != "none":
        dstack = newton_schulz_backward(_stacked(dsteps), step.history, x.rule.orthogonalize)
        dmomenta = _unstacked(dstack, dsteps)
    if x.beta is not None:
        dbeta = torch.zeros_like(x.beta)
        for i, grad in dmomenta.items():
            before, later = state[2 + i], dafter[2 + i]
            assert before is not None and later is not None
            total = grad + later
            dbefore = total * x.beta[:, None, None]
            dmomenta[i] = total
            if x.learned is not None:
                dmomenta[i] = total * x.learned[:, None, None]
                dbefore = torch.where(x.learned[:, None, None], dbefore, total)
            dbeta += (dmomenta[i] * before).sum((1, 2))
            dstate[2 + i] = dbefore
        dx.beta = dbeta
    return dx, StackedWeights.of(dstate), {i: x.mean(grad) for i, grad in dmomenta.items()}


def _stacked(parts: dict[int, Tensor]) -> Tensor:
    """All matrices as a batch of wide ones, (3 N or N, rows, columns)."""
    down = parts[DOWN].mT
    matrices = down
    if UP in parts:
        matrices = torch.cat([parts[UP].reshape(-1, *down.shape[1:]), down])
    return matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices


def _unstacked(stack: Tensor, like: dict[int, Tensor]) -> dict[int, Tensor]:
    """The inverse of `_stacked`, in the shapes of `like`."""
    n, channels, hidden = like[DOWN].shape
    matrices = stack if stack.shape[1:] == (hidden, channels) else stack.mT
    parts = {DOWN: matrices[-n:].mT}
    if UP in like:
        parts[UP] = matrices[: 2 * n].reshape(like[UP].shape)
    return {i: parts[i] for i in like}
