"""Update and apply of the fast weights on one span, forward and backward, from the backends' parts.

A backward takes the gradients of a state as a list: of up, down and their momentum, None for zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maya.kernels.lact.newton_schulz import History, forward_with_history
from maya.kernels.lact.newton_schulz import backward as newton_schulz_backward
from maya.kernels.lact.state import Rule
from maya.kernels.lact.torch_op import TorchOps, add_product, for_each, product

UP, DOWN = 0, 1
# Devices on which Newton-Schulz runs in fp16 if q, k and v have 16 bits. "meta" counts as CUDA does.
HALF_NEWTON_SCHULZ = ("cuda", "meta")
StateGradients = list[Tensor | None]


@dataclass(slots=True)
class StackedWeights:
    """Fast weights as the fast forms store them, N = B H: up (N, 2 Dh, D), w0 over w2, and down (N, D, Dh);
    then their momentum, or None. Initial weights that all utterances share are (H, ...).

    low: up and down of all N in the dtype of products, once they are known.
    """

    up: Tensor
    down: Tensor
    momentum_up: Tensor | None = None
    momentum_down: Tensor | None = None
    low: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, parts: Iterable[Tensor | None]) -> "StackedWeights":
        up, down, momentum_up, momentum_down = parts
        assert up is not None and down is not None
        return cls(up, down, momentum_up, momentum_down)

    @property
    def parts(self) -> list[Tensor | None]:
        return [self.up, self.down, self.momentum_up, self.momentum_down]

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down

    def for_products(self, dtype: torch.dtype, n: int) -> tuple[Tensor, Tensor]:
        """up and down in this dtype, for all N."""
        if self.low is None:
            up, down = (for_each(w.to(dtype), n) for w in self.weights)
            self.low = up, down
        return self.low


@dataclass(slots=True, kw_only=True)
class UpdateInputs:
    """Inputs of an update. k, v: (N, T, D), rates: (N, T, 3), all 0 on frames that do not exist.

    share: (N,), 1 / the number of existing frames, or None if gradients are sums. learned: (N,), false for
    states that must not change, or None if all may. beta: (N,), or None without momentum. norms: of the rows
    of up (N, 2 Dh) and down (N, D). scale: (N,), or None for 1.
    """

    k: Tensor
    v: Tensor
    rates: Tensor
    share: Tensor | None
    learned: Tensor | None
    beta: Tensor | None
    norms: tuple[Tensor, Tensor]
    scale: Tensor | None
    rule: Rule

    @property
    def changes(self) -> tuple[int, ...]:
        """The learned ones of up and down."""
        return (DOWN,) if self.rule.update_weights == "w1" else (UP, DOWN)

    @property
    def rate_share(self) -> Tensor | None:
        """The share, where it is a factor on the rates: this saves a pass over each matrix.

        In fp16, the terms of a long span would then be too small: its numbers below 6e-5 lose digits.
        """
        return None if self.k.dtype == torch.float16 else self.share

    @property
    def sum_share(self) -> Tensor | None:
        """The share, where it is a factor on the sums over frames."""
        return self.share if self.rate_share is None else None

    def mean(self, total: Tensor) -> Tensor:
        """A sum over the frames, (N, R, C), normalised if the rates were not; also its own backward."""
        return total if self.sum_share is None else total * self.sum_share[:, None, None]


@dataclass(slots=True, kw_only=True)
class UpdateGradients:
    """Gradients of the fields of `UpdateInputs`."""

    beta: Tensor | None = None
    norms: dict[int, Tensor]
    scale: list[Tensor] = field(default_factory=list)  # parts (N, R)


@dataclass(slots=True)
class Slots:
    """Where to write gradients of k, v (N, T, D) and rates (N, T, 3); None: into new tensors."""

    k: Tensor | None = None
    v: Tensor | None = None
    rates: Tensor | None = None


@dataclass(slots=True)
class _Step:
    """For the learned ones of up and down: momenta after the step (the gradients if there is no gate), and
    the steps that are added to the weights. history: the iterates of Newton-Schulz.
    """

    momenta: dict[int, Tensor]
    steps: dict[int, Tensor]
    history: History | None = None


def apply(ops: TorchOps, state: StackedWeights, q: Tensor, out: Tensor | None = None) -> Tensor:
    """f(q), (N, T, D), in `out` if it is given."""
    up, down = state.for_products(q.dtype, len(q))
    hidden = ops.swiglu(q, up)
    return torch.bmm(hidden, down.mT) if out is None else torch.bmm(hidden, down.mT, out=out)


def apply_backward(
    ops: TorchOps, weights: tuple[Tensor, Tensor], q: Tensor, grad: Tensor, dstate: StateGradients,
    dtype: torch.dtype, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Gradient of q, in `out` if it is given. The gradient of the weights is added to `dstate`, in `dtype`.

    weights: up and down in the dtype of q.
    """
    up, down = weights
    halves, hidden, _ = ops.terms(q, grad, up, down, None)
    _accumulate(dstate, DOWN, grad.mT, hidden, dtype)
    _accumulate(dstate, UP, halves.mT, q, dtype)
    return torch.bmm(halves, up) if out is None else torch.bmm(halves, up, out=out)


def _accumulate(dstate: StateGradients, i: int, a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    """Adds a @ b to a gradient."""
    total = dstate[i]
    if total is None:
        dstate[i] = product(a, b, dtype)
    else:
        add_product(total, a, b)


def update(ops: TorchOps, state: StackedWeights, x: UpdateInputs) -> StackedWeights:
    """The state after a step."""
    up, down = state.for_products(x.k.dtype, len(x.k))
    totals: dict[int, Tensor] = {}
    if UP in x.changes:
        halves, hidden, _ = ops.terms(x.k, x.v, up, down, x.rates, x.rate_share)
        totals[UP] = product(halves.mT, x.k, state.up.dtype)
    else:
        hidden = _rated(ops.swiglu(x.k, up), x)
    totals[DOWN] = product(x.v.mT, hidden, state.down.dtype)
    step = _step(state, totals, x)
    after, low = state.parts, [up, down]
    for i in x.changes:
        after[i], low[i] = ops.add_renormalise(
            state.weights[i], step.steps[i], x.norms[i], x.scale, x.learned, x.k.dtype
        )
        if x.beta is not None:
            after[2 + i] = step.momenta[i]
    result = StackedWeights.of(after)
    result.low = low[UP], low[DOWN]
    return result


def update_backward(
    ops: TorchOps, state: StackedWeights, x: UpdateInputs, dafter: StateGradients, slots: Slots
) -> tuple[Slots, UpdateGradients, StateGradients]:
    """Gradients of k, v and rates (in `slots` where it has tensors), of the other inputs, and of the state
    before the update. Recomputes the forward. Tensors of `dafter` may be overwritten.
    """
    if UP not in x.changes:
        return _linear_attention_backward(ops, state, x, dafter, slots)
    up, down = state.for_products(x.k.dtype, len(x.k))
    halves, hidden, saved = ops.terms(x.k, x.v, up, down, x.rates, x.rate_share, keep=True)
    assert saved is not None
    totals = {UP: product(halves.mT, x.k, state.up.dtype), DOWN: product(x.v.mT, hidden, state.down.dtype)}
    dx, dstate, dtotals = _step_backward(ops, state, totals, x, dafter)
    p_up, p_down = dtotals[UP].to(x.k.dtype), dtotals[DOWN].to(x.k.dtype)
    del totals, dtotals
    # First what takes the forward's terms, so that they are freed before the next hidden tensors are made.
    dk, dv = _product_in(slots.k, halves, p_up), _product_in(slots.v, hidden, p_down.mT)
    del halves, hidden
    dhalves, dhidden = torch.bmm(x.k, p_up.mT), torch.bmm(x.v, p_down)
    dac, ddelta, drates = ops.second_order(saved, dhalves, dhidden, x.rates, x.rate_share, slots.rates)
    del saved, dhalves, dhidden
    dk.baddbmm_(dac, up)
    dv.baddbmm_(ddelta, down.mT)
    _accumulate(dstate, UP, dac.mT, x.k, state.up.dtype)
    _accumulate(dstate, DOWN, x.v.mT, ddelta, state.down.dtype)
    return Slots(k=dk, v=dv, rates=drates), dx, dstate


def _product_in(out: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b) if out is None else torch.bmm(a, b, out=out)


def _linear_attention_backward(
    ops: TorchOps, state: StackedWeights, x: UpdateInputs, dafter: StateGradients, slots: Slots
) -> tuple[Slots, UpdateGradients, StateGradients]:
    """`update_backward` if only w1 learns: the sum is of rate * v hidden^T."""
    up, _ = state.for_products(x.k.dtype, len(x.k))
    hidden = ops.swiglu(x.k, up)
    totals = {DOWN: product(x.v.mT, _rated(hidden, x), state.down.dtype)}
    dx, dstate, dtotals = _step_backward(ops, state, totals, x, dafter)
    p_down = dtotals[DOWN].to(x.k.dtype)
    unrated = torch.bmm(hidden, p_down.mT)
    halves, _, _ = ops.terms(x.k, _rated(x.v, x), up, p_down, None)
    drate = torch.linalg.vecdot(x.v.to(x.rates.dtype), unrated.to(x.rates.dtype))
    drate = drate if x.rate_share is None else drate * x.rate_share[:, None]
    drates = torch.nn.functional.pad(drate[..., None], (1, 1))
    _accumulate(dstate, UP, halves.mT, x.k, state.up.dtype)
    return Slots(_product_in(slots.k, halves, up), _rated(unrated, x), drates), dx, dstate


def _rated(y: Tensor, x: UpdateInputs) -> Tensor:
    """y (N, T, any) times the rate of w1."""
    rate = x.rates[..., 1:2]
    if x.rate_share is not None:
        rate = rate * x.rate_share[:, None, None]
    return y * rate.to(y.dtype)


def _step(state: StackedWeights, totals: dict[int, Tensor], x: UpdateInputs) -> _Step:
    """Turns the sums over frames into the steps of the weights."""
    momenta = {i: x.mean(total) for i, total in totals.items()}
    if x.beta is not None:
        for i, gradient in momenta.items():
            before = state.parts[2 + i]
            assert before is not None
            momentum = torch.addcmul(gradient, before, x.beta[:, None, None])
            learned = None if x.learned is None else x.learned[:, None, None]
            momenta[i] = momentum if learned is None else torch.where(learned, momentum, before)
    if x.rule.orthogonalize == "none":
        return _Step(momenta, momenta)
    stack, history = forward_with_history(
        _stacked(momenta), x.rule.orthogonalize, newton_schulz_dtype(x.k, state.up)
    )
    return _Step(momenta, _unstacked(stack, momenta), history)


def _step_backward(
    ops: TorchOps, state: StackedWeights, totals: dict[int, Tensor], x: UpdateInputs, dafter: StateGradients
) -> tuple[UpdateGradients, StateGradients, dict[int, Tensor]]:
    """Gradients of the inputs, of the state without the part through the sums, and of the sums."""
    step = _step(state, totals, x)
    dx = UpdateGradients(norms={})
    dsteps: dict[int, Tensor] = {}
    dstate = list(dafter)
    # The gradients of the sums enter products. If nothing else takes them, they are made in that dtype.
    wide = state.up.dtype
    dtype = x.k.dtype if x.beta is None and x.sum_share is None else wide
    for i in x.changes:
        grad = dafter[i]
        dstate[i], dsteps[i], dx.norms[i], dscale = ops.add_renormalise_backward(
            torch.zeros_like(step.steps[i]) if grad is None else grad, state.weights[i], step.steps[i],
            x.norms[i], x.scale, x.learned, dtype if step.history is None else wide,
        )  # fmt: skip
        dx.scale += [] if dscale is None else [dscale]
    dmomenta = dsteps
    if step.history is not None:
        dstack = newton_schulz_backward(_stacked(dsteps), step.history, x.rule.orthogonalize, dtype)
        dmomenta = _unstacked(dstack, dsteps)
    if x.beta is not None:
        dx.beta = torch.zeros_like(x.beta)
        for i, grad in dmomenta.items():
            before, later = state.parts[2 + i], dafter[2 + i]
            assert before is not None
            total = grad if later is None else grad + later
            dbefore = total * x.beta[:, None, None]
            dmomenta[i] = total
            if x.learned is not None:
                dmomenta[i] = total * x.learned[:, None, None]
                dbefore = torch.where(x.learned[:, None, None], dbefore, total)
            dx.beta += (dmomenta[i] * before).sum((1, 2))
            dstate[2 + i] = dbefore
    return dx, dstate, {i: x.mean(grad) for i, grad in dmomenta.items()}


def newton_schulz_dtype(k: Tensor, state: Tensor) -> torch.dtype:
    """fp16 where products are in 16 bits and the device is fast at them; README.md has the error."""
    fast = k.dtype.itemsize == 2 and k.device.type in HALF_NEWTON_SCHULZ
    return torch.float16 if fast and state.dtype == torch.float32 else state.dtype


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
