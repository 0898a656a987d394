"""One JSON line for each session and each request: for log collectors.

A line holds times, counts, ids and the outcome. Nothing that a client sent stands in it: no audio, no text,
no key, no address, no name that is not the server's own.
"""

import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any, TextIO


def new_id() -> str:
    """An id of a session or a request."""
    return uuid.uuid4().hex


class Journal:
    """Appends to `path`, or to `stream`; to nothing without either. Threads may share it."""

    def __init__(self, path: Path | None = None, stream: TextIO | None = None) -> None:
        self.stream = path.open("a", encoding="utf-8") if path is not None else stream
        self._lock = threading.Lock()

    def write(self, kind: str, **fields: Any) -> None:
        """A line with `time` (Unix seconds), `kind` and the fields; seconds have three decimals."""
        if self.stream is None:
            return
        about = {k: round(v, 3) if isinstance(v, float) else v for k, v in fields.items()}
        line = json.dumps({"time": round(time.time(), 3), "kind": kind} | about, allow_nan=False)
        with self._lock:
            self.stream.write(f"{line}\n")
            self.stream.flush()
