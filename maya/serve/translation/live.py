"""Translation of a live session: each final is followed by its translation, when it is done."""

import asyncio
from collections.abc import Callable

from maya.errors import MayaError
from maya.serve.events import Ended, Final, LiveEvent, Translation
from maya.serve.translation.queue import TranslationQueue


class LiveTranslation:
    """Translates the finals of one session into `target`. post: takes events in the event loop.

    Raises MayaError for a pair of languages that no model translates.
    """

    def __init__(
        self, queue: TranslationQueue, source: str, target: str, post: Callable[[list[LiveEvent]], None]
    ) -> None:
        queue.choose(source, target)
        self.queue, self.source, self.target, self.post = queue, source, target, post
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: list[LiveEvent] = []  # the end of the session, for which translations go before

    def filter(self, events: list[LiveEvent]) -> list[LiveEvent]:
        """Take note of finals, in the event loop. `Ended` is held back until all are translated."""
        for event in events:
            if isinstance(event, Final):
                task = asyncio.get_running_loop().create_task(self._translate(event))
                self._tasks.add(task)
                task.add_done_callback(self._done)
        if self._tasks and events and isinstance(events[-1], Ended):
            self._held, events = events[-1:], events[:-1]
        return events

    def close(self) -> None:
        """The session is gone: translations that wait are not needed any more."""
        for task in list(self._tasks):
            task.cancel()

    async def _translate(self, event: Final) -> None:
        text = message = ""
        try:
            text = await asyncio.wrap_future(self.queue.submit(event.text, self.source, self.target))
        except MayaError as error:
            message = str(error)
        except Exception:  # the queue has logged it
            message = "the translation failed; the server's log has the reason"
        result = Translation(segment=event.segment, language=self.target, text=text, message=message)
        self.post([result])

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not self._tasks and self._held:
            held, self._held = self._held, []
            self.post(held)
