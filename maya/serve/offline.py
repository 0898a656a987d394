"""Whole recordings, from all users together: those that wait are transcribed as one batch.

Long recordings have a thread of their own, so that a short one does not wait for an hour of speech.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from maya.audio.decoding import open_audio
from maya.decode.base import Method
from maya.decode.hypothesis import Hypothesis
from maya.decode.punctuation import Punctuation
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import Recording, Transcript, TranscriptionConfig, recording_audio
from maya.errors import MayaError
from maya.score.rover import Vote
from maya.serve.votes import Voters, combined

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewriting:
    """What is done to the words of a transcript. rover: other methods of the model that vote on them; others:
    other models that vote, each by its best method; vote: see maya.score.rover. punctuate: by the model's
    head."""

    rover: Sequence[str] = ()
    others: Sequence[Recognizer] = ()
    vote: Vote = "avgconf"
    punctuate: bool = False


class OfflineQueue:
    """Transcribes recordings. waiting: recordings that may wait; max_seconds: the longest one; cfg: how they
    are cut and put into batches. Raises MayaError for a rewriting that the model cannot do."""

    def __init__(
        self, recognizer: Recognizer, *, waiting: int, max_seconds: float,
        cfg: TranscriptionConfig | None = None, rewriting: Rewriting | None = None,
    ) -> None:  # fmt: skip
        self.cfg, self.rewriting = cfg, rewriting or Rewriting()
        self.punctuation = Punctuation(recognizer) if self.rewriting.punctuate else None
        own = Voters(recognizer, self.rewriting.rover).methods
        self.voters: list[tuple[Recognizer, Method | None]] = [(recognizer, method) for method in own]
        self.voters += [(other, None) for other in self.rewriting.others]
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
            votes = [self._votes(voter, method, items) for voter, method in self.voters]
            for transcript in self.recognizer.transcribe_each(items, cfg=self.cfg):
                place, hyp = transcript.place, transcript.hypothesis
                if hyp is not None and votes:
                    combined([hyp, *(own[place] for own in votes if place in own)], self.rewriting.vote)
                if hyp is not None and self.punctuation is not None:
                    self.punctuation(hyp, recording_audio(items[place], self.recognizer.sample_rate))
                requests[place].future.set_result(transcript)
        except Exception as error:  # a bug: whoever waits must hear of it
            log.exception("transcribing %d recordings failed", len(requests))
            for request in requests:
                if not request.future.done():
                    request.future.set_exception(error)

    def _votes(
        self, voter: Recognizer, method: Method | None, items: list[Recording]
    ) -> dict[int, Hypothesis]:
        """By the recording's number what a voter makes of it; a model that does not know its language, or
        cannot read it, has no vote."""
        places, asked = list[int](), list[Recording]()
        for place, item in enumerate(items):
            with contextlib.suppress(MayaError):
                asked.append(replace(item, language=voter.model_language(item.language)))
                places.append(place)
        transcripts = voter.transcribe_each(asked, decoder=method, cfg=self.cfg, predictions=False)
        return {places[t.place]: t.hypothesis for t in transcripts if t.hypothesis is not None}
