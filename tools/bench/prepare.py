"""`maya prepare` of a large corpus, killed and started again: time, memory, and what was done twice.

    python -m tools.bench.prepare --corpus ../shared/corpora/digits --work exp/bench-prepare --rows 1000000

The recordings of a real corpus are put into a tar, which is linked (hard links) until there are enough rows,
and a manifest gives each its own name, a text in the words of its language and one of many speakers. `maya
prepare` runs in a process group of its own, which is killed (SIGKILL) when a part of the shards is ready, and
is started again. Memory is the sum of all its processes (PSS), looked at twice a second. Writes prepare.md
and .json into docs/benchmarks (--out); a result replaces that of the same number of rows and options.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import PARTS
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.prepare.prepare import probed_path
from maya.data.table.table import Table, part_path
from tools.bench.common import PAGES, command_of, machine, markdown, parser_of, write_pages

_PER_SPEAKER = 500  # rows
_EVERY = 0.5  # seconds between two looks at the memory


@dataclass(kw_only=True)
class PrepareFigures:
    """One preparation. shards_seconds, merge_seconds: until all shards were ready, and from then on, of the
    run that was not killed; peak_mb: of all processes; before_kill, again: shards ready when it was killed,
    and of these made again; kept, dropped: rows; disk_mb: of the tables, and of the shards."""

    rows: int
    decode: bool
    compare_audio: bool
    shards: int
    before_kill: int
    again: int
    killed_seconds: float
    shards_seconds: float
    merge_seconds: float
    peak_mb: float
    merge_peak_mb: float
    kept: int
    dropped: int
    flagged: int
    speakers_in_two_parts: int
    tables_mb: float
    shards_mb: float


def make_corpus(source: Path, folder: Path, rows: int) -> None:
    """A corpus of so many rows, from the recordings of `source`; one that is there already is kept."""
    if (folder / "ready").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    read, _ = read_corpus(source)
    kept = probe(source, read, ProbeConfig(decode=False))[0]
    words = {
        code: sorted({r.text for r in read if r.language == code}) for code in {r.language for r in read}
    }
    rng = random.Random(0)
    folder.mkdir(parents=True)
    places = _tar(folder / "00000.tar", [entry.path for entry in kept])
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            tar, place = divmod(number, len(kept))
            if place == 0 and tar:
                os.link(folder / "00000.tar", folder / f"{tar:05d}.tar")
            entry = kept[place]
            code, spoken = entry.language, rng.choices(words[entry.language], k=1 + int(2 * entry.duration))
            speaker = f"{code}-{rng.randrange(max(3, rows // _PER_SPEAKER))}"
            line = {"id": f"u{number:09d}", "language": code, "text": " ".join(spoken), "speaker": speaker,
                    "tar": f"{tar:05d}.tar", **places[place]}  # fmt: skip
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / "ready").touch()


def _tar(path: Path, files: Sequence[str]) -> list[dict[str, Any]]:
    """Write files into a tar; name, offset and size of each."""
    with tarfile.open(path, "w") as tar:
        for number, file in enumerate(files):
            tar.add(file, f"{number:05d}{Path(file).suffix}")
    with tarfile.open(path) as tar:
        return [{"audio": m.name, "offset": m.offset_data, "size": m.size} for m in tar.getmembers()]


def memory_of(group: int) -> float:
    """MB that the processes of a group use together, shared pages counted once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                text = (folder / "smaps_rollup").read_text()
                total += int(text.split("\nPss:")[1].split()[0])
        except (OSError, IndexError, ValueError):  # it ended
            continue
    return total / 1000


class Watched:
    """`maya prepare` in a process group of its own."""

    def __init__(self, corpus: Path, out: Path, options: Sequence[str]) -> None:
        command = [sys.executable, "-m", "maya.recipes.cli", "prepare", "--experiment", "egs.digits.digits"]
        command += ["--corpus", str(corpus), "--out", str(out), *options]
        self._folder = probed_path(out) / "shards"
        self._log = (out.parent / "prepare.log").open("a")
        self._begun = time.perf_counter()
        self.process = subprocess.Popen(
            command, start_new_session=True, stdout=self._log, stderr=subprocess.STDOUT
        )
        self.peak, self.merge_peak, self.shards_seconds = 0.0, 0.0, 0.0
        self.disk = 0.0

    def ready(self) -> dict[str, int]:
        """The shards that are ready, with an identity."""
        names = self._folder.glob("[0-9]*") if self._folder.is_dir() else ()
        return {path.name: path.stat().st_ino for path in names if path.suffix != ".partial"}

    def until(self, shards: int | None, total: int) -> dict[str, int]:
        """Wait for so many shards, then kill it, or for its end; the shards that were ready."""
        ready: dict[str, int] = {}
        while self.process.poll() is None:
            memory = memory_of(self.process.pid)
            self.peak = max(self.peak, memory)
            if self.shards_seconds:
                self.merge_peak = max(self.merge_peak, memory)
            elif now := self.ready():
                ready = now
                if len(ready) == total:
                    self.shards_seconds = self.seconds
                    self.disk = size(self._folder)
            if shards is not None and len(ready) >= shards:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                return ready
            time.sleep(_EVERY)
        if self.process.returncode:
            raise SystemExit(f"maya prepare failed: see {self._log.name}")
        return ready

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begun


def size(folder: Path) -> float:
    """MB of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def measure(corpus: Path, work: Path, args: Any) -> PrepareFigures:
    """Prepare, kill, prepare again, and look at the tables."""
    out, rows = work / "data", args.rows
    for folder in (out, probed_path(out)):
        shutil.rmtree(folder, ignore_errors=True)
    options = {
        "probe.num_workers": args.workers,
        "probe.decode": str(args.decode).lower(),
        "text_checks.compare_audio": str(args.compare_audio).lower(),
        "shard_rows": args.shard_rows,
    }
    words = [word for name, value in options.items() for word in ("--set", f"prepare.{name}={value}")]
    shards = -(-rows // args.shard_rows)
    first = Watched(corpus, out, words)
    before = first.until(max(1, int(args.kill * shards)), shards)
    killed = first.seconds
    second = Watched(corpus, out, words)
    after = second.until(None, shards)
    summary = json.loads((out / "summary.json").read_text())
    kept = sum(facts["utterances"] for facts in summary["languages"].values())
    return PrepareFigures(
        rows=rows,
        decode=args.decode,
        compare_audio=args.compare_audio,
        shards=shards,
        before_kill=len(before),
        again=sum(after.get(name) != number for name, number in before.items()),
        killed_seconds=killed,
        shards_seconds=second.shards_seconds,
        merge_seconds=second.seconds - second.shards_seconds,
        peak_mb=max(first.peak, second.peak),
        merge_peak_mb=second.merge_peak,
        kept=kept,
        dropped=sum(summary["dropped"].values()),
        flagged=sum(sum(some.values()) for some in summary["flagged"].values()),
        speakers_in_two_parts=speakers_in_two_parts(out),
        tables_mb=size(out),
        shards_mb=second.disk,
    )


def speakers_in_two_parts(out: Path) -> int:
    """Speakers of a language that several parts have."""
    parts = []
    for part in PARTS:
        table = Table.open(part_path(out, part))
        parts.append({speaker for (speaker,) in table.read("speaker")})
    return len(np.unique([*parts[0] & parts[1], *parts[0] & parts[2], *parts[1] & parts[2]]))


def page(results: Sequence[dict[str, Any]], about: str, command: str) -> str:
    """The figures as Markdown."""
    lines = ["# Preparing many rows", "", about, "", f"`{command}`", ""]
    head = ["rows", "decoded", "audio compared", "shards", "ready when killed", "made again"]
    head += [
        "rest of the shards, s",
        "merge, s",
        "rows/s",
        "peak MB",
        "peak of the merge, MB",
        "kept",
        "dropped",
    ]
    head += ["speakers in two parts", "tables MB", "shards MB"]
    rows = []
    for figures in (PrepareFigures(**result) for result in results):
        spent = figures.killed_seconds + figures.shards_seconds + figures.merge_seconds
        rows.append([
            f"{figures.rows:,}", "yes" if figures.decode else "no", "yes" if figures.compare_audio else "no",
            figures.shards, figures.before_kill, figures.again, f"{figures.shards_seconds:,.0f}",
            f"{figures.merge_seconds:,.0f}", f"{figures.rows / spent:,.0f}", f"{figures.peak_mb:,.0f}",
            f"{figures.merge_peak_mb:,.0f}", f"{figures.kept:,}", f"{figures.dropped:,}",
            figures.speakers_in_two_parts, f"{figures.tables_mb:,.0f}", f"{figures.shards_mb:,.0f}",
        ])  # fmt: skip
    return "\n".join([*lines, *markdown(head, rows), "", NOTES])


NOTES = """Peak: the memory of all processes together, shared pages counted once, sampled twice a second.
rows/s counts both runs. Every recording is linked many times, so that nearly every utterance is flagged for
the audio of another where audio is compared: the worst case of that check. Without decoding only headers are
read.
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-rows", type=int, default=50_000)
    parser.add_argument(
        "--kill", type=float, default=0.3, help="share of the shards, after which it is killed"
    )
    parser.add_argument("--decode", action="store_true", help="decode all audio")
    parser.add_argument("--compare-audio", action="store_true", help="look for equal audio")
    parser.add_argument("--out", type=Path, default=PAGES)
    args = parser.parse_args(argv)
    about = f"{machine()}; {args.workers} processes."
    corpus = args.work / f"corpus-{args.rows}"
    make_corpus(args.corpus, corpus, args.rows)
    figures = asdict(measure(corpus, args.work, args))
    same = ("rows", "decode", "compare_audio")
    path = args.out / "prepare.json"
    earlier = json.loads(path.read_text())["results"] if path.is_file() else []
    results = [r for r in earlier if any(r[name] != figures[name] for name in same)] + [figures]
    results.sort(key=lambda result: [result[name] for name in same])
    command = command_of("prepare", argv)
    write_pages(args.out / "prepare", {"about": about, "command": command, "results": results},
                page(results, about, command))  # fmt: skip
    print(page(results, about, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
