"""How far a long loop has come, said every few seconds: done, rate, time left."""

import logging
import time

log = logging.getLogger(__name__)
_SECONDS_BETWEEN_REPORTS = 10.0


class Progress:
    """verb, things: for messages such as "checked 1200 of 40000 utterances, 350 a second, 2 min left"."""

    def __init__(self, verb: str, total: int, things: str) -> None:
        self._verb, self._total, self._things = verb, total, things
        self._done = self._fresh = 0
        self._began = self._said = time.monotonic()
        self._spoke = False

    def advance(self, count: int, fresh: bool = True) -> None:
        """So many more are done; fresh: they took work, and were not only found done before."""
        self._done += count
        self._fresh += count if fresh else 0
        if time.monotonic() - self._said > _SECONDS_BETWEEN_REPORTS:
            self._said, self._spoke = time.monotonic(), True
            log.info(self.line())

    def end(self) -> None:
        """Say how it ended, if anything was said before or found done."""
        if self._spoke or self._fresh < self._done:
            log.info(self.line())

    def line(self) -> str:
        """As of now."""
        spent = time.monotonic() - self._began
        parts = [f"{self._verb} {self._done} of {self._total} {self._things}"]
        if known := self._done - self._fresh:
            parts.append(f"{known} of them in an earlier run")
        if self._fresh:
            rate = self._fresh / max(spent, 1e-9)
            parts.append(f"{rate:.0f} a second" if rate >= 10 else f"{rate:.1f} a second")
            if self._done < self._total:
                parts.append(f"{duration((self._total - self._done) / rate)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
