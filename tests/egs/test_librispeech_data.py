"""The layout of LibriSpeech, and its preparation."""

import json
from pathlib import Path

import pytest
import soundfile
from lhotse import RecordingSet

from egs.librispeech import data, zipformer
from maya.data.corpus.folder import read_corpus
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus
from maya.data.table.table import Table, part_path, write_table
from maya.errors import MayaError
from maya.recipes.prepare import prepare
from tests.data.making import write_corpus, write_manifest
from tools.librispeech_layout import TOP, lay_out

CLEAN = {"train-clean-100", "train-clean-360", "dev-clean", "test-clean"}
OTHER = {"train-other-500", "dev-other", "test-other"}


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LibriSpeech folder of tones, made from two corpora of five and three speakers."""
    top = tmp_path_factory.mktemp("librispeech")
    write_corpus(top / "clean", per_speaker=3, speakers=5)
    rows = write_corpus(top / "other", per_speaker=2, speakers=3)
    write_manifest(top / "other", [row | {"speaker": f"other-{row['speaker']}"} for row in rows])
    return lay_out(top / "clean", top / "other", top / "out").parent


@pytest.fixture(scope="module")
def prepared(laid_out: Path) -> Path:
    data.manifests(laid_out, laid_out / "manifests", jobs=1)
    prepare(zipformer.tiny(), laid_out / "manifests", laid_out / "data")
    return laid_out / "data"


def test_layout_equals_librispeech(laid_out: Path) -> None:
    top = laid_out / TOP
    assert {p.name for p in top.iterdir() if p.is_dir()} == CLEAN | OTHER
    part_of: dict[str, str] = {}
    for transcript in top.rglob("*.trans.txt"):
        part, reader, chapter, name = transcript.relative_to(top).parts
        assert name == f"{reader}-{chapter}.trans.txt" and reader.isdigit() and chapter.isdigit()
        assert part_of.setdefault(reader, part) == part  # no speaker in two parts
        lines = transcript.read_text().splitlines()
        for number, line in enumerate(lines):
            spoken, words = line.split(" ", 1)
            assert spoken == f"{reader}-{chapter}-{number:04d}" and words == words.upper()
            audio = soundfile.info(transcript.with_name(f"{spoken}.flac"))
            assert (audio.samplerate, audio.channels, audio.subtype) == (16000, 1, "PCM_16")
        assert len(lines) == len(list(transcript.parent.glob("*.flac")))
    listed = [line for line in (top / "SPEAKERS.TXT").read_text().splitlines() if not line.startswith(";")]
    fields = [[field.strip() for field in line.split("|")] for line in listed]
    assert {f[0]: f[2] for f in fields} == part_of and all(len(f) == 5 for f in fields)
    origins = (top / "ORIGINS.TSV").read_text().splitlines()
    assert len(origins) == 1 + len(list(top.rglob("*.flac")))


def test_recordings_of_one_speaker_are_joined(tmp_path: Path, laid_out: Path) -> None:
    corpora = laid_out.parent / "clean", laid_out.parent / "other"
    top = lay_out(*corpora, tmp_path, join=1.5)
    manifest = [json.loads(line) for line in (corpora[0] / "manifest.jsonl").read_text().splitlines()]
    rows = {row["id"]: row for row in manifest}
    said = dict(
        line.split(" ", 1) for path in top.rglob("*.trans.txt") for line in path.read_text().splitlines()
    )
    used: list[str] = []
    for line in (top / "ORIGINS.TSV").read_text().splitlines()[1:]:
        name, originals, *_ = line.split("\t")
        if int(name.split("-")[0]) > 1005:  # a reader of the other corpus
            continue
        sources = [rows[i] for i in originals.split()]
        assert len({row["speaker"] for row in sources}) == 1
        assert said[name] == " ".join(row["text"].upper() for row in sources)
        used += originals.split()
    assert sorted(used) == sorted(i for i in rows if i.startswith("en"))  # each of them once
    assert len(used) > sum(int(name.split("-")[0]) <= 1005 for name in said)


def test_layout_refuses_bad_input(tmp_path: Path, laid_out: Path) -> None:
    corpora = laid_out.parent / "clean", laid_out.parent / "other"
    with pytest.raises(MayaError, match="is there already"):
        lay_out(*corpora, laid_out)
    with pytest.raises(MayaError, match="in both corpora"):
        lay_out(corpora[0], corpora[0], tmp_path)
    write_corpus(tmp_path / "few", speakers=2)
    with pytest.raises(MayaError, match="2 English speakers"):
        lay_out(corpora[0], tmp_path / "few", tmp_path)
    assert not (tmp_path / TOP).exists()


def test_parts_become_tables(prepared: Path) -> None:
    counts = {path.stem: len(Table.open(path)) for path in prepared.glob("*.parquet")}
    assert counts["train"] == 9 + 2 and counts["dev"] == counts["test"] == 3 + 2
    assert {name: counts[name] for name in ("dev-clean", "dev-other", "test-clean", "test-other")} == {
        "dev-clean": 3, "dev-other": 2, "test-clean": 3, "test-other": 2,
    }  # fmt: skip
    assert data.sets(prepared) == ["dev-clean", "dev-other", "test-clean", "test-other"]
    speakers = [
        {e.speaker for e in Table.open(part_path(prepared, p)).entries()} for p in ("train", "dev", "test")
    ]
    assert not speakers[0] & speakers[1] and not speakers[1] & speakers[2] and not speakers[0] & speakers[2]
    entry = next(iter(Table.open(part_path(prepared, "test-clean")).entries()))
    assert entry.language == "en" and entry.text == entry.raw_text.lower()


def test_manifests_of_selected_parts(tmp_path: Path, laid_out: Path) -> None:
    out = tmp_path / "manifests"
    data.manifests(laid_out, out, jobs=1)
    assert len(list(out.glob("librispeech_*.jsonl.gz"))) == 14
    before = (out / "librispeech_supervisions_dev-clean.jsonl.gz").stat().st_mtime_ns
    data.manifests(laid_out / TOP, out, parts=["train-clean-100", "dev-clean"], jobs=1)
    parts = {path.name.split("_")[2].split(".")[0] for path in out.glob("librispeech_*.jsonl.gz")}
    assert parts == {"train-clean-100", "dev-clean"}
    assert (
        out / "librispeech_supervisions_dev-clean.jsonl.gz"
    ).stat().st_mtime_ns == before  # not made again
    with pytest.raises(MayaError, match="has no train-clean-5; there are train-clean-100"):
        data.manifests(laid_out, out, parts=["train-clean-5"])
    with pytest.raises(MayaError, match="holds no LibriSpeech"):
        data.manifests(tmp_path, out)
    with pytest.raises(MayaError, match="there is no table .*dev.parquet; run stage 1"):
        data.sets(tmp_path)


def small(folder: Path) -> Path:
    """A dev-clean part of two utterances."""
    chapter = folder / TOP / "dev-clean" / "1" / "2"
    chapter.mkdir(parents=True)
    for i in range(2):
        soundfile.write(chapter / f"1-2-{i:04d}.flac", [0.1, -0.1] * 8000, 16000)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 ONE\n1-2-0001 TWO\n")
    return chapter


def test_paths_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path)
    monkeypatch.chdir(tmp_path)
    data.manifests(Path(), Path("m"), jobs=1)
    rows, _ = read_corpus(tmp_path / "m")
    assert [row.id for row in rows] == ["1-2-0000", "1-2-0001"]
    assert all(Path(row.audio).is_absolute() for row in rows)


def test_transcripts_without_audio_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapter, out = small(tmp_path), tmp_path / "m"
    data.manifests(tmp_path, out, jobs=1)
    assert "dev-clean: every transcript has its audio" in capsys.readouterr().out
    (chapter / "1-2-0001.flac").unlink()
    data.manifests(tmp_path, out, jobs=1)
    left_out = json.loads((out / "left_out.json").read_text())
    assert left_out == [{"id": "1-2-0001", "part": "dev-clean", "reason": "missing_audio"}]
    assert "1 transcripts have no audio" in capsys.readouterr().out
    (chapter / "1-2-0000.flac").unlink()
    with pytest.raises(MayaError, match="transcripts and no audio: .*1-2-0000.flac"):
        data.manifests(tmp_path, out, jobs=1)


def test_replaced_audio_rebuilds_the_manifests(tmp_path: Path) -> None:
    chapter, out = small(tmp_path), tmp_path / "m"
    data.manifests(tmp_path, out, jobs=1)
    recordings = out / "librispeech_recordings_dev-clean.jsonl.gz"
    before = recordings.stat().st_mtime_ns
    data.manifests(tmp_path, out, jobs=1)
    assert recordings.stat().st_mtime_ns == before
    soundfile.write(chapter / "1-2-0001.flac", [0.1, -0.1] * 12000, 16000)
    data.manifests(tmp_path, out, jobs=1)
    lengths = {r.id: r.num_samples for r in RecordingSet.from_file(recordings)}
    assert lengths == {"1-2-0000": 16000, "1-2-0001": 24000}


def test_other_corpora_use_the_drawn_sets(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", per_speaker=2)
    prepare_corpus(tmp_path / "c", tmp_path / "data", languages=(), cfg=PrepareConfig())
    assert data.sets(tmp_path / "data") == ["dev", "test"]
    for part in ("dev", "test"):
        write_table(part_path(tmp_path / "data", part), [])
    assert data.sets(tmp_path / "data") == []


def test_broken_files_are_named(tmp_path: Path) -> None:
    chapter, out = small(tmp_path), tmp_path / "m"
    (chapter / "1-2-0001.flac").write_bytes(b"fLaC and no more")
    with pytest.raises(MayaError, match="cannot decode .*dev-clean.*1-2-0001.flac as audio: it is truncated"):
        data.manifests(tmp_path, out, jobs=1)
    assert not list(out.glob("librispeech_*")) and not list(out.glob(".*"))
    (chapter / "1-2.trans.txt").write_text("1-2-0000 ONE\n1-2-0001\n")
    with pytest.raises(MayaError, match=r"1-2\.trans\.txt:2 has no words after '1-2-0001'"):
        data.manifests(tmp_path, out, jobs=1)


def test_download_calls_lhotse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lhotse.recipes

    requested = []

    def fetch(target: Path, dataset_parts: str) -> Path:
        requested.append(dataset_parts)
        if dataset_parts == "mini_librispeech":
            raise OSError("no route to host")
        return target / TOP

    monkeypatch.setattr(lhotse.recipes, "download_librispeech", fetch)
    assert data.download("full", tmp_path) == tmp_path / TOP
    with pytest.raises(MayaError, match="stopped .no route to host.; run the same command again"):
        data.download("mini", tmp_path)
    assert requested == ["librispeech", "mini_librispeech"]
