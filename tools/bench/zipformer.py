"""Time a training step of Zipformer, forward and backward, beside icefall's own modules if they are at hand.

    python -m tools.bench.zipformer [--icefall CHECKOUT] [--size medium] [--utterances 6] [--seconds 10]
    python -m tools.bench.zipformer --device cuda --compile        # with and without torch.compile

`--icefall` is a checkout of github.com/k2-fsa/icefall. Its Zipformer needs k2, which has no wheel for this
torch; four functions of it are replaced here by torch's softplus, one operator in either direction. Balancer
and Whiten are off on both sides. `eval` is evaluation mode with gradients; `train` has dropout and skipping
as they are at the end of training. All take turns in one process; on a CPU a step counts in seconds of
processor time, summed over threads, which other programs disturb less than the wall clock.
"""

import argparse
import os
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders.zipformer.config import ZipformerConfig, large, medium, small
from maya.encoders.zipformer.encoder import Zipformer
from maya.encoders.zipformer.regularizers import Balancer, Whiten, set_batch_count
from tools.bench.common import clock_of, in_turns, medians, parser_of

LATE = 1e6  # a batch count at which all schedules have ended
SIZES: dict[str, Callable[..., ZipformerConfig]] = {"small": small, "medium": medium, "large": large}

Encode = Callable[[Tensor, Tensor], Tensor]


class _Swoosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: float, constant: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shift = shift
        return F.softplus(x - shift) - 0.08 * x - constant

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad * (torch.sigmoid(x - ctx.shift) - 0.08), None, None


def stand_in_for_k2() -> types.ModuleType:
    """A module with the functions that icefall's scaling.py takes from k2."""
    k2 = types.ModuleType("k2")
    for letter, shift, constant in (("l", 4.0, 0.035), ("r", 1.0, 0.313261687)):

        def plain(x: Tensor, s: float = shift, c: float = constant) -> Tensor:
            return F.softplus(x - s) - 0.08 * x - c

        def both(x: Tensor, s: float = shift, c: float = constant) -> tuple[Tensor, Tensor]:
            return F.softplus(x - s) - 0.08 * x - c, torch.sigmoid(x - s) - 0.08

        def tracked(x: Tensor, s: float = shift, c: float = constant) -> Tensor:
            return _Swoosh.apply(x, s, c)

        vars(k2)[f"swoosh_{letter}"] = tracked
        vars(k2)[f"swoosh_{letter}_forward"] = plain
        vars(k2)[f"swoosh_{letter}_forward_and_deriv"] = both
    return k2


def icefall_encoder(checkout: Path, cfg: ZipformerConfig, train: bool) -> tuple[Encode, nn.Module]:
    """icefall's front end and encoder: one function of (features, lens), and the modules behind it."""
    folder = checkout / "egs/librispeech/ASR/zipformer"
    if not folder.is_dir():
        sys.exit(f"{folder} is not there: --icefall takes a checkout of github.com/k2-fsa/icefall")
    sys.path[:0] = [str(folder), str(folder.parent / "transducer_stateless")]
    utils = types.ModuleType("icefall.utils")
    vars(utils)["torch_autocast"] = lambda **options: torch.autocast("cpu", **options)
    sys.modules |= {"k2": stand_in_for_k2(), "icefall": types.ModuleType("icefall"), "icefall.utils": utils}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scaling, subsampling, zipformer = map(import_module, ("scaling", "subsampling", "zipformer"))

    for part in (scaling.Balancer, scaling.Whiten):
        part.forward = lambda self, x: x
    drop = scaling.ScheduledFloat((0.0, 0.3), (20000.0, 0.1))
    front = subsampling.Conv2dSubsampling(cfg.feat_in, cfg.dims[0], dropout=drop)
    encoder = zipformer.Zipformer2(
        output_downsampling_factor=2,
        downsampling_factor=cfg.downsampling,
        num_encoder_layers=cfg.layers,
        encoder_dim=cfg.dims,
        encoder_unmasked_dim=cfg.unmasked_dims,
        query_head_dim=(cfg.query_head_dim,),
        pos_head_dim=(cfg.pos_head_dim,),
        value_head_dim=(cfg.value_head_dim,),
        pos_dim=cfg.pos_dim,
        num_heads=cfg.heads,
        feedforward_dim=cfg.ff_dims,
        cnn_module_kernel=cfg.conv_kernels,
        causal=cfg.causal,
        chunk_size=(-1,),
        left_context_frames=(-1,),
    )
    both = nn.ModuleDict({"encoder_embed": front, "encoder": encoder}).train(train)
    for module in both.modules():
        if isinstance(module, scaling.ScheduledFloat):
            module.batch_count = LATE

    def encode(x: Tensor, lens: Tensor) -> Tensor:
        h, lens = front(x, lens)
        padding = torch.arange(h.shape[1]) >= lens[:, None]
        enc, lens = encoder(h.permute(1, 0, 2), lens, padding)
        return enc.permute(1, 0, 2)

    return encode, both


def our_encoder(cfg: ZipformerConfig, train: bool) -> Zipformer:
    """Ours, with Balancer and Whiten off."""
    model = Zipformer(cfg).train(train)
    set_batch_count(model, LATE)
    for module in model.modules():
        if isinstance(module, (Balancer, Whiten)):
            module.switch.probability = 0.0
    return model


def step(encode: Encode, x: Tensor, lens: Tensor) -> None:
    """One forward and backward pass, until the GPU has finished it."""
    encode(x, lens).square().mean().backward()
    _wait(x)


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def compare(args: argparse.Namespace, train: bool) -> None:
    """Print one line for ours, and one for icefall's beside it."""
    torch.manual_seed(0)
    cfg = SIZES[args.size](causal=args.causal)
    frames = int(args.seconds * 100)
    x = torch.randn(args.utterances, frames, cfg.feat_in).to(args.device)
    lens = torch.linspace(frames, frames * 0.8, args.utterances).long().to(args.device)
    ours = our_encoder(cfg, train).to(args.device)
    sides: dict[str, tuple[Encode, nn.Module]] = {"ours": (lambda x, n: ours(x, n)[0], ours)}
    if args.compile:
        compiled = torch.compile(ours, backend=args.compile)
        sides["compiled"] = (lambda x, n: compiled(x, n)[0], ours)
    if args.icefall:
        from maya.convert.icefall.names import from_icefall_name  # here: a GPU machine may lack lhotse

        encode, modules = icefall_encoder(args.icefall, cfg, train)
        sides["icefall"] = (encode, modules)
        named = {from_icefall_name(n): p for n, p in modules.state_dict().items()}
        ours.load_state_dict({n.removeprefix("encoder."): p for n, p in named.items() if n})

    def prepare(name: str) -> None:
        sides[name][1].zero_grad()
        _wait(x)

    runs = {name: partial(step, encode, x, lens) for name, (encode, _) in sides.items()}
    times = in_turns(runs, args.repeats, clock_of(args.device), before=prepare)
    middle = medians(times)
    mode = "train" if train else "eval"
    for name, seconds in times.items():
        print(f"{mode:6}{name:9}{middle[name]:8.3f} s a step, {min(seconds):.3f} to {max(seconds):.3f}")
    if args.icefall:
        ratios = sorted(a / b for a, b in zip(times["icefall"], times["ours"], strict=True))
        ratio = middle["icefall"] / middle["ours"]
        print(f"{mode:6}ratio of medians {ratio:.2f}; of single turns {ratios[0]:.2f} to {ratios[-1]:.2f}")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--icefall", type=Path, help="a checkout of icefall; without it ours alone is timed")
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--utterances", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the longest; the shortest: 0.8 of it")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--modes", nargs="+", choices=("eval", "train"), default=["eval", "train"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...; icefall's is timed on the CPU alone")
    parser.add_argument(
        "--compile", nargs="?", const="inductor", metavar="BACKEND", help="also ours under torch.compile"
    )
    args = parser.parse_args()
    if args.icefall and args.device != "cpu":
        parser.error("--icefall goes with --device cpu")
    torch.set_num_threads(args.threads)
    total = args.utterances * args.seconds
    print(f"Zipformer {args.size}, {args.utterances} utterances, {total:g} s of audio with padding, "
          f"fp32, {args.device}, {args.threads} thread(s) of {os.cpu_count()}, "
          f"torch {torch.__version__}")  # fmt: skip
    for mode in args.modes:
        compare(args, mode == "train")


if __name__ == "__main__":
    main()
