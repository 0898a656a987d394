"""What the gate demands of each kernel, with reasons, and which demands are not met yet."""

from collections.abc import Iterator
from dataclasses import dataclass

import triton

from maya.kernels.gate.cases import GateCase
from maya.kernels.gate.figures import Figures

MOST_ARGUMENTS = 15
# KiB of shared memory of a program. Code for sm_80 also runs on sm_86, sm_89 and sm_120, which have 99.
MOST_SHARED_KIB = {80: 99, 90: 227, 100: 227}
# Loads of single 16-bit numbers, outside of loops. row_score_kernel picks the logits of blank and label.
MOST_HALF_LOADS = {"row_score_kernel": 8}
MOST_LAYOUTS = 1  # of a tensor that is read and written in place; see `in_place`

# Programs a processor. Fewer would leave it idle:
# - logit_gradient: its epilogue has no product, so another program's products have to run meanwhile.
# - pointwise kernels wait for memory. 4.8 TB/s * 0.7 us / 132 processors are 25 KB in flight a processor; a
#   program of hidden_kernel, the least of them, has 8 KB in flight.
FEWEST_PROGRAMS = {
    "logit_gradient_kernel": 2,
    **dict.fromkeys(("hidden_kernel", "segment_kernel", "finish_kernel", "second_order_kernel"), 4),
    **dict.fromkeys(("renormalise_kernel", "renormalise_backward_kernel"), 4),
}
# Instructions of a warp in a step of a lattice, by the case. A step waits for the step before, so its length
# is the kernel's time. The bar was 530 for TDT; these are a tenth above what was reached (84 and 230 in the
# alpha sweep at U+1=61), so that a mask or an index which comes back is seen.
LONGEST_STEP = {
    "RNN-T U+1=61": 95, "RNN-T U+1=201": 105, "RNN-T U+1=1024": 150,
    "RNN-T U+1=61, labels take a frame": 95, "RNN-T U+1=1024, labels take a frame": 150,
    "TDT U+1=61, durations 0-4": 255, "TDT U+1=128, durations 0-4": 255, "TDT U+1=201, durations 0-4": 260,
    "TDT U+1=1024, durations 0-4": 435, "CTC U+1=61": 240, "CTC U+1=201": 240, "CTC U+1=1024": 425,
    "TDT U+1=61, durations 1-2": 155, "TDT U+1=61, durations 0-8": 410, "TDT U+1=256, durations 0-8": 425,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A demand that a kernel misses. kind: the demand, as `UNMET` names it."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Unmet:
    """A demand that is known to be missed: it does not fail the gate, but is shown at its end.

    case: a part of the names of the cases. version: how the versions of Triton begin that it is for. The gate
    fails if the demand is met everywhere, so that no entry outlives its reason.
    """

    kernel: str
    kind: str
    reason: str
    case: str = ""
    targets: tuple[int, ...] = (80, 90, 100)
    version: str = ""

    @property
    def applies(self) -> bool:
        return triton.__version__.startswith(self.version)

    def covers(self, kernel: str, case: str, target: int, kind: str) -> bool:
        same = (self.kernel, self.kind) == (kernel, kind) and self.applies
        return same and self.case in case and target in self.targets


UNMET: tuple[Unmet, ...] = (
    Unmet("logit_gradient_kernel", "programs", "its registers are limited on sm_90 alone", targets=(80, 100)),
    Unmet("weight_gradient_kernel", "pipeline", "dx is loaded by rows and transposed", targets=(80,)),
    Unmet("weak_norm_kernel", "16 bits", "an odd V does not align rows; weak cells are rare"),
    Unmet("weak_gradient_kernel", "16 bits", "an odd V does not align rows; weak cells are rare"),
    Unmet("swiglu_kernel", "spills", "exact fp32; nobody has tuned for this GPU", "fp32", (100,), "3.6"),
    Unmet("terms_kernel", "spills", "exact fp32; nobody has tuned for this GPU", "fp32", (100,), "3.6"),
)


def problems(kernel: str, case: GateCase, target: int, x: Figures) -> Iterator[Shortfall]:
    """Everything in which the figures of a kernel miss the demands."""
    if x.arguments > MOST_ARGUMENTS:
        yield Shortfall("arguments", f"{x.arguments} arguments, more than {MOST_ARGUMENTS}")
    if x.spills:
        yield Shortfall("spills", f"{x.spills} loads and stores of spilled registers")
    if x.shared > MOST_SHARED_KIB[target] * 1024:
        yield Shortfall("shared", f"more than {MOST_SHARED_KIB[target]} KiB of shared memory")
    fewest = FEWEST_PROGRAMS.get(kernel, 1)
    if x.ctas < fewest:
        yield Shortfall("programs", f"{x.ctas} programs a processor, fewer than {fewest}")
    if x.half_loads > MOST_HALF_LOADS.get(kernel, 0) or x.loop_half_loads or x.half_stores:
        where = f", {x.loop_half_loads} of the loads in a loop" if x.loop_half_loads else ""
        text = f"{x.half_loads} loads and {x.half_stores} stores of single 16-bit numbers{where}"
        yield Shortfall("16 bits", text)
    if not x.pipelined:
        text = f"{x.waiting_loads} waiting loads in a loop with a product, {max(x.wait, 0)} copies in flight"
        yield Shortfall("pipeline", text)
    if x.has_product and not case.exact and not x.tensor_ops:
        yield Shortfall("tensor cores", "a product without tensor cores")
    if case.exact and x.tensor_ops:
        yield Shortfall("tensor cores", "fp32 rounded for tensor cores")
    longest = LONGEST_STEP.get(case.name)
    if longest is not None and x.step > longest:
        yield Shortfall("step", f"{x.step} instructions a step, more than {longest}")
    if x.layouts > MOST_LAYOUTS:
        yield Shortfall("layout", f"a tensor is read and written in place in {x.layouts} layouts")


def unmet(kernel: str, case: str, target: int, kind: str) -> Unmet | None:
    """The entry of `UNMET` for a problem."""
    return next((x for x in UNMET if x.covers(kernel, case, target, kind)), None)
