"""Problems for tests of the Triton joint, and the comparison with fp64."""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from maya.kernels.checks import Transcripts
from maya.kernels.joint import (
    ALL_NEEDED,
    JointGradients,
    JointSettings,
    OutputLayer,
    RowGradients,
    RowList,
    RowScores,
    joint_gradients,
    joint_scores,
    packed_rows,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = torch.finfo(torch.float32).eps
FP = [torch.float32, torch.float16]


@dataclass
class Problem:
    """Arguments of `joint_scores`, and what `joint_gradients` takes on top."""

    f: Tensor
    g: Tensor
    layer: OutputLayer
    rows: RowList
    masses: tuple[Tensor, Tensor]
    duration_grad: Tensor | None
    settings: JointSettings

    def to(self, dtype: torch.dtype) -> "Problem":
        layer = OutputLayer(*(None if x is None else x.to(dtype) for x in vars_of(self.layer)))
        return replace(self, f=self.f.to(dtype), g=self.g.to(dtype), layer=layer)

    def scores(self, backend: str) -> RowScores:
        return joint_scores(self.f, self.g, self.layer, self.rows, self.settings, backend=backend)

    def gradients(self, backend: str, needed: tuple[bool, ...] = ALL_NEEDED) -> JointGradients:
        norm = self.scores(backend).norm
        masses = [x.to(norm.dtype) for x in self.masses]
        grad = None if self.duration_grad is None else self.duration_grad.to(norm.dtype)
        row_grads = RowGradients(norm, *masses, grad)
        return joint_gradients(
            self.f, self.g, self.layer, self.rows, row_grads, self.settings, needed=needed, backend=backend
        )


def vars_of(x: OutputLayer | RowScores | JointGradients) -> list[Tensor | None]:
    return [getattr(x, field.name) for field in fields(x)]


def problem(
    dtype: torch.dtype = torch.float32,
    *,
    size: int = 6,
    labels: int = 3,
    hidden: int = 40,
    vocab: int = 75,
    durations: int = 0,
    bias: bool = True,
    settings: JointSettings | None = None,
    batch: int = 2,
) -> Problem:
    """A ragged batch whose joint has an odd H and V, and masses as a lattice gives them."""
    settings = settings or JointSettings(blank=vocab - 1)
    targets = torch.randint(vocab - 1, (batch, labels))
    frames = [size - b % 3 for b in range(batch)]
    lengths = [max(0, labels - 2 * b) for b in range(batch)]
    rows = packed_rows(Transcripts(targets, frames, lengths, settings.blank), size)
    n = len(rows)
    masses = torch.rand(2, n) / n
    masses[1] *= rows.label >= 0
    layer = OutputLayer(
        torch.randn(vocab, hidden) / hidden**0.5,
        torch.randn(vocab) if bias else None,
        torch.randn(durations, hidden) / hidden**0.5 if durations else None,
        torch.randn(durations) if durations and bias else None,
    )
    made = Problem(
        torch.randn(batch * size, hidden), torch.randn(batch * (labels + 1), hidden), layer, rows,
        (masses[0], masses[1]), torch.randn(n, durations) / n if durations else None, settings,
    )  # fmt: skip
    return on_device(made.to(dtype))


def on_device(p: Problem) -> Problem:
    def move(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(DEVICE)

    columns = (p.rows.utterance, p.rows.frame, p.rows.state, p.rows.label)
    return Problem(
        p.f.to(DEVICE), p.g.to(DEVICE),
        OutputLayer(*map(move, vars_of(p.layer))),
        RowList(*(x.to(DEVICE) for x in columns), by_frame=p.rows.by_frame),
        (p.masses[0].to(DEVICE), p.masses[1].to(DEVICE)), move(p.duration_grad), p.settings,
    )  # fmt: skip


def check_errors(
    outputs: list[Tensor | None], plain: list[Tensor | None], truth: list[Tensor | None]
) -> None:
    """Each output errs at most twice what torch errs in the same precision, or a few fp32 roundings."""
    assert any(x is not None for x in truth)
    for got, of_torch, exact in zip(outputs, plain, truth, strict=True):
        if exact is None or of_torch is None:
            assert got is None
            continue
        assert got is not None and got.dtype == torch.float32
        got, of_torch, exact = (x.double() for x in (got, of_torch, exact))
        assert torch.equal(got.isinf(), exact.isinf())
        got, of_torch, exact = (x.masked_fill(exact.isinf(), 0.0) for x in (got, of_torch, exact))
        allowed = 2 * float((of_torch - exact).norm()) + 8 * EPS * float(exact.norm())
        assert float((got - exact).norm()) <= allowed


def compare(p: Problem) -> None:
    exact = p.to(torch.float64)
    scores = p.scores("triton")
    scores.norm = scores.norm.sum(1) * math.log(2)
    check_errors(vars_of(scores), vars_of(p.scores("torch")), vars_of(exact.scores("torch")))
    forms = p.gradients("triton"), p.gradients("torch"), exact.gradients("torch")
    check_errors(*map(vars_of, forms))
