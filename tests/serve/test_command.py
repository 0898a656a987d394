"""`maya serve` as a process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes import serve
from maya.recipes.cli import parser
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tone_recognizer
from tests.decode import test_streaming
from tests.serve.test_session import RATE, recording

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import connect  # noqa: E402


@pytest.mark.parametrize(("options", "message"), [
    (["--host", "0.0.0.0"], "can be reached by others"), (["--certificate", "a.pem"], "needs both"),
    (["a=b"], "two models"),
])  # fmt: skip
def test_options_that_are_refused(options: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maya.load", lambda path, device: None)
    with pytest.raises(MayaError, match=message):
        serve.run(parser().parse_args(["serve", "a=x", *options]))


def test_empty_and_short_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    for text, message in (("\n", "holds no key"), ("short\n", "fewer than 16 characters")):
        keys.write_text(text)
        with pytest.raises(MayaError, match=message):
            args = parser().parse_args(["serve", "x", "--keys", str(keys)])
            serve.access_of(args)


def saved(path: Path) -> Path:
    """A checkpoint of random weights that can stream."""
    tokenizer = tone_recognizer.tokenizer()
    cfg = with_vocabulary(test_streaming.recognizer().model.cfg, tokenizer.vocab_size, ("en", "hi"))
    model = build_model(cfg)
    save_checkpoint(path, Checkpoint(
        model_config=cfg, tokenizer=tokenizer, weights=model.state_dict(), step=1, notes={}))  # fmt: skip
    return path


@contextlib.contextmanager
def serving(checkpoint: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of a server, and its address."""
    command = [sys.executable, "-m", "maya.recipes.cli", "serve", f"small={checkpoint}", "--port", "0",
               "--threads", "1", "--vad", "energy", *options]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "serving small at http://127.0.0.1:" in line)
        yield process, f"ws://127.0.0.1:{int(line.rsplit(':', 1)[1])}"
    finally:
        process.kill()
        process.wait()


def test_a_process_serves_and_ends_with_the_last_words(tmp_path: Path) -> None:
    audio = (recording(0).clip(-1, 1) * 32767).astype("<i2")
    checkpoint = saved(tmp_path / "model.pt")
    with serving(checkpoint) as (process, address):
        listened = [listen(source, audio, tmp_path) for source in (address, str(checkpoint))]
        assert listened[0] and listened[0] == listened[1]
        with connect(f"{address}/v1/stream") as client:
            assert json.loads(client.recv())["model"] == "small"
            client.send(audio.tobytes())
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            messages: list[Any] = []
            with contextlib.suppress(ConnectionClosed):
                while True:
                    messages.append(json.loads(client.recv(timeout=30)))
        assert messages[-1]["type"] == "ended" and messages[-1]["seconds"] == len(audio) / RATE
        assert client.close_code == 1012 and process.wait(20) == 0
        assert "cannot connect" in listen(address, audio, tmp_path)[0]


def listen(source: str, audio: Any, folder: Path) -> list[str]:
    """The finals that `maya listen` prints, or its error."""
    soundfile.write(folder / "a.wav", audio, RATE)
    command = [sys.executable, "-m", "maya.recipes.cli", "listen", source, "--stdin", "--json",
               "--vad", "energy"]  # fmt: skip
    with (folder / "a.wav").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=60)
    if done.returncode:
        return [done.stderr]
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return [message["text"] for message in messages if message["type"] == "final"]
