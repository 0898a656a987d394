"""Parts of a corpus that are not read are refused or noted, whatever its form."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maya.data.corpus.folder import read_corpus
from maya.errors import MayaError
from tests.data.making import encoded, tone, write_kaldi, write_lines, write_tar, write_tone

WAV = encoded(tone(1.0), 16000, "WAV")
A, B = ({"audio_filepath": f"{name}.wav", "text": "one"} for name in "ab")


def recording(name: str, **changes: Any) -> dict[str, Any]:
    source = {"type": "file", "channels": [0], "source": f"{name}.wav"}
    facts = {"id": name, "sources": [source], "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0}
    return facts | changes


def supervision(name: str) -> dict[str, Any]:
    return {"id": name, "recording_id": name, "start": 0, "duration": 1.0, "text": "one", "language": "en"}


def cut(name: str, *supervisions: dict[str, Any]) -> dict[str, Any]:
    facts = {"id": name, "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut"}
    return facts | {"recording": recording(name), "supervisions": list(supervisions)}


def read(corpus: Path) -> tuple[list[str], list[str]]:
    """(ids, notes)"""
    notes: list[str] = []
    rows, dropped = read_corpus(corpus, "en", notes=notes)
    assert not dropped
    return [row.id for row in rows], notes


def test_a_nemo_manifest_whose_first_line_is_damaged_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "train_manifest.json", A)
    write_lines(tmp_path / "dev_manifest.json", '{"audio_filepath": "b.wav", "te', B)
    with pytest.raises(MayaError, match=r"dev_manifest.json:1: not JSON"):
        read(tmp_path)
    write_lines(tmp_path / "dev_manifest.json", '[{"audio_filepath": "b.wav", "text": "one"},')
    with pytest.raises(MayaError, match=r"dev_manifest.json:1: not JSON"):
        read(tmp_path)
    write_lines(tmp_path / "dev_manifest.json", "[", B)
    note = "1 files do not begin with a line of a NeMo manifest, and are not read: dev_manifest.json"
    assert read(tmp_path) == (["a"], [note])


def test_shards_without_a_manifest(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"audio_{number}.tar", {f"{name}{number}.wav": WAV for name in "ab"})
    sharded = tmp_path / "sharded_manifests"
    write_lines(sharded / "manifest_0.json", {"audio_filepath": "a0.wav", "text": "one", "shard_id": 0})
    ids, notes = read(tmp_path)
    assert ids == ["a0"] and notes == [
        "1 tars are named by no line of a manifest, and are not read: audio_1.tar",
        "1 files in the tars are named by no line of a manifest, and are not read",
    ]
    write_lines(sharded / "manifest_1.json", '{"audio_filepath": "a1.wav", "te')
    with pytest.raises(MayaError, match=r"manifest_1.json:1: not JSON"):
        read(tmp_path)


def test_lhotse_cuts_beside_supervisions(tmp_path: Path) -> None:
    """Cuts of the same set were made of the supervisions."""
    write_lines(tmp_path / "cuts_dev.jsonl", cut("a", supervision("a")), cut("b"))
    for name in ("dev", "train"):
        write_lines(tmp_path / f"recordings_{name}.jsonl", recording("c"))
        write_lines(tmp_path / f"supervisions_{name}.jsonl", supervision("c"))
    ids, notes = read(tmp_path)
    assert ids == ["a"] and notes == [
        "1 files of supervisions lie beside files of cuts, and are not read: supervisions_train.jsonl",
        "1 cuts of cuts_dev.jsonl have no supervision, and are not read: b",
    ]


def test_lhotse_recordings_without_a_supervision(tmp_path: Path) -> None:
    write_lines(tmp_path / "recordings.jsonl", *map(recording, "abcdef"), recording("a"))
    write_lines(tmp_path / "supervisions.jsonl", supervision("a"))
    note = "5 recordings of recordings.jsonl have no supervision, and are not read: b, c, d ..."
    assert read(tmp_path) == (["a"], [note])
    write_lines(tmp_path / "recordings.jsonl", recording("a"), recording("a", duration=2.0))
    with pytest.raises(MayaError, match=r"recordings.jsonl:2: there is another recording 'a'"):
        read(tmp_path)


def test_shar_audio_without_a_text(tmp_path: Path) -> None:
    write_tar(tmp_path / "recording.000000.tar", {f"{name}.wav": WAV for name in "abc"})
    cuts = tmp_path / "cuts.000000.jsonl.gz"
    write_lines(cuts, cut("a", supervision("a")), cut("b"))
    ids, notes = read(tmp_path)
    assert ids == ["a"] and notes == [
        "1 cuts have no supervision, and are not read: b",
        "1 members of its tars belong to no cut, and are not read: c.wav",
    ]
    write_lines(cuts, cut("a", supervision("a")) | {"recording": "a.wav"})
    with pytest.raises(MayaError, match=r"jsonl.gz:1: the recording of 'a' must be an object"):
        read(tmp_path)


def test_kaldi_recordings_without_a_segment(tmp_path: Path) -> None:
    write_kaldi(tmp_path, wav_scp="a a.wav\nb b.wav\n", segments="u a 0 0.5\n", text="u one\n")
    assert read(tmp_path) == (["u"], ["1 recordings of wav.scp have no segment, and are not read: b"])


def test_tables_of_parts_without_the_columns(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("file_name,text\na.wav,one\n")
    (tmp_path / "test.csv").write_text("file_name\nb.wav\n")
    note = "1 tables have no columns for audio and text, and are not read: test.csv"
    assert read(tmp_path) == (["a"], [note])


def test_descriptions_of_other_forms_are_noted(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "train.csv").write_text("file_name,text\na.wav,one\n")
    write_lines(tmp_path / "some_manifest.json", B)
    write_lines(tmp_path / "cuts.jsonl", cut("a", supervision("a")))
    write_kaldi(tmp_path, wav_scp="a a.wav\n", text="a one\n")
    assert read(tmp_path) == (
        ["a"], ["read train.csv; not read: wav.scp, text, cuts.jsonl, some_manifest.json"]
    )  # fmt: skip


def hugging_face(folder: Path, **columns: Any) -> Path:
    """A data set of two Parquet files, of which the second has no audio."""
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "train-0.parquet")
    pq.write_table(pa.table({"text": ["one"]}), folder / "test-0.parquet")
    return folder


def test_parquet_files_and_columns_beside_the_audio(tmp_path: Path) -> None:
    audio = pa.array([{"bytes": WAV, "path": "a.wav"}])
    notes: list[str] = []
    corpus = hugging_face(tmp_path / "data", noisy=audio, clean=audio, text=["one"])
    rows, _ = read_corpus(corpus, "en", tmp_path / "made", notes)
    assert len(rows) == 1 and notes == [
        "1 columns hold audio beside 'noisy', and are not read: clean",
        "1 Parquet files have no column of audio, and are not read: test-0.parquet",
    ]


@pytest.mark.parametrize("audio", [{"bytes": 5}, {"bytes": "text"}, {"bytes": WAV, "path": 7}])
def test_structs_of_other_types_are_no_audio(tmp_path: Path, audio: dict[str, Any]) -> None:
    corpus = hugging_face(tmp_path / "data", audio=pa.array([audio]), text=["one"])
    with pytest.raises(MayaError, match="one of these is needed to know what is said"):
        read_corpus(corpus, "en", tmp_path / "made")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array([{"bytes": WAV}]), pa.array(["one"]), pa.array(["two"])]
    pq.write_table(pa.table(columns, names=["audio", "text", "text"]), tmp_path / "train-0.parquet")
    with pytest.raises(MayaError, match=r"train-0.parquet: two columns are called 'text'"):
        read_corpus(tmp_path, "en", tmp_path / "made")
