"""Manifests that are too long for memory: read once, some rows at a time, with the same rows and errors."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from maya.data.corpus import line_table, manifest
from maya.data.corpus.folder import read_corpus, read_piece
from maya.data.corpus.line_table import UsedLines
from maya.data.corpus.manifest import ReadOptions
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus, prepare_part, probed_path
from maya.data.prepare.run_shards import require_all
from maya.errors import MayaError
from tests.data.making import write_corpus
from tests.data.test_broken_corpora import csv, kaldi_with, lhotse, table, write

FORMS = ["metadata.csv", "Kaldi", "segments", "lhotse", "metadata.jsonl"]


def make(folder: Path, form: str, per_speaker: int = 3) -> list[dict[str, Any]]:
    rows = write_corpus(folder, per_speaker=per_speaker)
    if form == "lhotse":
        lhotse(folder, rows, {}, {"start": 7.0})
    elif form == "metadata.jsonl":
        (folder / "manifest.jsonl").unlink()
        given = [row | {"file_name": row["audio"]} for row in rows]
        write(folder / form, "".join(json.dumps(row) + "\n" for row in given))
    elif form == "metadata.csv":
        write(folder / form, table(folder, rows[:-1]))
    else:
        segments = "".join(f"{row['id']} {row['id']} 0 0.3\n" for row in rows[1:])
        text = ("segments", segments) if form == "segments" else ("wav.scp", "alone x.wav\n")
        kaldi_with(*text)(folder, rows)
    return rows


def in_parts(folder: Path) -> tuple[list[Any], list[str]]:
    """(what a reader gives one after the other, its notes)."""
    parts: list[Any] = []
    options = ReadOptions(sink=lambda *some: parts.append(some))
    parts.append(read_piece(folder, options))
    return parts, options.notes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is long."""
    monkeypatch.setattr(manifest, "_AT_ONCE", 4)
    monkeypatch.setattr(line_table, "_IN_MEMORY", 0)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_a_few_at_a_time(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    make(tmp_path, form)
    notes: list[str] = []
    rows, problems = read_corpus(tmp_path, notes=notes)
    request.getfixturevalue("small")
    parts, noted = in_parts(tmp_path)
    assert len(parts) > 5 and max(len(some) for some, _ in parts) == 4
    assert [row for some, _ in parts for row in some] == rows
    assert [problem for _, some in parts for problem in some] == problems
    assert noted == notes


@pytest.mark.parametrize("form", FORMS)
def test_tables_do_not_depend_on_how_much_is_read_at_once(
    tmp_path: Path, form: str, request: pytest.FixtureRequest
) -> None:
    make(tmp_path / "c", form)

    def run(out: str, size: int, **options: Any) -> dict[str, bytes]:
        prepare_corpus(tmp_path / "c", tmp_path / out, languages=("en", "hi"), cfg=config(size), **options)
        assert not [*probed_path(tmp_path / out).glob("read-*")]
        return {path.name: path.read_bytes() for path in sorted((tmp_path / out).iterdir())}

    def config(size: int) -> PrepareConfig:
        cfg = PrepareConfig(shard_rows=size, max_dropped_fraction=0.5)
        cfg.probe.num_workers = 1
        return cfg

    whole = run("whole", 50_000)
    request.getfixturevalue("small")
    assert run("few", 5) == whole
    for part in (2, 1):
        prepare_part(
            tmp_path / "c", tmp_path / "parts", languages=("en", "hi"), cfg=config(5), part=part, of=2
        )
    assert run("parts", 5, runner=require_all) == whole


def test_several_files_stay_in_order(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for part in ("dev", "train"):
        make(tmp_path / "l" / part, "lhotse", per_speaker=1)
        for name in ("recordings", "supervisions"):
            text = gzip.decompress((tmp_path / "l" / part / f"{name}.jsonl.gz").read_bytes()).decode()
            text = text.replace("en-0", f"{part}-0").replace("hi-0", f"{part}-1")
            write(tmp_path / "l" / f"{name}_{part}.jsonl", text)
    for part in ("test", "train"):
        make(tmp_path / "t" / part, "metadata.csv", per_speaker=1)
    before = [read_corpus(tmp_path / form) for form in "lt"]
    assert [len(rows) for rows, _ in before] == [18, 18]
    request.getfixturevalue("small")
    for form, (rows, problems) in zip("lt", before, strict=True):
        parts, _ = in_parts(tmp_path / form)
        assert [row for some, _ in parts for row in some] == rows
        assert [problem for _, some in parts for problem in some] == problems


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            "metadata.csv",
            r"metadata.csv:12: the id 'en-000' occurs in .*metadata.csv:2 already; ids",
        ),
        ("Kaldi", r"text:11: 'en-000' occurs in line 1 already; remove one"),
    ],
)
def test_ids_that_lie_far_apart(tmp_path: Path, form: str, message: str) -> None:
    rows = write_corpus(tmp_path / "c", per_speaker=1)
    if form == "Kaldi":
        kaldi_with("text", "en-000 one\n")(tmp_path / "c", rows)
    else:
        csv(lambda text: text + text.splitlines()[1] + "\n")(tmp_path / "c", rows)
    with pytest.raises(MayaError, match=message):
        prepare_part(tmp_path / "c", tmp_path / "out", languages=(), cfg=PrepareConfig(), part=1, of=2)


@pytest.mark.usefixtures("small")
def test_recordings_that_occur_again(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path, per_speaker=1)
    lhotse(tmp_path, rows, {"id": "en-001"}, {"recording_id": "en-001"})
    with pytest.raises(MayaError, match=r"recordings.jsonl.gz:3: there is another recording 'en-001' before"):
        read_corpus(tmp_path)


def test_lines_that_were_used() -> None:
    used, lines = UsedLines(), {name: ("", n) for n, name in enumerate("abcdefgh", start=1)}
    for name in "aeg":
        used.add(lines[name][1])
    assert used.others(lines) == (5, ["b", "c", "d"])
