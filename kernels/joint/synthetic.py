"""Problems for benchmarks and tests whose lattices resemble those of an untrained or a trained model.

The cost of a fused loss depends on the number of lattice cells with posterior mass. So f, g and the output
layer are built so that the joint itself gives the posteriors of such a model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maya.kernels.checks import Transcripts

# kind -> (nats between emitting a due label and one that is not due, frames over which a label becomes due)
ALIGNED = {"soft": (8.0, 28), "real": (8.0, 44), "sharp": (10.0, 6)}
KINDS = ("uniform", *ALIGNED)
# E[z act(z)] of a standard normal z: the strength of h's response to g.
_RESPONSE = {"relu": 0.5, "tanh": 0.606, "sigmoid": 0.207}


@dataclass(slots=True)
class FusedProblem:
    """Arguments of `fused_rnnt_loss`, or with `durations` of `fused_tdt_loss`; no tensor requires grad.

    f (B, S, H), g (B, U+1, H), weight (V, H), bias (V,), duration_weight (D, H), duration_bias (D,), targets
    (B, U), f_lens, target_lens (B,). All utterances have S frames and U labels.
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

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors for which a loss has gradients, in the order of its arguments."""
        tensors = (self.f, self.g, self.weight, self.bias, self.duration_weight, self.duration_bias)
        return [x for x in tensors if x is not None]

    @property
    def transcripts(self) -> Transcripts:
        return Transcripts(self.targets, self.f_lens.tolist(), self.target_lens.tolist(), self.blank)


def synthetic_problem(
    shape: tuple[int, int, int, int, int], *, kind: str, durations: Sequence[int] | None = None,
    activation: str = "relu", dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
) -> FusedProblem:  # fmt: skip
    """A batch of B utterances, shape = (B, S, U, H, V). Made on the CPU, so the numbers are equal everywhere.

    kind: "uniform", all symbols about equally likely everywhere, as at initialisation. "soft", "real" or
      "sharp": each label becomes due at a frame of its own, and blank is likely until then. With 250 frames
      and 60 labels, about 42, 12, 14 and 6 % of the cells have an occupancy above 1e-4; with 200 and 40, 18 %
      for "real". Two models that were trained on recorded speech kept 15.5 % (12 languages, 4 M parameters)
      and 17.5 % (digits), so "real" has their share of rows. The places of its rows are synthetic.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; use one of {KINDS}")
    batch, frames, labels, hidden, vocab = shape
    random = torch.Generator().manual_seed(0)
    blank, n_durations = vocab - 1, 0 if durations is None else len(durations)
    targets = torch.randint(blank, (batch, labels), generator=random)
    f, g = (torch.randn(batch, n, hidden, generator=random) for n in (frames, labels + 1))
    weight = torch.randn(vocab + n_durations, hidden, generator=random) / math.sqrt(3 * hidden)
    bias = torch.zeros(vocab + n_durations)
    f *= 0.1  # larger differences between cells would add up over a path and make some paths likely
    g *= 0.1
    if kind != "uniform":
        due = _due_frames(batch, frames, labels, random)
        margin = math.log(vocab) + 5  # of a due label over all others together
        weight *= margin / (hidden * _RESPONSE[activation] * weight.std())
        g[:, :-1] += weight[targets] / weight.std()
        if durations is not None:
            g += weight[vocab + _next_durations(due, durations)] / weight.std()
        weight[blank] *= 0.1
        _make_blank_wait(f, g, weight, bias, due, blank, activation, kind)
        bias[blank] += margin
    f_lens, target_lens = (torch.full((batch,), n, device=device) for n in (frames, labels))
    f, g, weight, bias = (x.to(device, dtype) for x in (f, g, weight, bias))
    return FusedProblem(
        f, g, weight[:vocab].clone(), bias[:vocab].clone(),
        None if durations is None else weight[vocab:].clone(),
        None if durations is None else bias[vocab:].clone(),
        targets.to(device), f_lens, target_lens, blank,
        None if durations is None else tuple(durations), activation,
    )  # fmt: skip


def _due_frames(batch: int, frames: int, labels: int, random: torch.Generator) -> Tensor:
    """(B, U+1) frames at which each label is emitted, ascending; the last one is S."""
    due = torch.rand(batch, labels, generator=random).sort(-1).values * 0.9 + 0.05
    return torch.nn.functional.pad((due * frames).floor(), (0, 1), value=frames)


def _next_durations(due: Tensor, durations: Sequence[int]) -> Tensor:
    """(B, U+1) index of the longest duration that does not pass over the next label's frame."""
    gap = torch.nn.functional.pad(due.diff(dim=-1), (0, 1), value=max(durations))
    return (torch.tensor(durations) <= gap[..., None]).sum(-1).sub_(1).clamp_(min=0)


def _make_blank_wait(
    f: Tensor, g: Tensor, weight: Tensor, bias: Tensor, due: Tensor, blank: int, activation: str, kind: str
) -> None:
    """Makes blank's logit fall from nats/2 to -nats/2 when a label becomes due.

    f holds t and g minus the due frame, in whole numbers around 0. bf16 holds them exactly up to 512 frames,
    and their sum is the distance t - due.
    """
    nats, ramp = ALIGNED[kind]
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
