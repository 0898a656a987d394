"""Benchmark of the joint's output layer at rows, without a lattice, and helpers of the losses' benchmarks.

`python -m maya.kernels.bench joint` measures weighted sums of the log probabilities of blank and next label
over all cells. They need the same of the joint as a loss. On CUDA, Triton computes log-sum-exp and gradient
of the logits inside the matrix products; torch sends the same rows through cuBLAS a chunk at a time.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

import torch
from torch import Tensor

from maya.kernels.bench.measure import Cost, Form, Setting, loss_form
from maya.kernels.joint import (
    JointSettings,
    OutputLayer,
    RowList,
    RowMasses,
    RowScores,
    fused_loss,
    joint_scores,
    packed_rows,
)
from maya.kernels.joint.synthetic import FusedProblem, synthetic_problem
from maya.kernels.lattice import LatticeResult, rnnt_lattice, tdt_lattice

DURATIONS = (0, 1, 2, 3, 4)
LABEL_WEIGHT, BLANK_WEIGHT = 0.7, 0.3  # arbitrary


def forms(setting: Setting) -> list[Form]:
    """Rows fused on each backend that can run here, and the whole lattice of logits in torch."""
    p = problem(setting)
    fused = [_fused(p, setting, backend) for backend in backends(setting)]
    return [*fused, _materialised("materialised, log_softmax", p, setting)]


def reference(setting: Setting, *, exact: bool) -> Form:
    """Plain torch."""
    return _materialised("reference", problem(setting, exact=exact), setting)


def _fused(p: FusedProblem, setting: Setting, backend: str) -> Form:
    layer, settings = OutputLayer(p.weight, p.bias), JointSettings(p.blank, p.activation, eps=0.0)

    def loss() -> Tensor:
        rows = packed_rows(p.transcripts, setting.frames)
        return fused_loss(p.f, p.g, layer, rows, partial(_weighted, setting.batch), settings, backend=backend)

    name = fused_name(setting, backend, compacted=False)
    return loss_form(name, loss, p.leaves, cost=lambda: fused_cost(setting, setting.rows, setting.rows))


def _weighted(batch: int, scores: RowScores) -> RowMasses:
    """In place of a lattice: each utterance's weighted sum over its rows, which are equally many."""
    labelled = torch.isfinite(scores.label)
    each = BLANK_WEIGHT * scores.blank + LABEL_WEIGHT * scores.label.masked_fill(~labelled, 0.0)
    total = each.view(batch, -1).sum(1)
    blank_mass = torch.full_like(scores.blank, BLANK_WEIGHT)
    return RowMasses(loss=-total, log_prob=total, blank=blank_mass, label=LABEL_WEIGHT * labelled)


def _materialised(name: str, p: FusedProblem, setting: Setting) -> Form:
    def loss() -> Tensor:
        log_probs = logits_of(p)[0].log_softmax(-1, dtype=torch.promote_types(p.f.dtype, torch.float32))
        index = p.targets[:, None, :, None].expand(-1, setting.frames, -1, -1)
        label = log_probs[:, :, :-1].gather(-1, index)
        blank = log_probs[..., p.blank].sum((1, 2))
        return -(BLANK_WEIGHT * blank + LABEL_WEIGHT * label.sum((1, 2, 3)))

    return materialised_form(name, loss, p, setting, setting.rows, fp32_copies=2)


def problem(setting: Setting, durations: Sequence[int] | None = None, *, exact: bool = False) -> FusedProblem:
    """The inputs of a setting, the same in every process; leaves require grad.

    exact: the same numbers on the CPU in fp64, so that rounding of the inputs counts as no error.
    """
    shape = (setting.batch, setting.frames, setting.labels, setting.hidden, setting.vocab)
    p = synthetic_problem(
        shape, kind=setting.lattice, durations=durations, dtype=setting.torch_dtype, device=setting.device
    )
    if exact:
        for field in fields(p):
            value = getattr(p, field.name)
            if isinstance(value, Tensor):
                setattr(p, field.name, value.cpu().double() if value.is_floating_point() else value.cpu())
    for leaf in p.leaves:
        leaf.requires_grad_()
    return p


def backends(setting: Setting) -> list[str]:
    """ "triton" and "torch" on CUDA. On a CPU Triton is only interpreted, which is not timed."""
    return ["triton", "torch"] if setting.cuda else ["torch"]


def logits_of(p: FusedProblem) -> tuple[Tensor, Tensor | None]:
    """The joint in plain torch: token logits (B, S, U+1, V), duration logits (B, S, U+1, D) or None."""
    linear, h = torch.nn.functional.linear, torch.relu(p.f[:, :, None] + p.g[:, None])
    durations = None if p.duration_weight is None else linear(h, p.duration_weight, p.duration_bias)
    return linear(h, p.weight, p.bias), durations


def fused_forms(
    setting: Setting,
    p: FusedProblem,
    op: Callable[..., Tensor],
    loss: Callable[..., Tensor],
    occupancy: Callable[[], Tensor],
) -> list[Form]:
    """`loss(eps=, backend=, form=)` in each way that can run, with the default eps of `op` and with eps 0.

    occupancy: of the rows of the forward pass. The backward pass visits those above eps.
    """
    default = inspect.signature(op).parameters["eps"].default

    def cost(eps: float) -> tuple[Cost, Cost]:
        mass = occupancy()
        return fused_cost(setting, mass.numel(), int((mass > eps).sum()) if eps else mass.numel())

    return [
        loss_form(
            name, partial(loss, eps=eps, backend=backend, form=form), p.leaves, cost=partial(cost, eps),
            filtered=eps > 0,
        )
        for name, backend, form, eps in ways(setting, default)
    ]  # fmt: skip


def ways(setting: Setting, eps: float) -> list[tuple[str, str, str, float]]:
    """(name, backend, form, eps) of each way to compute a fused loss.

    cuBLAS on chunks of all rows is also what NeMo's pull request 16040, "Flash RNN-T loss", describes: logits
    of a tile by cuBLAS, their gradient written over them, recomputed in the backward pass. Its tiles are
    larger.
    """
    each = [(b, e) for b in backends(setting) for e in (eps, 0.0)]
    fused = [(fused_name(setting, b, compacted=e > 0), b, "fused", e) for b, e in each]
    if not setting.cuda:
        return fused
    triton = [("counted, Triton", "triton", "counted", eps), ("cuBLAS, Triton", "triton", "cublas", eps)]
    return [*fused, *triton, ("cuBLAS, Triton, all rows", "triton", "cublas", 0.0)]


def fused_name(setting: Setting, backend: str, *, compacted: bool) -> str:
    """The name of a fused form in tables; torch is cuBLAS on chunks of rows on CUDA, a GEMM on a CPU."""
    if not setting.cuda:
        return "fused" if compacted else "row-chunked GEMM, all rows"
    if backend == "triton":
        return "fused, Triton" if compacted else "fused, Triton, all rows"
    return "row-chunked cuBLAS, compacted" if compacted else "row-chunked cuBLAS, all rows"


def occupancy_of(p: FusedProblem) -> Tensor:
    """(B, S, U+1): blank and label mass of each cell of the full lattice."""
    result = posteriors_of(p)
    assert result.blank is not None and result.label is not None
    return result.blank + result.label


def row_scores(p: FusedProblem, rows: RowList) -> RowScores:
    """Scores of rows of the problem's joint."""
    layer = OutputLayer(p.weight, p.bias, p.duration_weight, p.duration_bias)
    with torch.no_grad():
        settings = JointSettings(p.blank, p.activation)
        return joint_scores(p.f.flatten(0, 1), p.g.flatten(0, 1), layer, rows, settings)


def posteriors_of(p: FusedProblem) -> LatticeResult:
    """The result of the full lattice, RNN-T or TDT."""
    scores = row_scores(p, packed_rows(p.transcripts, p.f.shape[1]))
    shape = p.f.shape[0], p.f.shape[1], p.g.shape[1]  # all utterances are full
    cells = scores.blank.view(shape), scores.label.view(shape)
    lens = p.transcripts.frames, p.transcripts.labels
    if p.durations is None or scores.durations is None:
        return rnnt_lattice(*cells, *lens, with_posteriors=True)
    by_duration = scores.durations.view(*shape, -1)
    return tdt_lattice(*cells, by_duration, *lens, durations=p.durations, with_posteriors=True)


def fused_cost(setting: Setting, rows: int, backward_rows: int) -> tuple[Cost, Cost]:
    """Forward one product; backward three on the visited rows: logits again, gradients of h and of the
    weight.
    """
    row_flops = 2.0 * setting.hidden * setting.vocab
    forward = rows * row_flops
    return Cost(forward), Cost(forward + 3 * backward_rows * row_flops)


def materialised_form(
    name: str,
    loss: Callable[[], Tensor],
    p: FusedProblem,
    setting: Setting,
    rows: int,
    *,
    copies: int = 2,
    fp32_copies: int = 0,
    peer: bool = False,
) -> Form:
    """A form that stores the logits of `rows`, at its peak `copies` times and in fp32 `fp32_copies` times.

    It takes one product forward, two backward. The logits are written and read, read again, and their
    gradient is written once and read by two products.
    """
    product = 2.0 * rows * setting.hidden * setting.vocab
    size = setting.torch_dtype.itemsize
    cells = float(rows * setting.vocab)
    costs = Cost(product, 2 * cells * size), Cost(3 * product, 6 * cells * size)
    peak = cells * (copies * size + fp32_copies * 4) + 3.0 * rows * setting.hidden * size
    return loss_form(name, loss, p.leaves, needs_bytes=peak, cost=lambda: costs, peer=peer)
