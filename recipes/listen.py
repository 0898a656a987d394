"""Live speech, from the microphone or a pipe, to a server or to a model in this process: its segments as they
end, each on a line."""

import argparse
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import maya
from maya.errors import MayaError
from maya.ranges import Range
from maya.recipes.arguments import add_device, number
from maya.recipes.pcm import PCMFormat
from maya.recipes.serve import add_session, session_of
from maya.recipes.transcribe_live import Pieces, microphone, stdin_pieces
from maya.serve.events import Failed, LiveEvent
from maya.serve.session import LiveModel, live_model

RATE = 16_000


def arguments(p: argparse.ArgumentParser) -> None:
    text = "the address of a server, ws://HOST:PORT or wss://HOST, or a run folder, checkpoint or .nemo file"
    p.add_argument("source", metavar="SERVER|MODEL", help=text)
    p.add_argument("--stdin", action="store_true", help="read WAV from the standard input")
    p.add_argument("--raw", choices=("s16le", "f32le"), help="the standard input holds such samples")
    p.add_argument("--rate", type=number(int, Range(min=1)), default=RATE, metavar="HZ", help="rate of --raw")
    p.add_argument("--language", help="code of the language, such as hi; default: not given")
    p.add_argument("--model", help="name of the model, where a server has several")
    p.add_argument("--key", help="a key of the server")
    p.add_argument("--json", action="store_true", help="print every event as a JSON object")
    add_session(p)
    add_device(p)


def run(args: argparse.Namespace) -> int:
    """Print until the audio ends or Ctrl-C, which both bring the last words."""
    show = Screen(as_json=args.json)
    if args.source.startswith(("ws://", "wss://")):
        remote(args, show)
    else:
        local(live_model(maya.load(args.source, args.device), "auto", None), args, show)
    return 0


def _audio(args: argparse.Namespace, rate: int) -> Pieces:
    if args.stdin or args.raw:
        return stdin_pieces(PCMFormat.raw(args.raw, args.rate) if args.raw else None, rate)
    return microphone(rate)


def local(live: LiveModel, args: argparse.Namespace, show: "Screen") -> None:
    """Recognise in this process."""
    session = live.open(args.language, session_of(args))
    try:
        for piece in _audio(args, live.sample_rate):
            show.events(session.feed(piece, live.sample_rate))
    except KeyboardInterrupt:
        pass
    show.events(session.finish())


def remote(args: argparse.Namespace, show: "Screen") -> None:
    """Send the audio to a server over its native protocol; a thread prints what comes back."""
    try:
        from websockets.exceptions import ConnectionClosed, InvalidHandshake  # noqa: PLC0415  an extra
        from websockets.sync.client import connect  # noqa: PLC0415
    except ImportError:
        raise MayaError("a server needs the package websockets: pip install 'maya-asr[serve]'") from None
    fields = {"rate": RATE, "encoding": "f32", "language": args.language, "model": args.model}
    query = "&".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    headers = {"Authorization": f"Bearer {args.key}"} if args.key else {}
    errors: list[str] = []
    try:
        with connect(f"{args.source.rstrip('/')}/v1/stream?{query}", additional_headers=headers) as socket:
            reader = threading.Thread(target=_print_messages, args=(socket, show, errors))
            reader.start()
            try:
                for piece in _audio(args, RATE):
                    socket.send(piece.astype("<f4").tobytes())
            except KeyboardInterrupt:
                pass
            socket.send('{"type": "end"}')
            reader.join()
    except ConnectionClosed:
        pass  # the reader has the reason
    except (OSError, InvalidHandshake) as error:
        raise MayaError(f"cannot connect to {args.source}: {error}") from None
    if errors:
        raise MayaError(errors[0])


def _print_messages(socket: Any, show: "Screen", errors: list[str]) -> None:
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

    try:
        for text in socket:
            message = json.loads(text)
            if message["type"] == "error":
                errors.append(message["message"])
            else:
                show.message(message)
    except ConnectionClosed as closed:
        if not errors:
            errors.append(f"the server ended the session: {closed}")


class Screen:
    """Finals on lines of stdout. On a terminal the text so far is shown in the line below."""

    def __init__(self, *, as_json: bool, write: Callable[[str], Any] = sys.stdout.write) -> None:
        self.as_json, self.write = as_json, write
        self.live = sys.stdout.isatty()

    def events(self, events: list[LiveEvent]) -> None:
        """Events of this process."""
        for event in events:
            if isinstance(event, Failed):
                raise MayaError(event.message)
            self.message(event.as_dict())

    def message(self, message: dict[str, Any]) -> None:
        """A message of the native protocol."""
        if self.as_json:
            self.write(json.dumps(message, ensure_ascii=False) + "\n")
        elif message["type"] == "final":
            name = f"{message['speaker']}: " if message.get("speaker") else ""
            self.write(("\r\x1b[K" if self.live else "") + name + message["text"] + "\n")
        elif message["type"] == "partial" and self.live:
            self.write("\r\x1b[K" + message["text"][-100:])
        sys.stdout.flush()
