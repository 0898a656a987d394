"""The simple joiner's loss. The logits of cell (s, u) are am[s] + lm[u], so one product of exponentials
normalises all cells, and no (B, S, U+1, V) tensor exists. README.md has the derivation.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import Transcripts
from maya.kernels.host import numbers_on
from maya.kernels.ordered_sums import add_at, add_tokens
from maya.kernels.precision import compute_dtype, lattice_dtype
from maya.kernels.pruned_rnnt.arcs import ArcRules, run_lattice, score_masses
from maya.kernels.pruned_rnnt.weak import WeakCells, find_weak


@dataclass(frozen=True, slots=True)
class Smoothing:
    """Scales of the label-only and frame-only distributions; the joint one has the rest. 0 skips a term."""

    lm_only: float
    am_only: float

    @property
    def joint(self) -> float:
        return 1.0 - self.lm_only - self.am_only


@dataclass(frozen=True, slots=True)
class _Problem:
    am: Tensor  # (B, S, V)
    lm: Tensor  # (B, U+1, V)
    transcripts: Transcripts
    smoothing: Smoothing

    @property
    def positions(self) -> int:
        """Valid label positions in the batch."""
        return sum(u + 1 for u in self.transcripts.labels)

    def inside(self) -> tuple[Tensor, Tensor]:
        """Valid frames (B, S) and label positions (B, U+1)."""
        device = self.am.device
        frames, labels = (numbers_on(device, x) for x in (self.transcripts.frames, self.transcripts.labels))
        s, u = (torch.arange(x.shape[1], device=device) for x in (self.am, self.lm))
        return s < frames[:, None], u <= labels[:, None]


@dataclass(slots=True)
class _Scaled:
    """Rows x (B, L, V) as exp(x - peak), where peak (B, L) is each row's maximum. Both are 0 on padding."""

    exp: Tensor
    peak: Tensor


@dataclass(slots=True)
class _Joint:
    """sum: of exp(am + lm - peaks) over the vocabulary, (B, S, U+1). weak: the cells whose sum lost digits to
    underflow.
    """

    sum: Tensor
    weak: WeakCells


@dataclass(slots=True)
class _Single:
    """Sums over the vocabulary without the peaks. lm: of exp(lm), (B, U+1). am: of unigram * exp(am), (B, S).

    unigram: (V,), the mean distribution of lm over the batch's valid positions. am and unigram may be None.
    """

    lm: Tensor
    am: Tensor | None = None
    unigram: Tensor | None = None


class SimpleLoss(torch.autograd.Function):
    """Returns the loss (B,) and the occupations of labels and blanks (B, S, U+1).

    Saves am and lm by reference, and otherwise only tensors without a vocabulary axis.
    """

    @staticmethod
    def forward(
        ctx: Any, am: Tensor, lm: Tensor, transcripts: Transcripts, smoothing: Smoothing, rules: ArcRules,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        problem = _Problem(am, lm, transcripts, smoothing)
        scaled_am, scaled_lm = _exponentials(problem)
        joint = _normalise(problem, scaled_am, scaled_lm, backend)
        single = _single_sums(problem, scaled_am, scaled_lm)
        scores = _scores(problem, scaled_am.peak, scaled_lm.peak, joint, single)
        dtype = compute_dtype(am.dtype)
        if backend == "triton":
            scores = scores[0].to(dtype), scores[1].to(dtype)
        result = run_lattice(*scores, transcripts, rules, with_posteriors=True, backend=backend)
        assert result.blank is not None and result.label is not None
        occupations = result.label.to(dtype, copy=True), result.blank.to(dtype, copy=True)
        masses = (x.to(dtype) for x in score_masses(result, rules))
        ctx.mark_non_differentiable(*occupations)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(am, lm, *masses, result.log_prob, joint.sum, *joint.weak.tensors)
        ctx.settings, ctx.weak_type = (transcripts, smoothing), type(joint.weak)
        return (-result.log_prob).to(dtype), *occupations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        am, lm, blank_mass, label_mass, log_prob, joint_sum, *weak = ctx.saved_tensors
        if grad_loss is None:
            return (None,) * 6
        scale = grad_loss.masked_fill(log_prob == float("-inf"), 0.0)[:, None, None]
        with torch.autocast(am.device.type, enabled=False):
            grad_am, grad_lm = _gradients(
                _Problem(am, lm, *ctx.settings), _Joint(joint_sum, ctx.weak_type(*weak)),
                blank_mass * scale, label_mass * scale,
            )  # fmt: skip
        return grad_am.to(am.dtype), grad_lm.to(lm.dtype), *(None,) * 4


def _exponentials(problem: _Problem) -> tuple[_Scaled, _Scaled]:
    """Scaled exponentials of am and of lm."""
    scaled = []
    for x, inside in zip((problem.am, problem.lm), problem.inside(), strict=True):
        peak = x.amax(-1).to(compute_dtype(x.dtype)).masked_fill_(~inside, 0.0)
        exp = (x.to(peak.dtype) - peak[..., None]).exp_().masked_fill_(~inside[..., None], 0.0)
        scaled.append(_Scaled(exp, peak))
    return scaled[0], scaled[1]


def _normalise(problem: _Problem, scaled_am: _Scaled, scaled_lm: _Scaled, backend: str) -> _Joint:
    """All cells by one product, and one by one the cells whose sum is so small that it lost digits to
    underflow.
    """
    total = torch.bmm(scaled_am.exp, scaled_lm.exp.transpose(1, 2))
    kind = torch.finfo(total.dtype)
    s_inside, u_inside = problem.inside()
    small = (total < problem.am.shape[2] * kind.tiny / kind.eps) & s_inside[:, :, None] & u_inside[:, None]
    return _Joint(total, find_weak(problem.am, problem.lm, small, backend))


def _single_sums(problem: _Problem, scaled_am: _Scaled, scaled_lm: _Scaled) -> _Single:
    lm = scaled_lm.exp.sum(-1).clamp_min_(1.0)  # at least 1 because of the peak, but 0 on padding
    if not problem.smoothing.am_only:
        return _Single(lm)
    unigram = (
        torch.einsum("buv,bu->v", scaled_lm.exp, 1 / lm) / problem.positions + torch.finfo(lm.dtype).tiny
    )
    return _Single(lm, scaled_am.exp @ unigram, unigram)


def _scores(
    problem: _Problem, am_peak: Tensor, lm_peak: Tensor, joint: _Joint, single: _Single
) -> tuple[Tensor, Tensor]:
    """Smoothed log probabilities of blank and of the next label, (B, S, U+1)."""
    am, lm, smoothing = problem.am, problem.lm, problem.smoothing
    blank = problem.transcripts.blank
    wide = lattice_dtype(am.device)
    am_peak, lm_peak = am_peak.to(wide), lm_peak.to(wide)
    # The next label at each position, blank after the last; am (B, S, U+1) and lm (B, U+1) at it, minus
    # peaks.
    tokens = torch.nn.functional.pad(problem.transcripts.targets, (0, 1), value=blank)
    label_am = am.gather(2, tokens[:, None].expand(-1, am.shape[1], -1)).to(wide) - am_peak[..., None]
    label_lm = lm.gather(2, tokens[..., None])[..., 0].to(wide) - lm_peak
    blank_am, blank_lm = label_am[..., -1:], lm[..., blank].to(wide) - lm_peak

    blank_score, label_score = torch.zeros_like(label_am), torch.zeros_like(label_am)
    if smoothing.joint:
        norm = joint.weak.put_norms(joint.sum.to(wide).log(), am_peak, lm_peak)
        blank_score += smoothing.joint * (blank_am + blank_lm[:, None] - norm)
        label_score += smoothing.joint * (label_am + label_lm[:, None] - norm)
    if smoothing.lm_only:
        norm = single.lm.to(wide).log()
        blank_score += smoothing.lm_only * (blank_lm - norm)[:, None]
        label_score += smoothing.lm_only * (label_lm - norm)[:, None]
    if single.am is not None and single.unigram is not None:
        norm, unigram = single.am.to(wide).log()[..., None], single.unigram.to(wide).log()
        blank_score += smoothing.am_only * (blank_am + unigram[blank] - norm)
        label_score += smoothing.am_only * (label_am + unigram[tokens][:, None] - norm)
    return blank_score, label_score


def _gradients(
    problem: _Problem, joint: _Joint, blank_mass: Tensor, label_mass: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of am and lm, in the precision of sums, from the masses of blank and label scores."""
    targets, blank, smoothing = problem.transcripts.targets, problem.transcripts.blank, problem.smoothing
    scaled_am, scaled_lm = _exponentials(problem)
    mass = smoothing.joint * (blank_mass + label_mass)
    weight = joint.weak.cleared(torch.where(mass != 0, mass / joint.sum, 0.0))
    grad_am = torch.bmm(weight, scaled_lm.exp).mul_(scaled_am.exp)
    grad_lm = torch.bmm(weight.transpose(1, 2), scaled_am.exp).mul_(scaled_lm.exp)
    joint.weak.add_gradients(problem.am, problem.lm, mass, grad_am, grad_lm)
    if smoothing.lm_only or smoothing.am_only:
        _add_smoothing(problem, scaled_am, scaled_lm, blank_mass, label_mass, grad_am, grad_lm)

    # The tokens on the paths, in every term that depends on am, or on lm.
    am_scale, lm_scale = 1.0 - smoothing.lm_only, 1.0 - smoothing.am_only
    path_mass = label_mass[..., :-1]
    grad_am[..., blank] -= am_scale * blank_mass.sum(2)
    grad_lm[..., blank] -= lm_scale * blank_mass.sum(1)
    add_tokens(grad_am, targets, -am_scale * path_mass)
    # No two positions of a row share an element, so the sums have one order on every device.
    grad_lm.scatter_add_(2, targets[..., None], -lm_scale * path_mass.sum(1)[..., None])
    return grad_am, grad_lm


def _add_smoothing(
    problem: _Problem, scaled_am: _Scaled, scaled_lm: _Scaled, blank_mass: Tensor, label_mass: Tensor,
    grad_am: Tensor, grad_lm: Tensor,
) -> None:  # fmt: skip
    """Adds the softmaxes of the label-only and frame-only terms, and the whole gradient of the unigram."""
    smoothing = problem.smoothing
    single = _single_sums(problem, scaled_am, scaled_lm)
    mass = blank_mass + label_mass
    softmax = scaled_lm.exp.div_(single.lm[..., None])
    grad_lm.add_(softmax * mass.sum(1)[..., None], alpha=smoothing.lm_only)
    if single.am is None or single.unigram is None:
        return
    weight = torch.where(single.am != 0, smoothing.am_only * mass.sum(2) / single.am, 0.0)
    share = scaled_am.exp.mul_(weight[..., None]).mul_(single.unigram)
    grad_am += share
    # The gradient of log unigram: `share` minus the tokens on the paths.
    log_grad = share.sum((0, 1))
    log_grad[problem.transcripts.blank] -= smoothing.am_only * blank_mass.sum()
    path_mass = label_mass[..., :-1].sum(1)
    targets, mass = problem.transcripts.targets.flatten(), -smoothing.am_only * path_mass.flatten()
    add_at(log_grad, targets, mass)
    # softmax / unigram is at most the number of positions; 1 / unigram alone could overflow.
    lm_grad = softmax / single.unigram * (log_grad / problem.positions)
    grad_lm += lm_grad - softmax * lm_grad.sum(-1, keepdim=True)
