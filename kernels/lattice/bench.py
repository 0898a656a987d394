"""Benchmark of the lattices with given log probabilities: `python -m maya.kernels.bench lattice`.

RNN-T and TDT on each backend are compared with torchaudio's RNN-T loss, all on log probabilities in fp32.
torchaudio runs with `fused_log_softmax=False`, so that it normalises nothing, and with two symbols, its
minimum, so that its gradient (B, S, U+1, V) is as large as the posteriors. Forward is the log probability
alone (torchaudio computes its gradient there already); both includes the posteriors of all arcs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from maya.kernels.bench.measure import Cost, Form, Setting
from maya.kernels.bench.peers import torchaudio
from maya.kernels.joint.bench import DURATIONS, backends
from maya.kernels.lattice import LatticeResult, rnnt_lattice, tdt_lattice
from maya.kernels.lattice.reference import lattice_log_prob

TORCHAUDIO = "RNN-T, torchaudio"


@dataclass(slots=True)
class Weights:
    """Log probabilities of full utterances: blank, label (B, S, U+1), durations (B, S, U+1, D)."""

    blank: Tensor
    label: Tensor
    durations: Tensor

    def to(self, dtype: torch.dtype) -> "Weights":
        return Weights(self.blank.to(dtype), self.label.to(dtype), self.durations.to(dtype))

    @property
    def lens(self) -> tuple[list[int], list[int]]:
        batch, size, width = self.blank.shape
        return [size] * batch, [width - 1] * batch


def weights_of(setting: Setting) -> Weights:
    """Blank and the next label share all mass, because torchaudio gets no other symbol."""
    shape = (setting.batch, setting.frames, setting.labels + 1)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(*shape, 2, generator=random).log_softmax(-1).to(setting.device)
    durations = torch.randn(*shape, len(DURATIONS), generator=random).log_softmax(-1).to(setting.device)
    return Weights(tokens[..., 0].contiguous(), tokens[..., 1].contiguous(), durations)


def forms(setting: Setting) -> list[Form]:
    weights = weights_of(setting)
    return [
        *(_form("RNN-T", _rnnt, weights, backend) for backend in backends(setting)),
        *(_form("TDT", _tdt, weights, backend) for backend in backends(setting)),
        _torchaudio(weights),
    ]


def _form(name: str, run: Callable[..., LatticeResult], weights: Weights, backend: str) -> Form:
    values = 2 if name == "RNN-T" else 2 + len(DURATIONS)
    nbytes = 4.0 * values * weights.blank.numel()
    both = partial(run, weights, backend, True)
    return Form(
        name=f"{name}, {backend}",
        forward=partial(run, weights, backend, False),
        both=both,
        outputs=lambda: _outputs(name, both()),
        cost=lambda: (Cost(bytes=nbytes), Cost(bytes=2 * nbytes)),  # as many posteriors as weights
    )


def _outputs(name: str, result: LatticeResult) -> dict[str, Tensor]:
    posteriors = {"blank": result.blank, "label": result.label, "durations": result.durations}
    named = {f"{name} posterior, {k}": x for k, x in posteriors.items() if x is not None}
    return {f"{name} loss": -result.log_prob, **named}


def reference(setting: Setting, *, exact: bool) -> Form:
    """Both lattices by their definition under autograd."""
    weights = weights_of(setting).to(torch.float64 if exact else setting.torch_dtype)

    def outputs() -> dict[str, Tensor]:
        named = {}
        leaves = {"blank": weights.blank, "label": weights.label, "durations": weights.durations}
        for name in ("RNN-T", "TDT"):
            for leaf in leaves.values():
                leaf.requires_grad_().grad = None
            loss = -torch.stack([_log_prob(weights, b, tdt=name == "TDT") for b in range(setting.batch)])
            loss.sum().backward()
            named[f"{name} loss"] = loss.detach()
            named |= {f"{name} posterior, {k}": -x.grad for k, x in leaves.items() if x.grad is not None}
        return named

    return Form(name="reference", outputs=outputs)


def _rnnt(weights: Weights, backend: str, with_posteriors: bool) -> LatticeResult:
    return rnnt_lattice(
        weights.blank, weights.label, *weights.lens, with_posteriors=with_posteriors, backend=backend
    )


def _tdt(weights: Weights, backend: str, with_posteriors: bool) -> LatticeResult:
    return tdt_lattice(
        weights.blank, weights.label, weights.durations, *weights.lens,
        durations=DURATIONS, with_posteriors=with_posteriors, backend=backend,
    )  # fmt: skip


def _torchaudio(weights: Weights) -> Form:
    functional, absent = torchaudio()
    if absent:
        return Form(name=TORCHAUDIO, absent=absent)
    tokens = torch.stack([weights.label, weights.blank], -1)
    batch, _, width = weights.blank.shape
    targets = torch.zeros(batch, width - 1, dtype=torch.int32, device=tokens.device)
    lens = [torch.tensor(x, dtype=torch.int32, device=tokens.device) for x in weights.lens]

    def loss(tokens: Tensor) -> Tensor:
        value: Tensor = functional.rnnt_loss(
            tokens, targets, *lens, blank=1, reduction="none", fused_log_softmax=False
        )
        return value

    def both() -> tuple[Tensor, Tensor]:
        leaf = tokens.detach().requires_grad_()
        value = loss(leaf)
        value.sum().backward()
        assert leaf.grad is not None
        return value.detach(), leaf.grad

    def outputs() -> dict[str, Tensor]:
        value, grad = both()
        return {
            "RNN-T loss": value,
            "RNN-T posterior, label": -grad[..., 0],
            "RNN-T posterior, blank": -grad[..., 1],
        }

    return Form(name=TORCHAUDIO, forward=lambda: loss(tokens), both=both, outputs=outputs, peer=True)


def _log_prob(weights: Weights, b: int, *, tdt: bool) -> Tensor:
    """Log probability of utterance b by the definition."""
    blank, label = weights.blank[b], weights.label[b]
    blanks, labels = {1: blank}, {0: label}
    if tdt:
        by_duration = dict(zip(DURATIONS, weights.durations[b].unbind(-1), strict=True))
        blanks = {d: blank + weight for d, weight in by_duration.items() if d > 0}
        labels = {d: label + weight for d, weight in by_duration.items()}
    log_prob = lattice_log_prob(blanks, labels, blank.shape[0], blank.shape[1] - 1)
    assert log_prob is not None
    return log_prob
