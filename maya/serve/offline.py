"""Whole recordings, from all users together: those that wait are transcribed as one batch.

Long recordings have a thread of their own, so that a short one does not wait for an hour of speech.
"""

import logging
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from maya.audio.decoding import open_audio
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import Recording, Transcript, TranscriptionConfig
from maya.errors import MayaError

log = logging.getLogger(__name__)
_LONG_SECONDS = 60.0
_TOGETHER = 64  # recordings of a batch of requests


class Busy(MayaError):
    """Too many recordings wait; try again later."""


@dataclass(eq=False, slots=True)
class _Request:
    data: bytes
    language: str | None
    future: "Future[Transcript]" = field(default_factory=Future)


class OfflineQueue:
    """Transcribes recordings. waiting: recordings that may wait; max_seconds: the longest one; cfg: how they
    are cut and put into batches."""

    def __init__(
        self, recognizer: Recognizer, *, waiting: int, max_seconds: float,
        cfg: TranscriptionConfig | None = None,
    ) -> None:  # fmt: skip
        self.cfg = cfg
        self.recognizer, self.waiting, self.max_seconds = recognizer, waiting, max_seconds
        self._queues: list[queue.Queue[_Request | None]] = [queue.Queue(), queue.Queue()]
        self._threads = [
            threading.Thread(target=self._run, args=(requests,), name="maya-offline", daemon=True)
            for requests in self._queues
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, data: bytes, language: str | None = None) -> "Future[Transcript]":
        """The bytes of an audio file -> its transcript.

        Raises Busy, and MayaError for audio that cannot be read or is too long, and for an unknown language.
        """
        language = self.recognizer.model_language(language)
        with open_audio(data, "the file", whole=False) as audio:
            seconds = audio.num_samples / audio.sample_rate
        if seconds > self.max_seconds:
            raise MayaError(f"the file has {seconds:.0f} s; at most {self.max_seconds:g} s are taken")
        if self.size >= self.waiting:
            raise Busy(f"{self.waiting} recordings wait already; try again later")
        request = _Request(data, language)
        self._queues[seconds > _LONG_SECONDS].put(request)
        return request.future

    @property
    def size(self) -> int:
        """Recordings that wait."""
        return sum(requests.qsize() for requests in self._queues)

    def close(self) -> None:
        """Stop after what was submitted."""
        for requests in self._queues:
            requests.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, requests: "queue.Queue[_Request | None]") -> None:
        running = True
        while running:
            group = [requests.get()]
            while len(group) < _TOGETHER and not requests.empty():
                group.append(requests.get())
            running = None not in group
            live = [r for r in group if r is not None and r.future.set_running_or_notify_cancel()]
            if live:
                self._transcribe(live)

    def _transcribe(self, requests: list[_Request]) -> None:
        items = [Recording(audio=r.data, id="the file", language=r.language) for r in requests]
        try:
            for transcript in self.recognizer.transcribe_each(items, cfg=self.cfg):
                requests[transcript.place].future.set_result(transcript)
        except Exception as error:  # a bug: whoever waits must hear of it
            log.exception("transcribing %d recordings failed", len(requests))
            for request in requests:
                if not request.future.done():
                    request.future.set_exception(error)
