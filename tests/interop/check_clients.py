"""The client programs of vosk-server and sherpa-onnx, unchanged, against Maya's server with a tiny model.

    python -m tests.interop.check_clients CLIENT.py... [--python PYTHON]

CLIENT.py: websocket/test.py, test_words.py or test_alternatives.py of github.com/alphacep/vosk-server, or
online-websocket-client-decode-file.py or offline-websocket-client-decode-files-*.py of
github.com/k2-fsa/sherpa-onnx (python-api-examples). PYTHON has numpy and websockets; sherpa-onnx' live client
needs websockets before 14. Those of Vosk connect to port 2700.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from maya.serve.server import RootProtocol
from tests.serve.test_server import Running, config, expected_texts, int16, wav
from tests.serve.test_session import RATE, recording

VOSK_PORT = 2700  # the scripts have no option for it
_SECONDS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a client printed of the texts that it got, and what it should have. error: how it failed."""

    client: str
    expected: list[str]
    got: list[str]
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error and self.got == self.expected


def protocol_of(client: Path) -> RootProtocol:
    """The protocol that a client speaks, by its file name."""
    if client.name.startswith("offline-websocket"):
        return "sherpa-offline"
    return "sherpa" if client.name.startswith("online-websocket") else "vosk"


def check(client: Path, python: str = sys.executable) -> Outcome:
    """Run a client to its end. A recording with several segments goes to the server."""
    protocol, samples = protocol_of(client), int16(recording(0))
    running = Running(config(root=protocol), port=VOSK_PORT if protocol == "vosk" else 0)
    try:
        with TemporaryDirectory() as folder:
            audio = Path(folder) / "a.wav"
            soundfile.write(audio, samples, RATE)
            options = ["--server-addr", "127.0.0.1", "--server-port", str(running.port)]
            if protocol == "sherpa":
                options += ["--seconds-per-message", "0.01", "--samples-per-message", "1600"]
            command = [python, str(client), *([] if protocol == "vosk" else options), str(audio)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if protocol == "sherpa-offline":
            data = wav(samples.astype(np.float32) / 32768)
            hyp = running.server.models["small"].offline.submit(data).result(_SECONDS).hypothesis
            expected = [] if hyp is None else [hyp.text]
        else:
            expected = expected_texts(running, samples)
    finally:
        running.close()
    error = done.stderr.strip().splitlines()[-1] if done.returncode else ""
    got = texts_in(protocol, done.stdout, done.stderr)
    if protocol == "vosk":
        answers, messages = len(done.stdout.splitlines()), -(-len(samples) // (RATE // 5)) + 1
        error = error or ("" if answers == messages else f"{answers} answers to {messages} messages")
    if protocol == "sherpa" and "Final result is" not in done.stderr:
        error = error or "it did not get the last result"
    return Outcome(client=client.name, expected=expected, got=got, error=error)


def texts_in(protocol: RootProtocol, stdout: str, stderr: str) -> list[str]:
    """The texts of the segments that a client printed."""
    rows: list[dict[str, Any]] = []
    is_json = protocol != "sherpa"  # which prints Python's own form, as all print their options
    pattern = r'\{".*\}$' if is_json else r"\{'.*\}$"
    for line in f"{stdout}\n{stderr}".splitlines():
        if match := re.search(pattern, line):
            rows.append(json.loads(match[0]) if is_json else ast.literal_eval(match[0]))
    if protocol == "sherpa":
        segments = {row["segment"]: row["text"] for row in rows if row.get("is_final")}
        return [text for _, text in sorted(segments.items()) if text]
    return [row["text"] for row in rows if row.get("text")]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clients", nargs="+", type=Path)
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args(argv)
    outcomes = [check(client, args.python) for client in args.clients]
    for own in outcomes:
        print(f"{own.client}: {'equal' if own.ok else own.error or f'{own.got} for {own.expected}'}")
    return 0 if all(own.ok for own in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
