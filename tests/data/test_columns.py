"""Columns in files: the same split, and memory that does not grow with the number of utterances."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maya.data.prepare import columns
from maya.data.prepare.columns import MEMORY, Scratch, counted, first_places, ranked, sorted_by, text_order
from maya.data.prepare.split import SplitColumns, SplitConfig, split
from maya.errors import MayaError


def utterances(seed: int, scratch: Scratch) -> SplitColumns:
    """Of two languages, with few or many speakers and texts, parts that are named, and shared audio."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(50, 2000))
    speakers, texts = rng.choice([2, 10, 300, 5000]), rng.choice([2, 20, 3000, 20_000])
    named = rng.integers(-1, 3, n) if seed % 3 == 1 else np.full(n, -1)
    earlier = np.where(rng.random(n) < 0.8, rng.choice([0, 0, 0, 1, 2], n), -1)
    groups = np.where(rng.random(n) < 0.05, rng.integers(0, 30, n), -1)
    return SplitColumns(
        languages=["hi", "en"],
        ends=[n // 3, n],
        seconds=rng.random(n) * 10 + 0.1,
        speakers=rng.integers(0, speakers, n).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        texts=rng.integers(0, texts, n).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        named=named.astype(np.int8),
        earlier=(earlier if seed % 4 == 3 else np.full(n, -1)).astype(np.int8),
        groups=groups if seed % 7 == 5 else np.full(n, -1),
        scratch=scratch,
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scratch:
    """All columns in files, gone over a few rows at a time."""
    monkeypatch.setattr(columns, "_AT_ONCE", 37)
    monkeypatch.setattr(columns, "_IN_MEMORY", 0)
    return Scratch(tmp_path / "scratch")


@pytest.mark.parametrize("seed", range(24))
def test_columns_in_files_give_the_same_split(seed: int, request: pytest.FixtureRequest) -> None:
    cfg = SplitConfig(seed=seed, max_hours=(0.05, 2, 100)[seed % 3])
    parts, report = split(utterances(seed, MEMORY), cfg)
    scratch = request.getfixturevalue("tiny")
    others, other_report = split(utterances(seed, scratch), cfg)
    assert (parts == others).all() and report == other_report
    assert not [*scratch.folder.iterdir()], "files without names"


def test_ranks_and_places(tiny: Scratch) -> None:
    codes = np.random.default_rng(0).integers(5, 90, 1000)
    numbers, first = ranked(codes, tiny)
    assert (codes[first][numbers] == codes).all() and (np.diff(first) > 0).all()
    assert (first_places(numbers, len(first), tiny) == first).all()
    assert (counted(numbers, len(first), tiny) == np.bincount(numbers)).all()
    rows = np.random.default_rng(1).permutation(1000)
    assert (sorted_by(codes, 90, rows, tiny) == rows[np.argsort(codes, kind="stable")]).all()


def test_a_full_disk_is_one_sentence(tiny: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(
        MayaError, match=r"scratch has no room for 8 MB for a column of 1000000 utterances: No "
    ):
        tiny.empty(1_000_000, np.int64)


@pytest.mark.parametrize("mixed", [False, True])
def test_texts_in_order(tiny: Scratch, mixed: bool) -> None:
    texts = [f"{n:05d}ü" for n in range(1000)]
    if mixed:
        texts[10:] = texts[10:][::-1]

    def chunks() -> Any:
        return iter([pa.array(texts[:400]), pa.array([], pa.string()), pa.array(texts[400:])])

    assert text_order(chunks, 1000, tiny).tolist() == sorted(range(1000), key=texts.__getitem__)


BOUNDED = """
import resource, sys
from pathlib import Path
import numpy as np
from maya.data.prepare.columns import Scratch
from maya.data.prepare.split import SplitColumns, SplitConfig, split
rows, scratch, rng = int(sys.argv[1]), Scratch(Path(sys.argv[2])), np.random.default_rng(0)
def column(kind, low, high):
    parts = (rng.integers(low, high, min(1 << 20, rows - begin)) for begin in range(0, rows, 1 << 20))
    return scratch.joined(parts, rows, kind)
args = dict(
    languages=["hi"], ends=[rows], seconds=column(np.float64, 1, 20),
    speakers=column(np.uint64, 0, rows // 100), texts=column(np.uint64, 0, 1 << 60),
    named=scratch.full(rows, np.int8, -1),
    earlier=scratch.full(rows, np.int8, -1), groups=scratch.full(rows, np.int64, -1), scratch=scratch,
)
used = int(open("/proc/self/statm").read().split()[5]) * 4096
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[3]), resource.RLIM_INFINITY))
print(split(SplitColumns(**args), SplitConfig())[1]["hi"]["method"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds what is written in memory")
def test_splitting_takes_few_bytes_an_utterance(tmp_path: Path) -> None:
    """8 million utterances took 640 MB; 250 MB are what blocks of two million rows take for any number."""
    command = [sys.executable, "-c", BOUNDED, "8000000", str(tmp_path), str(300 << 20)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "speaker\n"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
