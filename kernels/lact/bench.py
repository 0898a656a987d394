"""Benchmark of fast weights that learn from whole utterances, without Newton-Schulz, and are read everywhere.

`python -m maya.kernels.bench lact`: the operator on each backend, against its definition under autograd, as
a user would write it. Dh = D; rates, norms and weights as a layer gives them at its start.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from maya.kernels.bench.measure import Cost, Form, Setting, loss_form
from maya.kernels.lact import initial, lact, whole
from maya.kernels.lact.reference import Inputs, lact_reference
from maya.kernels.lact.state import Rule, row_norms

NAMES = ("q", "k", "v", "rates", "w0", "w1", "w2")
# Of forward, and of both, in units of D Dh operations for each frame and head: what the mathematics asks for,
# nothing that is made again (README.md counts them).
FORWARD_UNITS, BOTH_UNITS = 18, 54


@dataclass(slots=True)
class Problem:
    """Leaves in the order of `NAMES`, the weights without a batch; and the weights of the outputs' sum."""

    leaves: list[Tensor]
    of_out: Tensor

    def loss(self, backend: str) -> Tensor:
        """(B,)."""
        q, k, v, rates, *weights = self.leaves
        start = initial(weights[0], weights[1], weights[2], q.shape[0])
        out, _ = lact(q, k, v, rates, start, whole(q.shape[1]), backend=backend)
        return (out * self.of_out).sum((1, 2, 3), dtype=torch.promote_types(out.dtype, torch.float32))

    def loss_under_autocast(self) -> Tensor:
        """The definition with products in the dtype of q, as a user in mixed precision has it."""
        q, k, v, rates, *weights = self.leaves
        start = initial(weights[0], weights[1], weights[2], q.shape[0])
        given = Inputs(
            q=q, k=k, v=v, rates=rates, mask=None, gate=None, norms=row_norms(start), step_scale=None
        )
        with torch.autocast(q.device.type, q.dtype, enabled=q.dtype in (torch.bfloat16, torch.float16)):
            out, _ = lact_reference(given, start, whole(q.shape[1]), Rule())
        return (out * self.of_out).sum((1, 2, 3), dtype=torch.promote_types(out.dtype, torch.float32))


def forms(setting: Setting) -> list[Form]:
    """Each backend that can run here, and the definition under autograd."""
    p = problem(setting)
    cuda = torch.device(setting.device).type == "cuda"
    found = [_form(backend, p, setting) for backend in (("triton", "torch") if cuda else ("torch",))]
    plain = loss_form(
        "plain autograd", p.loss_under_autocast, p.leaves, names=NAMES, cost=partial(cost, setting)
    )
    return [*found, plain]


def reference(setting: Setting, *, exact: bool) -> Form:
    """In fp64, or in the precision of the setting."""
    p = problem(setting)
    if exact:
        leaves = [x.detach().cpu().double().requires_grad_() for x in p.leaves]
        p = Problem(leaves, p.of_out.cpu().double())
    return loss_form("reference", p.loss_under_autocast, p.leaves, names=NAMES)


def cost(setting: Setting) -> tuple[Cost, Cost]:
    """Operations of products; tensors of frames are small beside them."""
    heads = max(1, setting.heads)
    unit = float(setting.batch * setting.frames * heads * (setting.hidden // heads) ** 2)
    return Cost(FORWARD_UNITS * unit), Cost(BOTH_UNITS * unit)


def problem(setting: Setting) -> Problem:
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
        of_out = normal(*frames, channels)
    inputs = [x.to(setting.torch_dtype) for x in (q, k, v)]
    leaves = [x.requires_grad_() for x in (*inputs, rates, *weights)]
    return Problem(leaves, of_out.to(setting.torch_dtype))


def _form(backend: str, p: Problem, setting: Setting) -> Form:
    name = "Triton" if backend == "triton" else "torch"
    return loss_form(name, partial(p.loss, backend), p.leaves, names=NAMES, cost=partial(cost, setting))
