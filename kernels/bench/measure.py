"""How the benchmarks measure: settings, forms, alternating times, true peak memory, the machine's own rates.

A form is one way to compute an operator on one setting. The forms of a setting are timed in turns, round
after round, so that whatever else the machine does falls on all of them alike; what is compared are medians.
The ceilings, a plain matrix product and a plain copy, are forms too and take their turns with the others.
"""

import gc
import json
import os
import platform
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
SHARE_OF_FREE_MEMORY = 0.7  # a form that needs more than this share of what is free is not started
CEILING_SECONDS = 0.1  # about the length of one product on a CPU, at 100 GFLOP/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured: B utterances of S frames and U labels, joint size H, vocabulary V with blank.

    lattice: "uniform", as at initialisation, or "trained", where few cells carry the mass.
    heads: of an operator of frames alone, which has H channels in all, no labels and no vocabulary; else 0.
    dtype and device are torch's names.
    """

    batch: int
    frames: int
    labels: int
    hidden: int = 0  # 0, as is the vocabulary, of a lattice whose log probabilities are given
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
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def text(self) -> str:
        if self.heads:
            shape = f"B={self.batch} S={self.frames} D={self.hidden} in {self.heads} heads"
            return f"{shape} {self.dtype} {self.device}"
        shape = f"B={self.batch} S={self.frames} U={self.labels}"
        if not self.vocab:
            return f"{shape} {self.dtype} {self.device}"
        return f"{shape} H={self.hidden} V={self.vocab} {self.dtype} {self.device}, {self.lattice} lattice"

    def tiny(self) -> "Setting":
        """The same on a lattice so small that only one-time costs remain."""
        return replace(
            self, batch=2, frames=8, labels=3, hidden=min(self.hidden, 32), vocab=min(self.vocab, 64)
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What cannot be avoided: floating point operations of matrix products, and bytes moved."""

    flops: float = 0.0
    bytes: float = 0.0

    def floor_seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The roofline: computing at the rate of a plain product or moving at that of a copy."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


@dataclass(slots=True, kw_only=True)
class Form:
    """One way to compute.

    forward: up to the loss, in a state in which a backward pass could follow; its result is dropped.
    both: forward and backward.
    needs_bytes: a rough peak; a form that cannot fit is not started.
    absent: why this form cannot run here, or "".
    cost: (of forward, of both), counted when it is asked for.
    outputs: loss and gradients by name, for the check.
    filtered: it leaves out gradient on purpose, and answers for no more than `check.FILTERED`.
    peer: what a user would take otherwise; it need only be right to `check.PEER`.
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
    name: str,
    loss: Callable[[], Tensor],
    leaves: Sequence[Tensor],
    *,
    names: Sequence[str] = LEAVES,
    **rest: Any,
) -> Form:
    """A form whose forward is `loss`, (B,), and whose backward puts gradients into fresh `leaves`.

    leaves: tensors that require grad, the first of those that `names` has.
    """

    def both() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.sum().backward()
        return value.detach()

    def outputs() -> dict[str, Tensor]:
        found = {"loss": both()}
        for name, leaf in zip(names, leaves, strict=False):
            found[f"gradient of {name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            leaf.grad = None
        return found

    return Form(name=name, forward=loss, both=both, outputs=outputs, leaves=leaves, **rest)


@dataclass(slots=True)
class Timed:
    """Seconds of every round; of a form that did not run, why."""

    forward: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    why_not: str = ""

    def median(self, what: str) -> float | None:
        samples: list[float] = getattr(self, what)
        return statistics.median(samples) if samples else None


def time_in_turns(
    forms: Sequence[Form], device: str, *, seconds: float, parts: Sequence[str] = ("forward", "both")
) -> dict[str, Timed]:
    """Times `parts` of each form in alternation for about `seconds`, 3 to 50 rounds after one that warms up.

    A form that is absent, does not fit, or runs out of memory is left out and says why, and so is a peer that
    fails.
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
        for form in running[:: -1 if turn % 2 else 1]:  # so that none always follows the same one
            for part in parts:
                getattr(timed[form.name], part).append(seconds_of(getattr(form, part), device))
    return timed


def seconds_of(run: Callable[[], Any], device: str) -> float:
    """Seconds of one run. On CUDA by events, behind a pause that lets the host queue the launches first."""
    if torch.device(device).type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000)  # cycles: half a millisecond
    before.record()
    run()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3


def first_line(error: BaseException) -> str:
    return f"failed: {type(error).__name__}: {error}".splitlines()[0]


def too_large(form: Form, device: str) -> str:
    """Why the form is not started, or ""."""
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
    """The product of this setting's joint, rows by H by V, on as many rows as take a moment, and a copy."""
    device, cuda = setting.device, torch.device(setting.device).type == "cuda"
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

    def nothing() -> None:
        """They have no parts."""

    product_cost = Cost(flops=2.0 * count * hidden * vocab)
    copy_cost = Cost(bytes=2.0 * source.numel() * 4)
    return [
        Form(
            name="a plain product", forward=nothing, both=product, cost=lambda: (product_cost, product_cost)
        ),
        Form(name="a plain copy", forward=nothing, both=copy, cost=lambda: (copy_cost, copy_cost)),
    ]


@dataclass(slots=True)
class Peak:
    """Bytes above what the inputs hold, None for a part that was not asked for; seconds of the last part."""

    forward: int | None = None
    both: int | None = None
    seconds: float = 0.0
    why_not: str = ""


def peak_memory(
    op: str, forms: Sequence[Form], setting: Setting, threads: int, parts: Sequence[str] = ("forward", "both")
) -> dict[str, Peak]:
    """Peak extra memory of `forms` of operator `op`.

    On CUDA the allocator's own count, here. On a CPU the resident set of a process per form (`peak.py`),
    because a peak can only rise and memory that was freed need not be given back.
    """
    if torch.device(setting.device).type == "cuda":
        return {form.name: _peak_on_cuda(form, parts) for form in forms}
    names = [form.name for form in forms]
    order = {"op": op, "forms": names, "setting": asdict(setting), "threads": threads, "parts": parts}
    command = [sys.executable, "-m", "maya.kernels.bench.peak", json.dumps(order)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {name: Peak(**found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}


def _peak_on_cuda(form: Form, parts: Sequence[str]) -> Peak:
    found = Peak()
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
        setattr(found, part, torch.cuda.max_memory_allocated() - before)
        found.seconds = time.perf_counter() - start
    return found


def machine() -> dict[str, Any]:
    """What a reader needs to know of where the numbers come from."""
    top = Path(__file__).resolve().parents[2]
    cuda = torch.cuda.is_available()
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "torchaudio": version_of("torchaudio"),
        "commit": _git(top, "rev-parse", "HEAD"),
        "uncommitted_changes": bool(
            _git(top, "status", "--porcelain", "--untracked-files=no", "--", "kernels")
        ),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,  # of the last minute
    }


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(top: Path, *arguments: str) -> str | None:
    """What git prints, or None where the files are no checkout."""
    try:
        done = subprocess.run(["git", "-C", str(top), *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
