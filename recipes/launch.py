"""A maya command in several processes, one a device: torchrun, whose failures end in one sentence.

    python -m maya.recipes.launch --standalone --nproc-per-node 8 train --experiment ... --data ...

Options before the command are torchrun's. torchrun itself works too (`torchrun ... -m maya.recipes.cli train
...`), but buries what a rank says under a traceback of its own, and each rank says it.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from maya.recipes import cli

_WORKER = "--as-worker"  # what the launcher puts before the command in each process
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun's protocol: where a process writes why it failed
_SHUTDOWN_SECONDS = 120  # for the others to save their state after a signal, or to notice that a rank failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How one process ended. text: a sentence for the user, or with `bug` a traceback."""

    rank: int
    status: int
    text: str
    bug: bool
    time: float  # seconds since 1970


def main(argv: list[str] | None = None) -> int:
    """Entry point. The status and the sentence are those of the process that failed first; 0 if none did."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [_WORKER]:
        return work(argv[1:])
    options = torchrun.parse_args(argv)
    command = [options.training_script, *options.training_script_args]
    cli.parser().parse_args(command)  # a wrong option is said once, before anything starts
    options.module, options.training_script = True, "maya.recipes.launch"
    options.training_script_args = [_WORKER, *command]
    if getattr(options, "shutdown_timeout", 0) is None:  # an option of newer versions
        options.shutdown_timeout = _SHUTDOWN_SECONDS
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="maya-launch-") as folder:
        options.log_dir = options.log_dir or folder
        failures: dict[int, Any] = {}
        try:
            torchrun.run(options)
        except ChildFailedError as error:
            failures = error.failures
        except SignalException as stopped:
            endings = read_endings(Path(options.log_dir))
            return conclude(command[0], endings) if endings else 128 + stopped.sigval
        else:
            return 0
        return conclude(command[0], [*read_endings(Path(options.log_dir)), *killed(command[0], failures)])


def work(command: list[str]) -> int:
    """One of the processes: does the command, and writes down how it ended for the launcher to say."""
    sys.argv[1:] = command  # what the run records as its command
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - one process speaks
        warnings.simplefilter("ignore")  # those of libraries are alike on all ranks
    try:
        status, text = cli.run(command)
    except Exception:
        record(1, traceback.format_exc(), bug=True)
        return 1
    if status:
        record(status, text, bug=False)
    return status


def record(status: int, text: str, *, bug: bool) -> None:
    """Leave an Ending in the file that torchrun names; without one, print it."""
    path = os.environ.get(_ERROR_FILE)
    if not path:
        print(text, file=sys.stderr)
        return
    rank, now = int(os.environ.get("RANK", "0")), time.time()
    ending = asdict(Ending(rank=rank, status=status, text=text, bug=bug, time=now))
    said = {"message": text, "extraInfo": {"timestamp": str(int(now))}}  # as torchrun reads it
    Path(path).write_text(json.dumps({"message": said, "maya": ending}))


def read_endings(folder: Path) -> list[Ending]:
    """What the processes of this launch wrote."""
    endings = []
    for path in sorted(folder.rglob("error.json")):
        try:
            endings.append(Ending(**json.loads(path.read_text())["maya"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the process was ended while it wrote
    return endings


def killed(command: str, failures: dict[int, Any]) -> list[Ending]:
    """Endings of processes that a signal ended, other than the one the launcher itself sends."""
    endings = []
    for rank, failure in failures.items():
        number = -failure.exitcode
        if number <= 0 or number == signal.SIGTERM:
            continue
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        text = f"maya {command}: process {failure.pid} was ended by {name}" + (
            ": often the system ends the process that takes most memory" if number == signal.SIGKILL else ""
        )
        endings.append(Ending(rank=rank, status=128 + number, text=text, bug=False, time=0.0))
    return endings


def conclude(command: str, endings: list[Ending]) -> int:
    """Say once why the launch ended, and return its status.

    A sentence goes before a traceback: when one rank ends, the others fail while they wait for it. Of several
    sentences the earliest counts, and its rank is named where not all say the same.
    """
    if not endings:
        print(f"maya {command}: a process ended without a word", file=sys.stderr)
        return 1
    first = min(endings, key=lambda e: (e.bug, e.time))
    alike = all(e.text == first.text for e in endings)
    where = "" if alike or first.status == 130 else f"[rank {first.rank}] "
    print(first.text if first.bug else f"{where}{first.text}", file=sys.stderr)
    return first.status


if __name__ == "__main__":
    sys.exit(main())
