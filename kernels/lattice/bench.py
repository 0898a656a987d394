"""Benchmark of the lattices, log probabilities given: `python -m maya.kernels.bench lattice`.

RNN-T and TDT on each backend, and torchaudio's RNN-T loss, all given log probabilities in fp32. torchaudio
gets them with `fused_log_softmax=False`, so that it normalises nothing, and with the fewest symbols that it
accepts, two, so that its gradient (B, S, U+1, V) is no more than the posteriors. Forward is the log
probability alone (torchaudio makes its gradient there already), both also the posteriors of all arcs.
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

TORCHAUDIO = "RNN-T, torchaudio"


@dataclass(slots=True)
class Weights:
    """Log probabilities: blank, label (B, S, U+1), durations (B, S, U+1, D); all utterances are full."""

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
    """Blank and the next label share all mass, as torchaudio is given no other symbol."""
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
    read = 4.0 * values * weights.blank.numel()
    both = partial(run, weights, backend, True)
    return Form(
        name=f"{name}, {backend}",
        forward=partial(run, weights, backend, False),
        both=both,
        outputs=lambda: _outputs(name, both()),
        cost=lambda: (Cost(bytes=read), Cost(bytes=2 * read)),  # posteriors are as many as weights
    )


def _outputs(name: str, found: LatticeResult) -> dict[str, Tensor]:
    posteriors = {"blank": found.blank, "label": found.label, "durations": found.durations}
    named = {f"{name} posterior, {k}": x for k, x in posteriors.items() if x is not None}
    return {f"{name} loss": -found.log_prob, **named}


def reference(setting: Setting, *, exact: bool) -> Form:
    """Both lattices by their definition under autograd."""
    weights = weights_of(setting).to(torch.float64 if exact else setting.torch_dtype)

    def outputs() -> dict[str, Tensor]:
        found = {}
        leaves = {"blank": weights.blank, "label": weights.label, "durations": weights.durations}
        for name in ("RNN-T", "TDT"):
            for leaf in leaves.values():
                leaf.requires_grad_().grad = None
            rows = range(setting.batch)
            loss = -torch.stack([_by_definition(*_arcs(weights, b, tdt=name == "TDT")) for b in rows])
            loss.sum().backward()
            found[f"{name} loss"] = loss.detach()
            found |= {f"{name} posterior, {k}": -x.grad for k, x in leaves.items() if x.grad is not None}
        return found

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
        found: Tensor = functional.rnnt_loss(
            tokens, targets, *lens, blank=1, reduction="none", fused_log_softmax=False
        )
        return found

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


def _arcs(weights: Weights, b: int, *, tdt: bool) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Weights (S, U+1) of blank and label arcs of utterance b, by duration."""
    blank, label = weights.blank[b], weights.label[b]
    if not tdt:
        return {1: blank}, {0: label}
    by_duration = dict(zip(DURATIONS, weights.durations[b].unbind(-1), strict=True))
    blanks = {d: blank + weight for d, weight in by_duration.items() if d > 0}
    return blanks, {d: label + weight for d, weight in by_duration.items()}


def _by_definition(blank: dict[int, Tensor], label: dict[int, Tensor]) -> Tensor:
    """Log probability of one utterance, one node after the other."""
    size, width = next(iter(blank.values())).shape
    alpha: dict[tuple[int, int], Tensor] = {}
    for t in range(size + 1):
        for u in range(width):
            terms = [next(iter(blank.values())).new_zeros(())] if t == u == 0 else []
            for d, weight in blank.items():
                if (t - d, u) in alpha and (t < size or u == width - 1):
                    terms.append(alpha[t - d, u] + weight[t - d, u])
            for d, weight in label.items():
                if (t - d, u - 1) in alpha and t < size:
                    terms.append(alpha[t - d, u - 1] + weight[t - d, u - 1])
            if terms:
                alpha[t, u] = torch.logsumexp(torch.stack(terms), 0)
    return alpha[size, width - 1]
