"""Large-chunk test-time training (LaCT): a SwiGLU network per utterance and head whose weights take gradient
steps on spans of the utterance (Zhang et al. 2025, arXiv 2505.23884).

README.md derives both backward passes: the inner one, which is the layer, and the outer one through it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maya.kernels.checks import check_tensor, choose_backend
from maya.kernels.lact.autograd import lact_autograd
from maya.kernels.lact.newton_schulz import newton_schulz
from maya.kernels.lact.plan import Span, check_plan, chunk_causal, passes, strictly_causal, whole
from maya.kernels.lact.reference import Inputs, lact_reference
from maya.kernels.lact.state import (
    NORMALIZE,
    ORTHOGONALIZE,
    UPDATE_WEIGHTS,
    FastWeights,
    RowNorms,
    Rule,
    initial,
    row_norms,
)
from maya.kernels.lact.torch_op import TorchOps
from maya.kernels.uncompiled import uncompiled

OP = "lact"


@uncompiled  # the compiler has nothing to fuse in it
def lact(
    q: Tensor, k: Tensor, v: Tensor, rates: Tensor, weights: FastWeights, plan: Sequence[Span], *,
    lens: Tensor | None = None, mask: Tensor | None = None, momentum_gate: Tensor | None = None,
    row_norms: RowNorms | None = None, step_scale: Tensor | None = None, orthogonalize: str = "none",
    normalize: str = "frames", update_weights: str = "all", backend: str = "auto",
) -> tuple[Tensor, FastWeights]:  # fmt: skip
    """Updates on (k, v) and applies to q in the order of `plan`: output (B, L, H, D), and the state after it.

    q, k, v: (B, L, H, D), of one float dtype, in which products are computed. Need not be contiguous.
    rates: (B, L, H, 3) float: the step sizes of w0, w1, w2 on each frame, as softplus gives them.
    weights: the state before, fp32 or fp64: `initial(...)` of learned weights, or the result of an earlier
    call.
    plan: spans in the order of execution; see `whole`, `passes`, `chunk_causal`, `strictly_causal`.
    lens (B,) ints, or mask (B, L) bool, true on frames that exist; with neither, all frames exist. Other
      frames may hold anything; their output is 0, and they change nothing. If an utterance has no frame in a
      span, the span does not change its weights and momentum.
    momentum_gate: (B, L, H) in 0..1. Its mean over the frames of a span is the share of the old momentum.
      None: no momentum.
    row_norms: of the learned initial weights, which each step restores. None: the norms of `weights`, which
      is right for initial ones. A stream passes `row_norms(initial(...))` with every piece.
    step_scale: (H,), a factor on every step, after the orthogonalisation.
    orthogonalize: "none", "muon5" (Newton-Schulz, each matrix on its own) or "muon5-constant" (with Muon's
      own coefficients). With it, only the ratios of the rates between frames matter, not their size.
    normalize: "frames", the gradient is a mean over the frames of the span; "none", a sum.
    update_weights: "all", or "w1", which is linear attention with features silu(w0 k) * (w2 k).
    backend: "auto" (Triton on CUDA, torch elsewhere), "torch", "triton" or "reference".

    Differentiable once in all float tensors, through the state too. Output in the dtype of q, state in that
    of `weights`. Raises ValueError that names the argument.
    """
    chosen = choose_backend(OP, backend, q)
    check_tensor(OP, "q", q, (None,) * 4)
    check_tensor(OP, "w0", weights.w0, (q.shape[0], q.shape[2], None, q.shape[3]), like=q)
    x = Inputs(
        q=q, k=k, v=v, rates=rates, mask=_mask(q, lens, mask), gate=momentum_gate, step_scale=step_scale,
        norms=_row_norms(weights) if row_norms is None else row_norms,
    )  # fmt: skip
    _check_inputs(x, weights)
    spans = check_plan(OP, plan, q.shape[1])
    rule = _checked_rule(orthogonalize, normalize, update_weights)
    if momentum_gate is None and any(m is not None for m in weights[3:]):
        raise ValueError(f"{OP}: weights hold momentum, but there is no momentum_gate")
    with torch.autocast(q.device.type, enabled=False):
        if chosen == "reference":
            return _reference(x, weights, spans, rule)
        return lact_autograd(x, weights, spans, rule, _ops(chosen, x.q, weights))


def _reference(
    x: Inputs, weights: FastWeights, plan: Sequence[Span], rule: Rule
) -> tuple[Tensor, FastWeights]:
    """The definition, in the dtype of the state."""
    dtype = weights.w0.dtype
    wide: dict[str, Any] = {name: getattr(x, name).to(dtype) for name in ("q", "k", "v", "rates")}
    optional = {"gate": x.gate, "step_scale": x.step_scale}
    wide |= {name: None if y is None else y.to(dtype) for name, y in optional.items()}
    inputs = replace(x, **wide, norms=RowNorms(*(n.to(dtype) for n in x.norms)))
    out, after = lact_reference(inputs, weights, plan, rule)
    return out.to(x.q.dtype), after


def _ops(backend: str, q: Tensor, weights: FastWeights) -> TorchOps:
    """The parts of a backend; fp64 is left to torch."""
    if backend != "triton" or torch.float64 in (q.dtype, weights.w0.dtype):
        return TorchOps()
    from maya.kernels.lact.kernel import TritonOps

    return TritonOps()


def _checked_rule(orthogonalize: str, normalize: str, update_weights: str) -> Rule:
    choices = {
        "orthogonalize": (orthogonalize, ORTHOGONALIZE),
        "normalize": (normalize, NORMALIZE),
        "update_weights": (update_weights, UPDATE_WEIGHTS),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{OP}: {name} must be one of {', '.join(allowed)}, not {value!r}")
    return Rule(orthogonalize=orthogonalize, normalize=normalize, update_weights=update_weights)


def _check_inputs(x: Inputs, weights: FastWeights) -> None:
    batch, length, heads, channels = x.q.shape
    for name, y in (("k", x.k), ("v", x.v)):
        check_tensor(OP, name, y, tuple(x.q.shape), like=x.q)
        if y.dtype != x.q.dtype:
            raise ValueError(f"{OP}: {name} is {y.dtype}, but q is {x.q.dtype}")
    check_tensor(OP, "rates", x.rates, (batch, length, heads, 3), like=x.q)
    hidden = weights.w0.shape[2]
    shapes = ((hidden, channels), (channels, hidden), (hidden, channels)) * 2
    for name, w, shape in zip(FastWeights._fields, weights, shapes, strict=True):
        if w is None:
            continue
        check_tensor(OP, name, w, (batch, heads, *shape), like=x.q)
        if w.dtype not in (torch.float32, torch.float64) or w.dtype != weights.w0.dtype:
            raise ValueError(f"{OP}: the state must be all float32 or all float64, but {name} is {w.dtype}")
    if x.gate is not None:
        check_tensor(OP, "momentum_gate", x.gate, (batch, length, heads), like=x.q)
    if x.step_scale is not None:
        check_tensor(OP, "step_scale", x.step_scale, (heads,), like=x.q)
    for name, n, rows in zip(("w0", "w1", "w2"), x.norms, (hidden, channels, hidden), strict=True):
        size = None if n.shape[:1] == (1,) else batch
        check_tensor(OP, f"row_norms.{name}", n, (size, heads, rows), like=x.q)


def _mask(q: Tensor, lens: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """(B, L) bool, or None if all frames exist."""
    batch, length = q.shape[:2]
    if lens is not None and mask is not None:
        raise ValueError(f"{OP}: give lens or mask, not both")
    if mask is not None:
        if mask.shape != (batch, length) or mask.dtype != torch.bool or mask.device != q.device:
            actual = f"{tuple(mask.shape)} {mask.dtype} on {mask.device}"
            raise ValueError(f"{OP}: mask must be ({batch}, {length}) bool on {q.device}, not {actual}")
        return mask
    if lens is None:
        return None
    check_tensor(OP, "lens", lens, (batch,), floating=False)
    # Without non_blocking, the host would wait for all work that the device has queued.
    return torch.arange(length, device=q.device) < lens.to(q.device, non_blocking=True)[:, None]


_row_norms = row_norms  # `lact` has an argument with the same name

__all__ = [
    "FastWeights", "RowNorms", "Span", "chunk_causal", "initial", "lact", "newton_schulz", "passes",
    "row_norms", "strictly_causal", "whole",
]  # fmt: skip
