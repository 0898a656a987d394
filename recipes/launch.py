"""A maya command in several processes, one a device: torchrun, whose failures end in one sentence.

    python -m maya.recipes.launch --standalone --nproc-per-node 8 train --experiment ... --data ...

Options before the command are torchrun's, and --dry-run, as the first, which says what would be started.
torchrun itself works too (`torchrun ... -m maya.recipes.cli train ...`), but buries what a rank says under a
traceback of its own, and each rank says it.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from maya.errors import MayaError
from maya.recipes import cli
from maya.recipes.endings import Ending, read_doing, read_endings, record
from maya.recipes.experiment import load_experiment

_WORKER = "--as-worker"  # what the launcher puts before the command in each process
_SHUTDOWN_SECONDS = 120  # for the others to save their state after a signal, or to notice that a rank failed


def main(argv: list[str] | None = None) -> int:
    """Entry point. The status and the sentence are those of the process that failed first; 0 if none did."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [_WORKER]:
        return work(argv[1:])
    dry_run = argv[:1] == ["--dry-run"]
    options = torchrun.parse_args(argv[dry_run:])
    command = [options.training_script, *options.training_script_args]
    args = cli.parser().parse_args(command)  # a wrong option is said once, before anything starts
    try:
        plan = describe(options, args)
    except MayaError as error:
        print(f"maya {command[0]}: {error}", file=sys.stderr)
        return 1
    if dry_run:
        print(plan)
        return 0
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
        # A store for each attempt. In the one that torch would share, processes of the first attempt have
        # left their addresses, and those of the second one would connect to them.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        try:
            torchrun.run(options)
        except ChildFailedError as error:
            failures = error.failures
        except SignalException as stopped:
            endings = read_endings(Path(options.log_dir))
            return conclude(command[0], endings) if endings else 128 + stopped.sigval
        else:
            return 0
        return conclude(
            command[0],
            [
                *read_endings(Path(options.log_dir)),
                *killed(command[0], failures, read_doing(Path(options.log_dir))),
            ],
        )


def describe(options: argparse.Namespace, args: argparse.Namespace) -> str:
    """What a launch would start, for people. Raises MayaError for one that could not work."""
    nodes, _, most = str(options.nnodes).partition(":")
    if int(most or nodes) > 1 and options.rdzv_backend == "c10d" and not options.rdzv_endpoint:
        raise MayaError(
            "several nodes must meet somewhere: give --rdzv-endpoint HOST:PORT, alike on all of them"
        )
    if int(most or nodes) > 1 and options.standalone:
        raise MayaError("--standalone is for one node: give --rdzv-backend c10d --rdzv-endpoint HOST:PORT")
    per_node = options.nproc_per_node
    meeting = options.rdzv_endpoint or f"{options.master_addr}:{options.master_port}"
    lines = [
        f"maya {args.command} on {options.nnodes} node(s) with {per_node} process(es) each; this is node "
        f"{options.node_rank}",
        "they meet on this machine"
        if options.standalone or int(most or nodes) == 1
        else f"they meet at {meeting}",
        f"restarts after a failure, from the newest checkpoint: at most {options.max_restarts}",
    ]
    if args.command == "train":
        experiment = load_experiment(args.experiment, args.overrides)
        cfg, cap = experiment.train, experiment.data.plan.max_seconds
        seconds = f", {cap * cfg.accumulate:g} s of audio a step for each process" if cap else ""
        lines.append(
            f"{args.experiment}: train.parallel={cfg.parallel}, train.precision={cfg.precision}, "
            f"train.accumulate={cfg.accumulate}{seconds}"
        )
        lines.append(f"a rank that hangs ends all after {cfg.timeout_seconds:g} s (train.timeout_seconds)")
    return "\n".join(lines)


def work(command: list[str]) -> int:
    """One of the processes: does the command, and writes down how it ended for the launcher to say."""
    sys.argv[1:] = command  # what the run records as its command
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - one process speaks
        warnings.simplefilter("ignore")  # those of libraries are alike on all ranks
    elif int(restart := os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        most = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "?")
        print(f"maya {command[0]}: a process failed: restart {restart} of {most}", flush=True)
    try:
        status, text = cli.run(command)
    except Exception:
        record(1, traceback.format_exc(), bug=True)
        return 1
    if status:
        record(status, text, bug=False)
    return status


def killed(command: str, failures: dict[int, Any], doing: dict[int, str]) -> list[Ending]:
    """Endings of processes that a signal ended, other than the one the launcher itself sends. doing: what
    each rank did last.

    A rank that ended another which no longer answered has written why: that comes first, although the
    launcher's times are whole seconds.
    """
    endings = []
    for rank, failure in failures.items():
        number = -failure.exitcode
        if number <= 0 or number == signal.SIGTERM:
            continue
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        text = f"maya {command}: process {failure.pid} was ended by {name}" + (
            ": often the system ends the process that takes most memory" if number == signal.SIGKILL else ""
        )
        text += f"; {doing[rank]}" if rank in doing else ""
        time = failure.timestamp + 1.0
        endings.append(Ending(rank=rank, status=128 + number, text=text, bug=False, time=time))
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
