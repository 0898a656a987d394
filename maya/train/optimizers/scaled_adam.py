"""ScaledAdam, the optimizer of icefall's Zipformer recipes: Adam whose step is in proportion to the size of
each parameter tensor, with that size learnt beside it and gradients clipped by the median of recent norms.

For a tensor p with gradient g, all means over its elements, step k = 0, 1, ... of that tensor:

    v <- b2 v + (1 - b2) g^2           u = -lr g / (sqrt(v / (1 - b2^(k+1))) + eps)
    u <- u max(rms, min_rms)           rms: the root mean square of p, refreshed at every 4th step
    every 4th step: u <- u + p s       s = -lr a sqrt(1 - b2^(k+1)) sum_4 <p, g> / (sqrt(w) + eps)
                                       w: mean of <p, g>^2 over the 4 steps, decayed by b2^4 each time
    m <- b1 m + (1 - b1) u             p <- p + m

with a = `scalar_lr_scale`; |s| is at most 0.1, s is 0 where rms < min_rms, and s takes rms to max_rms at
most. A tensor of one element learns at lr a, has neither rms nor s, and stays within +-scalar_max. The
correction of v ends at 0.99; m has none. (Yao et al. 2023, arXiv:2310.11230, section 3.4; the details are of
icefall's zipformer/optim.py.) Compared with icefall's, the same numbers to rounding, apart from these:

- State belongs to a parameter, not to a shape, and carries its own step. Where names were given
  (`model.named_parameters()`), saved state is matched by name: a new parameter starts afresh.
- A parameter without a gradient is left as it is; icefall feeds it zeros, which ages its statistics.
- In a step whose norm is not finite, all gradients of the group are replaced by zeros, whatever the step,
  and `clippings` says so. icefall does so for inf from step 10 on; NaN, of which it takes min(1, NaN) = 1,
  enters the weights.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maya.errors import MayaError
from maya.train.distributed import is_dtensor

EARLY_STEPS = (10, 20, 40)  # when the threshold is first set, from few norms, and hence twice as wide
# Elements from which a tensor is updated by itself: stacking copies it, which costs more than its kernels.
CPU_STACK, GPU_STACK = 1 << 15, 1 << 20
CPU_BLOCK = 1 << 16  # elements of one inner product: longer ones lose digits in fp32


@dataclass(kw_only=True, slots=True)
class Clipping:
    """What clipping did to one parameter group in the last step."""

    norm: float  # of the gradients times the rms of their parameters, before clipping
    threshold: float  # infinite until it is known
    factor: float  # what the gradients were multiplied by; 0 where they were not finite
    parameter: str  # the one that contributed most to the norm, or the first that was not finite
    share: float  # its share of the squared norm

    def __str__(self) -> str:
        if not math.isfinite(self.norm):
            return f"gradients were not finite, first in {self.parameter}; the step was taken without them"
        return (
            f"gradients were scaled by {self.factor:.3g} (norm {self.norm:.3g}, threshold "
            f"{self.threshold:.3g}); {self.parameter} makes up {self.share:.0%} of the squared norm"
        )


@dataclass(kw_only=True, slots=True)
class _Stack:
    """Parameters of one size that have taken the same number of steps, as rows (K, n) of shared tensors.

    Their entries in the optimizer's state are views of the rows, so that nothing is copied in a step.
    """

    params: list[nn.Parameter]
    where: list[int]  # of each parameter in its group
    size: int  # elements of one parameter, over all ranks
    step: Tensor  # () fp32 on the CPU, as torch's optimizers keep it
    exp_avg_sq: Tensor  # (K, n) v
    delta: Tensor  # (K, n) m
    param_rms: Tensor  # (K,)
    scale_grads: Tensor  # (K, period) <p, g> of the last steps
    scale_exp_avg_sq: Tensor  # (K,) w


@dataclass(slots=True)
class _Sums:
    """What a step needs to know of a stack: its gradients as rows, and sums over each of them."""

    stack: _Stack
    in_place: bool  # `values` is the parameter itself, not a copy
    grads: Tensor  # (K, n)
    values: Tensor  # (K, n) the parameters
    sums: Tensor  # (3, K): <g, g>, <p, g>, <p, p>


class ScaledAdam(torch.optim.Optimizer):
    """See the module's text for the update. Parameters are fp32 or fp64; there are no closures.

    Parameters of equal size are updated together (on the CPU small ones only), in a few dozen kernels per
    size. `step` waits for the device only when the clipping threshold is refreshed: at steps 10, 20, 40 and
    every `clipping_update_period`; `clippings` waits when it is asked. Each group of parameters is clipped by
    itself, as in icefall: give the whole model as one group unless that is wanted.

    DDP: every rank computes the same. FSDP2: the state is sharded as its parameter is, and one all-reduce a
    step and mesh dimension adds up the sums over sharded tensors.

    Args:
        params: as for torch's optimizers; named parameters make clipping and loading speak of names.
        lr: the peak of the schedule; icefall's recipes take 0.045.
        clipping_scale: the threshold is this multiple of the median norm; None never clips.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 0.045,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        scalar_lr_scale: float = 0.1,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
        clipping_scale: float | None = 2.0,
        clipping_update_period: int = 100,
    ) -> None:
        options = {
            "lr": lr, "betas": betas, "eps": eps, "scalar_lr_scale": scalar_lr_scale,
            "param_min_rms": param_min_rms, "param_max_rms": param_max_rms, "scalar_max": scalar_max,
            "size_update_period": size_update_period, "clipping_scale": clipping_scale,
            "clipping_update_period": clipping_update_period,
        }  # fmt: skip
        self._forget_stacks()
        super().__init__(params, options)

    def _forget_stacks(self) -> None:
        self._stacks: dict[int, list[_Stack]] = {}  # of each group
        self._stacked: dict[int, list[bool]] = {}  # which parameters of the group they hold
        self._last: dict[int, tuple[Tensor, Tensor, Tensor, list[int]]] = {}  # for `clippings`

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_stacks()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for i, p in enumerate(group["params"]):
            if p.dtype not in (torch.float32, torch.float64):
                raise MayaError(
                    f"{_name(group, i)} is {p.dtype}: ScaledAdam needs fp32 (or fp64) parameters; keep "
                    "them so and compute in bf16 under autocast"
                )
        group.setdefault("clip_step", 0)
        group.setdefault("clip_threshold", math.inf)
        group.setdefault("clip_norms", torch.zeros(group["clipping_update_period"]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; where both sides have names, state goes by them, whatever the order and the groups.

        A parameter that the saved state lacks starts afresh. Each group takes over the options (rates,
        norms for clipping) of the saved group that holds its first known parameter. A state of another
        shape raises MayaError.
        """
        saved = state_dict["param_groups"]
        if all("param_names" in g for g in (*saved, *self.param_groups)):
            state_dict = self._matched(state_dict)
        super().load_state_dict(state_dict)

    def _matched(self, saved: dict[str, Any]) -> dict[str, Any]:
        """The saved state, laid out as this optimizer's groups are."""
        homes = {
            name: (index, group)
            for group in saved["param_groups"]
            for name, index in zip(group["param_names"], group["params"], strict=True)
        }
        state, groups, count = {}, [], 0
        for group in self.param_groups:
            names = group["param_names"]
            saved_group = next((homes[n][1] for n in names if n in homes), group)
            for i, (name, p) in enumerate(zip(names, group["params"], strict=True)):
                entry = saved["state"].get(homes[name][0]) if name in homes else None
                if entry is None:
                    continue
                if entry["delta"].shape != p.shape:
                    raise MayaError(
                        f"the saved optimizer state of {name} is for {tuple(entry['delta'].shape)}, the "
                        f"parameter is {tuple(p.shape)}; train on with the model it was saved for"
                    )
                state[count + i] = entry
            options = {k: v for k, v in saved_group.items() if k not in ("params", "param_names")}
            indices = list(range(count, count + len(names)))
            groups.append(options | {"params": indices, "param_names": list(names)})
            count += len(names)
        return {"state": state, "param_groups": groups}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise TypeError("ScaledAdam takes no closure: compute the gradients, then call step()")
        for index, group in enumerate(self.param_groups):
            present = [p.grad is not None and p.numel() > 0 for p in group["params"]]
            if not any(present):
                continue
            if self._stacked.get(index) != present:
                self._stacks[index] = self._stack(group, present)
                self._stacked[index] = present
            sums = [_sum(stack, group) for stack in self._stacks[index]]
            _add_over_shards(sums)
            factor = self._clip(index, group, sums)
            for part in sums:
                _update(part, group, factor)

    def clippings(self) -> list[Clipping]:
        """What clipping did in the last step, for each group that took one. Waits for the device."""
        out = []
        for index, (norm, factor, squares, where) in sorted(self._last.items()):
            group, values = self.param_groups[index], squares.tolist()
            odd = [i for i, v in zip(where, values, strict=True) if not math.isfinite(v)]
            value, top = max(zip(values, where, strict=True), default=(0.0, 0))
            out.append(Clipping(
                norm=float(norm), threshold=group["clip_threshold"], factor=float(factor),
                parameter=_name(group, min(odd, default=top)),
                share=math.nan if odd else value / max(sum(values), 1e-45),
            ))  # fmt: skip
        return out

    def _stack(self, group: dict[str, Any], present: list[bool]) -> list[_Stack]:
        """Lay the state of the parameters that have gradients into shared tensors, by size and step."""
        kinds: dict[tuple, list[int]] = {}
        for i, (p, has_gradient) in enumerate(zip(group["params"], present, strict=True)):
            if not has_gradient:
                continue
            local = _local(p)
            alone = local.numel() >= (CPU_STACK if local.device.type == "cpu" else GPU_STACK)
            age = int(self.state[p]["step"]) if self.state[p] else 0
            kind = (age, local.numel(), p.numel(), local.dtype, local.device, _shards(p), i if alone else -1)
            kinds.setdefault(kind, []).append(i)
        return [self._lay(kind[0], group, where) for kind, where in kinds.items()]

    def _lay(self, age: int, group: dict[str, Any], where: list[int]) -> _Stack:
        params = [group["params"][i] for i in where]
        new = _local(params[0]).new_zeros
        rows = len(params), _local(params[0]).numel()
        stack = _Stack(
            params=params, where=where, size=params[0].numel(), step=torch.tensor(float(age)),
            exp_avg_sq=new(rows), delta=new(rows), param_rms=new(rows[0]),
            scale_grads=new(rows[0], group["size_update_period"]), scale_exp_avg_sq=new(rows[0]),
        )  # fmt: skip
        for k, p in enumerate(params):
            old = dict(self.state[p])
            fresh = {
                "exp_avg_sq": _like(stack.exp_avg_sq[k], p), "delta": _like(stack.delta[k], p),
                "param_rms": stack.param_rms[k], "scale_grads": stack.scale_grads[k],
                "scale_exp_avg_sq": stack.scale_exp_avg_sq[k],
            }  # fmt: skip
            for name, value in fresh.items():
                if old:
                    _local(value).copy_(_local(old[name]))
            self.state[p] = {"step": stack.step} | fresh
        return stack

    def _clip(self, index: int, group: dict[str, Any], sums: list[_Sums]) -> Tensor:
        """() what the gradients are multiplied by; 0 if they are not finite."""
        squares = []
        for part in sums:
            stack = part.stack
            if stack.step == 0:
                torch.sqrt(part.sums[2] / stack.size, out=stack.param_rms)
            weight = stack.param_rms if stack.size > 1 else group["scalar_lr_scale"]
            squares.append((part.sums[0] * weight**2).to(sums[0].grads.device))
        contributions = torch.cat(squares)
        norm = contributions.sum().sqrt()
        factor = norm.isfinite().to(norm.dtype)
        self._last[index] = norm, factor, contributions, [i for part in sums for i in part.stack.where]
        # The norm of the first step is not kept, as in icefall.
        if group["clipping_scale"] is not None and group["clip_step"] > 0:
            _refresh_threshold(group, norm)
            factor.mul_((group["clip_threshold"] / (norm + 1e-20)).clamp(max=1).nan_to_num(nan=0.0))
        group["clip_step"] += 1
        return factor


def _name(group: dict[str, Any], i: int) -> str:
    if "param_names" in group:
        return group["param_names"][i]
    return f"parameter {i} of shape {tuple(group['params'][i].shape)}"


def _refresh_threshold(group: dict[str, Any], norm: Tensor) -> None:
    """Keep the norm, and where it is time take the threshold from the median of those kept."""
    step, period = group["clip_step"], group["clipping_update_period"]
    norms = group["clip_norms"] = group["clip_norms"].to(norm)
    norms[step % period] = norm
    early = step in EARLY_STEPS and step < period
    if not early and step % period:
        return
    kept = norms.sort().values[-step:] if early else norms.sort().values
    median = float(kept[len(kept) // 4 * 2])  # as icefall counts; inf and NaN are sorted to the end
    if not math.isfinite(median):
        raise MayaError(
            f"half of the last {len(kept)} steps had gradients that are not finite (group of "
            f"{_name(group, 0)}); lower the learning rate, or look at the audio and texts of these steps"
        )
    group["clip_threshold"] = group["clipping_scale"] * median * (2 if early else 1)


def _refreshes(stack: _Stack, group: dict[str, Any]) -> bool:
    """Whether this step measures and changes the parameters' sizes."""
    period = group["size_update_period"]
    return int(stack.step) % period == period - 1


def _sum(stack: _Stack, group: dict[str, Any]) -> _Sums:
    """Gather the gradients of a stack, and what its step needs of them."""
    own = [_local(p) for p in stack.params]
    grads, values = _rows([_local(cast(Tensor, p.grad)) for p in stack.params]), _rows(own)
    sums = grads.new_zeros(3, len(own))
    sums[0] = _products(grads, grads)
    if stack.size > 1:
        sums[1] = _products(values, grads)
        if stack.step == 0 or _refreshes(stack, group):
            sums[2] = _products(values, values)
    in_place = len(own) == 1 and own[0].is_contiguous()
    return _Sums(stack=stack, in_place=in_place, grads=grads, values=values, sums=sums)


def _add_over_shards(parts: list[_Sums]) -> None:
    """Add up the sums of sharded tensors over the ranks that hold the shards.

    The ranks may stack differently where a tensor does not divide evenly; the order of parameters is one.
    """
    sharded: dict[tuple, list[tuple[int, Tensor]]] = {}
    for part in parts:
        for i, p, sums in zip(part.stack.where, part.stack.params, part.sums.unbind(1), strict=True):
            if shards := _shards(p):
                sharded.setdefault(shards, []).append((i, sums))
    for (mesh, *dims), entries in sorted(sharded.items(), key=lambda item: min(i for i, _ in item[1])):
        entries.sort(key=lambda item: item[0])
        total = torch.stack([sums for _, sums in entries])
        for dim in dims:
            dist.all_reduce(total, group=mesh.get_group(dim))
        for (_, sums), added in zip(entries, total, strict=True):
            sums.copy_(added)


def _rates(part: _Sums, group: dict[str, Any], factor: Tensor) -> tuple[Tensor, Tensor | None]:
    """(K,) what multiplies the learning rate of each parameter, and (K,) by how much it is scaled now."""
    stack, step, period = part.stack, int(part.stack.step), group["size_update_period"]
    if stack.size == 1:
        return torch.full_like(stack.param_rms, group["scalar_lr_scale"]), None
    stack.scale_grads[:, step % period] = (part.sums[1] * factor).masked_fill(factor == 0, 0.0)
    rms, smallest = stack.param_rms, group["param_min_rms"]
    if not _refreshes(stack, group) or step == 0:
        return rms.clamp(min=smallest), None
    torch.sqrt(part.sums[2] / stack.size, out=rms)
    beta = group["betas"][1] ** period
    w = stack.scale_exp_avg_sq.mul_(beta).add_(stack.scale_grads.square().mean(1), alpha=1 - beta)
    rate = -float(group["lr"]) * group["scalar_lr_scale"] * math.sqrt(1 - beta ** ((step + 1) // period))
    growth = stack.scale_grads.sum(1).mul_(rate).div_(w.sqrt().add_(group["eps"]))
    growth = growth.masked_fill_(rms < smallest, 0.0).clamp_(-0.1, 0.1)
    return rms.clamp(min=smallest), torch.minimum(growth, (group["param_max_rms"] - rms) / rms)


def _update(part: _Sums, group: dict[str, Any], factor: Tensor) -> None:
    """Move the parameters of a stack."""
    stack, (beta1, beta2) = part.stack, group["betas"]
    factor = factor.to(part.grads.device, part.grads.dtype)
    rate, growth = _rates(part, group, factor)
    # On the CPU the factor can be read without waiting, and goes into the coefficients.
    on_cpu = factor.device.type == "cpu"
    factor_on_cpu = float(factor) if on_cpu else 1.0
    correction = 1 - beta2 ** (float(stack.step) + 1)
    root_correction = math.sqrt(correction) if correction < 0.99 else 1.0
    rate = rate.mul_(-float(group["lr"]) * (1 - beta1) * factor_on_cpu * root_correction)[:, None]
    m, v, g = stack.delta, stack.exp_avg_sq, part.grads
    # Zeros in place of gradients that are not finite: 0 times infinity would not be one.
    if not on_cpu:
        g = g.masked_fill(factor == 0, 0.0).mul_(factor)
    elif factor_on_cpu == 0:
        g = torch.zeros_like(g)
    v.mul_(beta2).addcmul_(g, g, value=(1 - beta2) * factor_on_cpu**2)
    root = v.sqrt().add_(group["eps"] * root_correction)
    m.mul_(beta1).addcmul_(torch.div(g, root, out=root), rate)
    if growth is not None:
        m.addcmul_(part.values, growth[:, None], value=1 - beta1)
    if part.in_place:
        part.values.add_(m)
    own = [_local(p) for p in stack.params]
    if not part.in_place:
        torch._foreach_add_(own, [m.view(p.shape) for m, p in zip(stack.delta, own, strict=True)])
    if stack.size == 1:
        torch._foreach_clamp_min_(own, -group["scalar_max"])
        torch._foreach_clamp_max_(own, group["scalar_max"])
    stack.step += 1


def _rows(tensors: list[Tensor]) -> Tensor:
    """(K, n): equally large tensors as rows; a view where there is one and it lies in one piece."""
    if len(tensors) == 1:
        return tensors[0].reshape(1, -1)
    return torch.stack([t.reshape(-1) for t in tensors])


def _products(a: Tensor, b: Tensor) -> Tensor:
    """(K,) inner products of the rows of (K, n)."""
    if len(a) > 1 or a.device.type != "cpu":
        return (a * b).sum(1)
    blocks = zip(a[0].split(CPU_BLOCK), b[0].split(CPU_BLOCK), strict=True)
    return torch.stack([x.dot(y) for x, y in blocks]).sum(0, keepdim=True)


def _local(t: Tensor) -> Tensor:
    """What this rank holds of a tensor, without gradient history."""
    return t.to_local() if is_dtensor(t) else t


def _like(local: Tensor, p: Tensor) -> Tensor:
    """`local`, elements of this rank's part of `p`, as a tensor laid out and sharded as `p` is."""
    local = local.view(_local(p).shape)
    if is_dtensor(p):
        mesh, placements = p.device_mesh, p.placements
        return p.from_local(local, mesh, placements, run_check=False, shape=p.shape, stride=p.stride())
    return local


def _shards(p: Tensor) -> tuple:
    """(mesh, the mesh dimensions that `p` is sharded over), or () for a tensor that is whole on each rank."""
    if is_dtensor(p):
        dims = [i for i, placement in enumerate(p.placements) if placement.is_shard()]
        return (p.device_mesh, *dims) if dims else ()
    return ()
