"""Peak memory of forms, each in a process of its own: `python -m maya.kernels.bench.peak JSON`.

This process imports torch, computes nothing, and is forked for each form. The child first runs the form on a
tiny setting, so that thread pools, libraries and lazy imports are not counted. Then it makes the inputs,
resets the peak of its resident set and runs once. Prints one JSON object: form -> fields of `measure.Peak`.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from maya.kernels.bench.measure import Form, Setting, first_line

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def form_of(op: str, setting: Setting, name: str) -> Form:
    """The form of operator `op`, whose benchmark is kernels/<op>/bench.py, on fresh inputs."""
    module = importlib.import_module(f"maya.kernels.{op}.bench")
    return next(form for form in module.forms(setting) if form.name == name)


def resident(what: str) -> int:
    """Bytes: "VmRSS" now, or "VmHWM", the peak; without /proc (macOS) the peak since the start."""
    try:
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(lines[what].split()[0]) * 1024
    except (OSError, KeyError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_the_peak() -> None:
    """Returns freed memory to the system and resets VmHWM. Where that fails, the old peak stays, an upper
    bound.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")


def measure(order: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields of `Peak` of form `name`, for the parts in `order`."""
    torch.set_num_threads(order["threads"])
    setting, parts = Setting(**order["setting"]), order["parts"]
    small = form_of(order["op"], setting.tiny(), name)
    for part in parts:
        getattr(small, part)()
    form = form_of(order["op"], setting, name)
    fields: dict[str, Any] = {}
    for part in parts:
        forget_the_peak()
        before, start = resident("VmRSS"), time.perf_counter()
        getattr(form, part)()
        fields[part] = resident("VmHWM") - before
        fields["seconds"] = time.perf_counter() - start
    return fields


def in_child(order: dict[str, Any], name: str) -> dict[str, Any]:
    """`measure` in a fork of this process, or the reason why it failed."""

    def work() -> dict[str, Any]:
        try:
            return measure(order, name)
        except Exception as error:  # the other forms are still measured
            return {"why_not": first_line(error)}

    answer, status = forked(work)
    if answer is None:
        return {"why_not": "killed: out of memory" if status == -9 else f"ended with status {status}"}
    return answer


def forked(work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any] | None, int]:
    """Runs `work` in a fork of this process. Returns its result (JSON) or None, and the exit status."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (json.loads(text) if text else None), status


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    print(json.dumps({name: in_child(order, name) for name in order["forms"]}))
