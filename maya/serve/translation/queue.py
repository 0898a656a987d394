"""Translation for all sessions and requests: a thread of its own, which recognition goes before."""

import contextlib
import itertools
import logging
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from maya.errors import MayaError
from maya.serve.offline import Busy
from maya.serve.speech.sentences import sentences
from maya.serve.translation.models import Translator
from maya.text.languages import language_code

log = logging.getLogger(__name__)
_TOGETHER = 16  # texts of a batch
_NICE = 10


@dataclass(eq=False, kw_only=True, slots=True)
class _TranslationRequest:
    translator: Translator
    text: str
    source: str
    target: str
    future: "Future[str]" = field(default_factory=Future)

    @property
    def kind(self) -> tuple[int, str, str]:
        """Requests of one kind can be one batch."""
        return id(self.translator), self.source, self.target


class TranslationQueue:
    """Translates in the order of requests, those of one pair that wait together. waiting: texts at most."""

    def __init__(self, translators: Sequence[Translator], waiting: int = 1000) -> None:
        self.translators, self.waiting = translators, waiting
        self._queue: queue.SimpleQueue[_TranslationRequest | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if translators:
            self._thread = threading.Thread(target=self._run, name="maya-translation", daemon=True)
            self._thread.start()

    def choose(self, source: str, target: str) -> Translator:
        """The first model that translates a pair. Raises MayaError where there is none."""
        if not self.translators:
            raise MayaError("this server does not translate; start it with --translate")
        language_code(source), language_code(target)
        for translator in self.translators:
            with contextlib.suppress(MayaError):
                translator.check(source, target)
                return translator
        raise MayaError(f"this server does not translate {source[:40]!r} into {target[:40]!r}")

    def submit(self, text: str, source: str, target: str) -> "Future[str]":
        """A text, whose sentences are translated one by one. Raises Busy, and MayaError as `choose`."""
        if self._queue.qsize() >= self.waiting:
            raise Busy(f"{self.waiting} texts wait to be translated; try again later")
        request = _TranslationRequest(
            translator=self.choose(source, target), text=text, source=source, target=target
        )
        self._queue.put(request)
        return request.future

    def close(self) -> None:
        """Stop after what was submitted."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        if hasattr(os, "setpriority"):  # on Linux of this thread alone
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        running = True
        while running:
            group = [self._queue.get()]
            while len(group) < _TOGETHER and not self._queue.empty():
                group.append(self._queue.get())
            running = None not in group
            live = [r for r in group if r is not None and r.future.set_running_or_notify_cancel()]
            for _, batch in itertools.groupby(live, key=lambda request: request.kind):
                self._translate(list(batch))

    def _translate(self, batch: list[_TranslationRequest]) -> None:
        parts = [sentences(request.text) or [request.text] for request in batch]
        try:
            first = batch[0]
            flat = [part for own in parts for part in own]
            done = first.translator.translate(flat, first.source, first.target)
        except Exception as error:  # whoever waits must hear of it
            if len(batch) > 1:  # one text must not take the others with it
                for request in batch:
                    self._translate([request])
                return
            log.exception("translating %d texts failed", len(batch))
            for request in batch:
                request.future.set_exception(error)
            return
        for request, own in zip(batch, parts, strict=True):
            request.future.set_result(" ".join(done[: len(own)]))
            del done[: len(own)]
