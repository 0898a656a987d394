"""Injects faults into small real trainings, and writes what happened: `python -m tools.fault_campaign`.

Each fault hits a training in a process of its own (two processes for the death of a rank). The same command
is then run again until the training has ended, and its result is compared with that of a training that
nothing disturbed: the losses of all steps and the bits of the weights. `--write` puts the table into
docs/reliability.md between its two marks; `--only NAME ...` runs some of the faults, and replaces their rows.

Steps lost: taken again after the fault. Bytes lost: of checkpoints and logged steps that were complete before
the fault and cannot be read after it, other than what the fault itself destroyed.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from tests import tiny  # type: ignore[import-not-found]
from tools.bench.common import markdown, parser_of
from tools.fault_injections import BREAKS_AT, STEPS, experiment, steps_taken
from tools.fault_runs import (
    REPO,
    FaultRuns,
    Outcome,
    children,
    complete,
    ended,
    losses,
    lost,
    outcome,
    rank_of,
    said,
    same_weights,
    sentence,
    wait_for,
)

PAGE = REPO / "docs" / "reliability.md"
MARKS = ("<!-- fault campaign -->", "<!-- end of fault campaign -->")
SECONDS = 240.0  # for a process to do what is expected of it


def stopped_by(runs: FaultRuns, name: str, number: signal.Signals) -> Outcome:
    """A signal to the process of a training at step 12."""
    run = runs.run(name)
    process = runs.start(run, "slow")
    wait_for(process, lambda: len(steps_taken(run)) >= BREAKS_AT)
    before = complete(run)
    process.send_signal(number)
    status, out = ended(process), said(process)
    done, _ = runs.finish(run)
    happened = f"exit status {status}"
    if number != signal.SIGKILL:
        happened += ": " + sentence(out, "stopped after step")
    return outcome(runs, run, before, f"{number.name} at step {BREAKS_AT}", happened, done)


def kill(runs: FaultRuns) -> Outcome:
    return stopped_by(runs, "kill", signal.SIGKILL)


def terminate(runs: FaultRuns) -> Outcome:
    return stopped_by(runs, "terminate", signal.SIGTERM)


def hang_up(runs: FaultRuns) -> Outcome:
    return stopped_by(runs, "hang_up", signal.SIGHUP)


def kill_while_writing(runs: FaultRuns) -> Outcome:
    run = runs.run("kill_while_writing")
    process = runs.start(run, "slow_disk")
    wait_for(process, lambda: list(run.glob("checkpoints/step-0000010.pt.partial")))
    before = complete(run)
    process.kill()
    status, _ = ended(process), said(process)
    done, _ = runs.finish(run)
    rest = "the part of a file is removed" if not list(run.rglob("*.partial")) else "A PART OF A FILE STAYS"
    injected = "SIGKILL while step-0000010.pt is written"
    return outcome(runs, run, before, injected, f"exit status {status}; {rest}", done)


def kill_rank(runs: FaultRuns) -> Outcome:
    run = runs.run("kill_rank")
    process = runs.start(run, "slow", processes=2)
    wait_for(process, lambda: len(steps_taken(run)) >= BREAKS_AT)
    before, began = complete(run), time.monotonic()
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    status, out = ended(process), said(process)
    happened = f"exit status {status} after {time.monotonic() - began:.0f} s: {sentence(out, 'was ended by')}"
    done, _ = runs.finish(run, processes=2)
    return outcome(runs, run, before, f"SIGKILL of rank 1 of 2 at step {BREAKS_AT}", happened, done, 2)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of so many bytes at `folder`; False where this process may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = (
        shutil.which("mount") is not None and not subprocess.run(command, capture_output=True).returncode
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def small_file_system(runs: FaultRuns) -> Outcome | None:
    """A disk that three checkpoints fill. It is foreseen; after room was made the training goes on."""
    size = next(iter(complete(runs.undisturbed()).values()))
    with small_disk(runs.top / "disk", round(3.6 * size)) as mounted:
        if not mounted:
            return None
        run = runs.top / "disk" / "small_file_system"
        shutil.copytree(runs.top / "run", run)
        status, out = runs.finish(run)
        before = complete(run)
        happened = f"exit status {status}: {sentence(out, 'could not be written')}"
        warned = "a warning came before" if "make room" in out else "NO WARNING BEFORE"
        moved = runs.top / "small_file_system"
        shutil.copytree(run, moved)
    before = {moved / path.relative_to(run): count for path, count in before.items()}
    done, _ = runs.finish(moved)
    injected = f"a file system of {3.6 * size / 1e6:.0f} MB, later a larger one"
    return outcome(runs, moved, before, injected, f"{happened} ({warned})", done)


def full_disk(runs: FaultRuns) -> Outcome:
    run = runs.run("full_disk")
    status, out = runs.finish(run, "full_disk")
    before = complete(run)
    happened = f"exit status {status}: {sentence(out, 'could not be written')}"
    done, _ = runs.finish(run)
    return outcome(runs, run, before, "writes fail (ENOSPC) from step 10 on", happened, done)


def corrupt_newest(runs: FaultRuns) -> Outcome:
    run = runs.run("corrupt_newest")
    process = runs.start(run, "very_slow")
    wait_for(process, lambda: len(step_checkpoints(run)) >= 2)
    process.kill()
    assert ended(process), "the training had ended before it was killed"
    newest = step_checkpoints(run)[-1][1]
    before = {path: size for path, size in complete(run).items() if path != newest}
    content = bytearray(newest.read_bytes())
    tiny.flip_a_bit(content)
    newest.write_bytes(content)
    refused, _ = runs.finish(run, "experiment", "train.damaged=stop")
    done, out = runs.finish(run)
    happened = f"{sentence(out, 'is damaged')} (with train.damaged=stop: exit status {refused})"
    result = outcome(runs, run, before, "a bit of the newest checkpoint flips", happened, done)
    return result


def broken_step(runs: FaultRuns, function: str) -> Outcome:
    """NaN at a step: it is left out, and no other step is lost. Without permission to leave steps out the
    training stops there once, and the same command goes on behind it."""
    run = runs.run(function)
    status, out = runs.finish(run, function)
    before = complete(run)
    happened = f"exit status {status}: {sentence(out, 'is not a number', 'are not finite')}"
    done, out = runs.finish(run, function)
    happened += "; the same command leaves the step out" if "is left out" in out else "; NOT LEFT OUT"
    steps, size = lost(run, before)
    allowed = runs.run(f"{function}_allowed")
    status, _ = runs.finish(allowed, function, "train.skip_non_finite=1")
    finite = load_checkpoint(step_checkpoints(allowed)[-1][1]).weights
    good = not done and not status and all(v.isfinite().all() for v in finite.values())
    good = good and same_weights(run, allowed)
    happened += f"; with train.skip_non_finite=1 it never stops (exit status {status}), same weights"
    injected = f"{function.replace('_', ' ')} at step {BREAKS_AT}"
    return judged(function, injected, happened, good, steps, size)


def nan_in_activations(runs: FaultRuns) -> Outcome:
    return broken_step(runs, "nan_in_activations")


def nan_in_gradients(runs: FaultRuns) -> Outcome:
    return broken_step(runs, "nan_in_gradients")


def changed_audio(runs: FaultRuns, name: str, change: Callable[[Path], None], count: int, *options: str,
                  function: str = "experiment") -> tuple[Path, int, str, list[str]]:  # fmt: skip
    """A training on which some recordings changed after they were prepared. Returns the run folder, the exit
    status, the output and the changed recordings."""
    run, files = runs.run(name), sorted((runs.top / "corpus").glob("en-*.wav"))[:count]
    originals = {path: path.read_bytes() for path in files}
    for path in files:
        change(path)
    try:
        status, out = runs.finish(run, function, *options)
    finally:
        for path, content in originals.items():
            path.write_bytes(content)
    return run, status, out, [path.stem for path in files]


def nan_in_data(runs: FaultRuns) -> Outcome:
    """The reader finds the NaN: the recording is left out by name."""
    return left_out(runs, "nan_in_data", "a recording holds NaN", lambda path: put(path, np.nan), 1)


def unreadable_members(runs: FaultRuns) -> Outcome:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:30])

    return left_out(runs, "unreadable_members", "3 recordings are cut off after preparation", cut, 3)


def put(path: Path, value: float) -> None:
    """Replace samples of a recording."""
    samples, rate = soundfile.read(path, dtype="float32")
    samples[100:200] = value
    soundfile.write(path, samples, rate, subtype="FLOAT")


def left_out(
    runs: FaultRuns, name: str, injected: str, change: Callable[[Path], None], count: int
) -> Outcome:
    """Recordings that cannot be used are named in skipped.jsonl, and training goes on without them."""
    run, status, out, names = changed_audio(runs, name, change, count, function="unreadable")
    skipped = (run / "skipped.jsonl").read_text() if (run / "skipped.jsonl").is_file() else ""
    named = sum(name in skipped for name in names)
    good = not status and named == count and len(losses(run)) == STEPS
    happened = f"exit status {status}: {named} of {count} are named in skipped.jsonl, training went on"
    return judged(name, injected, happened if good else f"{happened} {out[-200:]}", good)


def huge_samples(runs: FaultRuns) -> Outcome:
    """Numbers whose power is none in fp32: the loss is NaN."""
    options = ("train.skip_non_finite=10",)
    run, status, out, names = changed_audio(runs, "huge_samples", lambda path: put(path, 1e30), 1, *options)
    file = run / "not-a-number.txt"
    good = not status and file.is_file() and names[0] in file.read_text()
    good = good and bool(np.isfinite(list(losses(run).values())).all())
    skipped = STEPS - len(losses(run))
    happened = (
        f"exit status {status}: {skipped} steps are left out, the recording is named in not-a-number.txt"
    )
    injected = "a recording holds 1e30 (with train.skip_non_finite=10)"
    return judged("huge_samples", injected, happened if good else f"{happened} {out[-200:]}", good)


def judged(name: str, injected: str, happened: str, good: bool, steps: int = 0, size: int = 0) -> Outcome:
    """The outcome of a fault after which the result cannot equal that of an undisturbed training."""
    happened = happened if good else f"FAILED: {happened}"
    equal = None if good else False
    return Outcome(fault=name, injected=injected, happened=happened, steps=steps, size=size, equal=equal)


def kill_worker(runs: FaultRuns) -> Outcome:
    run = runs.run("kill_worker")
    process = runs.start(run, "workers")
    wait_for(process, lambda: len(steps_taken(run)) >= BREAKS_AT)
    before = complete(run)
    killed = [int(pid) for pid in children(process.pid)]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    status, out = ended(process), said(process)
    done, _ = runs.finish(run)
    happened = f"exit status {status}: {sentence(out, 'worker', 'killed')}" if status else "training went on"
    return outcome(runs, run, before, f"SIGKILL of the data worker at step {BREAKS_AT}", happened, done)


def clock_jump(runs: FaultRuns) -> Outcome:
    run = runs.run("clock_jump")
    status, _ = runs.finish(run, "clock_jumps")
    injected = "the clock goes back by a day, then forward by a year"
    return outcome(runs, run, {}, injected, f"exit status {status}, nothing else", status)


def two_runs(runs: FaultRuns) -> Outcome:
    run = runs.run("two_runs")
    process = runs.start(run, "very_slow")
    wait_for(process, lambda: steps_taken(run))
    before = complete(run)
    status, out = runs.finish(run)
    first, _ = ended(process), said(process)
    happened = f"the second: exit status {status}: {sentence(out, 'is being trained by')}"
    return outcome(runs, run, before, "a second training in the same folder", happened, first)


def validation_without_memory(runs: FaultRuns) -> Outcome:
    run = runs.run("validation_without_memory")
    status, out = runs.finish(run, "validation_without_memory")
    happened = f"exit status {status}: {sentence(out, 'NOT VALIDATED')}"
    return outcome(runs, run, {}, "no memory in the first validation", happened, status)


FAULTS: dict[str, Callable[[FaultRuns], Outcome | None]] = {
    function.__name__: function
    for function in (
        kill, kill_while_writing, kill_rank, terminate, hang_up, small_file_system, full_disk, corrupt_newest,
        nan_in_data, huge_samples, nan_in_activations, nan_in_gradients, kill_worker, unreadable_members,
        clock_jump, two_runs, validation_without_memory,
    )
}  # fmt: skip


def prepared(top: Path) -> FaultRuns:
    """A campaign's place, with a corpus of tones, prepared."""
    return FaultRuns(top=tiny.prepare_run(experiment(), top, utterances=36))


def table(outcomes: list[Outcome]) -> list[str]:
    """Markdown."""
    header = ("fault", "injected", "what happened", "steps lost", "bytes lost", "result")
    results = {True: "same bits", None: "steps or recordings left out", False: "**WRONG**"}
    rows = [
        (o.fault.replace("_", " "), o.injected, o.happened, o.steps, o.size, results[o.equal])
        for o in outcomes
    ]
    return markdown(header, rows)


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="NAME")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    args = parser.parse_args(argv)
    outcomes, wrong = list[Outcome](), list[str]()
    with tempfile.TemporaryDirectory() as name:
        runs = prepared(Path(name))
        try:
            for fault in args.only:
                try:
                    result = FAULTS[fault](runs)
                except (AssertionError, LookupError, OSError) as error:
                    print(f"{fault}: could not be judged: {error}", flush=True)
                    wrong.append(fault)
                    continue
                if result is None:
                    print(f"{fault}: cannot be injected here", flush=True)
                    continue
                outcomes.append(result)
                print(table([result])[-1], flush=True)
        finally:
            runs.end()
    if args.write:
        write(outcomes)
    wrong += [o.fault for o in outcomes if not o.good]
    ending = f"WRONG: {', '.join(wrong)}" if wrong else "all as promised"
    print(f"fault campaign: {len(outcomes)} faults judged, {ending}")
    return 1 if wrong else 0


def write(outcomes: list[Outcome]) -> None:
    """Put the rows of some faults into the page, in the place of their earlier ones."""
    before, rest = PAGE.read_text().split(MARKS[0])
    earlier, after = rest.split(MARKS[1])
    head, rule, *_ = table([])
    rows = {line.split("|")[1].strip(): line for line in earlier.splitlines() if line.startswith("| ")}
    rows |= {o.fault.replace("_", " "): line for o, line in zip(outcomes, table(outcomes)[2:], strict=True)}
    ordered = [rows[name] for fault in FAULTS if (name := fault.replace("_", " ")) in rows]
    PAGE.write_text("\n".join([before + MARKS[0], "", head, rule, *ordered, "", MARKS[1]]) + after)


if __name__ == "__main__":
    raise SystemExit(main())
