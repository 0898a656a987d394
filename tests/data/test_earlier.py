"""Preparing into a folder that already holds prepared data of the same corpus or another."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from maya.data.corpus.manifest import PARTS
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.earlier import corpus_name, read_earlier
from maya.data.prepare.prepare import PrepareReport, prepare_corpus, probed_path
from maya.data.prepare.split import SplitConfig
from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from tests.data.making import write_corpus, write_manifest, write_tone

Rows = list[dict[str, Any]]


def run(corpus: Path, out: Path, languages: tuple[str, ...] = (), **split: Any) -> PrepareReport:
    return prepare_corpus(corpus, out, languages=languages, cfg=PrepareConfig(split=SplitConfig(**split)))


def parts(out: Path) -> dict[str, str]:
    return {name: part for part in PARTS for name in Table.open(part_path(out, part)).ids}


def add(folder: Path, rows: Rows, count: int, speakers: int = 3, language: str = "en") -> Rows:
    """The rows and `count` more, by new and old speakers."""
    added = []
    for i in range(count):
        name = f"{language}-new-{len(rows)}-{i}"
        write_tone(folder / f"{name}.wav", 0.5 + 0.01 * i, pitch=300 + i)
        speaker = f"{language}-new-{i % speakers}" if i % 2 else f"{language}-s{i % 5}"
        added.append({"id": name, "language": language, "text": f"new words {i}", "audio": f"{name}.wav",
                     "speaker": speaker})  # fmt: skip
    write_manifest(folder, rows + added)
    return rows + added


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Rows, dict[str, str]]:
    """(corpus folder, its rows, part of each id) of a corpus that is prepared into `out`."""
    rows = write_corpus(tmp_path / "c")
    run(tmp_path / "c", tmp_path / "out")
    return tmp_path / "c", rows, parts(tmp_path / "out")


Prepared = tuple[Path, Rows, dict[str, str]]


def test_a_grown_corpus_keeps_its_split_and_says_what_is_new(corpus: Prepared, tmp_path: Path) -> None:
    folder, rows, before = corpus
    add(folder, rows[2:], 20)
    report = run(folder, tmp_path / "out")
    after = parts(tmp_path / "out")
    assert all(after[name] == part for name, part in before.items() if name in after)
    fresh = {part: sum(p == part for n, p in after.items() if n not in before) for part in PARTS}
    gone = [before[row["id"]] for row in rows[:2]]
    text = report.table()
    assert "the earlier split of 38 utterances is kept" in text
    named = " ".join(f"{part} {count}" for part, count in fresh.items() if count)
    assert f"new utterances: 20 (en {named})" in text
    named = " ".join(f"{part} {gone.count(part)}" for part in PARTS if gone.count(part))
    assert f"earlier utterances that are gone: 2 (en {named})" in text
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    again = run(folder, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert again.changes == ["the earlier split of 58 utterances is kept"]


def test_a_new_split_can_be_requested(corpus: Prepared, tmp_path: Path) -> None:
    folder, rows, before = corpus
    rows = add(folder, rows, 40, speakers=10)
    run(folder, tmp_path / "anew")
    report = run(folder, tmp_path / "out", fresh=True)
    assert parts(tmp_path / "out") == parts(tmp_path / "anew")
    assert any("drawn anew, because split.fresh is true" in line for line in report.changes)
    moved = sum(parts(tmp_path / "out")[name] != part for name, part in before.items())
    assert not moved or any("a model trained before may have seen them" in line for line in report.changes)


def test_changed_split_options_are_used_and_reported(corpus: Prepared, tmp_path: Path) -> None:
    folder, _, before = corpus
    report = run(folder, tmp_path / "out", dev=0.0)
    assert "dev" not in parts(tmp_path / "out").values() and "dev" in before.values()
    text = report.table()
    assert "the split is drawn anew, because its options changed" in text
    assert "from dev to train" in text and "there is no dev set (prepare.split.dev is 0)" in text


def test_missing_held_out_parts_are_noted(corpus: Prepared, tmp_path: Path) -> None:
    report = run(corpus[0], tmp_path / "all", dev=0.0, test=0.0)
    assert set(parts(tmp_path / "all").values()) == {"train"} and not report.changes
    assert report.notes == [
        "there is no dev set (prepare.split.dev is 0): training is not validated",
        "there is no test set (prepare.split.test is 0): there is nothing to decode and score",
    ]
    write_manifest(corpus[0], corpus[1][:1])
    report = run(corpus[0], tmp_path / "one")
    assert report.notes == [
        "too few texts to hold any out, so dev and test have none of: en",
        "there is no dev set: training is not validated",
        "there is no test set: there is nothing to decode and score",
    ]


def test_another_corpus_is_refused_and_leaves_everything_as_it_was(corpus: Prepared, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    rows = write_corpus(tmp_path / "other" / "c")
    for row in rows:
        row["id"] = f"other-{row['id']}"
    write_manifest(tmp_path / "other" / "c", rows)
    with pytest.raises(MayaError) as refused:
        run(tmp_path / "other" / "c", tmp_path / "out")
    text = str(refused.value)
    assert f"{tmp_path}/out was prepared from {tmp_path}/c, and {tmp_path}/other/c is another corpus" in text
    assert "only 0 of 40 utterances are the same" in text and "choose another --out" in text
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def change(rows: Rows, folder: Path, kind: str) -> None:
    """Change the corpus into another one with the same ids."""
    texts = [row["text"] for row in rows]
    for number, row in enumerate(rows):
        if kind in ("texts", "all"):
            row["text"] = texts[
                number - number % 20 + (number + 1) % 20
            ]  # the text of the next row of its language
        if kind in ("audio", "all"):
            write_tone(folder / row["audio"], 0.9 + 0.02 * number)
    write_manifest(folder, rows)


@pytest.mark.parametrize("kind", ["texts", "audio", "all"])
def test_equal_ids_in_another_folder_are_another_corpus(corpus: Prepared, tmp_path: Path, kind: str) -> None:
    """Several people read prompts with the same names, or two corpora number their sentences from 1."""
    rows = write_corpus(tmp_path / "other")
    change(rows, tmp_path / "other", kind)
    with pytest.raises(MayaError, match="other is another corpus: only 0 of 40"):
        run(tmp_path / "other", tmp_path / "out")


@pytest.mark.parametrize("kind", ["texts", "audio"])
def test_a_corrected_corpus_is_the_same_corpus(corpus: Prepared, tmp_path: Path, kind: str) -> None:
    folder, rows, before = corpus
    change(rows, folder, kind)
    report = run(folder, tmp_path / "out")
    assert parts(tmp_path / "out") == before
    change_text = {"texts": "another text than before", "audio": "other audio files than before"}[kind]
    assert f"utterances with {change_text}: 40" in report.changes


def test_other_contents_in_the_same_folder_are_another_corpus(corpus: Prepared, tmp_path: Path) -> None:
    folder, rows, _ = corpus
    change(rows, folder, "all")
    with pytest.raises(MayaError, match="was prepared from .*/c when that was another corpus: only 0 of 40"):
        run(folder, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    run(folder, tmp_path / "out")
    for row in rows:
        row["id"] += "x"
    write_manifest(folder, rows)
    with pytest.raises(MayaError, match="when that was another corpus"):
        run(folder, tmp_path / "out")


@pytest.mark.parametrize("relocation", ["moved", "copied", "linked", "grown elsewhere"])
def test_a_moved_corpus_is_recognised(corpus: Prepared, tmp_path: Path, relocation: str) -> None:
    folder, rows, before = corpus
    new_folder = tmp_path / "new place" / "c"
    new_folder.parent.mkdir()
    if relocation == "linked":
        new_folder.symlink_to(folder)
    elif relocation == "moved":
        folder.rename(new_folder)
    else:
        shutil.copytree(folder, new_folder)
    if relocation == "grown elsewhere":
        add(new_folder, rows, 30)
    report = run(new_folder, tmp_path / "out")
    after = parts(tmp_path / "out")
    assert all(after[name] == part for name, part in before.items())
    reported = f"the corpus was in {folder} before and is in {new_folder} now" in report.changes
    assert reported == (relocation != "linked")


def test_a_subset_is_the_same_corpus_only_in_the_same_folder(corpus: Prepared, tmp_path: Path) -> None:
    folder, rows, before = corpus
    shutil.copytree(folder, tmp_path / "sample")
    write_manifest(tmp_path / "sample", rows[:10])
    with pytest.raises(MayaError, match="only 10 of 40"):
        run(tmp_path / "sample", tmp_path / "out")
    write_manifest(folder, rows[:10])
    report = run(folder, tmp_path / "out")
    assert parts(tmp_path / "out") == {row["id"]: before[row["id"]] for row in rows[:10]}
    assert any(line.startswith("earlier utterances that are gone: 30 (") for line in report.changes)


def test_languages_can_be_added_and_removed(corpus: Prepared, tmp_path: Path) -> None:
    folder, _, before = corpus
    run(folder, tmp_path / "out", ("hi",))
    run(folder, tmp_path / "out", ("hi", "en"))
    after = parts(tmp_path / "out")
    assert after.keys() == before.keys()
    assert all(after[name] == part for name, part in before.items() if name.startswith("hi"))


def test_parts_named_by_the_corpus_are_used_and_reported(corpus: Prepared, tmp_path: Path) -> None:
    folder, rows, before = corpus
    mover = next(name for name, part in before.items() if part == "train")
    write_manifest(folder, [row | ({"split": "test"} if row["id"] == mover else {}) for row in rows])
    report = run(folder, tmp_path / "out")
    assert parts(tmp_path / "out") == before | {mover: "test"}
    change = "utterances changed their part: 1 from train to test; because the corpus says so"
    assert any(line.startswith(change) for line in report.changes)


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_table_loses_its_split_with_a_report(corpus: Prepared, tmp_path: Path, part: str) -> None:
    folder, _, before = corpus
    part_path(tmp_path / "out", part).write_bytes(b"PAR1 nothing")
    report = run(folder, tmp_path / "out")
    after = parts(tmp_path / "out")
    assert all(after[name] == other for name, other in before.items() if other != part)
    assert any(line.startswith(f"the split of {part} is lost") for line in report.changes)


def test_the_split_is_kept_without_a_summary(corpus: Prepared, tmp_path: Path) -> None:
    """The run was killed between two files, or the version wrote no corpus name."""
    folder, rows, before = corpus
    for name in ("summary.json", "splits.json"):
        (tmp_path / "out" / name).unlink()
    rows = add(folder, rows, 10)
    run(folder, tmp_path / "out")
    after = parts(tmp_path / "out")
    assert all(after[name] == part for name, part in before.items())
    for row in rows:
        row["id"] = f"other-{row['id']}"
    write_manifest(folder, rows)
    (tmp_path / "out/summary.json").unlink()
    with pytest.raises(MayaError, match="another corpus"):
        run(folder, tmp_path / "out")


def test_earlier_versions_name_the_corpus_in_a_marker(corpus: Prepared, tmp_path: Path) -> None:
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    options = summary.pop("split_options")
    marker = {"inputs": {"corpus": summary.pop("corpus"), "options": {"split": options}}}
    (tmp_path / "out/summary.json").write_text(json.dumps(summary))
    (tmp_path / "out/stage.json").write_text(json.dumps(marker))
    earlier = read_earlier(tmp_path / "out")
    assert earlier is not None and earlier.corpus == str(corpus[0]) and earlier.split == options
    assert earlier.keeps_split(SplitConfig()) and not earlier.keeps_split(SplitConfig(test=0.2))
    assert not earlier.keeps_split(SplitConfig(fresh=True))


def test_names_of_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    real = f"{tmp_path}/real"
    assert corpus_name(Path("link")) == corpus_name(tmp_path / "real") == real
    assert corpus_name(Path("lhotse:yesno:link")) == f"lhotse:yesno:{real}"
    assert corpus_name(Path("nemo:a.json:link/b.tar")) == f"nemo:{tmp_path}/a.json:{real}/b.tar"


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_prepare_into_one_folder(corpus: Prepared, tmp_path: Path) -> None:
    lock = probed_path(tmp_path / "out") / ".lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(MayaError, match="out is being prepared by .*: wait until it ends"):
            run(corpus[0], tmp_path / "out")
        other.kill()  # a process that is killed leaves no lock behind
        other.wait(60)
        run(corpus[0], tmp_path / "out")


def test_random_growth_of_real_folders(tmp_path: Path) -> None:
    """Files are added and removed: no utterance changes its part, and the tables hold exactly the files."""
    rng = np.random.default_rng(0)
    present: set[str] = set()
    before: dict[str, str] = {}
    (tmp_path / "c").mkdir()
    for _ in range(4):
        for name in [n for n in sorted(present) if rng.random() < 0.1]:
            (tmp_path / "c" / f"{name}.wav").unlink()
            (tmp_path / "c" / f"{name}.txt").unlink()
            present.remove(name)
        for number in range(12):
            name = f"a{len(before)}-{number}"
            soundfile.write(tmp_path / "c" / f"{name}.wav", 0.1 * rng.standard_normal(8000), 16000)
            (tmp_path / "c" / f"{name}.txt").write_text(f"word {rng.integers(6)} {rng.integers(6)}")
            present.add(name)
        run(tmp_path / "c", tmp_path / "out", ("en",))
        after = parts(tmp_path / "out")
        assert after.keys() == present and {"train", "dev", "test"} == set(after.values())
        assert all(after[name] == part for name, part in before.items() if name in after)
        before = after
