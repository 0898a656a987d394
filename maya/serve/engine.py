"""The engine: one thread computes the sessions of all users, those that have audio at the moment together.

It never waits for a batch to fill: with more users a step takes longer, more sessions become ready meanwhile,
and the next batch is larger. Blocks that complete no frame of the encoder go before those that do, so that
its batches are larger. A session takes part in a step with one block, so whoever sends a whole file at once
gets what capacity the others leave.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from maya.errors import MayaError
from maya.serve.config import EngineConfig, SessionConfig
from maya.serve.events import Ended, Failed, LiveEvent
from maya.serve.session import LiveModel, Session

log = logging.getLogger(__name__)
Listener = Callable[[list[LiveEvent]], None]


class Full(MayaError):
    """All slots are taken; try again later."""


@dataclass(eq=False, slots=True)
class LiveStream:
    """A session in the engine. listener: called with its events, in the engine's thread; it must not wait."""

    engine: "Engine"
    session: Session
    listener: Listener
    due: float = 0.0  # when its oldest block arrived
    closed: bool = False
    computing: bool = False  # whether it takes part in the present step

    @property
    def backlog_seconds(self) -> float:
        """Seconds of audio that wait to be computed."""
        with self.engine.lock:
            return self.session.backlog_seconds

    @property
    def busy(self) -> bool:
        """Whether something that was sent is not computed yet; samples that fill no block do not count."""
        with self.engine.lock:
            return self.computing or bool(self.session.blocks)

    def feed(self, samples: np.ndarray | Tensor, rate: int) -> None:
        """The next samples, see `Session.feed`. Raises MayaError where too much audio waits already."""
        if self.backlog_seconds > self.engine.cfg.backlog_seconds:
            raise MayaError(
                f"more than {self.engine.cfg.backlog_seconds:g} s of audio wait to be computed; send slower"
            )
        self._change(lambda: self.session.push(samples, rate))

    def flush(self, marker: str = "") -> None:
        """Recognise all that was said so far; `Flushed` follows the last event of it."""
        self._change(lambda: self.session.push_marker(marker))

    def finish(self) -> None:
        """The end of the audio; `Ended` is the last event, and frees the slot."""
        self._change(self.session.push_end)

    def abandon(self) -> None:
        """Free the slot now. No event follows, except those that are being delivered."""
        self.engine._remove(self)

    def _change(self, action: Callable[[], None]) -> None:
        with self.engine.lock:
            if self.closed:
                raise MayaError("the session has ended; open another one")
            had_blocks = bool(self.session.blocks)
            action()
            if self.session.blocks and not had_blocks:
                self.due = time.monotonic()
                self.engine.ready.notify()


class Engine:
    """Slots for sessions of one model, and the thread that computes them. Use it in a `with` block, or call
    `close`.

    observe: called after each step with (sessions, seconds), for measurements.
    """

    def __init__(
        self, model: LiveModel, cfg: EngineConfig | None = None, *,
        observe: Callable[[int, float], None] = lambda sessions, seconds: None,
    ) -> None:  # fmt: skip
        self.model, self.cfg, self.observe = model, cfg or EngineConfig(), observe
        self.lock = threading.Lock()
        self.ready = threading.Condition(self.lock)
        self.streams: list[LiveStream] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="maya-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(
        self, listener: Listener, language: str | None = None, cfg: SessionConfig | None = None
    ) -> LiveStream:
        """A stream in a free slot. Raises Full where there is none, and MayaError for a language that the
        model does not know."""
        with self.lock:
            if self._stopping:
                raise Full("the server is shutting down; connect to another one")
            if len(self.streams) >= self.cfg.slots:
                raise Full(f"all {self.cfg.slots} slots are taken; try again later")
            stream = LiveStream(self, self.model.open(language, cfg), listener)
            self.streams.append(stream)
        return stream

    def close(self) -> None:
        """Stop the thread. Streams that are still open get no more events."""
        with self.lock:
            self._stopping = True
            self.ready.notify()
        self._thread.join()

    def _remove(self, stream: LiveStream) -> None:
        with self.lock:
            if not stream.closed:
                stream.closed = True
                self.streams.remove(stream)

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            began = time.monotonic()
            for stream, events in self._step(batch):
                self._deliver(stream, events)
                stream.computing = False
            self.observe(len(batch), time.monotonic() - began)

    def _next_batch(self) -> list[LiveStream] | None:
        """The streams of the next step, those that have waited longest first; None at the end."""
        with self.lock:
            while True:
                if self._stopping:
                    return None
                if waiting := [stream for stream in self.streams if stream.session.blocks]:
                    break
                self.ready.wait()
            # Blocks that complete no frame take little: they go first, and the encoder's batches are larger.
            chosen = [stream for stream in waiting if not stream.session.is_due] or waiting
            batch = sorted(chosen, key=lambda stream: stream.due)[: self.cfg.batch]
            now = time.monotonic()
            for stream in batch:
                stream.due = now  # its next block waits behind the others
                stream.computing = True
            return batch

    def _step(self, batch: list[LiveStream]) -> list[tuple[LiveStream, list[LiveEvent]]]:
        """One step. If it fails, which is a bug, its streams end, because their states are half moved on."""
        try:
            events = self.model.step([stream.session for stream in batch])
        except Exception:
            log.exception("a step of %d sessions failed; they end", len(batch))
            message = "the recogniser failed; the server's log has the reason"
            events = [[Failed(message=message)] for _ in batch]
        return list(zip(batch, events, strict=True))

    def _deliver(self, stream: LiveStream, events: list[LiveEvent]) -> None:
        if stream.closed:
            return
        if events and isinstance(events[-1], (Ended, Failed)):
            self._remove(stream)
        if events:
            try:
                stream.listener(events)
            except Exception:
                log.exception("the listener of a session failed; the session ends")
                self._remove(stream)
