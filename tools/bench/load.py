"""Clients in real time against a running voice server: latencies by the number of streams.

    maya serve RUN --port 8080 --threads 1 &
    python -m tools.bench.load ws://127.0.0.1:8080/v1/stream --audio FOLDER --streams 1 8 16 32 64 --pid PID
    python -m tools.bench.load ws://127.0.0.1:6006 --protocol sherpa ...      sherpa-onnx' server

Each client sends a recording at the speed at which it was spoken: piece i leaves at i times its length after
the start, however late the ones before were. With `--minutes` so many clients are there all the time, one
session after another, and each text is compared with what the recording gave by itself. A partial's latency
counts from when the first sample of speech was sent; a final's from when the last sample was; lag is how much
later than planned a piece left, which shows that the client itself was too slow. Processor time and memory
are those of the process `--pid`.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maya.audio.load import load_audio
from tools.bench.common import command_of, machine, markdown, parser_of, write_pages

RATE = 16_000
HEADER = ("streams", "failed", "first partial p50 / p95", "final p50 / p95 / p99", "lag p99", "CPU", "MB")


@dataclass(slots=True)
class ClientResult:
    """Of one client, in seconds. failure: why it did not end well, or nothing."""

    partial: float | None = None
    final: float | None = None
    lags: list[float] = field(default_factory=list)
    text: str = ""
    failure: str = ""


def speech_start(audio: np.ndarray) -> float:
    """Seconds until the level first comes within 25 dB of the loudest 20 ms."""
    frames = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    levels = np.sqrt(np.square(frames).mean(1)) + 1e-9
    return float(np.argmax(levels > levels.max() * 10 ** (-25 / 20))) * 0.02


async def client(url: str, protocol: str, audio: np.ndarray, piece_ms: int, delay: float) -> ClientResult:
    """One client from its connection to its last message."""
    from websockets.asyncio.client import connect  # noqa: PLC0415  an extra
    from websockets.exceptions import WebSocketException  # noqa: PLC0415

    measured, native = ClientResult(), protocol == "native"
    data = (audio * 32767).astype("<i2") if native else audio.astype("<f4")
    size, begins = RATE * piece_ms // 1000, speech_start(audio)
    await asyncio.sleep(delay)
    try:
        async with connect(url, max_size=None, open_timeout=30) as socket:
            if native:
                ready = json.loads(await socket.recv())
                if ready["type"] != "ready":
                    raise ConnectionError(ready.get("message", "refused"))
            start = time.monotonic()
            sent_last = start + len(data) / RATE

            async def send() -> None:
                for number, begin in enumerate(range(0, len(data), size)):
                    planned = start + (number + 1) * piece_ms / 1000  # a piece exists once it was spoken
                    await asyncio.sleep(max(0.0, planned - time.monotonic()))
                    measured.lags.append(time.monotonic() - planned)
                    await socket.send(data[begin : begin + size].tobytes())
                await socket.send('{"type": "end"}' if native else "Done")

            sender = asyncio.create_task(send())
            texts: list[str] = []
            async for text in socket:
                now = time.monotonic()
                if text == "Done!":
                    break
                message = json.loads(text)
                if message.get("type") == "error":
                    raise ConnectionError(message["message"])
                is_final = message["type"] == "final" if native else message["is_final"]
                if message.get("text") and measured.partial is None:
                    measured.partial = now - start - begins
                if is_final and message.get("text"):
                    texts.append(message["text"])
                if is_final or message.get("type") == "ended":
                    measured.final = now - sent_last
                if message.get("type") == "ended":
                    break
            await sender
            measured.text = " ".join(texts)
    except (OSError, WebSocketException) as error:  # these failures are the measurement
        measured.failure = f"{type(error).__name__}: {error}"[:200]
    return measured


def usage(pid: int) -> tuple[float, float]:
    """(processor seconds so far, MB of memory now) of a process."""
    values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(values[11]) + int(values[12])
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.split("\n") if line.startswith("VmRSS:"))
    return ticks / os.sysconf("SC_CLK_TCK"), resident / 1000


async def round_of(args: argparse.Namespace, recordings: list[np.ndarray], streams: int) -> dict[str, Any]:
    """All figures for so many streams at once."""
    draw = random.Random(streams)
    chosen = [draw.choice(recordings) for _ in range(streams)]
    before, began = usage(args.pid) if args.pid else (0.0, 0.0), time.monotonic()
    results = await asyncio.gather(*(
        client(args.url, args.protocol, audio, args.piece_ms, draw.uniform(0, 2)) for audio in chosen
    ))  # fmt: skip
    after, seconds = usage(args.pid) if args.pid else (0.0, 0.0), time.monotonic() - began
    good = [result for result in results if not result.failure]
    return {
        "streams": streams,
        "failures": sorted({result.failure for result in results if result.failure}),
        "failed": streams - len(good),
        "partial": [r.partial for r in good if r.partial is not None],
        "final": [r.final for r in good if r.final is not None],
        "lag": [lag for r in good for lag in r.lags],
        "empty": sum(not r.text for r in good),
        "cpu": (after[0] - before[0]) / seconds,
        "cost_ms": 1000 * (after[0] - before[0]) * RATE / sum(map(len, chosen)),
        "mb": after[1],
    }


async def soak(args: argparse.Namespace, recordings: list[np.ndarray], streams: int) -> dict[str, Any]:
    """So many clients at any time for `--minutes`. wrong: sessions whose text is not that of a client that
    was alone; mb: memory, a sample a minute."""

    async def paced(place: int, delay: float = 0.0) -> ClientResult:
        return await client(args.url, args.protocol, recordings[place], args.piece_ms, delay)

    expected = [(await paced(place)).text for place in range(len(recordings))]
    end, draw = time.monotonic() + 60 * args.minutes, random.Random(0)
    results: list[tuple[int, ClientResult]] = []
    megabytes: list[float] = []

    async def sessions() -> None:
        while time.monotonic() < end:
            place = draw.randrange(len(recordings))
            results.append((place, await paced(place, draw.uniform(0, 2))))

    async def watch() -> None:
        while time.monotonic() < end:
            megabytes.append(usage(args.pid)[1] if args.pid else 0.0)
            print(f"{len(results)} sessions, {megabytes[-1]:.0f} MB", file=sys.stderr, flush=True)
            await asyncio.sleep(60)

    before = usage(args.pid)[0] if args.pid else 0.0
    await asyncio.gather(watch(), *(sessions() for _ in range(streams)))
    finals = [r.final for _, r in results if r.final is not None]
    return {
        "streams": streams, "minutes": args.minutes, "sessions": len(results),
        "failures": [r.failure for _, r in results if r.failure],
        "wrong": sum(r.text != expected[place] for place, r in results if not r.failure),
        "words": sum(len(r.text.split()) for _, r in results), "mb": megabytes,
        "final_ms": [1000 * percentile(finals, p) for p in (50, 95, 99)],
        "cpu": ((usage(args.pid)[0] if args.pid else 0.0) - before) / (60 * args.minutes),
    }  # fmt: skip


def percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")


def row(result: dict[str, Any]) -> list[str]:
    """A line of the table, in milliseconds."""

    def ms(name: str, *percents: float) -> str:
        return " / ".join(f"{1000 * percentile(result[name], p):.0f}" for p in percents)

    return [
        str(result["streams"]), str(result["failed"]), ms("partial", 50, 95), ms("final", 50, 95, 99),
        ms("lag", 99), f"{result['cpu']:.2f}", f"{result['mb']:.0f}",
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("url", help="of the WebSocket")
    parser.add_argument("--protocol", choices=("native", "sherpa"), default="native")
    parser.add_argument("--audio", type=Path, required=True, help="a folder of recordings")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--piece-ms", type=int, default=100, help="audio in a message")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a recording, joined from several")
    parser.add_argument("--pid", type=int, default=0, help="of the server on this machine")
    parser.add_argument("--minutes", type=float, help="keep the first number of streams for so long")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    args = parser.parse_args(argv)
    recordings = joined(args.audio, args.seconds)
    about = f"{machine()}; {len(recordings)} recordings of {args.seconds:g} s, messages of {args.piece_ms} ms"
    if args.minutes:
        result = asyncio.run(soak(args, recordings, args.streams[0]))
        print(json.dumps(result, indent=1))
        return int(bool(result["failures"] or result["wrong"]))
    results = []
    for streams in args.streams:
        results.append(asyncio.run(round_of(args, recordings, streams)))
        print(" | ".join(row(results[-1])), *results[-1]["failures"], file=sys.stderr, flush=True)
    table = "\n".join(markdown(HEADER, [row(result) for result in results]))
    print(table)
    if args.out:
        text = f"# Load\n\n`{command_of('load', argv)}`\n\n{about}. Latencies in ms.\n\n{table}\n"
        write_pages(args.out, results, text)
    return 0


def joined(folder: Path, seconds: float) -> list[np.ndarray]:
    """Up to 20 recordings of about this length: files of the folder with pauses of 0.4 s between them."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".opus"))
    random.Random(0).shuffle(files)
    recordings, parts, pause = [], [], np.zeros(int(0.4 * RATE), np.float32)
    for path in files:
        parts += [load_audio(path, RATE).numpy(), pause]
        if sum(map(len, parts)) >= seconds * RATE:
            recordings.append(np.concatenate(parts).clip(-1, 1))
            parts = []
        if len(recordings) == 20:
            break
    if not recordings:
        raise SystemExit(f"{folder} has less than {seconds:g} s of audio")
    return recordings


if __name__ == "__main__":
    raise SystemExit(main())
