"""A corpus with several dev or test sets gets one table for each."""

import json
from pathlib import Path

import pytest
from lhotse import RecordingSet, SupervisionSet

from maya.data.corpus.folder import read_corpus
from maya.data.corpus.lhotse_manifests import subset_in_name
from maya.data.corpus.manifest import read_manifest
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus
from maya.data.table.table import Table, part_path
from maya.recipes.average import check_sets, dev_sets
from tests.data.making import make_cuts, write_manifest, write_tone

PARTS = ("train-clean-100", "train-other-500", "dev-clean", "dev-other", "test-clean")


def corpus(folder: Path, parts: tuple[str, ...] = PARTS) -> Path:
    """Write lhotse manifests of these parts, two utterances each, with the file names of its recipes."""
    for part in parts:
        cuts = make_cuts(folder / part, [0.7, 0.9])
        for kind, record_set in (("recordings", RecordingSet), ("supervisions", SupervisionSet)):
            records = []
            for cut in cuts:
                record = cut.recording if kind == "recordings" else cut.supervisions[0]
                record.id = f"{part}-{record.id}"
                if kind == "supervisions":
                    record.recording_id, record.speaker = f"{part}-{record.recording_id}", f"{part}-speaker"
                records.append(record)
            whole = (
                record_set.from_recordings(records)
                if kind == "recordings"
                else record_set.from_segments(records)
            )
            whole.to_file(folder / f"librispeech_{kind}_{part}.jsonl.gz")
    return folder


def tables(out: Path) -> dict[str, int]:
    return {path.stem: len(Table.open(path)) for path in sorted(out.glob("*.parquet"))}


def test_each_evaluation_set_has_a_table_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "data"
    report = prepare_corpus(corpus(tmp_path / "c"), out, languages=("en",), cfg=PrepareConfig())
    assert tables(out) == {"train": 4, "dev": 4, "test": 2, "dev-clean": 2, "dev-other": 2, "test-clean": 2}
    assert report.subsets == {"dev-clean": 2, "dev-other": 2, "test-clean": 2}
    assert "evaluation sets: dev-clean 2, dev-other 2, test-clean 2" in report.table()
    assert json.loads((out / "summary.json").read_text())["subsets"] == report.subsets
    together = sorted(i for name in ("dev-clean", "dev-other") for i in Table.open(part_path(out, name)).ids)
    assert together == sorted(Table.open(part_path(out, "dev")).ids)
    assert set(Table.open(part_path(out, "dev-clean")).ids) == {"dev-clean-en-0000", "dev-clean-en-0001"}


def test_tables_of_removed_sets_are_deleted(tmp_path: Path) -> None:
    out, cfg = tmp_path / "data", PrepareConfig()
    prepare_corpus(corpus(tmp_path / "c"), out, languages=("en",), cfg=cfg)
    (out / "mine.parquet").write_bytes(b"of someone else")
    prepare_corpus(corpus(tmp_path / "d", PARTS[:3]), out, languages=("en",), cfg=cfg)
    stems = {path.stem for path in out.glob("*.parquet")}
    assert stems == {"train", "dev", "test", "dev-clean", "mine"}


def test_a_corpus_may_have_no_test_set(tmp_path: Path) -> None:
    cfg = PrepareConfig()
    cfg.split.dev = cfg.split.test = 0.0  # no test set is drawn; mini LibriSpeech has none
    folder = corpus(tmp_path / "c", ("train-clean-5", "dev-clean-2"))
    report = prepare_corpus(folder, tmp_path / "data", languages=("en",), cfg=cfg)
    assert tables(tmp_path / "data") == {"train": 2, "dev": 2, "test": 0, "dev-clean-2": 2}
    assert report.subsets == {"dev-clean-2": 2}
    assert dev_sets(tmp_path / "data") == ["dev-clean-2"]
    check_sets(tmp_path / "data", ["dev-clean-2"])


@pytest.mark.parametrize(
    ("stem", "subset"),
    [
        ("librispeech_supervisions_dev-clean", "dev-clean"),
        ("cuts_dev-clean-2", "dev-clean-2"),
        ("gigaspeech.cuts_XL", "XL"),
        ("cuts_test", "test"),
        ("dev_cuts", None),
        ("cuts", None),
        ("supervisions_..", None),
        ("haircuts_dev", None),
    ],
)
def test_subsets_in_names(stem: str, subset: str | None) -> None:
    assert subset_in_name(stem) == subset


def test_a_name_equal_to_the_split_is_not_a_subset(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "c", ("train", "dev", "test-clean"))
    subsets = {(row.split, row.subset) for row in read_corpus(folder)[0]}
    assert subsets == {("train", None), ("dev", None), ("test", "test-clean")}


def test_a_manifest_has_no_such_field(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    row = {"id": "a", "language": "en", "text": "one", "audio": "a.wav", "split": "dev", "subset": ["any"]}
    assert read_manifest(write_manifest(tmp_path, [row]))[0].subset is None
