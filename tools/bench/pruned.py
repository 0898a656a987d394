"""The pruned RNN-T loss on a CPU beside fast_rnnt's, in turns in one process: forward and backward.

    python -m tools.bench.pruned --rounds 7

fast_rnnt (1.3; build it against the same torch) has to be importable. Two comparisons: the pruned loss alone,
of given logits, and the whole road from the simple loss over the ranges to the pruned loss, each through
torch's autograd. The same numbers go in; losses and ranges are printed beside the times.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from maya.errors import MayaError
from maya.losses import prune_ranges, pruned_rnnt_loss, simple_rnnt_loss
from tools.bench.common import in_turns, medians, parser_of

Loss = Callable[[], Tensor]


def problem(args: argparse.Namespace) -> dict[str, Tensor]:
    """A batch of different lengths, blank 0, as icefall's models have it."""
    g = torch.Generator().manual_seed(0)
    batch, frames, labels, vocab = args.batch, args.frames, args.labels, args.vocab
    lens = torch.linspace(frames // 2, frames, batch).long()
    label_lens = torch.linspace(labels // 2, labels, batch).long()
    boundary = torch.zeros(batch, 4, dtype=torch.int64)
    boundary[:, 2], boundary[:, 3] = label_lens, lens
    return {
        "am": torch.randn(batch, frames, vocab, generator=g),
        "lm": torch.randn(batch, labels + 1, vocab, generator=g),
        "targets": torch.randint(1, vocab, (batch, labels), generator=g),
        "lens": lens,
        "label_lens": label_lens,
        "boundary": boundary,
    }


def ours(p: dict[str, Tensor], s_range: int) -> dict[str, Any]:
    pair = (p["lens"], p["label_lens"])

    def simple() -> tuple[Tensor, Tensor]:
        loss, px, py = simple_rnnt_loss(p["am"], p["lm"], p["targets"], *pair, blank=0, lm_only_scale=0.25)
        return loss.sum(), prune_ranges(px, py, *pair, s_range=s_range)

    def pruned(logits: Tensor, ranges: Tensor) -> Tensor:
        return pruned_rnnt_loss(logits, p["targets"], ranges, *pair, blank=0).sum()

    return {"simple": simple, "pruned": pruned}


def theirs(p: dict[str, Tensor], s_range: int) -> dict[str, Any]:
    try:
        import fast_rnnt  # type: ignore[import-not-found]
    except ImportError as e:
        raise MayaError("fast_rnnt is not installed; build it in an environment with this torch") from e

    def simple() -> tuple[Tensor, Tensor]:
        loss, (px, py) = fast_rnnt.rnnt_loss_smoothed(
            lm=p["lm"], am=p["am"], symbols=p["targets"], termination_symbol=0, lm_only_scale=0.25,
            am_only_scale=0.0, boundary=p["boundary"], reduction="sum", return_grad=True,
        )  # fmt: skip
        return loss, fast_rnnt.get_rnnt_prune_ranges(
            px_grad=px, py_grad=py, boundary=p["boundary"], s_range=s_range
        )

    def pruned(logits: Tensor, ranges: Tensor) -> Tensor:
        return fast_rnnt.rnnt_loss_pruned(
            logits=logits, symbols=p["targets"], ranges=ranges, termination_symbol=0,
            boundary=p["boundary"], reduction="sum",
        )  # fmt: skip

    return {"simple": simple, "pruned": pruned}


def logits_of(p: dict[str, Tensor], ranges: Tensor) -> Tensor:
    """tanh(am + lm) at the label positions of the windows, (B, S, R, V)."""
    batch, frames, window = ranges.shape
    rows = torch.arange(batch)[:, None, None].expand(-1, frames, window)
    return (p["am"][:, :, None] + p["lm"][rows, ranges]).tanh()


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of both, of the pruned loss and of the whole road, and their ratios."""
    p = problem(args)
    sides = {"maya": ours(p, args.range), "fast_rnnt": theirs(p, args.range)}
    for name in ("am", "lm"):
        p[name].requires_grad_()
    (own, ranges), (other, other_ranges) = (side["simple"]() for side in sides.values())
    valid = torch.arange(args.frames) < p["lens"][:, None]
    same_ranges = bool(torch.equal(ranges[valid], other_ranges[valid]))
    logits = logits_of(p, ranges).detach().requires_grad_()
    losses = [float(side["pruned"](logits, ranges).detach()) for side in sides.values()]

    def pruned_alone(side: dict[str, Any]) -> None:
        side["pruned"](logits, ranges).backward()

    def whole(side: dict[str, Any]) -> None:
        loss, bounds = side["simple"]()
        (0.5 * loss + side["pruned"](logits_of(p, bounds), bounds)).backward()

    def no_gradients(_: str) -> None:
        for tensor in (p["am"], p["lm"], logits):
            tensor.grad = None

    clock = time.process_time if args.cpu_time else time.perf_counter
    times = {}
    for kind, run in (("pruned", pruned_alone), ("whole", whole)):
        runs = {name: partial(run, side) for name, side in sides.items()}
        times[kind] = medians(in_turns(runs, args.rounds, clock, before=no_gradients))
    result: dict[str, Any] = {
        "ranges equal": same_ranges,
        "simple losses": [float(own.detach()), float(other.detach())],
        "pruned losses": losses,
    }
    for kind, seconds in times.items():
        result[kind] = seconds | {"ratio": seconds["fast_rnnt"] / seconds["maya"]}
    return result


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    for name, value in (("batch", 8), ("frames", 400), ("labels", 60), ("vocab", 500), ("range", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the processor, on a machine that is shared"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(json.dumps(compare(args), indent=1))


if __name__ == "__main__":
    main()
