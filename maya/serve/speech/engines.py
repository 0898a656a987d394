"""The engines of a server by name, and a text as audio, piece by piece."""

import asyncio
from collections.abc import AsyncGenerator

import numpy as np
from numpy.typing import NDArray

from maya.audio.resampling import resample_channels
from maya.errors import MayaError
from maya.serve.offline import Busy
from maya.serve.speech.config import SpeechConfig
from maya.serve.speech.formats import RATE
from maya.serve.speech.process import EngineProcess
from maya.serve.speech.sentences import pieces

OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer",
    "verse",
)  # fmt: skip
_NAMED = 20  # voices that an error lists


class SpeechRequestError(MayaError):
    """A request that no engine can serve. param: the field at fault."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class SpeechEngines:
    """The engines. Raises MayaError for an unknown one, and for one that is given twice."""

    def __init__(self, cfg: SpeechConfig) -> None:
        self.cfg = cfg
        self.engines: dict[str, EngineProcess] = {}
        self.requests = 0  # that are being served
        for spec in cfg.engines:
            engine = EngineProcess(spec, cfg)
            if engine.name in self.engines:
                raise MayaError(f"the speech engine {engine.name} is given twice")
            self.engines[engine.name] = engine

    def start(self) -> None:
        """Start all engines now. Raises MayaError where one does not start."""
        for engine in self.engines.values():
            _ = engine.voices

    def close(self) -> None:
        """End all engines."""
        for engine in self.engines.values():
            engine.close()

    def choose(self, model: str | None) -> EngineProcess:
        """The engine of a name; the first for none, and for names of OpenAI's models. Raises
        SpeechRequestError for another."""
        first = next(iter(self.engines.values()), None)
        if first is None:
            raise SpeechRequestError("this server does not speak; start it with --speech", "model")
        if model in (None, "", "default") or str(model).startswith(("tts-", "gpt-")):
            return first
        if model not in self.engines:
            name, names = str(model)[:80], ", ".join(self.engines)
            raise SpeechRequestError(f"the model {name!r} does not exist; there is {names}", "model")
        return self.engines[str(model)]

    async def audio(
        self, engine: EngineProcess, text: str, voice: str | None, speed: float
    ) -> AsyncGenerator[NDArray[np.int16], None]:
        """Samples (n,) at 24 kHz of each piece of the text; the next piece is spoken while one is sent.

        Raises SpeechRequestError for a text that is empty or too long, an unknown voice and a speed out of
        range, Busy where too many wait, and EngineFailed.
        """
        if len(text) > self.cfg.characters:
            raise SpeechRequestError(f"input has more than {self.cfg.characters} characters", "input")
        parts = pieces(text)
        if not parts:
            raise SpeechRequestError("input has no words", "input")
        if not 0.25 <= speed <= 4.0:
            raise SpeechRequestError("speed must be from 0.25 to 4", "speed")
        if self.requests >= self.cfg.waiting:
            raise Busy(f"{self.cfg.waiting} texts are spoken already; try again later")
        self.requests += 1
        waiting: list[asyncio.Task[NDArray[np.int16]]] = []
        try:
            name = await asyncio.to_thread(_voice, engine, voice)
            for part in parts:
                waiting.append(_spoken(engine, part, name, speed))
                if len(waiting) == 2:
                    yield await waiting.pop(0)
            yield await waiting.pop()
        finally:
            self.requests -= 1
            for task in waiting:
                task.cancel()


def _spoken(engine: EngineProcess, text: str, voice: str, speed: float) -> "asyncio.Task[NDArray[np.int16]]":
    def speak() -> NDArray[np.int16]:
        samples, rate = engine.speak(text, voice, speed)
        floats = resample_channels(samples.astype(np.float32) / np.float32(32768), rate, RATE)
        return (floats.clip(-1, 1) * 32767).astype(np.int16)

    return asyncio.create_task(asyncio.to_thread(speak))


def _voice(engine: EngineProcess, name: str | None) -> str:
    """The engine's voice of a name; its default for none, and for names of OpenAI's voices. A name is only
    ever looked up in the engine's list."""
    voices = engine.voices
    if name in voices:
        return str(name)
    if name in (None, "", "default", *OPENAI_VOICES):
        return voices[0]
    some = ", ".join(voices[:_NAMED]) + (", ..." if len(voices) > _NAMED else "")
    raise SpeechRequestError(f"unknown voice {str(name)[:80]!r}; {engine.name} has {some}", "voice")
