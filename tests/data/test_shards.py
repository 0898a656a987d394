"""A corpus in shards: whoever makes them, and however many they are, the tables have the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import maya.data.prepare.shards as shards_module
from maya.data.corpus.folder import pieces_of, read_corpus, read_piece
from maya.data.corpus.manifest import PARTS, ReadOptions
from maya.data.corpus.pieces import CorpusPiece, grouped, line_pieces
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.examine import examine
from maya.data.prepare.prepare import prepare_corpus, prepare_part, probed_path
from maya.data.prepare.run_shards import require_all, run_on_ray
from maya.data.prepare.text_checks import TextCheckConfig
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from tests.data.making import write_corpus, write_manifest, write_tone

Rows = list[dict[str, Any]]


def config(shard_rows: int = 7, **options: Any) -> PrepareConfig:
    return PrepareConfig(shard_rows=shard_rows, max_dropped_fraction=0.5, **options)


def run(corpus: Path, out: Path, cfg: PrepareConfig | None = None, **options: Any) -> Any:
    return prepare_corpus(corpus, out, languages=("en", "hi"), cfg=cfg or config(), **options)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything that comparing notices, in rows that lie far apart: bad files, equal audio and texts,
    texts of another language, a language that is not asked for, and a named part."""
    folder = tmp_path_factory.mktemp("shards") / "c"
    rows = write_corpus(folder, per_speaker=12)
    (folder / rows[5]["audio"]).unlink()
    (folder / rows[6]["audio"]).write_bytes(b"RIFF noise")
    rows[7]["text"] = "?!"
    rows[9]["text"] = "एक दो तीन"
    for row in (rows[20], rows[119]):
        row["text"] = "one two three four"
    rows[3]["text"] = rows[51]["text"] = "five six seven"
    rows[3]["speaker"] = rows[51]["speaker"] = "en-s1"
    shutil.copy(folder / rows[10]["audio"], folder / rows[100]["audio"])
    rows += [row | {"id": f"again-{row['id']}", "text": "another text"} for row in rows[30:34]]
    rows += [rows[1] | {"id": "xx", "language": "fr", "text": "oui"}]
    rows[2]["subset"] = "x"
    write_manifest(folder, rows)
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a preparation in one shard."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(corpus, out, config(50_000))
    return files(out)


@pytest.mark.parametrize("rows", [1, 7, 60])
def test_the_number_of_shards_does_not_change_a_byte(
    corpus: Path, whole: dict[str, bytes], tmp_path: Path, rows: int
) -> None:
    report = run(corpus, tmp_path / "out", config(rows))
    assert files(tmp_path / "out") == whole
    assert {"conflicting_audio", "wrong_script", "repeated_text"} <= report.flagged.keys()


def test_rows_are_kept_or_dropped_for_a_reason(corpus: Path, tmp_path: Path) -> None:
    cfg = config(text_checks=TextCheckConfig(drop=("wrong_script", "repeated_text")))
    report = run(corpus, tmp_path / "out", cfg)
    kept = [name for part in PARTS for name in Table.open(part_path(tmp_path / "out", part)).ids]
    lines = (tmp_path / "out/dropped.jsonl").read_text().splitlines()
    dropped = [json.loads(line) for line in lines]
    read = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    assert Counter(row["id"] for row in read) == Counter([*kept, *(d["id"] for d in dropped), "xx"])
    assert Counter(d["reason"] for d in dropped) == report.dropped and report.not_selected == {"fr": 1}
    assert {
        "wrong_script",
        "repeated_text",
        "missing_audio",
        "unreadable_audio",
    } <= report.dropped.keys()
    assert report.rows == len(kept) + len(dropped) == len(read) - 1
    run(corpus, tmp_path / "one", config(50_000, text_checks=cfg.text_checks))
    assert files(tmp_path / "out") == files(tmp_path / "one")


def test_splits_are_speaker_disjoint_over_shards(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "out")
    speakers = [set(Table.open(part_path(tmp_path / "out", part)).codes("speaker")[1]) for part in PARTS]
    assert all(speakers) and not (speakers[0] & speakers[1] or speakers[0] & speakers[2])
    assert not speakers[1] & speakers[2]


def test_texts_of_few_speakers_are_disjoint_over_shards(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c", per_speaker=12, speakers=2)
    run(tmp_path / "c", tmp_path / "out")
    texts = [set(Table.open(part_path(tmp_path / "out", part)).strings("text")) for part in PARTS]
    assert len(rows) == 48 and all(texts)
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])


def test_array_jobs_give_the_same_bytes(corpus: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(MayaError, match="shard 0 of .* is not prepared"):
        run(corpus, out, runner=require_all)
    counts = [
        prepare_part(corpus, out, languages=("en", "hi"), cfg=config(), part=part, of=4) for part in (3, 1, 4)
    ]
    with pytest.raises(MayaError, match="shard 1 of .* is not prepared.*--part"):
        run(corpus, out, runner=require_all)
    counts.append(prepare_part(corpus, out, languages=("en", "hi"), cfg=config(), part=2, of=4))
    assert sum(counts) == len(pieces_of(corpus, 7)) == 18
    run(corpus, out, runner=require_all)
    assert files(out) == whole
    assert not (probed_path(out) / "shards").exists(), "they are as large as the tables"


@pytest.mark.slow
def test_ray_workers_give_the_same_bytes(corpus: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    run(corpus, tmp_path / "out", runner=run_on_ray("local"))
    assert files(tmp_path / "out") == whole
    (corpus.parent / "bad").mkdir()
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    write_manifest(corpus.parent / "bad", [*rows, rows[0] | {"id": ""}])
    with pytest.raises(MayaError, match=f"manifest.jsonl:{len(rows) + 1}: "):
        run(corpus.parent / "bad", tmp_path / "bad", runner=run_on_ray("local"))


def test_ray_is_asked_for_by_name_where_it_is_absent(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MayaError, match=r"--ray needs the package ray: pip install 'maya-asr\[ray\]'"):
        run(corpus, tmp_path / "out", runner=run_on_ray("auto"))


KILLED = """
import sys
from pathlib import Path
import maya.data.prepare.shards as shards
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus

real = shards.probe_rows
def slow(*args, **options):
    result = real(*args, **options)
    print("shard", flush=True)
    return result
shards.probe_rows = slow
cfg = PrepareConfig(shard_rows=7, max_dropped_fraction=0.5)
cfg.probe.num_workers = 1
prepare_corpus(Path(sys.argv[1]), Path(sys.argv[2]), languages=("en", "hi"), cfg=cfg)
"""


def test_a_killed_run_does_no_shard_again(
    corpus: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, str(corpus), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline() == "shard\n"
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    folder = probed_path(tmp_path / "out") / "shards"
    ready = {path: path.stat().st_ino for path in folder.iterdir() if path.suffix != ".partial"}
    assert 4 <= len(ready) <= 6
    made: list[Path] = []
    real = shards_module.write_entries
    monkeypatch.setattr(shards_module, "write_entries", lambda f, *a, **k: (made.append(f), real(f, *a, **k)))
    monkeypatch.setattr(shutil, "rmtree", lambda path, *a, **k: None)
    cfg = config()
    cfg.probe.num_workers = 1
    run(corpus, tmp_path / "out", cfg)
    assert len(made) == 18 - len(ready), "finished shards are not done again"
    assert all(path.stat().st_ino == number for path, number in ready.items())
    assert files(tmp_path / "out") == whole


def test_a_shard_is_made_again_when_something_changed(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "c")
    out, folder = tmp_path / "out", tmp_path / "c"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]

    def made() -> set[str]:
        times = {p.name: p.stat().st_ino for p in (probed_path(out) / "shards").glob("[0-9]*")}
        prepare_part(folder, out, languages=("en", "hi"), cfg=config(), part=1, of=1)
        after = {p.name: p.stat().st_ino for p in (probed_path(out) / "shards").glob("[0-9]*")}
        return {name for name, number in after.items() if times.get(name) != number}

    assert len(made()) == 18 and not made()
    rows[8]["text"] = "six"
    write_manifest(folder, rows)
    assert made() == {"000001"}
    write_tone(folder / rows[15]["audio"], 0.7)
    assert made() == {"000002"}
    rows.insert(0, rows.pop())
    write_manifest(folder, rows)
    assert len(made()) == 18


def test_an_id_in_two_shards_is_refused(corpus: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    rows[100]["id"] = rows[4]["id"]
    for row in rows:
        row["audio"] = str(corpus / row["audio"])
    write_manifest(tmp_path / "c", rows)
    with pytest.raises(MayaError, match=r"manifest.jsonl:101: the id 'en-004' occurs in .*:5 already"):
        run(tmp_path / "c", tmp_path / "out")
    rows[100]["id"] = ""
    write_manifest(tmp_path / "c", rows)
    with pytest.raises(MayaError, match=r"manifest.jsonl:101: "):
        run(tmp_path / "c", tmp_path / "out")


def test_a_grown_corpus_keeps_its_split_over_shards(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    for out, size in (("one", 50_000), ("many", 3)):
        write_manifest(tmp_path / "c", rows[:30])
        run(tmp_path / "c", tmp_path / out, config(size))
        write_manifest(tmp_path / "c", rows[2:])
        report = run(tmp_path / "c", tmp_path / out, config(size))
        assert any("the earlier split of 28 utterances is kept" in line for line in report.changes)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    for row in rows:
        row["id"] = f"x{row['id']}"
    write_manifest(tmp_path / "c", rows)
    with pytest.raises(MayaError, match="another corpus: only 0 of 38"):
        run(tmp_path / "c", tmp_path / "many")


def test_examining_leaves_nothing_behind(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    examined = examine(corpus, languages=["en"], cfg=config())
    assert examined.rows == 60 + 4 and len(list(examined.kept())) == 61
    del examined
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("end", ["\n", ""])
def test_pieces_of_lines(tmp_path: Path, end: str) -> None:
    lines = [f"{{{'x' * (n % 5)}}}" for n in range(23)]
    (tmp_path / "m").write_text("\n".join(lines) + end)
    pieces = line_pieces(tmp_path / "m", 5)
    assert [piece.first_line for piece in pieces] == [1, 6, 11, 16, 21]
    assert b"".join(block for piece in pieces for block in piece.blocks()).decode() == "\n".join(lines) + end
    assert line_pieces(tmp_path / "m", 100) == [CorpusPiece(tmp_path / "m")]
    assert [len(some) for some in grouped(pieces, 2)] == [3, 2]


def test_pieces_hold_the_rows_of_the_corpus(corpus: Path) -> None:
    rows, problems = read_corpus(corpus)
    read = [read_piece(corpus, ReadOptions(piece=piece)) for piece in pieces_of(corpus, 10)]
    assert [row for some, _ in read for row in some] == rows and len(read) == 13
    assert not problems and not any(some for _, some in read)
