"""What opening a prepared table costs: time, memory, one cut, beside lhotse's JSON lines.

    python -m tools.bench.table --rows 1000000 2000000 --out exp/bench/table.json

Each number of rows is measured in a process of its own, over synthetic rows in tars, 12 languages. A table
that is there already is not written again.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LANGUAGES = "hi bn ta te mr gu kn ml pa or as en".split()  # noqa: SIM905
TEXT = "यह एक वाक्य है जिसमें बहुत से शब्द और अक्षर हैं ताकि उसका आकार किसी असली वाक्य जैसा हो और कुछ नहीं "
IN_JSON = 20_000  # cuts that are written as JSON lines, for comparison


def synthetic(rows: int) -> Iterator[Any]:
    """Entries as a large Indic corpus has them."""
    from maya.data.measure.entry import Entry

    rng = random.Random(0)
    for i in range(rows):
        samples, place = rng.randint(16_000, 256_000), rng.randint(0, 40)
        text = TEXT[place : place + 55]
        language = LANGUAGES[i % 12]
        yield Entry(
            id=f"corpus-{language}-{i:09d}",
            path=f"/data/{language}/shard-{i // 2000:06d}.tar",
            offset=i % 2000 * 300_000 + 512,
            size=2 * samples + 44,
            member=f"audio/{i:09d}.flac",
            file_size=600_000_000,
            file_mtime=1_763_700_000 + i // 2000,
            sample_rate=16_000,
            channels=1,
            num_samples=samples,
            start=None,
            duration=samples / 16_000,
            text=text,
            raw_text=text + "।",
            language=language,
            speaker=f"speaker-{i % 50_000}",
            kind="read",
            source="corpus",
            licence="CC-BY-4.0",
            where=f"/data/manifest.jsonl:{i}",
            clipped=0.1,
            dc_offset=0.1,
            lead=0.1,
            trail=0.1,
            level=-20 - rng.random(),
            snr=30 * rng.random(),
            high_band=-30 - rng.random(),
        )


def measure(path: Path) -> dict[str, Any]:
    """Seconds of CPU and megabytes of this process, step by step."""
    import pyarrow as pa

    from maya.data.table.table import Table

    before, began = _memory(), time.process_time()
    table = Table.open(path)
    columns = table.ids, table.durations, table.codes("language")
    result: dict[str, Any] = {"rows": len(table), "bytes_per_row": path.stat().st_size / len(table)}
    result |= {"plan_seconds": time.process_time() - began, "plan_mb": _memory() - before}
    table.audio(0)
    pa.default_memory_pool().release_unused()
    result |= {"all_seconds": time.process_time() - began, "all_mb": _memory() - before}
    result["all_bytes_per_row"] = result["all_mb"] * 1e6 / len(table)
    rng, began = random.Random(1), time.process_time()
    for _ in range(2000):
        table.audio(rng.randrange(len(table)))
    result["audio_cut_us"] = 1e6 * (time.process_time() - began) / 2000
    result |= _sequential(table, path)
    assert len(columns[0]) == len(table)
    return result


def _sequential(table: Any, path: Path) -> dict[str, float]:
    """Microseconds of a cut in order, from the table and from JSON lines, and their bytes."""
    from lhotse import CutSet

    lines = path.with_suffix(".jsonl.gz")
    CutSet.from_cuts(table.cuts().subset(first=min(IN_JSON, len(table)))).to_file(lines)
    result = {}
    for name, cuts in (("table", table.cuts()), ("json", CutSet.from_file(lines))):
        began, count = time.process_time(), 0
        for _ in cuts:
            count += 1
            if count == IN_JSON:
                break
        result[f"{name}_cut_us"] = 1e6 * (time.process_time() - began) / count
    result["json_bytes_per_row"] = lines.stat().st_size / count
    lines.unlink()
    return result


def _memory() -> float:
    """Of this process alone, in megabytes; what it maps of files that others share does not count."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Measure what opening a prepared table costs."
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 2_000_000])
    parser.add_argument("--out", type=Path, default=Path("exp/bench/table.json"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    from maya.data.table.table import write_table

    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for rows in options.rows:
        path = options.out.with_name(f"{rows}.parquet")
        began = time.process_time()
        if not path.is_file():
            write_table(path, synthetic(rows))
        spent = time.process_time() - began
        command = [sys.executable, "-m", "tools.bench.table", "--measure", str(path)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        results.append({"write_seconds": spent} | result)
        print("  ".join(f"{name} {value:,.1f}" for name, value in results[-1].items()))
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
