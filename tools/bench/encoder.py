"""Measure the FastConformer encoder: against Hugging Face's and NeMo's, on hours of audio, in parts.

    python -m tools.bench.encoder compare --against hf nemo     # same weights, same input, same process
    python -m tools.bench.encoder long --minutes 10 30 180      # peak memory and time, local attention
    python -m tools.bench.encoder attention                     # what the position bias costs

The other encoders are not among Maya's requirements: run `compare` in an environment of its own that has
`transformers` (5.23 or later) or `nemo_toolkit[asr]`, with this checkout on PYTHONPATH. All takers take turns
in one process, and ratios are of medians, so a noisy machine blurs a ratio but does not favour anyone. Times
are those of the clock, and of the processor ("cpu"), which other programs disturb much less. --out adds the
result to a JSON file; docs/benchmarks/encoder.md explains those that are kept.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from maya.encoders import FastConformer, FastConformerConfig
from maya.kernels.bench.peak import forget_the_peak, forked, resident
from tools.bench.common import command_of, finish, in_turns, medians, parser_of


def no_dropout(**options: Any) -> FastConformerConfig:
    """A configuration that computes the same in training as in evaluation, batch statistics apart."""
    zero = dict.fromkeys(("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att"), 0.0)
    return FastConformerConfig(**(zero | options))


def hugging_face(ours: FastConformer) -> nn.Module:
    """transformers' ParakeetEncoder with our weights."""
    from transformers import ParakeetEncoder, ParakeetEncoderConfig

    cfg = ours.cfg
    peer = ParakeetEncoder(
        ParakeetEncoderConfig(
            hidden_size=cfg.d_model,
            num_hidden_layers=cfg.n_layers,
            num_attention_heads=cfg.n_heads,
            intermediate_size=cfg.d_model * cfg.ff_expansion,
            conv_kernel_size=cfg.conv_kernel,
            subsampling_conv_channels=cfg.subsampling_channels,
            num_mel_bins=cfg.feat_in,
            dropout=0.0,
            layerdrop=0.0,
            activation_dropout=0.0,
            attention_dropout=0.0,
        )
    )
    peer.load_state_dict(hugging_face_names(ours.state_dict()), strict=True)
    return peer


def hugging_face_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our (NeMo's) parameter names as ParakeetEncoder has them."""
    names = {
        "pre_encode.conv.": "subsampling.layers.",
        "pre_encode.out.": "subsampling.linear.",
        "self_attn.linear_q.": "self_attn.q_proj.",
        "self_attn.linear_k.": "self_attn.k_proj.",
        "self_attn.linear_v.": "self_attn.v_proj.",
        "self_attn.linear_out.": "self_attn.o_proj.",
        "self_attn.linear_pos.": "self_attn.relative_k_proj.",
        "self_attn.pos_bias_": "self_attn.bias_",
        "conv.batch_norm.": "conv.norm.",
    }
    renamed = {}
    for key, value in state.items():
        for ours, peer in names.items():
            key = key.replace(ours, peer)
        renamed[key] = value
    return renamed


def nemo(ours: FastConformer) -> nn.Module:
    """NeMo's ConformerEncoder with our weights."""
    from nemo.collections.asr.modules import ConformerEncoder

    cfg = ours.cfg
    peer = ConformerEncoder(
        feat_in=cfg.feat_in,
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        n_heads=cfg.n_heads,
        ff_expansion_factor=cfg.ff_expansion,
        conv_kernel_size=cfg.conv_kernel,
        subsampling="dw_striding",
        subsampling_factor=cfg.subsampling_factor,
        subsampling_conv_channels=cfg.subsampling_channels,
        dropout=0.0,
        dropout_pre_encoder=0.0,
        dropout_emb=0.0,
        dropout_att=0.0,
        sync_max_audio_length=False,
    )
    peer.load_state_dict(ours.state_dict(), strict=True)
    return peer


def run_ours(model: nn.Module, x: Tensor, lens: Tensor) -> Tensor:
    enc, _ = model(x, lens)
    return enc


def run_hugging_face(model: nn.Module, x: Tensor, lens: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1]) < lens[:, None]
    return model(x, attention_mask=mask).last_hidden_state


def run_nemo(model: nn.Module, x: Tensor, lens: Tensor) -> Tensor:
    return model(audio_signal=x.transpose(1, 2), length=lens)[0].transpose(1, 2)


MAKERS: dict[str, tuple[Callable[[FastConformer], nn.Module], Callable[..., Tensor]]] = {
    "hf": (hugging_face, run_hugging_face),
    "nemo": (nemo, run_nemo),
}


KINDS = ("forward", "both", "forward cpu", "both cpu")


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Medians of forward (evaluation) and forward + backward (training) for every taker, in turns."""
    torch.manual_seed(0)
    ours = FastConformer(no_dropout(n_layers=args.layers, d_model=args.width))
    takers: dict[str, tuple[nn.Module, Callable[..., Tensor]]] = {"maya": (ours, run_ours)}
    for name in args.against:
        make, run = MAKERS[name]
        takers[name] = make(ours), run
    seconds = torch.linspace(args.seconds[0], args.seconds[1], args.batch)
    lens = (seconds * 100).long()
    x = torch.randn(args.batch, int(lens.max()), ours.cfg.feat_in)
    x = x.masked_fill((torch.arange(x.shape[1]) >= lens[:, None])[..., None], 0.0)
    worst = agreement(takers, x, lens)
    out_lens = ours.subsampled_lens(lens)
    valid = (torch.arange(int(out_lens.max())) < out_lens[:, None])[..., None]
    times: dict[str, dict[str, list[float]]] = {name: {k: [] for k in KINDS} for name in takers}
    for round_number in range(1, args.rounds + 1):  # `agreement` has warmed up
        for name, (model, run) in takers.items():
            for kind, step in (("forward", forward), ("both", forward_backward)):
                began, cpu = time.perf_counter(), time.process_time()
                step(model, run, x, lens, valid)
                times[name][kind].append(time.perf_counter() - began)
                times[name][kind + " cpu"].append(time.process_time() - cpu)
        print(f"round {round_number}: {summary(times)}", flush=True)
    result: dict[str, Any] = {"largest difference": worst, "seconds": median(times)}
    for name in args.against:
        medians = result["seconds"]
        result[f"{name} over maya"] = {k: medians[name][k] / medians["maya"][k] for k in KINDS}
    return result


def agreement(takers: dict[str, tuple[nn.Module, Callable[..., Tensor]]], x: Tensor, lens: Tensor) -> float:
    """The largest difference of any valid output from ours; more than 1e-3 ends the measurement."""
    outputs = {}
    with torch.inference_mode():
        for name, (model, run) in takers.items():
            outputs[name] = run(model.eval(), x, lens)
    worst = 0.0
    for row, n in enumerate((lens + 7) // 8):
        for y in outputs.values():
            worst = max(worst, float((y[row, :n] - outputs["maya"][row, :n]).abs().max()))
    if worst > 1e-3:
        sys.exit(f"the encoders differ by {worst:.1e}: they do not compute the same, so times mean nothing")
    return worst


def forward(model: nn.Module, run: Callable[..., Tensor], x: Tensor, lens: Tensor, valid: Tensor) -> None:
    model.eval()
    with torch.inference_mode():
        run(model, x, lens)


def forward_backward(
    model: nn.Module, run: Callable[..., Tensor], x: Tensor, lens: Tensor, valid: Tensor
) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    y = run(model, x, lens)
    (y[:, : valid.shape[1]] * valid).square().sum().backward()


def median(times: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {name: {k: statistics.median(v) for k, v in kinds.items()} for name, kinds in times.items()}


def summary(times: dict[str, dict[str, list[float]]]) -> str:
    return ", ".join(
        f"{name} {'/'.join(f'{v[-1]:.2f}' for v in kinds.values() if v)}" for name, kinds in times.items()
    )


def long(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and time of one utterance of each length, each in a fork of this process."""
    rows = []
    for minutes in args.minutes:
        row, status = forked(partial(long_one, args, minutes))
        if row is None:
            sys.exit(f"{minutes:g} minutes: the measuring process ended with status {status}")
        rows.append(row)
        print(row, flush=True)
    return {"rows": rows, "unit": "MB"}


def long_one(args: argparse.Namespace, minutes: float) -> dict[str, Any]:
    torch.manual_seed(0)
    heads = 8 if args.width % 8 == 0 and args.width >= 256 else 4
    model = FastConformer(no_dropout(n_layers=args.layers, d_model=args.width, n_heads=heads)).eval()
    frames, context = int(minutes * 6000), tuple(args.context)
    x, lens = torch.randn(1, frames, model.cfg.feat_in), torch.tensor([frames])
    with torch.inference_mode():
        model(x[:, :6000], torch.tensor([6000]), context=context)  # libraries and thread pools
        forget_the_peak()
        before, began = resident("VmRSS"), time.perf_counter()
        enc, _ = model(x, lens, context=context)
        seconds, peak = time.perf_counter() - began, resident("VmHWM")
    if not enc.isfinite().all():
        sys.exit("the output is not finite")
    sizes = {"features": x.nbytes, "output": enc.nbytes, "rest": peak - before - enc.nbytes, "peak": peak}
    return {"minutes": minutes, "frames": enc.shape[1], "seconds": seconds} | {
        name: size / 1e6 for name, size in sizes.items()
    }


def attention(args: argparse.Namespace) -> dict[str, Any]:
    """Time of one attention module, in two forms, and of torch's fused attention alone, in turns."""
    from maya.encoders.conformer.attention import (
        Frames,
        RelPositionAttention,
        positions_needed,
        relative_sinusoids,
        span_of,
    )

    module = RelPositionAttention(512, 8, bias=True, dropout=0.0).eval()
    for bias in module.position_biases:
        nn.init.zeros_(bias)
    rows = []
    for size in args.frames:
        x = torch.randn(1, size, 512)
        shared = {}
        for name, context in (("full", (-1, -1)), ("local", (128, 128))):
            span = span_of(context, "regular")
            table = relative_sinusoids(positions_needed(span, size), 512, x.device)
            shared[name] = Frames(valid=torch.ones(1, size, dtype=torch.bool), positions=table, span=span)
        q, k, v = torch.randn(3, 1, 8, size, 64)
        runs: dict[str, Callable[[], Any]] = {
            "full": partial(module, x, shared["full"]),
            "local 128 128": partial(module, x, shared["local"]),
            "fused attention alone, no positions": partial(scaled_dot_product_attention, q, k, v),
        }
        with torch.inference_mode():
            seconds = medians(in_turns(runs, args.rounds))
        rows.append({"frames": size} | {name: 1000 * value for name, value in seconds.items()})
        print(rows[-1], flush=True)
    return {"rows": rows, "unit": "ms"}


MEASUREMENTS = {"compare": compare, "long": long, "attention": attention}


def main(argv: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--against", nargs="+", choices=MAKERS, default=["hf"])
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=[5.0, 20.0], help="shortest and longest utterance"
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0, 30.0, 180.0])
    parser.add_argument("--context", type=int, nargs=2, default=[128, 128])
    parser.add_argument("--frames", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=None, help="a .json to add the result to")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    result = MEASUREMENTS[args.what](args)
    finish(result, args.what, command_of("encoder", argv), args.out)


if __name__ == "__main__":
    main()
