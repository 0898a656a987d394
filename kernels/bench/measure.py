"""Measurements of the benchmarks: settings, forms, alternating times, peak memory, the machine's own rates.

A form is one way to compute an operator on one setting. The forms of a setting are timed in turns, round
after round, so that other load on the machine affects all of them alike. Medians are compared. The ceilings,
a plain matrix product and a plain copy, are forms too and take turns with the others.
"""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GIB = 1 << 30
SHARE_OF_FREE_MEMORY = 0.7  # a form that needs more than this share of the free memory is not started
CEILING_SECONDS = 0.1  # about the length of one product on a CPU, at 100 GFLOP/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The problem that is measured: B utterances of S frames and U labels, joint size H, vocabulary V with
    blank.

    lattice: a kind of `maya.kernels.joint.synthetic`: "uniform", as at initialisation, "real", with the share
    of rows that trained models keep, or "sharp", in which few cells carry the mass.
    heads: of an operator on frames alone, with H channels in all and no labels or vocabulary; otherwise 0.
    dtype and device are torch's names.
    """

    batch: int
    frames: int
    labels: int
    hidden: int = 0  # 0, like the vocabulary, for a lattice whose log probabilities are given
    vocab: int = 0
    lattice: str = "uniform"
    dtype: str = "float32"
    device: str = "cpu"
    heads: int = 0

    @property
    def rows(self) -> int:
        """Cells of the lattice, padding included."""
        return self.batch * self.frames * (self.labels + 1)

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @property
    def text(self) -> str:
        shape, end = f"B={self.batch} S={self.frames}", f"{self.dtype} {self.device}"
        if self.heads:
            return f"{shape} D={self.hidden} in {self.heads} heads {end}"
        if not self.vocab:
            return f"{shape} U={self.labels} {end}"
        return f"{shape} U={self.labels} H={self.hidden} V={self.vocab} {end}, {self.lattice} lattice"

    def tiny(self) -> "Setting":
        """The same on a lattice so small that only one-time costs remain."""
        hidden, vocab = min(self.hidden, 32), min(self.vocab, 64)
        return replace(self, batch=2, frames=8, labels=3, hidden=hidden, vocab=vocab)


@dataclass(frozen=True, slots=True)
class Cost:
    """The unavoidable cost: floating point operations of matrix products, and bytes moved."""

    flops: float = 0.0
    bytes: float = 0.0

    def floor_seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The roofline: compute at the rate of a plain product, or move bytes at that of a copy."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


@dataclass(slots=True, kw_only=True)
class Form:
    """One way to compute an operator.

    forward: computes the loss, so that a backward pass could follow. both: forward and backward.
    needs_bytes: a rough peak; a form that cannot fit is not started.
    absent: the reason why this form cannot run here, or "".
    cost: (of forward, of both), called only when it is needed.
    outputs: loss and gradients by name, for the check.
    filtered: the form skips part of the gradient on purpose, and may err by `check.FILTERED`.
    peer: an alternative that users have; it may err by `check.PEER`.
    """

    name: str
    forward: Callable[[], Any] | None = None
    both: Callable[[], Any] | None = None
    needs_bytes: float = 0.0
    absent: str = ""
    cost: Callable[[], tuple[Cost, Cost]] | None = None
    outputs: Callable[[], dict[str, Tensor]] | None = None
    leaves: Sequence[Tensor] = ()
    filtered: bool = False
    peer: bool = False


LEAVES = ("f", "g", "weight", "bias", "duration_weight", "duration_bias")


def loss_form(
    name: str, loss: Callable[[], Tensor], leaves: Sequence[Tensor], *, names: Sequence[str] = LEAVES,
    **rest: Any,
) -> Form:  # fmt: skip
    """A form whose forward is `loss`, (B,), whose backward fills the grads of `leaves`, called `names`."""

    def both() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.sum().backward()
        return value.detach()

    def outputs() -> dict[str, Tensor]:
        tensors = {"loss": both()}
        for name, leaf in zip(names, leaves, strict=False):
            tensors[f"gradient of {name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            leaf.grad = None
        return tensors

    return Form(name=name, forward=loss, both=both, outputs=outputs, leaves=leaves, **rest)


@dataclass(slots=True)
class Timed:
    """Seconds of every round, or the reason why the form did not run."""

    forward: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    why_not: str = ""

    def median(self, what: str) -> float | None:
        samples: list[float] = getattr(self, what)
        return statistics.median(samples) if samples else None


def time_in_turns(
    forms: Sequence[Form], device: str, *, seconds: float, parts: Sequence[str] = ("forward", "both")
) -> dict[str, Timed]:
    """Times `parts` of each form in turns for about `seconds`: 3 to 50 rounds after a warm-up round.

    A form that is absent, does not fit, or runs out of memory is skipped with its reason, and so is a peer
    that fails.
    """
    timed = {form.name: Timed(why_not=form.absent or too_large(form, device)) for form in forms}
    one_round = 0.0
    for form in forms:
        if timed[form.name].why_not:
            continue
        try:
            for part in parts:
                one_round += seconds_of(getattr(form, part), device)
        except torch.OutOfMemoryError:
            timed[form.name].why_not = "out of memory"
            torch.cuda.empty_cache()
        except RuntimeError as error:
            if not form.peer:
                raise
            timed[form.name].why_not = first_line(error)
    running = [form for form in forms if not timed[form.name].why_not]
    rounds = int(min(max(seconds / max(one_round, 1e-9), 3), 50))
    for turn in range(rounds):
        for form in running[:: -1 if turn % 2 else 1]:  # so that no form always follows the same one
            for part in parts:
                getattr(timed[form.name], part).append(seconds_of(getattr(form, part), device))
    return timed


def seconds_of(run: Callable[[], Any], device: str) -> float:
    """Seconds of one run. On CUDA by events, after a pause of the device."""
    if torch.device(device).type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(3_000_000)  # cycles: 1.5 ms, in which the host queues the launches of a lattice
    before.record()
    run()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3


def first_line(error: BaseException) -> str:
    return f"failed: {type(error).__name__}: {error}".splitlines()[0]


def too_large(form: Form, device: str) -> str:
    """The reason why the form is not started, or ""."""
    free = SHARE_OF_FREE_MEMORY * free_bytes(device)
    if form.needs_bytes <= free:
        return ""
    return f"needs {form.needs_bytes / GIB:.1f} GiB of memory, {free / GIB:.1f} may be used"


def free_bytes(device: str) -> float:
    if torch.device(device).type == "cuda":
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return float(torch.cuda.mem_get_info()[0] + cached)
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return float("inf")


def ceilings(setting: Setting) -> list[Form]:
    """A product like the joint's, rows by H by V, with rows for CEILING_SECONDS, and a copy."""
    device, cuda = setting.device, setting.cuda
    flops = CEILING_SECONDS * (400e12 if cuda else 100e9)
    hidden, vocab = setting.hidden or 512, setting.vocab or 4096
    most = 2 * GIB / (vocab * setting.torch_dtype.itemsize)
    count = int(min(setting.rows, most, max(flops / (2 * hidden * vocab), 256)))
    with torch.random.fork_rng(devices=[]):
        make = torch.Generator(device).manual_seed(0)
        rows = torch.randn(count, hidden, generator=make, device=device).to(setting.torch_dtype)
        weight = torch.randn(vocab, hidden, generator=make, device=device).to(rows.dtype)
    logits = rows.new_empty(count, vocab)
    source = torch.ones(GIB // (4 if cuda else 16), dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def product() -> None:
        torch.mm(rows, weight.T, out=logits)

    def copy() -> None:
        target.copy_(source)

    costs = Cost(flops=2.0 * count * hidden * vocab), Cost(bytes=2.0 * source.numel() * 4)
    return [
        Form(name="a plain product", forward=lambda: None, both=product, cost=lambda: (costs[0], costs[0])),
        Form(name="a plain copy", forward=lambda: None, both=copy, cost=lambda: (costs[1], costs[1])),
    ]


@dataclass(slots=True)
class Peak:
    """Peak bytes above the inputs, None for a part that was not run; seconds of the last part."""

    forward: int | None = None
    both: int | None = None
    seconds: float = 0.0
    why_not: str = ""


def peak_memory(
    op: str, forms: Sequence[Form], setting: Setting, threads: int, parts: Sequence[str] = ("forward", "both")
) -> dict[str, Peak]:
    """Peak extra memory of `forms` of operator `op`.

    On CUDA it is the allocator's count. On a CPU it is the resident set of one process per form (`peak.py`),
    because a peak can only rise and freed memory need not go back to the system.
    """
    if setting.cuda:
        return {form.name: _peak_on_cuda(form, parts) for form in forms}
    names = [form.name for form in forms]
    order = {"op": op, "forms": names, "setting": asdict(setting), "threads": threads, "parts": parts}
    command = [sys.executable, "-m", "maya.kernels.bench.peak", json.dumps(order)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {name: Peak(**fields) for name, fields in json.loads(done.stdout.splitlines()[-1]).items()}


def _peak_on_cuda(form: Form, parts: Sequence[str]) -> Peak:
    peak = Peak()
    gc.collect()
    for leaf in form.leaves:
        leaf.grad = None
    for part in parts:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, start = torch.cuda.memory_allocated(), time.perf_counter()
        try:
            getattr(form, part)()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return Peak(why_not="out of memory")
        torch.cuda.synchronize()
        setattr(peak, part, torch.cuda.max_memory_allocated() - before)
        peak.seconds = time.perf_counter() - start
    return peak
