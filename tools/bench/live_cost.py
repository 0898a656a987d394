"""Processor time of live recognition by batch size, beside sherpa-onnx with the same model, without a server.

    python -m tools.bench.live_cost fastconformer-s zipformer-s --audio FOLDER --batches 1 8 32

The models are those of tools.bench.servers with random weights. All streams get 100 ms at the same moment, so
a batch is as large as it can be; a server's is smaller, because its streams are not in step. Needs the
package sherpa-onnx. Milliseconds of processor for each second of each stream, in turns, medians of rounds.

With `--held` the streams begin at random moments and the clock is that of the processor: a step moves it on
by what it took, and a piece is there 100 ms after the one before. So it tells how many streams one whole core
holds, without the transport, also on a machine that other programs use: p95 of the time from the end of the
audio to the last text.
"""

import argparse
import importlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import maya
from maya.convert.onnx.export import export_onnx
from maya.decode.recognizer import Recognizer
from maya.serve.config import SessionConfig
from maya.serve.session import LiveModel
from tools.bench.common import command_of, in_turns, machine, markdown, medians, parser_of
from tools.bench.load import RATE, joined, percentile
from tools.bench.servers import BAR_SECONDS, CHUNK, LEFT, PARTS, random_model

PIECE = RATE // 10
SECONDS = 10


def pieces(audio: Sequence[np.ndarray], streams: int) -> list[list[np.ndarray]]:
    """For each moment, the next piece of each stream."""
    begins = range(0, SECONDS * RATE, PIECE)
    return [[audio[n % len(audio)][begin : begin + PIECE] for n in range(streams)] for begin in begins]


def maya_run(model: Recognizer, moments: list[list[np.ndarray]], cfg: SessionConfig) -> None:
    """Sessions of `LiveModel`, as the engine steps them."""
    live = live_of(model)
    sessions = [live.open(cfg=cfg) for _ in moments[0]]
    for moment in moments:
        for session, samples in zip(sessions, moment, strict=True):
            session.push(samples, RATE)
        while ready := [session for session in sessions if session.blocks]:
            live.step(ready)


def sherpa_run(recognizer: Any, moments: list[list[np.ndarray]], batch: int) -> None:
    """Streams of sherpa-onnx, at most `batch` of them at once."""
    streams = [recognizer.create_stream() for _ in moments[0]]
    for moment in moments:
        for stream, samples in zip(streams, moment, strict=True):
            stream.accept_waveform(RATE, samples)
        while ready := [stream for stream in streams if recognizer.is_ready(stream)][:batch]:
            recognizer.decode_streams(ready)


class MayaStreams:
    """Sessions for `final_delays`."""

    def __init__(self, live: LiveModel, cfg: SessionConfig, count: int) -> None:
        self.live, self.sessions = live, [live.open(cfg=cfg) for _ in range(count)]

    def push(self, stream: int, samples: np.ndarray | None) -> None:
        """The next samples, or the end."""
        session = self.sessions[stream]
        session.push_end() if samples is None else session.push(samples, RATE)

    def ready(self, stream: int) -> bool:
        return bool(self.sessions[stream].blocks)

    def costs(self, stream: int) -> bool:
        """As `Engine` chooses."""
        return self.sessions[stream].is_due

    def step(self, streams: list[int]) -> None:
        self.live.step([self.sessions[stream] for stream in streams])


class SherpaStreams:
    """Streams of sherpa-onnx for `final_delays`."""

    def __init__(self, recognizer: Any, count: int) -> None:
        self.recognizer, self.streams = recognizer, [recognizer.create_stream() for _ in range(count)]

    def push(self, stream: int, samples: np.ndarray | None) -> None:
        if samples is not None:
            self.streams[stream].accept_waveform(RATE, samples)
            return
        self.streams[stream].accept_waveform(RATE, np.zeros(RATE * 3 // 10, np.float32))  # as its server
        self.streams[stream].input_finished()

    def ready(self, stream: int) -> bool:
        return bool(self.recognizer.is_ready(self.streams[stream]))

    def costs(self, stream: int) -> bool:
        return True

    def step(self, streams: list[int]) -> None:
        self.recognizer.decode_streams([self.streams[stream] for stream in streams])


def final_delays(
    streams: Any, audio: Sequence[np.ndarray], batch: int, seconds: float, seed: int
) -> list[float]:
    """Seconds of the processor from the end of each stream's audio until all of it is computed."""
    draw, count = random.Random(seed), int(seconds * RATE) // PIECE
    starts = [draw.uniform(0, 2) for _ in audio]
    coming = sorted(
        (start + (piece + 1) * PIECE / RATE, stream, piece)
        for stream, start in enumerate(starts) for piece in range(count)
    )  # fmt: skip
    clock, place, ended, waiting = 0.0, 0, [0.0] * len(audio), list[int]()
    done: dict[int, float] = {}
    while len(done) < len(audio):
        began = time.thread_time()
        while place < len(coming) and coming[place][0] <= clock:
            moment, stream, piece = coming[place]
            streams.push(stream, audio[stream][piece * PIECE : (piece + 1) * PIECE])
            if piece == count - 1:
                streams.push(stream, None)
                ended[stream] = moment
            place += 1
        ready = {stream for stream in range(len(audio)) if stream not in done and streams.ready(stream)}
        waiting = [s for s in waiting if s in ready] + sorted(ready.difference(waiting))
        first = [s for s in waiting if not streams.costs(s)] or waiting
        chosen = first[:batch]
        waiting = [s for s in waiting if s not in chosen]
        if chosen:
            streams.step(chosen)
        took = time.thread_time() - began
        clock = clock + took if chosen or place == len(coming) else max(clock + took, coming[place][0])
        done |= {
            s: clock - ended[s]
            for s in range(len(audio))
            if ended[s] and s not in done and not streams.ready(s)
        }
    return list(done.values())


def held(
    args: argparse.Namespace, kind: str, model: Recognizer, folder: Path, audio: Sequence[np.ndarray]
) -> None:
    """Print p95 for each number of streams, the contenders in turns; one that was always late is out."""
    recognizer, live = sherpa_of(model, folder), live_of(model)
    contenders: dict[str, Callable[[int], tuple[Any, int]]] = {
        "maya": lambda n: (MayaStreams(live, SessionConfig(), n), 32),
        "maya without voice detector": lambda n: (MayaStreams(live, SessionConfig(vad=None), n), 32),
        "sherpa-onnx, batches of 5": lambda n: (SherpaStreams(recognizer, n), 5),
    }
    for make in contenders.values():  # to warm up
        final_delays(make(2)[0], [audio[0]] * 2, 5, 1.0, 0)
    for count in args.batches:
        delays: dict[str, list[float]] = {name: [] for name in contenders}
        for seed in range(args.rounds):
            for name, make in contenders.items():
                streams, batch = make(count)
                own = [audio[n % len(audio)] for n in range(count)]
                delays[name].append(percentile(final_delays(streams, own, batch, args.seconds, seed), 95))
        for name, own_delays in delays.items():
            print(
                f"| {kind} | {name} | {count} | {', '.join(f'{1000 * d:.0f}' for d in own_delays)} |",
                flush=True,
            )
            if min(own_delays) > BAR_SECONDS:
                del contenders[name]


def live_of(model: Recognizer) -> LiveModel:
    """The model as a server has it."""
    is_zipformer = getattr(model.model.cfg.encoder, "causal", False)
    return LiveModel(model, method="transducer", context=(LEFT, CHUNK) if is_zipformer else None)


def sherpa_of(model: Recognizer, folder: Path) -> Any:
    """sherpa-onnx' recogniser of the same weights."""
    is_zipformer = getattr(model.model.cfg.encoder, "causal", False)
    if not (folder / "tokens.txt").exists():
        export_onnx(model, folder, head="transducer", chunk_frames=CHUNK if is_zipformer else None,
                    left_frames=LEFT, stream=not is_zipformer)  # fmt: skip
    mels = model.model.cfg.features.num_mels
    files = {part: str(folder / f"{part}.onnx") for part in PARTS} | {"tokens": str(folder / "tokens.txt")}
    return importlib.import_module("sherpa_onnx").OnlineRecognizer.from_transducer(
        **files, num_threads=1, feature_dim=mels, enable_endpoint_detection=True
    )


def runs_of(model: Recognizer, folder: Path, moments: Any) -> dict[str, Callable[[], None]]:
    """The contenders of a model, by name."""
    recognizer = sherpa_of(model, folder)
    return {
        "maya": lambda: maya_run(model, moments, SessionConfig()),
        "maya without voice detector": lambda: maya_run(model, moments, SessionConfig(vad=None)),
        "sherpa-onnx, batches of 5": lambda: sherpa_run(recognizer, moments, 5),
        "sherpa-onnx, whole batches": lambda: sherpa_run(recognizer, moments, len(moments[0])),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="+", choices=("fastconformer-s", "zipformer-s"))
    parser.add_argument("--audio", type=Path, required=True, help="a folder of recordings")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--held", action="store_true", help="random moments on the processor's clock")
    parser.add_argument("--seconds", type=float, default=float(SECONDS), help="audio of a stream for --held")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    audio, began, rows, names = joined(args.audio, SECONDS), machine(), [], []
    for kind in args.models:
        with TemporaryDirectory() as work:
            random_model(kind, Path(work) / "model.pt")
            model = maya.load(Path(work) / "model.pt", "cpu")
            if args.held:
                held(args, kind, model, Path(work) / "onnx", audio)
                continue
            for streams in args.batches:
                runs = runs_of(model, Path(work) / "onnx", pieces(audio, streams))
                seconds = medians(in_turns(runs, args.rounds, time.process_time, warm_up=0))
                names = list(seconds)
                costs = [f"{1000 * seconds[name] / SECONDS / streams:.1f}" for name in names]
                rows.append([kind, str(streams), *costs])
    print(f"`{command_of('live_cost', argv)}`\n\n{began}\n")
    if rows:
        print("\n".join(markdown(("model", "streams in step", *names), rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
