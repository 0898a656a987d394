"""Processor time of live recognition by batch size, beside sherpa-onnx with the same model, without a server.

    python -m tools.bench.live_cost fastconformer-s zipformer-s --audio FOLDER --batches 1 8 32

The models are those of tools.bench.servers with random weights. All streams get 100 ms at the same moment, so
a batch is as large as it can be; a server's is smaller, because its streams are not in step. Needs the
package sherpa-onnx. Milliseconds of processor for each second of each stream, in turns, medians of rounds.
"""

import importlib
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
from tools.bench.load import RATE, joined
from tools.bench.servers import CHUNK, LEFT, PARTS, random_model

PIECE = RATE // 10
SECONDS = 10


def pieces(audio: Sequence[np.ndarray], streams: int) -> list[list[np.ndarray]]:
    """For each moment, the next piece of each stream."""
    begins = range(0, SECONDS * RATE, PIECE)
    return [[audio[n % len(audio)][begin : begin + PIECE] for n in range(streams)] for begin in begins]


def maya_run(model: Recognizer, moments: list[list[np.ndarray]], cfg: SessionConfig) -> None:
    """Sessions of `LiveModel`, as the engine steps them."""
    is_zipformer = getattr(model.model.cfg.encoder, "causal", False)
    live = LiveModel(model, method="transducer", context=(LEFT, CHUNK) if is_zipformer else None)
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


def runs_of(model: Recognizer, folder: Path, moments: Any) -> dict[str, Callable[[], None]]:
    """The contenders of a model, by name."""
    is_zipformer = getattr(model.model.cfg.encoder, "causal", False)
    if not (folder / "tokens.txt").exists():
        export_onnx(model, folder, head="transducer", chunk_frames=CHUNK if is_zipformer else None,
                    left_frames=LEFT, stream=not is_zipformer)  # fmt: skip
    mels = model.model.cfg.features.num_mels
    files = {part: str(folder / f"{part}.onnx") for part in PARTS} | {"tokens": str(folder / "tokens.txt")}
    recognizer = importlib.import_module("sherpa_onnx").OnlineRecognizer.from_transducer(
        **files, num_threads=1, feature_dim=mels, enable_endpoint_detection=True
    )
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
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    audio, began, rows, names = joined(args.audio, SECONDS), machine(), [], []
    for kind in args.models:
        with TemporaryDirectory() as work:
            random_model(kind, Path(work) / "model.pt")
            model = maya.load(Path(work) / "model.pt", "cpu")
            for streams in args.batches:
                runs = runs_of(model, Path(work) / "onnx", pieces(audio, streams))
                seconds = medians(in_turns(runs, args.rounds, time.process_time, warm_up=0))
                names = list(seconds)
                costs = [f"{1000 * seconds[name] / SECONDS / streams:.1f}" for name in names]
                rows.append([kind, str(streams), *costs])
    print(f"`{command_of('live_cost', argv)}`\n\n{began}\n")
    print("\n".join(markdown(("model", "streams in step", *names), rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
