"""Work in several processes, in order, for tasks that keep the interpreter busy."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import TypeVar

from maya.errors import MayaError

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 4  # items given out for each worker


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[T], R], items: Iterable[T], workers: int, what: str
) -> Generator[R, None, None]:
    """`work(item)` of each item, in order, by so many processes; by this one if they are fewer than two.

    what: the task, for messages. Raises MayaError when a process dies, and what `work` raises. The
    processes end at once when the iterator is closed, and within a second of this process if it is killed.
    """
    if workers < 2:
        yield from map(work, items)
        return
    # Forking takes no time where importing torch takes seconds; elsewhere than on Linux it is not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=end_with, initargs=(os.getpid(), stop)
    )
    given: deque[Future[R]] = deque()
    try:
        for item in items:
            given.append(pool.submit(work, item))
            if len(given) >= _AHEAD * workers:
                yield given.popleft().result()
        while given:
            yield given.popleft().result()
    except BrokenProcessPool:
        raise MayaError(
            f"a process that was {what} died: often the system ends the one that takes most memory, or a "
            "file breaks its decoder; start again with fewer processes"
        ) from None
    except BaseException:  # Ctrl-C too: what was begun is not waited for
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_with(parent: int, stop: Event | None = None) -> None:
    """In a worker: ignore Ctrl-C, end when the parent sets `stop`, and do not outlive the parent, whose
    process this is the number of. A pool alone would wait for ever for a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waited: Event | threading.Event = threading.Event() if stop is None else stop

    def watch() -> None:
        while os.getppid() == parent and not waited.wait(1.0):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
