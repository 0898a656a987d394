"""No speed of an operator is shown unless its forms are right: loss and gradients against fp64.

A form may err at most twice what plain torch errs in the same precision on the same inputs. A form that drops
rows from the backward on purpose may on top of that miss `FILTERED` of a gradient; another library's `PEER`.
"""

import math
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from maya.kernels.bench.measure import Form, Setting

SMALL = Setting(batch=2, frames=14, labels=5, hidden=48, vocab=96)  # the reference visits each cell by itself
WIDE = Setting(batch=2, frames=30, labels=10, hidden=640, vocab=4099)
FILTERED = 5e-4  # kernels/joint/README.md measures 1.4e-4 at the default eps
PEER = 1e-3  # it computes the same thing; how well is its own affair
ROUNDING = torch.finfo(torch.float32).eps
LUCK = 8 * ROUNDING  # torch may be exact by chance; sums are in fp32 at best


@dataclass(slots=True, kw_only=True)
class Check:
    """Error of one output of one form, relative to its norm; torch's own; and what was allowed."""

    op: str
    form: str
    lattice: str
    dtype: str
    output: str
    error: float
    of_torch: float
    allowed: float
    filtered: bool = False
    peer: bool = False
    device: str = "cpu"

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed  # false for nan

    @property
    def text(self) -> str:
        where = f"{self.op}: {self.form}, {self.lattice} lattice, {self.dtype}"
        return (
            f"{where}: {self.output} is wrong by {self.error:.2e}, allowed {self.allowed:.2e} "
            f"(torch: {self.of_torch:.2e})"
        )


def check(op: str, module: ModuleType, setting: Setting) -> list[Check]:
    """Every form of `module`, a kernels/<op>/bench.py, that can run on `setting`."""
    truth = outputs_of(module.reference(setting, exact=True))
    torch_errors = errors_of(outputs_of(module.reference(setting, exact=False)), truth)
    found = []
    for form in module.forms(setting):
        if form.absent:
            continue
        try:
            outputs = outputs_of(form)
        except RuntimeError:
            if form.peer:
                continue  # it will be asked again when it is measured, and say why
            raise
        for name, error in errors_of(outputs, truth).items():
            extra = PEER if form.peer else FILTERED if form.filtered and name != "loss" else 0.0
            found.append(
                Check(
                    op=op,
                    form=form.name,
                    lattice=setting.lattice,
                    dtype=setting.dtype,
                    output=name,
                    error=error,
                    of_torch=torch_errors[name],
                    filtered=form.filtered,
                    peer=form.peer,
                    device=setting.device,
                    allowed=2 * torch_errors[name] + extra + LUCK,
                )
            )
    return found


def outputs_of(form: Form) -> dict[str, Tensor]:
    """Loss and gradients of a form, in fp64 on the CPU."""
    assert form.outputs
    return {name: x.double().cpu() for name, x in form.outputs().items()}


def errors_of(outputs: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Of each output: norm of the difference over that of the truth, or the former where the truth is 0."""
    found = {}
    for name, output in outputs.items():
        scale = float(truth[name].norm()) or 1.0
        error = float((output - truth[name]).norm()) / scale
        found[name] = error if math.isfinite(error) else math.inf
    return found
