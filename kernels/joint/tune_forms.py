"""Times the forms of the Triton joint on this machine's GPU and writes the table that form="auto" reads.

    python -m maya.kernels.joint.tune_forms [--shapes 16,250,60,640,32769 ...] [--out FILE]

A form's time is that of `fused_rnnt_loss`, forward and backward, on a uniform and on a real lattice
together, from synthetic.py: at the start of a training most rows are visited, later few. The forms are timed
in turn, and medians are written. Measurements of other devices, dtypes and shapes stay in the file.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import torch

from maya.kernels.bench.measure import seconds_of
from maya.kernels.joint.forms import FORMS, TABLE, FormTimes, table
from maya.kernels.joint.synthetic import synthetic_problem
from maya.kernels.rnnt import fused_rnnt_loss

SHAPES = ((16, 250, 60, 640, 32769), (16, 250, 60, 640, 5001), (16, 250, 60, 640, 1025))
KINDS = ("uniform", "real")
ROUNDS = 5


def measure(shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: str) -> FormTimes:
    """Median seconds of each form at (B, S, U, H, V)."""
    batch, size, labels, hidden, vocab = shape
    seconds: dict[str, float] = defaultdict(float)
    for kind in KINDS:
        p = synthetic_problem(shape, kind=kind, dtype=dtype, device=device)
        leaves = [x.requires_grad_() for x in p.leaves]
        lens = [x.cpu() for x in (p.targets, p.f_lens, p.target_lens)]

        def step(form: str, leaves: list = leaves, lens: list = lens, blank: int = p.blank) -> None:
            loss = fused_rnnt_loss(*leaves, *lens, blank=blank, form=form, backend="triton")
            torch.autograd.grad(loss.sum(), leaves)

        samples = defaultdict(list)
        for turn in range(1 + ROUNDS):
            for form in FORMS[1:]:
                sample = seconds_of(lambda form=form, step=step: step(form), device)  # type: ignore[misc]
                if turn:  # the first one compiles
                    samples[form].append(sample)
        for form, values in samples.items():
            seconds[form] += statistics.median(values)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    rows = batch * size * (labels + 1)
    return FormTimes(name, str(dtype).removeprefix("torch."), rows, hidden, vocab, dict(seconds))


def merged(old: tuple[FormTimes, ...], new: list[FormTimes]) -> list[FormTimes]:
    """Both, where a new measurement replaces an old one of the same device, dtype and shape."""

    def key(row: FormTimes) -> tuple:
        return row.device, row.dtype, row.rows, row.hidden, row.vocab

    return list({key(row): row for row in (*old, *new)}.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m maya.kernels.joint.tune_forms", description=__doc__
    )
    parser.add_argument("--shapes", nargs="*", default=[",".join(map(str, shape)) for shape in SHAPES])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--dry-run", action="store_true", help="a small shape in the interpreter, on the CPU")
    options = parser.parse_args(arguments)
    device, dtype = "cuda", getattr(torch, options.dtype)
    if options.dry_run:
        device, dtype, options.shapes = "cpu", torch.float32, ["2,6,2,16,33"]
    elif not torch.cuda.is_available():
        print("tune_forms: no CUDA device, so nothing was timed")
        return 1
    rows = list(table(options.out)) if options.out.exists() else []
    for text in options.shapes:
        batch, size, labels, hidden, vocab = map(int, text.split(","))
        row = measure((batch, size, labels, hidden, vocab), dtype, device)
        rows = merged(tuple(rows), [row])
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        print(text, *(f"{form} {1e3 * value:.2f} ms" for form, value in row.seconds.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
