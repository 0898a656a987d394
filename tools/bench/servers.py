"""Maya's server beside sherpa-onnx' online server: the same model, on the same core, in turns.

    python -m tools.bench.servers fastconformer=RUN zipformer-s=random --audio FOLDER \\
        --sherpa BIN/sherpa-onnx-online-websocket-server --out docs/benchmarks/server

Each model is a run folder or a checkpoint of a causal Zipformer or a FastConformer that streams, or `random`:
weights of the preset of that name with a blank that always wins, so that the encoder is what is measured. It
is exported for sherpa-onnx. Each server is pinned to `--core` and has one thread for the model; only one of
them runs at a time. The clients, of tools.bench.load, run on the other cores. `maya` has its voice detector,
which ends segments; `maya-novad` has none, as sherpa-onnx, whose batch is 5 streams by default. The ladder
ends for a server where p95 of the final is above 500 ms in every round. CPU: processor seconds per second.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import maya
from maya.convert.onnx.export import export_onnx
from maya.decode.recognizer import Recognizer
from maya.encoders.zipformer import config as zipformer_config
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import build_model, count_parameters
from maya.recipes import presets
from maya.recipes.figure import figure_class
from maya.text.tokenizer import TokenizerConfig, train_tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tools.bench.common import command_of, machine, markdown, parser_of, write_pages
from tools.bench.load import joined, percentile, round_of

PARTS = ("encoder", "decoder", "joiner")
BAR_SECONDS = 0.5  # p95 of the time from the end of the audio to the last text
CHUNK, LEFT = 16, 64  # of Zipformers, in frames of 20 ms
HEADER = (
    "model", "server", "streams", "final p95, ms: median (lowest to highest)", "final p50", "partial p95",
    "CPU", "ms of processor a second of audio", "MB", "failed",
)  # fmt: skip


def random_config(name: str) -> SpeechModelConfig:
    """The small sizes of the field, as models that stream."""
    if name == "zipformer-s":
        return presets.zipformer(zipformer_config.small(causal=True))
    if name != "fastconformer-s":
        raise SystemExit(f"{name}=random: the names are zipformer-s and fastconformer-s")
    cfg: Any = presets.small()
    cfg.features.normalize, cfg.head("transducer", object).loss = "none", "rnnt"
    encoder = cfg.encoder
    encoder.att_context_style, encoder.att_context_size = "chunked_limited", ((70, 1),)
    encoder.causal_downsampling, encoder.conv_context, encoder.conv_norm = True, "causal", "layer_norm"
    return cfg


def random_model(name: str, path: Path) -> None:
    """A checkpoint that recognises nothing."""
    tokenizer = train_tokenizer({"en": ["ba be bi bo bu da de di do du"] * 3}, TokenizerConfig(vocab_size=16))
    cfg = with_vocabulary(random_config(name), tokenizer.vocab_size, ("en",))
    cfg.language_embedding = False
    torch.manual_seed(0)
    network: Any = build_model(cfg)
    with torch.no_grad():
        network.heads["transducer"].joint.joint_net[-1].bias[network.blank] += 100.0
    save_checkpoint(path, Checkpoint(
        model_config=cfg, tokenizer=tokenizer, weights=network.state_dict(), step=1, notes={}))  # fmt: skip


@dataclass(slots=True)
class Served:
    """A server that can be started. ready: what it prints when it takes clients; None: look at the port."""

    name: str
    command: list[str]
    url: str
    protocol: str


def contenders(args: argparse.Namespace, checkpoint: Path, model: Recognizer, folder: Path) -> list[Served]:
    """The servers of one model."""
    is_zipformer = getattr(model.model.cfg.encoder, "causal", False)
    ports = [free_port() for _ in range(4)]
    own = [sys.executable, "-m", "maya.recipes.cli", "serve", str(checkpoint), "--threads", "1", "--slots",
           "1000", "--method", "transducer"]  # fmt: skip
    if is_zipformer:
        own += ["--context", str(LEFT), str(CHUNK)]
    servers = [
        Served(name, [*own, "--port", str(port), *options], f"ws://127.0.0.1:{port}/v1/stream", "native")
        for name, port, options in (("maya", ports[0], []), ("maya-novad", ports[1], ["--vad", "off"]))
    ]
    export_onnx(model, folder, head="transducer", chunk_frames=CHUNK if is_zipformer else None,
                left_frames=LEFT, stream=not is_zipformer)  # fmt: skip
    mels = model.model.cfg.features.num_mels
    for port, batch in zip(ports[2:], args.sherpa_batch, strict=False):
        command = [str(args.sherpa), f"--port={port}", f"--max-batch-size={batch}", f"--feat-dim={mels}",
                   "--num-threads=1", "--num-io-threads=1", "--num-work-threads=1",
                   f"--tokens={folder}/tokens.txt", f"--log-file={folder}/log{batch}.txt",
                   *(f"--{part}={folder}/{part}.onnx" for part in PARTS)]  # fmt: skip
        servers.append(Served(f"sherpa-onnx/{batch}", command, f"ws://127.0.0.1:{port}", "sherpa"))
    return servers


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(served: Served, core: int) -> Iterator[int]:
    """The process of a server on one core: its id."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *served.command], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = int(served.url.split(":")[2].split("/")[0])
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"{served.name} ended at once: {' '.join(served.command)}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def measure(
    args: argparse.Namespace, servers: Sequence[Served], recordings: list[np.ndarray]
) -> list[dict[str, Any]]:
    """The ladder of streams; at each step all servers in turns, some rounds."""
    results: list[dict[str, Any]] = []
    going = list(servers)
    for streams in args.streams:
        rounds: dict[str, list[dict[str, Any]]] = {served.name: [] for served in going}
        for number in range(args.rounds):
            for served in going[number % len(going) :] + going[: number % len(going)]:
                with running(served, args.core) as pid:
                    options = argparse.Namespace(
                        url=served.url, protocol=served.protocol, pid=pid, piece_ms=args.piece_ms
                    )
                    asyncio.run(round_of(options, recordings[:1], 1))  # to warm up
                    rounds[served.name].append(asyncio.run(round_of(options, recordings, streams)))
                line = summary("", served.name, streams, rounds[served.name][-1:])
                print(line, file=sys.stderr, flush=True)
        for served in list(going):
            own = rounds[served.name]
            results.append({"server": served.name, "streams": streams, "rounds": own})
            if min(percentile(r["final"], 95) for r in own) > BAR_SECONDS:
                going.remove(served)
        if not going:
            break
    return results


def summary(model: str, server: str, streams: int, rounds: Sequence[dict[str, Any]]) -> list[str]:
    """A line of the table."""
    p95 = [1000 * percentile(r["final"], 95) for r in rounds]

    def middle(values: Iterator[float]) -> float:
        return statistics.median(values)

    return [
        model, server, str(streams), f"{middle(iter(p95)):.0f} ({min(p95):.0f} to {max(p95):.0f})",
        f"{middle(1000 * percentile(r['final'], 50) for r in rounds):.0f}",
        f"{middle(1000 * percentile(r['partial'], 95) for r in rounds):.0f}",
        f"{middle(r['cpu'] for r in rounds):.2f}", f"{middle(r['cost_ms'] for r in rounds):.1f}",
        f"{middle(r['mb'] for r in rounds):.0f}",
        str(sum(r["failed"] for r in rounds)),
    ]  # fmt: skip


def most_streams(results: Sequence[dict[str, Any]], server: str) -> int:
    """The most streams at which the median of p95 over the rounds is within the bar, none having failed."""
    good = [
        r["streams"] for r in results if r["server"] == server
        and statistics.median(percentile(each["final"], 95) for each in r["rounds"]) <= BAR_SECONDS
        and not any(each["failed"] for each in r["rounds"])
    ]  # fmt: skip
    return max(good, default=0)


def draw(measured: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """p95 of the final against streams, a panel a model."""
    figure = figure_class()(figsize=(5.5 * len(measured), 4), layout="constrained")
    for place, (model, results) in enumerate(measured.items(), 1):
        axes = figure.add_subplot(1, len(measured), place)
        for name in dict.fromkeys(r["server"] for r in results):
            own = [r for r in results if r["server"] == name]
            p95 = [[1000 * percentile(each["final"], 95) for each in r["rounds"]] for r in own]
            streams, line = [r["streams"] for r in own], [statistics.median(values) for values in p95]
            axes.plot(streams, line, marker="o", markersize=4, label=name)
            axes.fill_between(streams, [min(v) for v in p95], [max(v) for v in p95], alpha=0.15)
        axes.axhline(1000 * BAR_SECONDS, color="grey", linestyle="--", linewidth=1)
        axes.set(
            xscale="log", yscale="log", xlabel="streams in real time", ylabel="final p95, ms", title=model
        )
        axes.legend()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--sherpa", type=Path, required=True, help="sherpa-onnx-online-websocket-server")
    parser.add_argument("--sherpa-batch", type=int, nargs="+", default=[5, 32], help="its batch sizes")
    parser.add_argument("--audio", type=Path, required=True, help="a folder of recordings")
    parser.add_argument("--streams", type=int, nargs="+", default=[4, 8, 16, 32, 48, 64, 96, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a recording")
    parser.add_argument("--piece-ms", type=int, default=100, help="audio in a message")
    parser.add_argument("--core", type=int, default=1, help="of the servers; the clients use the others")
    parser.add_argument("--out", type=Path, help="write OUT.json, OUT.md and OUT.png")
    args = parser.parse_args(argv)
    recordings, began = joined(args.audio, args.seconds), machine()
    os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {args.core} or {args.core})
    measured, sizes = {}, {}
    for spec in args.models:
        name, _, path = spec.partition("=")
        with TemporaryDirectory() as work:
            checkpoint = Path(work) / "model.pt" if path == "random" else Path(path)
            if path == "random":
                random_model(name, checkpoint)
            model = maya.load(checkpoint, "cpu")
            sizes[name] = count_parameters(model.model) / 1e6
            measured[name] = measure(
                args, contenders(args, checkpoint, model, Path(work) / "onnx"), recordings
            )
    write(args, argv, measured, sizes, began)
    return 0


def write(args: argparse.Namespace, argv: Any, measured: Any, sizes: dict[str, float], began: str) -> None:
    """The page and the picture."""
    rows = [
        summary(model, r["server"], r["streams"], r["rounds"]) for model in measured for r in measured[model]
    ]
    names = list(dict.fromkeys(r["server"] for results in measured.values() for r in results))
    most = [[f"{model}, {sizes[model]:.1f} M", *(most_streams(results, name) for name in names)]
            for model, results in measured.items()]  # fmt: skip
    text = "\n".join([
        "# Voice servers beside each other", "", f"`{command_of('servers', argv)}`", "",
        f"{began}; torch {torch.__version__}. {args.rounds} rounds, recordings of {args.seconds:g} s, "
        f"messages of {args.piece_ms} ms, one core a server.", "",
        f"Streams with p95 of the final within {1000 * BAR_SECONDS:.0f} ms of the audio's end:", "",
        *markdown(("model", *names), most), "", *markdown(HEADER, rows), "",
    ])  # fmt: skip
    print(text)
    if args.out:
        write_pages(args.out, measured, text)
        draw(measured, args.out.with_suffix(".png"))


if __name__ == "__main__":
    raise SystemExit(main())
