"""Benchmark of fast weights: one update on whole utterances, without Newton-Schulz, then one apply.

`python -m maya.kernels.bench lact` compares the operator on each backend with its definition under autograd.
Dh = D; rates, norms and weights are those of a layer at its start.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from maya.kernels.bench.measure import Cost, Form, Setting, loss_form
from maya.kernels.lact import FastWeights, initial, lact, whole
from maya.kernels.lact.reference import Inputs, lact_reference
from maya.kernels.lact.state import Rule, row_norms

NAMES = ("q", "k", "v", "rates", "w0", "w1", "w2")
# Operations of forward and of both, in units of D Dh for each frame and head, without recomputation
# (README.md counts them).
FORWARD_UNITS, BOTH_UNITS = 18, 54


@dataclass(slots=True)
class LactProblem:
    """Leaves in the order of `NAMES`, the weights without a batch, and the weights of the sum of outputs."""

    leaves: list[Tensor]
    out_weights: Tensor

    def loss(self, backend: str) -> Tensor:
        """(B,)."""
        q, k, v, rates = self.leaves[:4]
        return self._total(lact(q, k, v, rates, self.start, whole(q.shape[1]), backend=backend)[0])

    def loss_under_autocast(self) -> Tensor:
        """The definition with products in the dtype of q, as under autocast; (B,)."""
        (q, k, v, rates), start = self.leaves[:4], self.start
        inputs = Inputs(
            q=q, k=k, v=v, rates=rates, mask=None, gate=None, norms=row_norms(start), step_scale=None
        )
        with torch.autocast(q.device.type, q.dtype, enabled=q.dtype in (torch.bfloat16, torch.float16)):
            out, _ = lact_reference(inputs, start, whole(q.shape[1]), Rule())
        return self._total(out)

    @property
    def start(self) -> FastWeights:
        w0, w1, w2 = self.leaves[4:]
        return initial(w0, w1, w2, self.leaves[0].shape[0])

    def _total(self, out: Tensor) -> Tensor:
        dtype = torch.promote_types(out.dtype, torch.float32)
        return (out * self.out_weights).sum((1, 2, 3), dtype=dtype)


def forms(setting: Setting) -> list[Form]:
    """Each backend that can run here, and the definition under autograd."""
    p = problem(setting)
    losses: dict[str, Callable[[], Tensor]] = {"Triton": partial(p.loss, "triton")} if setting.cuda else {}
    losses |= {"torch": partial(p.loss, "torch"), "plain autograd": p.loss_under_autocast}
    costs = partial(cost, setting)
    return [loss_form(name, loss, p.leaves, names=NAMES, cost=costs) for name, loss in losses.items()]


def reference(setting: Setting, *, exact: bool) -> Form:
    """In fp64, or in the precision of the setting."""
    p = problem(setting)
    if exact:
        leaves = [x.detach().cpu().double().requires_grad_() for x in p.leaves]
        p = LactProblem(leaves, p.out_weights.cpu().double())
    return loss_form("reference", p.loss_under_autocast, p.leaves, names=NAMES)


def cost(setting: Setting) -> tuple[Cost, Cost]:
    """Operations of the products. The bytes of frames are small beside them."""
    heads = max(1, setting.heads)
    unit = float(setting.batch * setting.frames * heads * (setting.hidden // heads) ** 2)
    return Cost(FORWARD_UNITS * unit), Cost(BOTH_UNITS * unit)


def problem(setting: Setting) -> LactProblem:
    """The same numbers in every process."""
    heads = max(1, setting.heads)
    channels, device = setting.hidden // heads, setting.device
    frames = (setting.batch, setting.frames, heads)
    with torch.random.fork_rng(devices=[]):
        make = torch.Generator(device).manual_seed(0)
        normal = partial(torch.randn, generator=make, device=device)
        q, k, v = (normal(*frames, channels) for _ in range(3))
        q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
        rates = 0.5 + torch.rand(*frames, 3, generator=make, device=device)
        weights = [normal(heads, channels, channels) / channels**0.5 for _ in range(3)]
        out_weights = normal(*frames, channels)
    inputs = [x.to(setting.torch_dtype) for x in (q, k, v)]
    leaves = [x.requires_grad_() for x in (*inputs, rates, *weights)]
    return LactProblem(leaves, out_weights.to(setting.torch_dtype))
