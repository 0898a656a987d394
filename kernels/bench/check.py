"""Loss and gradients of every form against fp64. An operator is timed only if its forms pass.

A form may err at most twice as much as plain torch in the same precision on the same inputs. A form that
skips rows in the backward on purpose may also miss `FILTERED` of a gradient, and another library's form
`PEER`.
"""

import math
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from maya.kernels.bench.measure import Form, Setting

SMALL = Setting(batch=2, frames=14, labels=5, hidden=48, vocab=96)  # the reference computes node by node
WIDE = Setting(batch=2, frames=30, labels=10, hidden=640, vocab=4099)
FILTERED = 5e-4  # kernels/joint/README.md measures 1.4e-4 at the default eps
PEER = 1e-3  # a peer only has to compute the same function
ROUNDING = torch.finfo(torch.float32).eps
SLACK = 8 * ROUNDING  # torch may be exact by chance; sums are in fp32 at best


@dataclass(slots=True, kw_only=True)
class Check:
    """Error of one output of one form, relative to its norm; torch's error; and the allowed error."""

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
        return (
            f"{self.op}: {self.form}, {self.lattice} lattice, {self.dtype}: {self.output} is wrong by "
            f"{self.error:.2e}, allowed {self.allowed:.2e} (torch: {self.of_torch:.2e})"
        )


def check(op: str, module: ModuleType, setting: Setting) -> list[Check]:
    """Checks every form of `module`, a kernels/<op>/bench.py, that can run on `setting`."""
    truth = outputs_of(module.reference(setting, exact=True))
    torch_errors = errors_of(outputs_of(module.reference(setting, exact=False)), truth)
    checks = []
    for form in module.forms(setting):
        if form.absent:
            continue
        try:
            outputs = outputs_of(form)
        except RuntimeError:
            if form.peer:
                continue  # the measurement will run it again and report the reason
            raise
        for name, error in errors_of(outputs, truth).items():
            extra = PEER if form.peer else FILTERED if form.filtered and name != "loss" else 0.0
            checks.append(
                Check(
                    op=op, form=form.name, lattice=setting.lattice, dtype=setting.dtype, output=name,
                    error=error, of_torch=torch_errors[name], filtered=form.filtered, peer=form.peer,
                    device=setting.device, allowed=2 * torch_errors[name] + extra + SLACK,
                )
            )  # fmt: skip
    return checks


def outputs_of(form: Form) -> dict[str, Tensor]:
    """Loss and gradients of a form, in fp64 on the CPU."""
    assert form.outputs
    return {name: x.double().cpu() for name, x in form.outputs().items()}


def errors_of(outputs: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Norm of each output's difference, divided by the norm of the truth if that is not 0."""
    errors = {}
    for name, output in outputs.items():
        error = float((output - truth[name]).norm()) / (float(truth[name].norm()) or 1.0)
        errors[name] = error if math.isfinite(error) else math.inf
    return errors
