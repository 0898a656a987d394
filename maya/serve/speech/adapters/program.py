"""The program around an engine: requests on its standard input, answers on its standard output.

Each is one line of JSON. The program begins with {"voices": [...]}, or {"error": "..."} and its end. Then

    {"text": "Good morning.", "voice": "en-us", "speed": 1.0}  ->  {"rate": 22050, "pcm": "BASE64"}

or {"error": "..."}: PCM is mono, 16-bit, little-endian. It ends with its input.
"""

import base64
import importlib
import json
import os
import sys
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ADAPTERS = {
    "espeak": "EspeakVoices", "piper": "PiperVoices", "kokoro": "KokoroVoices", "cosyvoice": "CosyVoices",
}  # fmt: skip
"""By module in this folder: its class, which is made with what follows the = on the command line."""


class Adapter(Protocol):
    """An engine. voices: the names that it takes, the default first."""

    voices: list[str]

    def speak(self, text: str, voice: str, speed: float) -> tuple[NDArray[np.int16], int]:
        """Samples (N,) of a text, and their rate in Hz. speed: 1.0 is usual, 2.0 twice as fast."""


def main(name: str, argument: str) -> int:
    """Serve an engine; the exit status is 1 if it did not start."""
    # Packages print and log; what they say must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(os, "nice"):
        os.nice(5)  # recognition goes first

    def answer(content: dict[str, object]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        adapter: Adapter = getattr(importlib.import_module(f"{__package__}.{name}"), ADAPTERS[name])(argument)
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        return 1
    answer({"voices": adapter.voices})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            samples, rate = adapter.speak(request["text"], request["voice"], request["speed"])
            answer({"rate": rate, "pcm": base64.b64encode(samples.astype("<i2").tobytes()).decode()})
        except Exception as error:  # of one text
            answer({"error": f"{type(error).__name__}: {error}"})
    return 0
