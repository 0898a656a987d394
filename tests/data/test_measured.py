"""Measurements are kept: preparing again gives the same results and decodes nothing again."""

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import maya.data.measure.probe as probe_module
from maya.audio.sound import Sound
from maya.data.corpus.manifest import Row, read_manifest
from maya.data.measure.measured import Measured, part_name, read_part, write_part
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.measure.workers import in_processes
from maya.errors import MayaError
from tests.data.making import write_corpus, write_manifest, write_tar, write_tone

CFG = ProbeConfig(num_workers=1)


def corpus(folder: Path, per_speaker: int = 10) -> list[Row]:
    """Good and bad files and tar members, enough for several chunks."""
    rows = write_corpus(folder, per_speaker=per_speaker)
    data = write_tone(folder / "x.flac", 0.5).read_bytes()
    write_tar(folder / "a.tar", {f"{i}.flac": data for i in range(9)})
    rows += [
        {**rows[0], "id": f"t{i}", "tar": "a.tar", "audio": f"{i}.flac"} for i in range(10)
    ]  # the tar has only nine members
    (folder / rows[5]["audio"]).unlink()
    (folder / rows[6]["audio"]).write_bytes(b"RIFF noise")
    rows[7]["text"] = "?!"
    return read_manifest(write_manifest(folder, rows))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of utterances that are measured from now on."""
    ids: list[str] = []
    real = probe_module._measured

    def noting(folder: Path, row: Row, *rest: object) -> Measured:
        ids.append(row.id)
        return real(folder, row, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(probe_module, "_measured", noting)
    return ids


def test_nothing_is_measured_twice(tmp_path: Path, measured: list[str]) -> None:
    rows, keep = corpus(tmp_path / "c"), tmp_path / "kept"
    plain = probe(tmp_path / "c", rows, CFG)
    assert len(measured) == len(rows) - 1, "utterances with an empty text are not decoded"
    assert sorted(d.reason for d in plain[1]) == [
        "empty_transcript", "missing_audio", "tar_mismatch", "unreadable_audio",
    ]  # fmt: skip
    assert probe(tmp_path / "c", rows, CFG, keep) == plain
    assert len(list(keep.iterdir())) >= 3
    measured.clear()
    assert probe(tmp_path / "c", rows, CFG, keep) == plain and measured == []
    other_limit = ProbeConfig(num_workers=1, max_chars_per_second=1.0)
    assert len(probe(tmp_path / "c", rows, other_limit, keep)[1]) > 4 and measured == []


def test_the_progress_rate_excludes_earlier_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    class Bar(probe_module.tqdm):  # type: ignore[name-defined, misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options | {"file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(probe_module, "tqdm", Bar)
    rows, keep = corpus(tmp_path / "c", 1), tmp_path / "kept"
    for _ in range(2):
        probe(tmp_path / "c", rows, CFG, keep)
    n = len(rows)
    assert [(bar.total, bar.n, bar.initial) for bar in bars] == [(n, n, 0), (n, n, n)]


def test_only_what_changed_is_measured_again(tmp_path: Path, measured: list[str]) -> None:
    rows, keep = corpus(tmp_path / "c", 30), tmp_path / "kept"
    probe(tmp_path / "c", rows, CFG, keep)
    measured.clear()
    write_tone(tmp_path / "c" / rows[5].audio, 0.5)  # the missing one
    kept, _ = probe(tmp_path / "c", rows, CFG, keep)
    assert rows[5].id in measured and len(measured) < len(rows) / 2
    assert rows[5].id in {entry.id for entry in kept}
    parts = len(list(keep.iterdir()))
    measured.clear()
    new = replace(rows[0], id="new", audio="x.flac")
    probe(tmp_path / "c", [new, *rows], CFG, keep)
    assert "new" in measured and len(measured) < len(rows) / 2, (
        "one more row does not move the chunk boundaries"
    )
    assert len(list(keep.iterdir())) <= parts + 1, "unused parts are deleted"


def test_damaged_parts_are_measured_again(tmp_path: Path, measured: list[str]) -> None:
    rows, keep = corpus(tmp_path / "c"), tmp_path / "kept"
    plain = probe(tmp_path / "c", rows, CFG, keep)
    for i, part in enumerate(sorted(keep.iterdir())):
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 0xFF
        part.write_bytes(data if i % 2 else data[: len(data) // 3])
    measured.clear()
    assert probe(tmp_path / "c", rows, CFG, keep) == plain
    assert len(measured) > len(rows) / 2, "a flipped bit in a header may be harmless"


def test_flipped_bytes_are_detected_or_harmless(tmp_path: Path) -> None:
    """This includes the names of columns, which are then not valid text."""
    measured = [Measured("silent", f"{i}.wav is silent") for i in range(40)]
    write_part(tmp_path / "a.parquet", measured)
    whole = (tmp_path / "a.parquet").read_bytes()
    for place in range(0, len(whole), 7):
        (tmp_path / "a.parquet").write_bytes(
            whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        )
        assert read_part(tmp_path / "a.parquet", 40) in (None, measured)


def test_parts_are_read_as_they_were_written(tmp_path: Path) -> None:
    records = [
        Measured("silent", "a.wav is silent"),
        Measured(None, None, 512, 99, 16000, 1, 160, Sound(-20.123456789, 30.0, 0.0, 1e-9, None, 0.1, 0.2)),
        Measured(None, None, None, None, 8000, 2, 80, None),
    ]
    write_part(tmp_path / "x/a.parquet", records)
    assert read_part(tmp_path / "x/a.parquet", 3) == records
    assert read_part(tmp_path / "x/a.parquet", 2) is None and read_part(tmp_path / "b.parquet", 3) is None
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["a.parquet"]
    assert part_name([1, "a"], {}) != part_name([1, "b"], {}) != part_name([1, "b"], {"x": 1})
    (tmp_path / "file").write_text("")
    with pytest.raises(MayaError, match="cannot write .*file/a.parquet"):
        write_part(tmp_path / "file/a.parquet", records)


def test_results_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    rows = corpus(tmp_path / "c", 30)
    single = probe(tmp_path / "c", rows, CFG)
    assert probe(tmp_path / "c", rows, ProbeConfig(num_workers=3), tmp_path / "kept") == single


PREPARE = """
import sys, time
from pathlib import Path
import maya.data.measure.probe as probe
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus
real = probe._measure
def slow(*a):
    time.sleep(0.05)
    return real(*a)
probe._measure = slow
cfg = PrepareConfig()
cfg.probe.num_workers = 2
prepare_corpus(Path(sys.argv[1]), Path(sys.argv[2]), languages=[], cfg=cfg)
"""


def test_a_killed_preparation_resumes(tmp_path: Path, measured: list[str]) -> None:
    """After SIGKILL while measuring, its processes end, and the next run uses what was measured."""
    rows, keep = corpus(tmp_path / "c", 30), tmp_path / "out.probed"
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "c"), str(tmp_path / "out")]
    killed = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(keep.glob("*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    while _alive(killed.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(killed.pid), "its workers have ended too"
    assert not (tmp_path / "out").exists()
    done = len(list(keep.glob("*.parquet")))
    assert done >= 2
    kept, dropped = probe(tmp_path / "c", rows, CFG, keep)
    assert 0 < len(measured) < len(rows) - 1, "part of it was measured before the kill"
    assert (kept, dropped) == probe(tmp_path / "c", rows, CFG)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _die(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


def _double(number: int) -> int:
    return 2 * number


def _linger(number: int) -> int:
    if number:
        time.sleep(60)
    return number


def test_workers_end_with_their_iterator() -> None:
    """Ctrl-C must not wait for the running jobs."""
    results = in_processes(_linger, range(9), 2, "waiting")
    assert next(results) == 0
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 30


def test_results_are_in_order_and_dead_workers_are_reported() -> None:
    assert list(in_processes(_double, range(50), 3, "counting")) == [2 * i for i in range(50)]
    assert list(in_processes(_double, range(5), 1, "counting")) == [0, 2, 4, 6, 8]
    with pytest.raises(MayaError, match="a process that was counting died"):
        list(in_processes(_die, range(50), 2, "counting"))
