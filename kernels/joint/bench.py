"""Benchmark of the joint's output layer at rows, without a lattice; and what the losses' benchmarks share.

`python -m maya.kernels.bench joint`: weighted sums of the log probabilities of blank and next label over all
cells, which need of the joint what a loss needs. On CUDA Triton forms log-sum-exp and gradient of the logits
inside the matrix products; torch sends the same rows through cuBLAS a chunk at a time.
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
LABEL_WEIGHT, BLANK_WEIGHT = 0.7, 0.3  # any weights will do


def forms(setting: Setting) -> list[Form]:
    """Rows fused on each backend that can run here, and the whole lattice of logits in torch."""
    p = problem(setting)
    fused = [_fused(p, setting, backend) for backend in backends(setting)]
    return [*fused, _materialised("materialised, log_softmax", p, setting)]


def _fused(p: FusedProblem, setting: Setting, backend: str) -> Form:
    lattice = partial(_weighted, setting.batch)

    def loss() -> Tensor:
        layer = OutputLayer(p.weight, p.bias)
        settings = JointSettings(p.blank, p.activation)
        return fused_loss(p.f, p.g, layer, rows_of(p), lattice, settings, eps=0.0, backend=backend)

    name = fused_name(setting, backend, compacted=False)
    return loss_form(name, loss, leaves(p), cost=lambda: fused_cost(setting, setting.rows, setting.rows))


def reference(setting: Setting, *, exact: bool) -> Form:
    """Plain torch."""
    p = problem(setting)
    return _materialised("reference", in_fp64(p) if exact else p, setting)


def _weighted(batch: int, scores: RowScores) -> RowMasses:
    """A lattice, as it were: each utterance's weighted sum over its rows, which are equally many."""
    labelled = torch.isfinite(scores.label)
    each = BLANK_WEIGHT * scores.blank + LABEL_WEIGHT * scores.label.masked_fill(~labelled, 0.0)
    total = each.view(batch, -1).sum(1)
    return RowMasses(
        loss=-total,
        log_prob=total,
        blank=torch.full_like(scores.blank, BLANK_WEIGHT),
        label=LABEL_WEIGHT * labelled,
    )


def _materialised(name: str, p: FusedProblem, setting: Setting) -> Form:
    def loss() -> Tensor:
        log_probs = logits_of(p)[0].log_softmax(-1, dtype=torch.promote_types(p.f.dtype, torch.float32))
        index = p.targets[:, None, :, None].expand(-1, setting.frames, -1, -1)
        of_label = log_probs[:, :, :-1].gather(-1, index)
        blank = log_probs[..., p.blank].sum((1, 2))
        return -(BLANK_WEIGHT * blank + LABEL_WEIGHT * of_label.sum((1, 2, 3)))

    return loss_form(
        name,
        loss,
        leaves(p),
        needs_bytes=materialised_bytes(setting, setting.rows, copies=2, wide_copies=2),
        cost=lambda: materialised_cost(setting, setting.rows),
    )


def problem(setting: Setting, durations: Sequence[int] | None = None) -> FusedProblem:
    """The inputs of a setting, the same in every process; what has a gradient asks for it."""
    found = synthetic_problem(
        setting.batch, setting.frames, setting.labels, setting.hidden, setting.vocab,
        kind=setting.lattice, durations=durations, dtype=setting.torch_dtype, device=setting.device,
    )  # fmt: skip
    for leaf in leaves(found):
        leaf.requires_grad_()
    return found


def in_fp64(p: FusedProblem) -> FusedProblem:
    """The same numbers on the CPU in fp64, so that the rounding of inputs is nobody's error."""
    moved = {}
    for name in (f.name for f in fields(p)):
        value = getattr(p, name)
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.double().requires_grad_() if value.is_floating_point() else value
        moved[name] = value
    return FusedProblem(**moved)


def leaves(p: FusedProblem) -> list[Tensor]:
    """What a loss has gradients for, in the order of its arguments."""
    found = (p.f, p.g, p.weight, p.bias, p.duration_weight, p.duration_bias)
    return [x for x in found if x is not None]


def backends(setting: Setting) -> list[str]:
    """ "triton" before "torch" on CUDA; on a CPU Triton is only interpreted, which is no speed."""
    return ["triton", "torch"] if torch.device(setting.device).type == "cuda" else ["torch"]


def rows_of(p: FusedProblem) -> RowList:
    return packed_rows(p.targets, p.f_lens.tolist(), p.target_lens.tolist(), p.f.shape[1])


def logits_of(p: FusedProblem) -> tuple[Tensor, Tensor | None]:
    """The peer's joint: token logits (B, S, U+1, V), duration logits (B, S, U+1, D) or None, in torch."""
    linear, h = torch.nn.functional.linear, torch.relu(p.f[:, :, None] + p.g[:, None])
    durations = None if p.duration_weight is None else linear(h, p.duration_weight, p.duration_bias)
    return linear(h, p.weight, p.bias), durations


def fused_forms(
    setting: Setting,
    p: FusedProblem,
    op: Callable[..., Tensor],
    loss: Callable[..., Tensor],
    *,
    rows: int,
    kept: Callable[[float], int],
) -> list[Form]:
    """`loss(eps=, backend=)` on each backend, compacted with the default eps of `op` and not compacted.

    rows: of the forward pass. kept: how many of them the backward pass visits, by eps.
    """
    default = inspect.signature(op).parameters["eps"].default
    found = []
    for backend in backends(setting):
        for eps in (default, 0.0):
            found.append(
                loss_form(
                    fused_name(setting, backend, compacted=eps > 0),
                    partial(loss, eps=eps, backend=backend),
                    leaves(p),
                    cost=partial(_compacted_cost, setting, rows, kept, eps),
                    filtered=eps > 0,
                )
            )
    return found


def _compacted_cost(
    setting: Setting, rows: int, kept: Callable[[float], int], eps: float
) -> tuple[Cost, Cost]:
    return fused_cost(setting, rows, kept(eps) if eps else rows)


def fused_name(setting: Setting, backend: str, *, compacted: bool) -> str:
    """What tables call a fused form; torch on CUDA is cuBLAS on chunks of rows, a plain GEMM on a CPU."""
    if torch.device(setting.device).type != "cuda":
        return "fused" if compacted else "row-chunked GEMM, all rows"
    if backend == "triton":
        return "fused, Triton" if compacted else "fused, Triton, all rows"
    return "row-chunked cuBLAS, compacted" if compacted else "row-chunked cuBLAS, all rows"


def kept_rows(p: FusedProblem, eps: float) -> int:
    """Rows whose occupancy is above eps: those that the compacted backward works on."""
    found = posteriors_of(p)
    assert found.blank is not None and found.label is not None
    return int((found.blank + found.label > eps).sum())


def posteriors_of(p: FusedProblem) -> LatticeResult:
    """Of the full lattice, RNN-T or TDT."""
    with torch.no_grad():
        layer = OutputLayer(p.weight, p.bias, p.duration_weight, p.duration_bias)
        f2, g2 = p.f.flatten(0, 1), p.g.flatten(0, 1)
        scores = joint_scores(f2, g2, layer, rows_of(p), JointSettings(p.blank, p.activation))
        shape = p.f.shape[0], p.f.shape[1], p.g.shape[1]  # all utterances are full
        blank, label = scores.blank.view(shape), scores.label.view(shape)
        lens = p.f_lens.tolist(), p.target_lens.tolist()
        if p.durations is None or scores.durations is None:
            return rnnt_lattice(blank, label, *lens, with_posteriors=True)
        of_duration = scores.durations.view(*shape, -1)
        return tdt_lattice(blank, label, of_duration, *lens, durations=p.durations, with_posteriors=True)


def fused_cost(setting: Setting, rows: int, backward_rows: int) -> tuple[Cost, Cost]:
    """One product forward; backward three on kept rows: logits again, gradients of h and of the weight."""
    one_row = 2.0 * setting.hidden * setting.vocab
    forward = rows * one_row
    return Cost(forward), Cost(forward + 3 * backward_rows * one_row)


def materialised_cost(setting: Setting, rows: int) -> tuple[Cost, Cost]:
    """One product forward, two backward; the logits written and read, again read, their gradient written once
    and read by two products.
    """
    product = 2.0 * rows * setting.hidden * setting.vocab
    logits = float(rows * setting.vocab * setting.torch_dtype.itemsize)
    return Cost(product, 2 * logits), Cost(3 * product, 6 * logits)


def materialised_bytes(setting: Setting, rows: int, *, copies: int, wide_copies: int) -> float:
    """Peak of a form that holds the logits `copies` times in the setting's dtype and so often in fp32."""
    cells, size = rows * setting.vocab, setting.torch_dtype.itemsize
    return cells * (copies * size + wide_copies * 4) + 3.0 * rows * setting.hidden * size
