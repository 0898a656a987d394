"""A requested stop: the running step ends, its state is saved, and the same command continues there."""

import signal
import time
from types import FrameType

INSISTING_SECONDS = 2.0  # between two Ctrl-C of which the second means now


class StopRequest:
    """Ctrl-C, SIGTERM and SIGHUP (a terminal that was closed) request a checkpoint and a clean end after the
    running step; a second Ctrl-C ends at once. A SIGHUP that `nohup` has turned off stays off."""

    def __init__(self) -> None:
        self.requested = False
        self.since = 0.0  # the time of the first request, by time.monotonic()

    def __enter__(self) -> "StopRequest":
        numbers = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
            numbers.append(hangup)
        self._previous = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        # A terminal sends SIGINT to launcher and worker, and the launcher passes its own on at once: only a
        # later one comes from a person who insists.
        now = time.monotonic()
        if self.requested and number == signal.SIGINT and now - self.since > INSISTING_SECONDS:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self.since = True, now


class Interrupted(KeyboardInterrupt):
    """Training stopped on request, with its state saved at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; run the same command again to continue there")
        self.step = step
