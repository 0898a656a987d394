"""A spoken round trip on the loopback: the server's speech engine says digits, which are sent back to it as
live audio and as a file.

    python -m tools.bench.round_trip MODEL --seeds 3

MODEL is a run folder that knows the English digits, such as that of egs/digits. A server with espeak starts
on a free port of 127.0.0.1. Each voice says each digit alone, and strings of three to seven digits that are
drawn with the seeds. The intervals are by bootstrap over utterances, with their voice drawn first.
"""

import io
import json
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import maya
from maya.score.wer import wer
from tools.bench.common import command_of, finish, parser_of

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
VOICES = ("en", "en+f2", "en-us", "en-us+f3", "en-us+m3", "en-gb-scotland", "en-gb-x-rp+f4", "en-029+m7")
RATE = 24000


@contextmanager
def serving(model: Path) -> Iterator[int]:
    """The port of a server with the model and espeak."""
    import uvicorn

    from maya.serve.app import make_app
    from maya.serve.server import Server, ServerConfig
    from maya.serve.speech.config import SpeechConfig

    cfg = ServerConfig(speech=SpeechConfig(engines=("espeak=en",)))
    server = Server({"digits": maya.load(model, "cpu")}, cfg)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    web = uvicorn.Server(uvicorn.Config(make_app(server), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not web.started and thread.is_alive():
        time.sleep(0.05)
    try:
        yield listener.getsockname()[1]
    finally:
        web.should_exit = True
        thread.join()
        server.close()


def spoken(port: int, text: str, voice: str) -> bytes:
    """The speech of a text: mono, 16 bits, 24 kHz."""
    body = json.dumps({"input": text, "voice": voice, "response_format": "pcm"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/audio/speech", body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def recognised(port: int, pcm: bytes) -> str:
    """The text of a live session that gets the audio, with half a second of silence on both sides."""
    from websockets.sync.client import connect

    silence, finals = bytes(RATE), []
    with connect(f"ws://127.0.0.1:{port}/v1/stream?rate={RATE}&language=en&partials=false") as client:
        data = silence + pcm + silence
        for begin in range(0, len(data), 9600):
            client.send(data[begin : begin + 9600])
        client.send('{"type": "end"}')
        while (event := json.loads(client.recv(timeout=60)))["type"] != "ended":
            finals += [event["text"]] if event["type"] == "final" else []
    return " ".join(finals)


def of_file(port: int, pcm: bytes) -> str:
    """The text of a file with the audio."""
    import httpx
    import soundfile

    file = io.BytesIO()
    samples = np.frombuffer(bytes(RATE) + pcm + bytes(RATE), "<i2")
    soundfile.write(file, samples, RATE, format="WAV")
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/audio/transcriptions", files={"file": ("a.wav", file.getvalue())},
        data={"language": "en"}, timeout=60,
    )  # fmt: skip
    return str(answer.json()["text"])


def rate_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The word error rate in percent with its interval."""
    errors = np.array([row["errors"] for row in rows])
    words = np.array([len(row["text"].split()) for row in rows])
    voices = sorted({row["voice"] for row in rows})
    places = [np.array([i for i, row in enumerate(rows) if row["voice"] == voice]) for voice in voices]
    draw, rates = np.random.default_rng(0), []
    for _ in range(1000):
        drawn = [places[i] for i in draw.integers(0, len(places), len(places))]
        own = np.concatenate([draw.choice(place, len(place)) for place in drawn])
        rates.append(100 * errors[own].sum() / words[own].sum())
    return {
        "wer": round(float(100 * errors.sum() / words.sum()), 1),
        "interval": [round(float(x), 1) for x in np.percentile(rates, [2.5, 97.5])],
        "words": int(words.sum()), "errors": int(errors.sum()),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strings", type=int, default=4, help="of each voice and seed")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    with serving(args.model) as port:
        for voice in VOICES:
            texts = list(DIGITS)
            for seed in range(args.seeds):
                draw = random.Random(f"{seed} {voice}")
                texts += [" ".join(draw.choices(DIGITS, k=draw.randrange(3, 8))) for _ in range(args.strings)]
            for text in texts:
                pcm = spoken(port, text, voice)
                for way, recognise in (("live", recognised), ("file", of_file)):
                    hyp = recognise(port, pcm)
                    errors = wer([text], [hyp]).errors
                    rows.append({"way": way, "voice": voice, "text": text, "hyp": hyp, "errors": errors})
    result: dict[str, Any] = {}
    for way in ("live", "file"):
        own = [row for row in rows if row["way"] == way]
        result[way] = {
            "all": rate_of(own),
            "digits alone": rate_of([row for row in own if " " not in row["text"]]),
            "strings": rate_of([row for row in own if " " in row["text"]]),
            "by voice": {v: rate_of([row for row in own if row["voice"] == v])["wer"] for v in VOICES},
            "wrong when alone": [f"{r['voice']}: {r['text']} -> {r['hyp']}" for r in own
                                 if r["errors"] and " " not in r["text"]],
        }  # fmt: skip
    finish(result, "round_trip", command_of("round_trip", argv), args.out)


if __name__ == "__main__":
    main()
