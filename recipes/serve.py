"""Serve models: live speech over WebSockets, and whole recordings through OpenAI's interface."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import maya
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.ranges import Range
from maya.recipes.arguments import add_device, number
from maya.recipes.speaker_options import add_speakers, speakers_of
from maya.recipes.voice_detector import detector_name, detector_of
from maya.score.rover import VOTES
from maya.serve.config import EndpointConfig, EngineConfig, SessionConfig, live_speech
from maya.serve.speech.config import SpeechConfig

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def arguments(p: argparse.ArgumentParser) -> None:
    text = "a run folder, a checkpoint or a .nemo file; NAME=PATH gives it a name; the first is the default"
    p.add_argument("models", nargs="+", metavar="MODEL", help=text)
    p.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine alone")
    text = "port to listen on; 0: any that is free; default: 8080"
    p.add_argument("--port", type=number(int, Range(min=0, max=65535)), default=8080, help=text)
    text = "a file with one key a line; clients send it as Authorization: Bearer KEY"
    p.add_argument("--keys", type=Path, metavar="FILE", help=text)
    text = "serve everybody who can reach the address; needed for other addresses without --keys"
    p.add_argument("--no-keys", action="store_true", help=text)
    text = "web pages on other hosts that may open a WebSocket, such as https://example.org"
    p.add_argument("--origin", nargs="+", default=[], metavar="URL", help=text)
    p.add_argument("--slots", type=number(int, Range(min=1)), default=64, help="live sessions at once")
    p.add_argument(
        "--method", default="auto", help="method of live sessions: transducer, ctc, ...; default: the best"
    )
    add_session(p)
    add_words(p)
    text = (
        "engines for /v1/audio/speech and say: espeak[=LANGUAGE], piper=VOICE.onnx, kokoro=FOLDER, "
        "cosyvoice=http://HOST:PORT/?speakers=NAME; several are chosen by name"
    )
    p.add_argument("--speech", nargs="+", default=[], metavar="ENGINE", help=text)
    text = (
        "folders of translation models (transformers): NLLB, MADLAD, or SOURCE-TARGET=FOLDER for OPUS-MT; "
        "for /v1/audio/translations and translate_to"
    )
    p.add_argument("--translate", nargs="+", default=[], metavar="MODEL", help=text)
    text = "left and right context of a streaming encoder, such as 70 13; default: the model's first"
    p.add_argument("--context", type=int, nargs=2, metavar=("LEFT", "RIGHT"), help=text)
    text = (
        "the protocol of a WebSocket without a path, for programs that can name only a host and a port: maya "
        "(the default), vosk, sherpa or sherpa-offline"
    )
    protocols = ("maya", "vosk", "sherpa", "sherpa-offline")
    p.add_argument("--root", choices=protocols, default="maya", help=text)
    p.add_argument("--certificate", type=Path, metavar="FILE", help="TLS certificate (PEM)")
    p.add_argument("--private-key", type=Path, metavar="FILE", help="its private key (PEM)")
    text = "append one JSON line for each session and request, without texts, keys or addresses; -: stderr"
    p.add_argument("--log", metavar="FILE", help=text)
    p.add_argument("--threads", type=number(int, Range(min=1)), help="threads of torch; default: its own")
    add_device(p)


def add_session(p: argparse.ArgumentParser) -> None:
    """The options of live sessions."""
    text = (
        "the voice detector: auto (silero's network if it is installed), silero, energy (the sound level), a "
        "run of egs/vad, or off"
    )
    p.add_argument("--vad", type=detector_name, default="auto", metavar="NAME|RUN", help=text)
    text = "seconds of silence that end a segment; default: 0.6"
    p.add_argument("--silence", type=number(float, Range(above=0)), default=0.6, metavar="SECONDS", help=text)
    add_speakers(p)


def add_words(p: argparse.ArgumentParser) -> None:
    """The options of what happens to the words of finals."""
    text = (
        "methods of the same model, such as ctc transducer, or names of other models that are served, "
        "whose words vote with those of the model (ROVER); models read each segment once more"
    )
    p.add_argument("--rover", nargs="+", default=[], metavar="NAME", help=text)
    text = "count voters (freq), or also their words' confidences, the mean (the default) or the largest"
    p.add_argument("--vote", choices=VOTES, default="avgconf", help=text)
    text = "write capitals and punctuation marks in finals, with models that have a head for them"
    p.add_argument("--punctuate", action="store_true", help=text)


def session_of(args: argparse.Namespace) -> SessionConfig:
    """The sessions that the options ask for."""
    vad = None if args.vad == "off" else live_speech(*detector_of(args.vad))
    endpoint = EndpointConfig(silence_seconds=args.silence, trailing_seconds=2 * args.silence)
    return SessionConfig(vad=vad, endpoint=endpoint, speakers=speakers_of(args))


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, which end the sessions with their last words; a second one forces."""
    try:
        import uvicorn  # noqa: F401, PLC0415  an extra

        from maya.serve.journal import Journal  # noqa: PLC0415
        from maya.serve.server import Server, ServerConfig  # noqa: PLC0415
    except ImportError as error:
        raise MayaError(f"serving needs {error.name}: pip install 'maya-asr[serve]'") from None
    access = access_of(args)
    if bool(args.certificate) != bool(args.private_key):
        raise MayaError("TLS needs both --certificate and --private-key")
    if args.threads:
        import torch  # noqa: PLC0415  after the options are checked

        torch.set_num_threads(args.threads)
    cfg = ServerConfig(
        method=args.method, context=tuple(args.context) if args.context else None,
        engine=EngineConfig(slots=args.slots), session=session_of(args),
        speech=SpeechConfig(engines=tuple(args.speech)), translation=tuple(args.translate),
        root=args.root,
    )  # fmt: skip
    models = load_models(args.models, args.device)
    cfg.rover_models = tuple(name for name in args.rover if name in models)
    cfg.session.rover = tuple(name for name in args.rover if name not in models)
    cfg.session.vote, cfg.session.punctuate = args.vote, args.punctuate
    to_file = Path(args.log) if args.log not in (None, "-") else None
    journal = Journal(to_file, sys.stderr if args.log == "-" else None)
    server = Server(models, cfg, access=access, journal=journal)
    try:
        server.speech.start()
        asyncio.run(serve(server, args))
    finally:
        server.close()
    return 0


def access_of(args: argparse.Namespace) -> Any:
    """Who may use the server. Raises MayaError where others could reach it without a key."""
    from maya.serve.access import Access  # noqa: PLC0415

    if args.keys:
        keys = args.keys.read_text(encoding="utf-8").split()
        if not keys:
            raise MayaError(f"{args.keys} holds no key")
        return Access.of(keys, args.origin)
    if args.host not in LOOPBACK and not args.no_keys:
        raise MayaError(
            f"{args.host} can be reached by others: add --keys FILE, or --no-keys to serve everybody"
        )
    return Access.of([], args.origin)


def load_models(specs: list[str], device: str) -> dict[str, Recognizer]:
    """Models by name, from PATH or NAME=PATH. Raises MayaError for a name that is given twice."""
    models: dict[str, Recognizer] = {}
    for spec in specs:
        name, separator, path = spec.partition("=")
        if not separator:
            name, path = Path(spec).stem or "default", spec
        if name in models:
            raise MayaError(f"two models have the name {name!r}; give NAME=PATH")
        models[name] = maya.load(path, device)
    return models


async def serve(server: Any, args: argparse.Namespace) -> None:
    """Run uvicorn, and drain the sessions before it stops."""
    import uvicorn  # noqa: PLC0415

    from maya.serve.app import make_app  # noqa: PLC0415

    class Web(uvicorn.Server):
        """Leaves the signals to us: uvicorn would close the sockets before the last words are sent."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    web = Web(uvicorn.Config(
        make_app(server), host=args.host, port=args.port, log_level="warning", ws_max_size=1 << 20,
        ws_ping_interval=20.0, ws_ping_timeout=20.0, timeout_graceful_shutdown=5, server_header=False,
        ssl_certfile=args.certificate, ssl_keyfile=args.private_key, lifespan="off",
    ))  # fmt: skip
    loop, log = asyncio.get_running_loop(), logging.getLogger(__name__)

    async def stop() -> None:
        await server.drain()
        web.should_exit = True

    stopping: list[asyncio.Task[None]] = []

    def on_signal() -> None:
        if stopping:
            os._exit(130)
        log.info("stopping: %d live sessions get their last words", len(server.connections))
        stopping.append(loop.create_task(stop()))

    main = asyncio.create_task(web.serve())
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, on_signal)
    while not web.started and not main.done():
        await asyncio.sleep(0.02)
    if web.started:
        port = web.servers[0].sockets[0].getsockname()[1]
        scheme = "https" if args.certificate else "http"
        models = ", ".join(server.models)
        print(f"serving {models} at {scheme}://{args.host}:{port}", file=sys.stderr, flush=True)
    await main
