"""Speech in a live session: texts are spoken one after the other, until the user speaks.

The audio is sent as it would be played, at most a second ahead, so that stopping it stops what is heard.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from maya.errors import MayaError
from maya.serve.events import LiveEvent, SayAudio, SayEnded, SayStarted
from maya.serve.speech.engines import SpeechEngines
from maya.serve.speech.formats import RATE
from maya.serve.speech.process import EngineProcess

_AHEAD_SECONDS, _CHUNK_SECONDS = 1.0, 0.2
_QUEUE = 32  # texts of a session that wait


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    id: str
    engine: EngineProcess
    text: str
    voice: str | None
    speed: float


class LiveSpeech:
    """What one session says. post: takes events in the event loop; they are sent to the client."""

    def __init__(self, speech: SpeechEngines, post: Callable[[list[LiveEvent]], None]) -> None:
        self.speech, self.post = speech, post
        self.turn = 0  # grows with each `stop`, so that events that are on their way then are known
        self._texts: deque[_Text] = deque()
        self._task: asyncio.Task[None] | None = None

    def say(self, text: str, *, id: str = "", model: str | None = None, voice: str | None = None,
            speed: float = 1.0) -> None:  # fmt: skip
        """Speak a text after those before it. Raises MayaError where too many wait, and for an unknown
        engine; errors of one text are told by its `SayEnded`."""
        if len(self._texts) >= _QUEUE:
            raise MayaError(f"{_QUEUE} texts wait to be spoken; wait for say_ended")
        engine = self.speech.choose(model)
        self._texts.append(_Text(id=id, engine=engine, text=text, voice=voice, speed=speed))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self, reason: str) -> list[LiveEvent]:
        """Be silent, and forget the texts that wait: the events that say so."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.turn += 1
        ended: list[LiveEvent] = [SayEnded(id=text.id, reason=reason) for text in self._texts]
        self._texts.clear()
        return ended

    async def _run(self) -> None:
        while self._texts:
            text = self._texts[0]  # it waits until it was spoken, so that `stop` knows of it
            error = ""
            try:
                await self._speak(text)
            except MayaError as failure:
                error = str(failure)
            self._texts.popleft()
            self.post([SayEnded(id=text.id, reason="error" if error else "end", message=error)])

    async def _speak(self, text: _Text) -> None:
        began, sent = time.monotonic(), 0.0
        audio = self.speech.audio(text.engine, text.text, text.voice, text.speed)
        async with contextlib.aclosing(audio):
            async for samples in audio:
                if sent == 0.0:
                    self.post([SayStarted(id=text.id, rate=RATE, turn=self.turn)])
                    began = time.monotonic()
                step = round(_CHUNK_SECONDS * RATE)
                for begin in range(0, len(samples), step):
                    part = samples[begin : begin + step]
                    await asyncio.sleep(max(0.0, began + sent - _AHEAD_SECONDS - time.monotonic()))
                    self.post([SayAudio(pcm=part.astype("<i2").tobytes(), turn=self.turn)])
                    sent = max(sent, time.monotonic() - began) + len(part) / RATE
        await asyncio.sleep(max(0.0, began + sent - time.monotonic()))
