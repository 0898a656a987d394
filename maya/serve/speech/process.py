"""An engine's process: started when it is needed, ended when it hangs, and started again when it has died."""

import base64
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maya.errors import MayaError
from maya.serve.speech.adapters.program import ADAPTERS
from maya.serve.speech.config import SpeechConfig

log = logging.getLogger(__name__)
_TOP = str(Path(__file__).resolve().parents[3])  # where `maya` is imported from
_CODE = """import sys
sys.path.insert(0, {top!r})
from maya.serve.speech.adapters.program import main
sys.exit(main({name!r}, {argument!r}))
"""
_LINE = 1 << 27  # characters of an answer


class EngineFailed(MayaError):
    """The engine did not speak."""


class EngineProcess:
    """One engine. Requests wait for each other. Raises MayaError for an unknown engine."""

    def __init__(self, spec: str, cfg: SpeechConfig) -> None:
        self.name, _, argument = spec.partition("=")
        if self.name not in ADAPTERS:
            raise MayaError(f"unknown speech engine {self.name!r}; expected one of {', '.join(ADAPTERS)}")
        self.cfg = cfg
        self._command = [sys.executable, "-c", _CODE.format(top=_TOP, name=self.name, argument=argument)]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._voices: list[str] = []

    @property
    def voices(self) -> list[str]:
        """The names of its voices, the default first. Raises EngineFailed where it does not start."""
        with self._lock:
            if not self._voices:
                self._start()
            return self._voices

    def speak(self, text: str, voice: str, speed: float) -> tuple[NDArray[np.int16], int]:
        """Samples (N,) and their rate in Hz. Blocks. Raises EngineFailed, and the next call starts anew."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            request = json.dumps({"text": text, "voice": voice, "speed": speed})
            answer = self._exchange(request, self.cfg.request_seconds)
        if "pcm" not in answer:
            reason = str(answer.get("error"))[:300]
            raise EngineFailed(f"{self.name} cannot speak this text: {reason}")
        return np.frombuffer(base64.b64decode(answer["pcm"]), "<i2"), int(answer["rate"])

    def close(self) -> None:
        """End the process."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None

    def _start(self) -> None:
        self.close()
        # A session of its own, so that Ctrl-C in a terminal does not end it before the server's last words.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
            start_new_session=True,
        )  # fmt: skip
        answer = self._exchange(None, self.cfg.start_seconds)
        if "voices" not in answer:
            self.close()
            raise EngineFailed(f"the speech engine {self.name} did not start: {answer.get('error')}"[:500])
        self._voices = answer["voices"]
        log.info("speech engine %s: %d voices", self.name, len(self._voices))

    def _exchange(self, request: str | None, seconds: float) -> dict[str, Any]:
        """Send a line, if there is one, and read one. A process that is late is killed."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            if request is not None:
                process.stdin.write(request + "\n")
                process.stdin.flush()
            line = process.stdout.readline(_LINE)
            answer = json.loads(line) if line.endswith("\n") else None
        except (OSError, ValueError):
            answer = None
        finally:
            timer.cancel()
        if not isinstance(answer, dict):
            log.error("speech engine %s ended or was late; it is started again when it is needed", self.name)
            self.close()
            raise EngineFailed(f"the speech engine {self.name} ended, or took more than {seconds:g} s")
        return answer
