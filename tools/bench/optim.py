"""One step of ScaledAdam on the parameters of a Zipformer-medium transducer, beside torch's AdamW and beside
ScaledAdam as a plain loop over the parameters:
`python -m tools.bench.optim [--repeats 9] [--threads 1] [--device cpu] [--icefall optim.py]`.

The contenders take turns in one process. On the CPU their processor time is taken, which other programs
disturb less than the clock's. Quoted are medians, and the median of the ratios of each round.
`--icefall` adds icefall's own ScaledAdam from a copy of its zipformer/optim.py, and tells how far the weights
have come apart at the end.
"""

import importlib.util
import logging
import math
import statistics
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from maya.errors import MayaError
from maya.train.optimizers.scaled_adam import ScaledAdam
from tools.bench.common import clock_of, in_turns, median_ratio, parser_of

Shape = tuple[int, ...]


def layer_shapes(d: int, heads: int, ff: int, kernel: int) -> list[Shape]:
    """One Zipformer2 encoder layer."""

    def linear(rows: int, columns: int) -> list[Shape]:
        return [(rows, columns), (rows,)]

    shapes: list[Shape] = [(d,)] * 3  # bypass scales
    shapes += [*linear(68 * heads, d), (4 * heads, 48)]
    for _ in range(2):
        shapes += [*linear(12 * heads, d), *linear(d, 12 * heads)]
        shapes += [*linear(2 * d, d), (d, 1, kernel), (d,), *linear(d, d)]
    for width in (3 * ff // 4, ff, 5 * ff // 4):
        shapes += [*linear(width, d), *linear(d, width)]
    return [*shapes, *linear(9 * d // 4, d), *linear(d, 3 * d // 4), (), (d,)]


def medium_shapes() -> list[Shape]:
    """Every parameter of the medium transducer with 500 BPE pieces: 743 tensors of 65 549 011 elements."""
    shapes: list[Shape] = []
    for out, in_ in ((8, 1), (32, 8), (128, 32)):
        shapes += [(out, in_, 3, 3), (out,)]
    shapes += [(128, 1, 7, 7), (128,), (384, 128, 1, 1), (384,), (128, 384, 1, 1), (128,)]
    shapes += [(192, 2432), (192,), (), (192,)]
    stacks = zip(
        (2, 2, 3, 4, 3, 2), (192, 256, 384, 512, 384, 256), (4, 4, 4, 8, 4, 4),
        (512, 768, 1024, 1536, 1024, 768), (31, 31, 15, 15, 15, 31), (1, 2, 4, 8, 4, 2), strict=True,
    )  # fmt: skip
    for layers, d, heads, ff, kernel, downsampling in stacks:
        shapes += layer_shapes(d, heads, ff, kernel) * layers
        shapes += [(downsampling,), (d,)] if downsampling > 1 else []
    shapes += [(2,), (500, 512), (512, 4, 2)]
    for rows in (512, 512, 500, 500, 500):  # joiner: two projections and the output; the simple projections
        shapes += [(rows, 512), (rows,)]
    return shapes


class LoopScaledAdam(Optimizer):
    """The same update, one parameter after another: what stacking is measured against."""

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.steps = 0
        self.norms: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        params, k = self.param_groups[0]["params"], self.steps
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "v": torch.zeros_like(p), "m": torch.zeros_like(p), "rms": p.square().mean().sqrt(),
                    "pg": p.new_zeros(4), "w": p.new_zeros(()),
                }  # fmt: skip
        weights = [self.state[p]["rms"] if p.numel() > 1 else p.new_tensor(0.1) for p in params]
        squares = [(p.grad * w).square().sum() for p, w in zip(params, weights, strict=True)]
        self.norms.append(torch.stack(squares).sum().sqrt())
        recent = torch.stack(self.norms[-100:])
        factor = (4 * recent.median() / self.norms[-1]).clamp(max=1.0) if k >= 10 else torch.tensor(1.0)
        for p in params:
            p.add_(self._move(p, p.grad * factor, self.state[p], k, self.param_groups[0]["lr"]))
        self.steps += 1

    def _move(self, p: Tensor, g: Tensor, state: dict[str, Tensor], k: int, lr: float) -> Tensor:
        state["v"].mul_(0.98).addcmul_(g, g, value=0.02)
        correction = 1 - 0.98 ** (k + 1)
        u = -lr * g / ((state["v"] / correction).sqrt() + 1e-8)
        if p.numel() == 1:
            return state["m"].mul_(0.9).add_(u * 0.1, alpha=0.1)
        state["pg"][k % 4] = (p * g).sum()
        if k % 4 == 3:
            state["rms"] = p.square().mean().sqrt()
            state["w"].mul_(0.98**4).add_(state["pg"].square().mean(), alpha=1 - 0.98**4)
            scale = -0.1 * lr * math.sqrt(correction) * state["pg"].sum() / (state["w"].sqrt() + 1e-8)
            u = u * state["rms"] + p * scale.clamp(-0.1, 0.1)
        else:
            u = u * state["rms"]
        return state["m"].mul_(0.9).add_(u, alpha=0.1)


def icefalls(path: Path, params: list[tuple[str, nn.Parameter]], lr: float) -> Optimizer:
    """icefall's ScaledAdam, out of a copy of its optim.py."""
    spec = importlib.util.spec_from_file_location("icefall_optim", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MayaError(f"{path} is no Python file; give icefall's egs/librispeech/ASR/zipformer/optim.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    logging.disable(logging.WARNING)  # it reports its quartiles as warnings
    return module.ScaledAdam(params, lr=lr, clipping_scale=2.0)


def contenders(device: torch.device, lr: float, icefall: Path | None) -> dict[str, tuple[Optimizer, list]]:
    """Optimizers with parameters of their own, all alike."""
    g = torch.Generator().manual_seed(0)
    first = [nn.Parameter((torch.randn(s, generator=g) / 10).to(device)) for s in medium_shapes()]

    def fresh() -> list[nn.Parameter]:
        return [nn.Parameter(p.detach().clone()) for p in first]

    def named(params: list[nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
        return [(f"p{i}", p) for i, p in enumerate(params)]

    sets = [fresh() for _ in range(5)]
    made: dict[str, tuple[Optimizer, list]] = {
        "ScaledAdam": (ScaledAdam(named(sets[0]), lr=lr), sets[0]),
        "ScaledAdam, a loop": (LoopScaledAdam(sets[1], lr), sets[1]),
        "torch AdamW, fused": (AdamW(sets[2], lr=lr, fused=True), sets[2]),
        "torch AdamW, foreach": (AdamW(sets[3], lr=lr, foreach=True), sets[3]),
    }
    if icefall:
        made["icefall's ScaledAdam"] = (icefalls(icefall, named(sets[4]), lr), sets[4])
    return made


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--icefall", type=Path, help="a copy of icefall's zipformer/optim.py, to compare with"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    made = contenders(device, 1e-3, args.icefall)
    g = torch.Generator(device).manual_seed(1)
    grads = [torch.randn(s, generator=g, device=device) for s in medium_shapes()]

    def set_gradients(name: str) -> None:
        for p, grad in zip(made[name][1], grads, strict=True):
            p.grad = grad

    def step(optimizer: Optimizer) -> None:
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    runs = {name: partial(step, optimizer) for name, (optimizer, _) in made.items()}
    # Two rounds make the state and warm up.
    seconds = in_turns(runs, args.repeats, clock_of(device), warm_up=2, before=set_gradients)
    count = sum(math.prod(s) for s in medium_shapes())
    print(
        f"{len(grads)} tensors, {count} parameters, {args.threads} thread(s), {device}, "
        f"torch {torch.__version__}"
    )
    for name, times in seconds.items():
        ratio = median_ratio(times, seconds["ScaledAdam"])
        print(f"{name:<22} {1e3 * statistics.median(times):8.1f} ms  {ratio:6.2f}x ScaledAdam's time")
    own = made["ScaledAdam"][1]
    for name in made.keys() & {"icefall's ScaledAdam"}:
        apart = max(float((p - q).detach().abs().max() / p.detach().abs().max())
                    for p, q in zip(own, made[name][1], strict=True))  # fmt: skip
        print(f"{name}: weights differ by {apart:.1e} of the largest after {args.repeats + 2} steps")


if __name__ == "__main__":
    main()
