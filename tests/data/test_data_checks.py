import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from maya.data.measure.entry import Entry
from maya.data.measure.reasons import BROKEN as REASONS
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.data_checks import check_data
from maya.data.prepare.prepare import prepare_corpus
from maya.data.table.table import Table, part_path, write_table
from maya.errors import MayaError
from tests.data.making import write_corpus, write_manifest, write_tar, write_tone


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of loose files and a tar in `c`, prepared into `out`."""
    folder = tmp_path_factory.mktemp("prepared")
    rows = write_corpus(folder / "c", per_speaker=2)
    members = {}
    for row in rows[:6]:
        members[row["audio"]] = (folder / "c" / row["audio"]).read_bytes()
        (folder / "c" / row["audio"]).unlink()
        row["tar"] = "a.tar"
    write_tar(folder / "c" / "a.tar", members)
    write_manifest(folder / "c", rows)
    prepare_corpus(folder / "c", folder / "out", languages=(), cfg=PrepareConfig())
    return folder


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the tables that a test may rewrite; all tests share the audio."""
    shutil.copytree(prepared / "out", tmp_path / "out")
    return tmp_path / "out"


def entries(data: Path, part: str = "train") -> list[Entry]:
    return list(Table.open(part_path(data, part)).entries())


def changed(data: Path, what: dict[str, object], part: str = "train", row: int = 0) -> Entry:
    """Change values of a row of a part. Returns the changed row."""
    rows = entries(data, part)
    rows[row] = rows[row]._replace(**what)  # type: ignore[arg-type]
    write_table(part_path(data, part), rows)
    return rows[row]


def test_unchanged_data_pass_all_checks(data: Path) -> None:
    assert check_data(data) == []


def test_missing_and_replaced_files_are_reported(data: Path, tmp_path: Path) -> None:
    audio = write_tone(tmp_path / "moved.wav", 0.4)
    stamp = {"file_size": audio.stat().st_size, "file_mtime": int(audio.stat().st_mtime)}
    whole = {"offset": None, "size": None, "member": None, "duration": 0.4, "num_samples": 6400}
    entry = changed(data, {"path": str(audio), "start": None, **whole, **stamp})
    assert check_data(data) == []
    os.utime(audio, (1, 1))
    (problem,) = check_data(data)
    assert (problem.id, problem.reason, problem.language) == (entry.id, "changed_file", entry.language)
    assert "and time" in problem.detail and problem.where == entry.where
    audio.unlink()
    (problem,) = check_data(data)
    assert problem.reason == "missing_file" and "moved.wav" in problem.detail


def test_a_replaced_tar_breaks_all_its_utterances(data: Path, prepared: Path, tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    shutil.copy2(prepared / "c" / "a.tar", tar)
    inside = 0
    for part in ("train", "dev", "test"):
        rows = entries(data, part)
        inside += sum(entry.offset is not None for entry in rows)
        write_table(part_path(data, part), [
            entry._replace(path=str(tar)) if entry.offset is not None else entry for entry in rows
        ])  # fmt: skip
    assert inside == 6 and check_data(data) == []
    tar.write_bytes(tar.read_bytes() + b"more")
    assert Counter(problem.reason for problem in check_data(data)) == {"changed_file": 6}


def test_byte_ranges_outside_a_file_are_reported(data: Path) -> None:
    row = next(i for i, entry in enumerate(entries(data)) if entry.offset is not None)
    entry = changed(data, {"size": 10**9}, row=row)
    problems = {problem.reason: problem for problem in check_data(data)}
    assert problems["outside_file"].id == entry.id
    assert set(problems) == {"outside_file"}, "ranges with a problem are not read"


def test_an_utterance_or_audio_in_two_parts_is_reported(data: Path) -> None:
    first = entries(data)[0]
    changed(data, {"id": first.id}, "dev")
    (problem,) = check_data(data)
    assert problem.reason == "in_two_parts" and problem.detail == f"dev: also in train, as {first.id!r}"
    place = {name: getattr(first, name) for name in Entry._fields if name not in ("id", "text")}
    changed(data, {"id": "another", **place}, "dev")
    (problem,) = check_data(data)
    assert (problem.id, problem.reason) == ("another", "audio_in_two_parts")


def test_undecodable_audio_is_reported_when_sampled(data: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.wav"
    noise.write_bytes(b"no audio" * 99)
    stamp = {"file_size": noise.stat().st_size, "file_mtime": int(noise.stat().st_mtime)}
    changed(data, {"path": str(noise), "offset": None, "size": None, "member": None, **stamp})
    (problem,) = check_data(data)
    assert problem.reason == "cannot_be_read" and "\n" not in problem.detail
    reported = {seed: bool(check_data(data, sample=6, seed=seed)) for seed in range(6)}
    assert set(reported.values()) == {True, False}, "whether a sample contains it depends on the seed"
    assert [bool(check_data(data, sample=6, seed=seed)) for seed in range(6)] == list(reported.values())


def test_audio_of_another_length_is_reported(data: Path) -> None:
    row = next(i for i, entry in enumerate(entries(data)) if entry.offset is None)
    entry = entries(data)[row]
    changed(data, {"num_samples": entry.num_samples + 16000, "duration": entry.duration + 1.0}, row=row)
    (problem,) = check_data(data)
    assert problem.reason == "cannot_be_read"


def test_a_missing_table_is_a_clear_error(data: Path) -> None:
    part_path(data, "dev").unlink()
    with pytest.raises(MayaError, match=r"there is no table .*dev\.parquet"):
        check_data(data)
    assert all(meaning for meaning in REASONS.values())
