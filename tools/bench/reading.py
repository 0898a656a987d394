"""Clips per second out of tars: by offset, and in the other ways there are, on the same audio.

    python -m tools.bench.reading            # into docs/benchmarks/reading.{md,json}, in about 2 minutes
    python -m tools.bench.reading --clips 500 --rounds 1 --seconds 0.1 --out exp/bench

All ways take turns, in one thread, and the best of their rounds counts. Warm is from the page cache, and
timed by the processor time it takes, which other programs disturb least. Cold is timed by the clock; the page
cache was told to forget the files before (posix_fadvise), but what a disk or a hypervisor keeps in memory of
its own stays there.
"""

import io
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording
from lhotse.audio import AudioSource
from lhotse.serialization import TarAsDirBackend
from torch import Tensor

from maya.audio.byte_ranges import ByteRange, file_stamp, parse_address, read_range
from maya.audio.decoding import decode
from maya.audio.lhotse_audio import byte_range_source
from maya.audio.load import load_audio, load_cut_audio
from maya.audio.tar_index import index_tar
from tools.bench.common import PAGES, command_of, machine, markdown, parser_of, write_pages

RATE = 16000
IN_SHAR = 200  # clips; lhotse encodes each anew to write it
NOTES = """## How to read this

- Decoding costs about 1.5 ms a clip and is the same for all; a worker is as fast as its decoder unless
  finding the clip costs more. It does where a tar is opened for each clip: headers are read from the start.
- A `tarfile` kept open is by offset too, once it has read all headers. It holds about 0.5 kB of Python
  objects for each member in each worker, so it does for some tars, not for sixty million clips; and threads
  or forked workers cannot share it, because they would move each other's place in the file.
- Files extracted before are opened and closed by name for each clip, take the room of the tars again and an
  entry in the file system each. Cold, they wait for the same disk.
- tarfile iterated and Shar have one order, that of the tar. Shar has no index: a clip at random is reached
  by reading those before it, here 100 on average; in a shard of 1000 five times as many.
- Three times a kept-open `tarfile` or a file cannot be had for bytes that are in memory: all three copy the
  same 125 kB, which is most of what each of them does.
"""
DIFFERENT = 32  # recordings made; the clips are copies of them, at places of their own
BAR = 3.0
OFFSET = "by offset (Maya)"
EXTRACTED = "files, extracted before"
KEPT, OPENED, AS_FOLDER = "tarfile kept open, by name", "tarfile opened for each", "lhotse, tar as a folder"
ITERATED, SHAR = "tarfile iterated", "lhotse Shar"
SHAR_FROM_START = "lhotse Shar, from its beginning"
CUTS = {OFFSET: "lhotse cuts by offset (Maya)", EXTRACTED: "lhotse cuts of extracted files"}
KEY = itemgetter("task", "way", "order", "cache")


class Corpus(NamedTuple):
    """The same clips as a tar and as files, some as Shar; seconds: of audio; costs: seconds to get there."""

    tar: Path
    names: list[str]
    files: list[Path]
    shar: Path
    ranges: list[tuple[int, int]]
    seconds: float
    costs: dict[str, float]


def make_corpus(folder: Path, clips: int) -> Corpus:
    """Clips of 3 to 12 s of noise that swells like speech, as FLAC."""
    rng = np.random.default_rng(0)
    sounds, lengths = [], []
    for _ in range(DIFFERENT):
        n = int(rng.uniform(3, 12) * RATE)
        samples = (
            np.convolve(rng.standard_normal(n), np.hanning(12), "same") * np.sin(np.arange(n) / 3000) ** 2
        )
        buffer = io.BytesIO()
        soundfile.write(buffer, 0.05 * samples, RATE, format="FLAC")
        sounds.append(buffer.getvalue())
        lengths.append(n)
    names = [f"speaker{i % 50:03d}/clip{i:06d}.flac" for i in range(clips)]
    tar = folder / "clips.tar"
    with tarfile.open(tar, "w") as out:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(sounds[i % DIFFERENT])
            out.addfile(info, io.BytesIO(sounds[i % DIFFERENT]))
    costs = {}
    started = time.perf_counter()
    ranges = [(m.offset, m.size) for m in index_tar(tar)]
    costs[OFFSET] = time.perf_counter() - started
    started = time.perf_counter()
    with tarfile.open(tar) as archive:
        archive.getmembers()
    costs[KEPT] = time.perf_counter() - started
    started = time.perf_counter()
    with tarfile.open(tar) as archive:
        archive.extractall(folder / "files", filter="data")
    os.sync()
    costs[EXTRACTED] = time.perf_counter() - started
    files = [folder / "files" / name for name in names]
    cuts = CutSet.from_cuts(cut(i, AudioSource("file", [0], str(f)), lengths[i % DIFFERENT])
                            for i, f in enumerate(files))  # fmt: skip
    started = time.perf_counter()
    (folder / "shar").mkdir()
    cuts.subset(first=IN_SHAR).to_shar(
        folder / "shar", fields={"recording": "original"}, shard_size=1000, num_jobs=1
    )
    os.sync()
    costs[SHAR] = time.perf_counter() - started
    total = sum(lengths[i % DIFFERENT] for i in range(clips)) / RATE
    return Corpus(tar, names, files, folder / "shar", ranges, total, costs)


def cut(number: int, source: AudioSource, samples: int) -> MonoCut:
    recording = Recording(f"clip-{number}", [source], RATE, samples, samples / RATE)
    return MonoCut(recording.id, 0.0, recording.duration, 0, [], recording=recording)


def forget(corpus: Corpus) -> None:
    """Take the files out of the page cache."""
    for path in [corpus.tar, *corpus.files, *corpus.shar.iterdir()]:
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def readers(corpus: Corpus) -> dict[str, Callable[[int], bytes]]:
    """Ways to get the bytes of any clip, opened anew for each measurement."""
    stamp = file_stamp(corpus.tar)
    kept = tarfile.open(corpus.tar)  # noqa: SIM115 (kept open is what is measured)
    kept.getmembers()

    def opened(i: int) -> bytes:
        with tarfile.open(corpus.tar) as archive:
            member = archive.extractfile(corpus.names[i])
            assert member is not None
            return member.read()

    return {
        OFFSET: lambda i: read_range(corpus.tar, *corpus.ranges[i], stamp),
        EXTRACTED: lambda i: corpus.files[i].read_bytes(),
        KEPT: lambda i: kept.extractfile(corpus.names[i]).read(),  # type: ignore[union-attr]
        OPENED: opened,
        AS_FOLDER: lambda i: TarAsDirBackend().open(f"{corpus.tar}/{corpus.names[i]}").read(),
    }


def decoded(read: Callable[[int], bytes], number: int) -> Tensor:
    return load_audio(read(number))


def iterate_tar(corpus: Corpus) -> Iterator[bytes]:
    with tarfile.open(corpus.tar) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            yield file.read()


def iterate_shar(corpus: Corpus) -> Iterator[MonoCut]:
    yield from CutSet.from_shar(in_dir=corpus.shar)


def shar_clip(corpus: Corpus, number: int) -> MonoCut:
    """A clip of the Shar by its place, which has no index: those before it are read."""
    return next(islice(iterate_shar(corpus), number, None))


def where_time_goes(corpus: Corpus, rounds: int, clips: int = 200) -> list[tuple[str, float]]:
    """Processor microseconds a clip of each step from the address in a cut to its samples, warm, in random
    order; the best of the rounds. Each step contains those before it, of which the next is the rest."""
    stamp = file_stamp(corpus.tar)
    numbers = random.Random(1).sample(range(len(corpus.names)), min(clips, len(corpus.names)))
    ranges = [ByteRange(str(corpus.tar), *corpus.ranges[i], stamp) for i in numbers]
    data = [read_range(*where) for where in ranges]
    samples = [len(decode(where)[0][0]) for where in ranges]
    cuts = [
        cut(i, byte_range_source(corpus.tar, *corpus.ranges[i], [0], stamp), n)
        for i, n in zip(numbers, samples, strict=True)
    ]
    steps: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "the address taken apart": (parse_address, [where.address for where in ranges]),
        "its bytes read (os.pread, stamp compared)": (lambda where: read_range(*where), ranges),
        "decoded by soundfile, from memory": (lambda b: soundfile.read(io.BytesIO(b), dtype="float32"), data),
        "decode(): read and decoded": (decode, ranges),
        "load_cut_audio(): as a lhotse cut": (load_cut_audio, cuts),
    }
    results: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, values) in steps.items():
            started = time.process_time()
            for value in values:
                step(value)
            results[name].append((time.process_time() - started) / len(values) * 1e6)
    return [(name, min(taken)) for name, taken in results.items()]


def timed(steps: Iterator[Any], seconds: float, clock: Callable[[], float]) -> float:
    """Steps per second, of as many as there are or as the time is enough for."""
    count, started = 0, clock()
    for count, _ in enumerate(steps, start=1):  # noqa: B007 (the last is the number)
        if clock() - started > seconds:
            break
    return count / (clock() - started)


def ways(corpus: Corpus) -> dict[tuple[str, str, str], Callable[[], Iterator[Any]]]:
    """(task, order, way) to a pass over the clips."""
    clips = len(corpus.names)
    shuffled = random.Random(0).sample(range(clips), clips)
    results: dict[tuple[str, str, str], Callable[[], Iterator[Any]]] = {}
    stamp = file_stamp(corpus.tar)
    sizes = {i: soundfile.info(corpus.files[i]).frames for i in range(DIFFERENT)}
    cuts = {
        OFFSET: [cut(i, byte_range_source(corpus.tar, *r, [0], stamp), sizes[i % DIFFERENT])
                 for i, r in enumerate(corpus.ranges)],
        EXTRACTED: [cut(i, AudioSource("file", [0], str(f)), sizes[i % DIFFERENT])
                    for i, f in enumerate(corpus.files)],
    }  # fmt: skip
    for order, numbers in (("random", shuffled), ("in order", list(range(clips)))):
        for name, read in readers(corpus).items():
            if order == "random" or name in (OFFSET, EXTRACTED):
                results["bytes", order, name] = partial(map, read, numbers)
                results["audio", order, name] = partial(map, partial(decoded, read), numbers)
        for name, made in cuts.items():
            results["audio", order, CUTS[name]] = partial(map, load_cut_audio, [made[i] for i in numbers])
    of_shar = [number % IN_SHAR for number in shuffled]
    results["bytes", "random", SHAR_FROM_START] = partial(map, partial(shar_clip, corpus), of_shar)
    results["audio", "random", SHAR_FROM_START] = lambda: map(
        load_cut_audio, map(partial(shar_clip, corpus), of_shar)
    )
    results["bytes", "in order", ITERATED] = lambda: iterate_tar(corpus)
    results["audio", "in order", ITERATED] = lambda: map(load_audio, iterate_tar(corpus))
    results["bytes", "in order", SHAR] = lambda: iterate_shar(corpus)
    results["audio", "in order", SHAR] = lambda: map(load_cut_audio, iterate_shar(corpus))
    return results


def measure(corpus: Corpus, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """The best of the rounds, in each of which every way has its turn."""
    passes: dict[tuple[str, str, str], Callable[[], Iterator[Any]]] = ways(corpus)
    rates: dict[tuple[str, str, str, str], list[float]] = {}
    for _ in range(rounds):
        for key, start in passes.items():
            for cache in ("cold", "warm"):
                if cache == "cold":
                    forget(corpus)
                else:
                    corpus.tar.read_bytes()
                    for path in corpus.files if EXTRACTED in key[2] or key[2] == CUTS[EXTRACTED] else ():
                        path.read_bytes()
                clock = time.perf_counter if cache == "cold" else time.process_time
                rates.setdefault((*key, cache), []).append(timed(start(), seconds, clock))
    return [
        {
            "task": task,
            "order": order,
            "way": way,
            "cache": cache,
            "clips_per_second": max(rate),
        }
        for (task, order, way, cache), rate in rates.items()
    ]


def bars(rows: list[dict[str, Any]], costs: dict[str, float], clips: int) -> list[dict[str, Any]]:
    """By offset over every other way of random access, for the bytes of a clip."""
    results = []
    for cache in ("cold", "warm"):
        rate = {
            row["way"]: row["clips_per_second"]
            for row in rows
            if (row["task"], row["order"], row["cache"]) == ("bytes", "random", cache)
        }
        others = {way: rate[way] for way in (OPENED, AS_FOLDER, SHAR_FROM_START, KEPT, EXTRACTED)}
        # Each clip once: what has to be extracted first has cost that much.
        others[f"{EXTRACTED}, which is counted"] = clips / (clips / rate[EXTRACTED] + costs[EXTRACTED])
        for against, other in others.items():
            times = rate[OFFSET] / other
            results.append({"cache": cache, "against": against, "times": times, "met": times >= BAR})
    return results


def page(result: dict[str, Any]) -> str:
    """The tables as Markdown."""
    rows, lines = result["rows"], ["# Reading clips out of tars", ""]
    lines += [result["about"], "", f"`{result['command']}`", ""]
    lines += [f"Bar: {BAR:g} times any other way of random access, for the bytes of a clip.", ""]
    rates = [
        [b["against"], b["cache"], f"{b['times']:,.1f}", "met" if b["met"] else "NO"] for b in result["bars"]
    ]
    lines += markdown(["by offset against", "cache", "times as fast", "bar"], rates)
    for task, title in (("bytes", "Bytes of a clip"), ("audio", "Decoded to (N,) at 16 kHz")):
        lines += ["", f"## {title}, clips per second", ""]
        head = ["way", "random, cold", "random, warm", "in order, cold", "in order, warm"]
        table_rows = []
        for way in dict.fromkeys(row["way"] for row in rows if row["task"] == task):
            cells = []
            for order in ("random", "in order"):
                for cache in ("cold", "warm"):
                    key = (task, way, order, cache)
                    hit = [r["clips_per_second"] for r in rows if KEY(r) == key]
                    cells.append(f"{hit[0]:,.0f}" if hit else "–")
            table_rows.append([way, *cells])
        lines += markdown(head, table_rows)
    lines += ["", "## Before the first clip, once", ""]
    names = {OFFSET: "index of the tar (Maya)", KEPT: "index of the tar (tarfile)", EXTRACTED: "extraction",
             SHAR: f"conversion of {IN_SHAR} clips to Shar"}  # fmt: skip
    lines += markdown(["", "seconds"], [[names[way], f"{n:.2f}"] for way, n in result["costs"].items()])
    lines += ["", "## Where the time of a clip goes", ""]
    lines += markdown(["", "processor µs"], [[name, f"{taken:,.0f}"] for name, taken in result["steps"]])
    return "\n".join([*lines, "", NOTES])


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="at most, for each measurement")
    parser.add_argument("--out", type=Path, default=PAGES)
    args = parser.parse_args(argv)
    computer = machine()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # /tmp may be memory
        corpus = make_corpus(Path(folder), args.clips)
        rows = measure(corpus, args.rounds, args.seconds)
        steps = where_time_goes(corpus, args.rounds)
        megabytes = corpus.tar.stat().st_size / 1e6
        about = (
            f"{args.clips} FLAC clips of {corpus.seconds / args.clips:.1f} s on average, {megabytes:.0f} MB, "
            f"one thread, best of {args.rounds} rounds in which all ways take turns. {computer}. "
            "Cold: by the clock, after the page cache was told to "
            "forget the files; many ways then wait for the same disk. Warm: by processor time, since other "
            "programs ran beside."
        )
        result = {
            "about": about,
            "command": command_of("reading", argv),
            "rows": rows,
            "bars": bars(rows, corpus.costs, args.clips),
            "costs": corpus.costs,
            "steps": steps,
        }
    write_pages(args.out / "reading", result, page(result))
    print(page(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
