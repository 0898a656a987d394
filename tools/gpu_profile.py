"""Where the time of a step goes on a GPU, by kernel: `python -m tools.gpu_profile [--dry-run]`.

Prints tables of torch.profiler for the fused losses on each lattice and vocabulary, and for a training step
of a FastConformer encoder with a fused TDT loss, with and without torch.compile. It needs torch and triton
only. Greedy decoding with and without CUDA graphs is not here: decoding has no graphs yet.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from maya.encoders import FastConformer, FastConformerConfig
from maya.kernels.joint.synthetic import synthetic_problem
from maya.kernels.rnnt import fused_rnnt_loss
from maya.kernels.tdt import fused_tdt_loss

DURATIONS = (0, 1, 2, 3, 4)
ROWS = 14  # of a table


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The shapes of both measurements, and where they run."""

    loss: tuple[int, int, int, int]  # B, S, U, H
    vocabularies: tuple[int, ...]
    encoder: FastConformerConfig
    batch: int
    seconds: float
    labels: int
    rounds: int
    device: str
    dtype: torch.dtype


ON_GPU = Sizes(
    loss=(16, 250, 60, 640), vocabularies=(32769, 32768), encoder=FastConformerConfig(), batch=16,
    seconds=20.0, labels=60, rounds=5, device="cuda", dtype=torch.bfloat16,
)  # fmt: skip
_SMALL = FastConformerConfig(d_model=32, n_layers=2, n_heads=2, subsampling_channels=8)
DRY = Sizes(
    loss=(2, 8, 3, 32), vocabularies=(65, 64), encoder=_SMALL, batch=2, seconds=1.0, labels=3, rounds=1,
    device="cpu", dtype=torch.float32,
)  # fmt: skip


def loss_step(sizes: Sizes, vocab: int, kind: str, *, tdt: bool) -> Callable[[], None]:
    """Forward and backward of a fused loss."""
    p = synthetic_problem(
        (*sizes.loss, vocab), kind=kind, durations=DURATIONS if tdt else None, dtype=sizes.dtype,
        device=sizes.device,
    )  # fmt: skip
    leaves = [x.requires_grad_() for x in p.leaves]
    lens = (p.targets, p.f_lens, p.target_lens)

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        if tdt and p.duration_weight is not None:
            durations = (p.duration_weight, p.duration_bias)
            loss = fused_tdt_loss(
                p.f, p.g, p.weight, p.bias, *durations, *lens, durations=DURATIONS, blank=p.blank
            )
        else:
            loss = fused_rnnt_loss(p.f, p.g, p.weight, p.bias, *lens, blank=p.blank)
        loss.sum().backward()

    return step


class EncoderAndLoss(nn.Module):
    """A FastConformer on given features with the projections of a joint; the predictor's states are given."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        hidden = sizes.loss[3]
        self.encoder = FastConformer(sizes.encoder)
        self.project = nn.Linear(sizes.encoder.d_model, hidden)
        self.states = nn.Parameter(torch.randn(sizes.batch, sizes.labels + 1, hidden))
        self.tokens = nn.Linear(hidden, sizes.vocabularies[0])
        self.durations = nn.Linear(hidden, len(DURATIONS))

    def forward(self, feats: Tensor, feat_lens: Tensor, targets: Tensor, target_lens: Tensor) -> Tensor:
        frames, lens = self.encoder(feats, feat_lens)
        f = self.project(frames)
        return fused_tdt_loss(
            f, self.states.to(f.dtype), self.tokens.weight, self.tokens.bias, self.durations.weight,
            self.durations.bias, targets, lens, target_lens, durations=DURATIONS,
            blank=self.tokens.out_features - 1,
        )  # fmt: skip


def encoder_step(sizes: Sizes, *, compiled: bool) -> Callable[[], None]:
    """Forward and backward of an encoder with a fused loss."""
    torch.manual_seed(0)
    model = EncoderAndLoss(sizes).to(sizes.device).train()
    if compiled:
        for layer in model.encoder.layers:
            layer.compile(backend="inductor" if sizes.device == "cuda" else "aot_eager")
    frames = int(sizes.seconds * 100)
    feats = torch.randn(sizes.batch, frames, 80, device=sizes.device)
    lens = torch.full((sizes.batch,), frames, device=sizes.device)
    targets = torch.randint(sizes.vocabularies[0] - 1, (sizes.batch, sizes.labels), device=sizes.device)
    target_lens = torch.full((sizes.batch,), sizes.labels, device=sizes.device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(sizes.device, torch.bfloat16, enabled=sizes.dtype == torch.bfloat16):
            loss = model(feats, lens, targets, target_lens)
        loss.sum().backward()

    return step


def profile(name: str, step: Callable[[], None], sizes: Sizes) -> None:
    """Print the median time of `step`, the peak memory on a GPU, and its table by kernel."""
    on_gpu = sizes.device == "cuda"
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    step()  # compiles
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(max(3, sizes.rounds)):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    memory = f", peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if on_gpu else ""
    print(f"\n## {name}: {sorted(times)[len(times) // 2]:.2f} ms a step{memory}", flush=True)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as trace:
        for _ in range(sizes.rounds):
            step()
        wait()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(trace.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=60), flush=True)


def steps_of(sizes: Sizes) -> dict[str, Callable[[], Callable[[], None]]]:
    """By name: makes the step that is profiled."""
    steps: dict[str, Callable[[], Callable[[], None]]] = {}
    for vocab in sizes.vocabularies:
        for kind, tdt in (("sharp", False), ("sharp", True), ("uniform", False), ("real", False)):
            name = f"{'TDT' if tdt else 'RNN-T'}, {kind} lattice, V={vocab}"
            steps[name] = partial(loss_step, sizes, vocab, kind, tdt=tdt)
    layers = f"FastConformer, {sizes.encoder.n_layers} layers, {sizes.batch} x {sizes.seconds:g} s"
    steps[layers] = partial(encoder_step, sizes, compiled=False)
    steps[f"{layers}, torch.compile"] = partial(encoder_step, sizes, compiled=True)
    return steps


def run(sizes: Sizes) -> int:
    """Print all tables. One that fails is named, and the others still come; returns how many failed."""
    failed = 0
    for name, make_step in steps_of(sizes).items():
        try:
            profile(name, make_step(), sizes)
        except Exception as error:
            failed += 1
            print(f"\n## {name}: FAILED: {type(error).__name__}: {error}", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="small shapes on the CPU")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("gpu_profile: no CUDA device, so nothing was profiled; try --dry-run", file=sys.stderr)
        return 1
    return 1 if run(DRY if options.dry_run else ON_GPU) else 0


if __name__ == "__main__":
    sys.exit(main())
