"""Zipformer's gradient regularizers (Balancer, Whiten, Limit) and schedules.

They act in training mode only, change gradients and leave outputs alone. Random decisions are drawn on the
CPU once a step, before the forward pass (`Controls.draw`), from torch's CPU generator, whose state is in
checkpoints. Schedules follow a batch count that the trainer sets (`Controls.set_batch_count`). So nothing is
read back from the device. Under torch.compile the decisions are tensors, and no graph is compiled twice.
Formulas: Yao et al. 2024 (arXiv:2310.11230) and icefall's recipe.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Value = float | Tensor


class HostNumber:
    """A number that changes between steps."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.tensor = torch.tensor(float(value), device="cpu")

    def set(self, value: float) -> None:
        self.value = value
        self.tensor.fill_(value)

    def now(self) -> Value:
        """A float; in a compiled graph a tensor on the CPU, so that a new value needs no new graph."""
        return self.tensor if torch.compiler.is_compiling() else self.value


class Schedule(HostNumber):
    """A number that follows the batch count: linear between (count, value) points, constant outside them."""

    def __init__(self, *points: tuple[float, float]) -> None:
        super().__init__(points[0][1])
        self.points = points

    def move(self, batch_count: float) -> None:
        """Set the value for a batch count."""
        self.set(self.at(batch_count))

    def at(self, batch_count: float) -> float:
        """The value at a batch count."""
        x, y = self.points[0]
        for right, value in self.points:
            if batch_count <= right:
                share = (batch_count - x) / (right - x) if batch_count > x else 0.0
                return y + (value - y) * share
            x, y = right, value
        return y


Number = float | Schedule


def now(number: Number) -> Value:
    """The current value of a number that may be scheduled."""
    return number.now() if isinstance(number, Schedule) else number


def value(number: Number) -> float:
    """The current value as a float, outside compiled graphs."""
    return number.value if isinstance(number, Schedule) else number


class Switch:
    """A random decision, drawn once a step: on with `probability`."""

    def __init__(self, probability: Number) -> None:
        self.probability = probability
        self.on = False
        self.tensor = torch.tensor(0.0, device="cpu")

    def decide(self, draw: float) -> None:
        """`draw` is uniform in [0, 1)."""
        on = draw < value(self.probability)
        if on != self.on:
            self.on = on
            self.tensor.fill_(float(on))

    def now(self) -> bool | Tensor:
        """A bool; in a compiled graph a tensor of 0 or 1 on the CPU."""
        return self.tensor if torch.compiler.is_compiling() else self.on


class LossScale(HostNumber):
    """The factor of the summed loss. Penalties that are added to gradients are multiplied by it, because
    icefall's constants are for the unscaled sum."""

    def __init__(self) -> None:
        super().__init__(1.0)


class Controls:
    """All schedules, switches, loss scales and balancers inside a module."""

    def __init__(self, module: nn.Module) -> None:
        held = [v for m in module.modules() for v in vars(m).values()]
        self.schedules = [v for v in held if isinstance(v, Schedule)]
        self.switches = [v for v in held if isinstance(v, Switch)]
        self.schedules += [s.probability for s in self.switches if isinstance(s.probability, Schedule)]
        self.scales = [v for v in held if isinstance(v, LossScale)]
        self.balancers = [m for m in module.modules() if isinstance(m, Balancer)]

    def set_loss_scale(self, scale: float) -> None:
        """Set the factor of the summed loss for the next step."""
        for each in self.scales:
            each.set(scale)

    def set_batch_count(self, batch_count: float) -> None:
        """Move all schedules to a batch count. icefall counts in batches of 600 s of audio:
        step * seconds in a batch * processes / 600."""
        for schedule in self.schedules:
            schedule.move(batch_count)

    def draw(self, generator: torch.Generator | None = None) -> None:
        """Draw the decisions of the next step. generator: on the CPU; None is torch's own."""
        draws = torch.rand(len(self.switches), generator=generator, device="cpu").tolist()
        for switch, number in zip(self.switches, draws, strict=True):
            switch.decide(number)
        for balancer in self.balancers:
            balancer.prepare()


class Regulated(nn.Module):
    """A module with `controls`."""

    controls: Controls

    def set_batch_count(self, batch_count: float) -> None:
        """Move the schedules to a batch count, as `Controls` counts them."""
        self.controls.set_batch_count(batch_count)

    def draw(self, generator: torch.Generator | None = None) -> None:
        """Draw the random decisions of the next training step."""
        self.controls.draw(generator)


def set_batch_count(model: nn.Module, batch_count: float) -> None:
    """Move the schedules of all modules of a model; the trainer calls it every few steps."""
    for part in model.modules():
        if isinstance(part, Regulated):
            part.set_batch_count(batch_count)


def set_loss_scale(model: nn.Module, scale: float) -> None:
    """Set the factor of the summed loss in all modules of a model, before the forward pass of a step."""
    for part in model.modules():
        if isinstance(part, Regulated):
            part.controls.set_loss_scale(scale)


def draw(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw the decisions of all modules of a compiled model, before each step. In eager mode the modules do
    this themselves."""
    for part in model.modules():
        if isinstance(part, Regulated):
            part.draw(generator)


class Balancer(nn.Module):
    """Corrects the gradient of channels whose values are mostly of one sign, too small or too large.

    The limits are for the share p of positive values and the mean absolute value a of a channel. A normal
    distribution turns them into limits of mean / deviation, 0.81395 atanh(2p - 1), and of the root mean
    square, sqrt(pi / 2) a. Outside of the limits |grad| * d/dx (|excess of mean / deviation| + |log excess of
    rms|) is added to the gradient, with the derivative scaled to root mean square `grad_scale` in each
    channel. Channels are the last dimension; padded frames count.
    """

    def __init__(
        self,
        min_positive: Number = 0.05,
        max_positive: Number = 0.95,
        min_abs: Number = 0.2,
        max_abs: Number = 100.0,
        grad_scale: float = 0.04,
        prob: Number | None = None,
    ) -> None:
        super().__init__()
        self.min_positive, self.max_positive = min_positive, max_positive
        self.min_abs, self.max_abs = min_abs, max_abs
        self.grad_scale = grad_scale
        self.switch = Switch(Schedule((0, 0.5), (8000, 0.125)) if prob is None else prob)
        self.plan = torch.zeros(6, device="cpu")  # on, then `limits`, for a compiled graph

    def limits(self) -> tuple[float, ...]:
        """Current limits: lowest and highest mean / deviation, lowest and highest root mean square; and the
        scale."""
        return (
            *(_positive_to_mean(value(share)) for share in (self.min_positive, self.max_positive)),
            *(math.sqrt(math.pi / 2) * value(size) for size in (self.min_abs, self.max_abs)),
            self.grad_scale,
        )

    def prepare(self) -> None:
        """Store the decision and the limits of this step for a compiled graph."""
        if self.switch.on or self.plan[0]:
            self.plan.copy_(torch.tensor([float(self.switch.on), *self.limits()]))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), unchanged."""
        if not (self.training and torch.is_grad_enabled()):
            return x
        if torch.compiler.is_compiling():
            return _Balance.apply(x, self.plan)
        return _Balance.apply(x, self.limits()) if self.switch.on and x.requires_grad else x


def _positive_to_mean(share: float) -> float:
    """Mean / deviation at which about `share` of a normal distribution is positive; finite at 0 and 1."""
    x = 2 * share - 1
    return 0.8139535143 * 0.5 * (math.log(1 + x + 1e-10) - math.log(1 - x + 1e-10))


def balanced_grad(grad: Tensor, x: Tensor, limits: Sequence[float]) -> Tensor:
    """`grad` (..., C) plus the correction of `Balancer` for `x`."""
    least_mean, most_mean, least_rms, most_rms, grad_scale = limits
    wide = x.reshape(-1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
    square = wide.square().mean(0)
    mean = wide.mean(0)
    deviation = (square - mean * mean).clamp(min=1e-20).sqrt()
    rms = square.clamp(min=1e-20).sqrt()
    m = mean / deviation
    # The derivative of |m - clamp(m)| by m is its sign outside the limits, 0 inside. d m / dx =
    # (1 - m (x - mean) / deviation) / (N deviation). The factor 1 / N cancels in the scaling, here and below.
    outside = (m - m.clamp(least_mean, most_mean)).sign()
    slope_mean = outside / deviation
    # For |log(clamp(rms) / rms)|: d log(rms) / dx = x / (N rms^2), towards the limit.
    beyond = (rms - rms.clamp(least_rms, most_rms)).sign() / rms.square()
    # Together, a linear function of x in each channel: constant + factor * x.
    factor = beyond - slope_mean * m / deviation
    constant = slope_mean + slope_mean * m * mean / deviation
    slope = torch.addcmul(constant, wide, factor)
    scale = grad_scale / slope.square().mean(0).sqrt().clamp(min=1e-20)
    flat = grad.reshape(-1, grad.shape[-1])
    return torch.addcmul(flat, flat.abs(), (slope * scale).to(flat.dtype)).view(grad.shape)


@torch.library.custom_op("maya::planned_balance", mutates_args=())
def _planned_balance(grad: Tensor, x: Tensor, plan: Tensor) -> Tensor:
    """A custom operator, so that a compiled graph reads the decision when it runs, not when it is
    compiled."""
    on, *limits = plan.tolist()
    return balanced_grad(grad, x, limits) if on else grad.clone()


@_planned_balance.register_fake
def _(grad: Tensor, x: Tensor, plan: Tensor) -> Tensor:
    return torch.empty_like(grad)


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Tensor | tuple[float, ...]) -> Tensor:
        """`plan`: the limits, or in a compiled graph the tensor with the decision and the limits."""
        ctx.save_for_backward(x, *((plan,) if isinstance(plan, Tensor) else ()))
        ctx.limits = None if isinstance(plan, Tensor) else plan
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, *plan = ctx.saved_tensors
        return _planned_balance(grad, x, *plan) if plan else balanced_grad(grad, x, ctx.limits), None


class Whiten(nn.Module):
    """Corrects gradients where the channels' covariance is far from a multiple of the identity.

    metric = mean(diag(C C)) / mean(diag(C))^2 of the centred covariance C of each group of channels; 1 is
    white. Above `limit` the metric's gradient is added, scaled to `grad_scale` times the norm of the
    gradient. A step checks with probability `prob`. icefall checks ten times less often where the limit held
    the last time; here that would need a value read back from the device.
    """

    def __init__(self, groups: int, limit: Number, grad_scale: float, prob: float = 0.25) -> None:
        super().__init__()
        self.groups, self.limit, self.grad_scale = groups, limit, grad_scale
        self.switch = Switch(prob)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), unchanged."""
        if not (self.training and torch.is_grad_enabled()):
            return x
        if torch.compiler.is_compiling():
            limit = torch.as_tensor(now(self.limit), dtype=torch.float32, device="cpu")
            plan = torch.stack([self.switch.tensor, limit])
            return _Whiten.apply(x, plan, self.groups, self.grad_scale)
        if not (self.switch.on and x.requires_grad):
            return x
        return _Whiten.apply(x, value(self.limit), self.groups, self.grad_scale)


def whitened_grad(grad: Tensor, x: Tensor, limit: float, groups: int, grad_scale: float) -> Tensor:
    """`grad` (..., C) plus the correction of `Whiten` for `x`."""
    wide = x.reshape(-1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
    wide = (wide - wide.mean(0)).unflatten(-1, (groups, -1)).transpose(0, 1)
    covariance = wide.mT @ wide
    channels = groups * covariance.shape[-1]
    mean_diagonal = covariance.diagonal(dim1=1, dim2=2).sum() / channels
    metric = covariance.square().sum() / channels / (mean_diagonal.square() + 1e-20)
    # d metric / dC = 2 (C / mean - metric I) / (channels mean); its constant factor cancels in the scaling.
    slope = covariance / (mean_diagonal + 1e-20)
    slope.diagonal(dim1=1, dim2=2).sub_(metric)
    penalty = (wide @ slope).transpose(0, 1).reshape(grad.shape)
    norm = torch.linalg.vector_norm
    ratio = norm(grad, dtype=penalty.dtype) / (norm(penalty) + 1e-20)
    scale = grad_scale * ratio * (metric >= limit)
    return grad + (penalty * scale).to(grad.dtype)


@torch.library.custom_op("maya::planned_whitening", mutates_args=())
def _planned_whitening(grad: Tensor, x: Tensor, plan: Tensor, groups: int, grad_scale: float) -> Tensor:
    on, limit = plan.tolist()
    return whitened_grad(grad, x, limit, groups, grad_scale) if on else grad.clone()


@_planned_whitening.register_fake
def _(grad: Tensor, x: Tensor, plan: Tensor, groups: int, grad_scale: float) -> Tensor:
    return torch.empty_like(grad)


class _Whiten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Tensor | float, groups: int, grad_scale: float) -> Tensor:
        """`plan`: the limit, or in a compiled graph the tensor with the decision and the limit."""
        ctx.save_for_backward(x, *((plan,) if isinstance(plan, Tensor) else ()))
        ctx.limit = None if isinstance(plan, Tensor) else plan
        ctx.groups, ctx.grad_scale = groups, grad_scale
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, *plan = ctx.saved_tensors
        if plan:
            grad = _planned_whitening(grad, x, *plan, ctx.groups, ctx.grad_scale)
        else:
            grad = whitened_grad(grad, x, ctx.limit, ctx.groups, ctx.grad_scale)
        return grad, None, None, None


class Limit(nn.Module):
    """Keeps a parameter roughly inside [low, high]: in 60 % of the steps, a gradient that leads further
    outside changes its sign."""

    def __init__(self, low: Number, high: Number) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.switch = Switch(0.6)

    def forward(self, x: Tensor) -> Tensor:
        on = self.switch.now()
        if not self.training or on is False:
            return x
        low, high = now(self.low), now(self.high)
        if isinstance(on, Tensor):
            low, high = torch.where(on > 0, low, -math.inf), torch.where(on > 0, high, math.inf)
        return _Limit.apply(x, low, high)


class _Limit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Value, high: Value) -> Tensor:
        ctx.save_for_backward((x < low), (x > high))
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        below, above = ctx.saved_tensors
        wrong = (below & (grad > 0)) | (above & (grad < 0))
        return torch.where(wrong, -grad, grad), None, None


class _ScaleGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def scale_grad(x: Tensor, scale: float) -> Tensor:
    """`x`, with its gradient multiplied by `scale`."""
    return _ScaleGrad.apply(x, scale)


def sequence_mask(x: Tensor, drop: Number) -> Tensor | None:
    """(B, 1, 1) in the type of `x` (B, T, C): 0 with probability `drop`, else 1; None: all are 1."""
    rate = now(drop)
    if not isinstance(rate, Tensor) and rate == 0:
        return None
    return (torch.rand(len(x), 1, 1, device=x.device) >= rate).to(x.dtype)


def shared_dropout_mask(x: Tensor, drop: Number) -> Tensor | None:
    """(B, 1, C) of 0 and 1 / (1 - drop) for `x` (B, T, C): dropout of channels, the same for all frames."""
    rate = now(drop)
    if not isinstance(rate, Tensor) and rate == 0:
        return None
    kept = torch.rand(len(x), 1, x.shape[-1], device=x.device) >= rate
    return kept.to(x.dtype) / (1 - rate)
