"""Problems for benchmarks and tests whose lattices look like those of an untrained or a trained model.

What a fused loss costs depends on how many lattice cells carry posterior mass, so f, g and the output layer
are made such that the joint itself, not a patched lattice, puts the mass where a model would.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# kind -> (nats between emitting a due and an undue label, frames over which a label becomes due)
ALIGNED = {"soft": (8.0, 28), "trained": (10.0, 6)}
KINDS = ("uniform", *ALIGNED)
# E[z act(z)] of a standard normal z: how strongly h answers to g.
_RESPONSE = {"relu": 0.5, "tanh": 0.606, "sigmoid": 0.207}


@dataclass(slots=True)
class FusedProblem:
    """Arguments of `fused_rnnt_loss`, or with `durations` of `fused_tdt_loss`; no tensor requires grad.

    f (B, S, H), g (B, U+1, H), weight (V, H), bias (V,), duration_weight (D, H), duration_bias (D,), targets
    (B, U), f_lens, target_lens (B,): all full.
    """

    f: Tensor
    g: Tensor
    weight: Tensor
    bias: Tensor
    duration_weight: Tensor | None
    duration_bias: Tensor | None
    targets: Tensor
    f_lens: Tensor
    target_lens: Tensor
    blank: int
    durations: tuple[int, ...] | None
    activation: str


def synthetic_problem(
    batch: int,
    frames: int,
    labels: int,
    hidden: int,
    vocab: int,
    *,
    kind: str,
    durations: Sequence[int] | None = None,
    activation: str = "relu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> FusedProblem:
    """A batch of utterances of `frames` frames and `labels` labels; made on the CPU, so alike everywhere.

    kind: "uniform", all symbols about equally likely everywhere, as at initialisation; "soft" or "trained",
      each label becomes due at a frame of its own, until which blank is likely. At 250 frames and 60
      labels about 42, 11 and 6 % of the cells have an occupancy above 1e-4.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; use one of {KINDS}")
    random = torch.Generator().manual_seed(seed)
    blank, n_durations = vocab - 1, 0 if durations is None else len(durations)
    targets = torch.randint(blank, (batch, labels), generator=random)
    f, g = (torch.randn(batch, n, hidden, generator=random) for n in (frames, labels + 1))
    weight = torch.randn(vocab + n_durations, hidden, generator=random) / math.sqrt(3 * hidden)
    bias = torch.zeros(vocab + n_durations)
    if kind == "uniform":
        f *= 0.1  # else differences between cells add up over a path and make some paths likely
        g *= 0.1
    else:
        nats, ramp = ALIGNED[kind]
        due = _due_frames(batch, frames, labels, random)
        margin = math.log(vocab) + 5  # of a due label over all others together
        weight *= margin / (hidden * _RESPONSE[activation] * weight.std())
        f *= 0.1
        g *= 0.1
        g[:, :-1] += weight[targets] / weight.std()
        if durations is not None:
            g += weight[vocab + _next_durations(due, durations)] / weight.std()
        weight[blank] *= 0.1
        _make_blank_wait(f, g, weight, bias, due, blank, activation, nats, ramp)
        bias[blank] += margin
    lens = [torch.full((batch,), n, device=device) for n in (frames, labels)]
    f, g, weight, bias = (x.to(device, dtype) for x in (f, g, weight, bias))
    return FusedProblem(
        f, g, weight[:vocab].clone(), bias[:vocab].clone(),
        None if durations is None else weight[vocab:].clone(),
        None if durations is None else bias[vocab:].clone(),
        targets.to(device), lens[0], lens[1], blank,
        None if durations is None else tuple(durations), activation,
    )  # fmt: skip


def _due_frames(batch: int, frames: int, labels: int, random: torch.Generator) -> Tensor:
    """(B, U+1) frames at which each label is emitted, ascending; the last is the end."""
    due = torch.rand(batch, labels, generator=random).sort(-1).values * 0.9 + 0.05
    return torch.nn.functional.pad((due * frames).floor(), (0, 1), value=frames)


def _next_durations(due: Tensor, durations: Sequence[int]) -> Tensor:
    """(B, U+1) index of the longest duration that does not pass over the next label's frame."""
    gap = torch.nn.functional.pad(due.diff(dim=-1), (0, 1), value=max(durations))
    return (torch.tensor(durations) <= gap[..., None]).sum(-1).sub_(1).clamp_(min=0)


def _make_blank_wait(
    f: Tensor, g: Tensor, weight: Tensor, bias: Tensor, due: Tensor, blank: int, activation: str, nats: float,
    ramp: int,
) -> None:  # fmt: skip
    """Lets blank's logit fall from nats/2 to -nats/2 when a label becomes due.

    f holds t and g minus the due frame, in whole numbers around 0, so that also bf16 holds them exactly (to
    512 frames) and their sum is the distance t - due.
    """
    middle = f.shape[1] // 2
    f[:, :, :2] = (torch.arange(f.shape[1]) - middle)[None, :, None]
    g[:, :, :2] = (middle - due)[:, :, None]
    weight[:, :2] = 0.0
    if activation == "relu":  # relu(x) - relu(x - ramp) rises from 0 to ramp
        g[:, :, 1] -= ramp
        weight[blank, 0], weight[blank, 1] = -nats / ramp, nats / ramp
        bias[blank] = nats / 2
        return
    f[:, :, :2] /= ramp / 2
    g[:, :, :2] /= ramp / 2
    weight[blank, 0] = -nats / 2 if activation == "tanh" else -nats
    bias[blank] = 0.0 if activation == "tanh" else nats / 2
