"""What the library says while a command runs: each message once, on stderr."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Ranks(logging.Filter):
    """Of several processes, the first one says what happens; the others only warn, with their rank."""

    def filter(self, record: logging.LogRecord) -> bool:
        from maya.train.distributed import rank  # noqa: PLC0415  it imports torch

        if (number := rank()) and record.levelno >= logging.WARNING:
            record.msg, record.args = f"rank {number}: {record.getMessage()}", None
        return number == 0 or record.levelno >= logging.WARNING


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Let the library's own messages through to stderr while a command runs.

    They go no further: as soon as any package calls `logging.warning`, as lhotse does, Python gives the root
    logger a handler of its own, which would repeat them all.
    """
    log = logging.getLogger("maya")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_Ranks())
    before = log.level, log.propagate
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before[1]
        log.setLevel(before[0])
