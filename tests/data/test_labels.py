"""Labels are read from every form of corpus and reach the batch."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lhotse import CutSet

from maya.config import override
from maya.data.corpus.folder import read_corpus
from maya.data.loading.lhotse_cuts import CutTranscripts
from maya.data.loading.lhotse_loader import CutJob, CutReader
from maya.data.loading.loader import EvalLoader, TrainLoader
from maya.data.plan import BatchPlan, PlanConfig, Position
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus
from maya.data.report.page import draw, read_page
from maya.data.table.table import Table, part_path, write_table
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from tests.data.making import make_cuts, make_entry, make_tokenizer, write_corpus, write_manifest, write_tone

ROW = {"id": "a", "language": "en", "text": "one", "audio": "a.wav"}


def labels(folder: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The labels of each row by id, with the speaker if it has one."""
    rows, problems = read_corpus(folder, "en", labels=names)
    assert not problems
    speakers = {row.id: {"speaker": row.speaker} if row.speaker else {} for row in rows}
    return {row.id: {**row.labels, **speakers[row.id]} for row in rows}


def test_labels_of_a_manifest(tmp_path: Path) -> None:
    row = ROW | {"labels": {"pitch": "p/a.npy", "emotion": "calm", "speaker": "s1", "none": None}, "age": 31}
    write_manifest(tmp_path, [row, ROW | {"id": "b", "labels": {}}, ROW | {"id": "c"}])
    assert labels(tmp_path) == {
        "a": {"emotion": "calm", "pitch": "p/a.npy", "speaker": "s1"},
        "b": {},
        "c": {},
    }
    assert labels(tmp_path, ("age",))["a"]["age"] == "31", "prepare.labels names this field"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("happy", "the field 'labels' must be an object of names and texts, not 'happy'"),
        ({"my label": "x"}, "the label 'my label' must have a name of letters, digits and _"),
        ({"emotion": ["x"]}, r"the label 'emotion' must be text, not \['x'\]"),
        ({"emotion": True}, "the label 'emotion' must be text, not True"),
        ({"emotion": "a\0b"}, "the field 'emotion' holds a zero byte"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, value: Any, message: str) -> None:
    write_manifest(tmp_path, [ROW, ROW | {"id": "b", "labels": value}])
    with pytest.raises(MayaError, match=rf"manifest\.jsonl:2: {message}"):
        read_corpus(tmp_path)


def test_labels_of_table_columns(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        "file_name,text,label_Emotion,Age,speaker\na.wav,one,calm,31,s1\nb.wav,two,,,\n", encoding="utf-8"
    )
    assert labels(tmp_path) == {"a": {"emotion": "calm", "speaker": "s1"}, "b": {}}
    assert labels(tmp_path, ("Age",))["a"] == {"emotion": "calm", "Age": "31", "speaker": "s1"}


def test_labels_of_common_voice_and_absent_ones(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "train.tsv").write_text("client_id\tpath\tsentence\tage\ns1\ta.mp3\tone\ttwenties\n")
    notes: list[str] = []
    rows, _ = read_corpus(tmp_path, "en", notes=notes, labels=("Age", "emotoin", "speaker"))
    assert rows[0].labels == {"Age": "twenties"}
    assert notes == ["no utterance has the label emotoin of prepare.labels"]


def test_labels_of_json_lines_and_nemo(tmp_path: Path) -> None:
    given = {"text": "one", "label_emotion": "calm", "labels": {"age": "old"}, "accent": 3}
    for name, file in (("metadata.jsonl", "file_name"), ("manifest.json", "audio_filepath")):
        (tmp_path / name).write_text(json.dumps(given | {file: "a.wav"}) + "\n")
        assert labels(tmp_path, ("accent",))["a"] == {"accent": "3", "age": "old", "emotion": "calm"}
        (tmp_path / name).unlink()


def test_labels_of_kaldi(tmp_path: Path) -> None:
    files = {"wav.scp": "a a.wav\nb b.wav\n", "text": "a one\nb two\n", "utt2emotion": "a calm\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert labels(tmp_path) == {"a": {}, "b": {}}
    assert labels(tmp_path, ("emotion",)) == {"a": {"emotion": "calm"}, "b": {}}


def test_labels_of_hugging_face(tmp_path: Path) -> None:
    """The numbers of a ClassLabel column become names."""
    features = {"emotion": {"_type": "ClassLabel", "names": ["sad", "calm"]}}
    audio = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table(
        {
            "audio": pa.array([{"bytes": None, "path": "a.wav"}], audio),
            "text": ["one"], "id": ["a"], "emotion": [1], "label_age": ["old"],
        }
    )  # fmt: skip
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train.parquet")
    assert labels(tmp_path, ("emotion",)) == {"a": {"age": "old", "emotion": "calm"}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("labels")
    rows = write_corpus(top / "c", per_speaker=2)
    for i, row in enumerate(rows):
        row["labels"] = {"emotion": ("calm", "angry")[i % 2]} | ({"age": "old"} if i % 3 else {})
        if i % 5 == 0:
            del row["speaker"]
    write_manifest(top / "c", rows)
    prepare_corpus(top / "c", top / "out", languages=[], cfg=PrepareConfig())
    return top


def given(top: Path) -> dict[str, dict[str, Any]]:
    lines = (top / "c" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def test_labels_reach_the_batch(prepared: Path) -> None:
    rows, table = given(prepared), Table.open(part_path(prepared / "out", "train"))
    assert table.label_names == ("age", "emotion") and table.labels.names == ("speaker", "age", "emotion")
    assert all(entry.labels == rows[entry.id]["labels"] for entry in table.entries())
    assert all(table.entry(i).labels == rows[name]["labels"] for i, name in enumerate(table.ids))
    tokenizer = make_tokenizer()
    utterances = Utterances.from_table(table, tokenizer, ("en", "hi"))
    from_cuts = Utterances.from_cuts(table.cuts(), tokenizer, ("en", "hi"))
    plan = BatchPlan(
        utterances.durations, utterances.token_counts, utterances.langs, PlanConfig(max_seconds=4.0)
    )
    loader = TrainLoader(utterances, tokenizer, ("en", "hi"), plan, sample_rate=16000, num_workers=1)
    _, batch = next(iter(loader))
    for made in (batch, batch.to("cpu"), *EvalLoader(from_cuts, tokenizer, ("en", "hi"), sample_rate=16000)):
        assert list(made.labels) == ["speaker", "age", "emotion"] or set(made.labels) == set(batch.labels)
        assert made.labels["emotion"] == [rows[name]["labels"]["emotion"] for name in made.ids]
        assert made.labels["age"] == [rows[name]["labels"].get("age") for name in made.ids]
    assert batch.labels["speaker"] == [rows[name].get("speaker") for name in batch.ids], (
        "None means that the speaker is not named"
    )
    again = pickle.loads(pickle.dumps(utterances))  # as a spawned worker gets it
    assert again.labels([3, 0]) == utterances.labels([3, 0])


def test_cuts_carry_labels(prepared: Path, tmp_path: Path) -> None:
    """Labels survive when lhotse writes the cuts and when its manifest is read as a corpus."""
    table = Table.open(part_path(prepared / "out", "train"))
    table.cuts().to_file(tmp_path / "cuts.jsonl.gz")
    cut = next(iter(CutSet.from_file(tmp_path / "cuts.jsonl.gz")))
    assert cut.supervisions[0].custom["labels"] == given(prepared)[cut.id]["labels"]
    read = labels(tmp_path)
    assert {name: set(values) - {"speaker"} for name, values in read.items()} == {
        name: set(given(prepared)[name]["labels"]) for name in table.ids
    }


@pytest.mark.parametrize(
    ("custom", "expected"),
    [
        (None, {}),
        ({"labels": None}, {}),
        ({"labels": {"age": 31, "mood": ""}, "label_emotion": "calm"}, {"age": "31", "emotion": "calm"}),
        ({"labels": {"speaker": "other"}}, {}),
    ],
)
def test_labels_of_a_cut_are_the_same_with_and_without_a_plan(
    tmp_path: Path, custom: dict[str, Any] | None, expected: dict[str, str]
) -> None:
    cut = list(make_cuts(tmp_path, [1.0]))[0]
    cut.supervisions[0].speaker, cut.supervisions[0].custom = "s1", custom
    labels = {name: [value] for name, value in (expected | {"speaker": "s1"}).items()}
    utterances = Utterances.from_cuts(CutSet.from_cuts([cut]), make_tokenizer(), ("en",))
    assert utterances.labels([0]) == labels
    reader = CutReader(CutTranscripts(languages=("en",)), make_tokenizer(), sample_rate=16000)
    job = CutJob(position=Position(0, 1), epoch=0, cuts=[cut])
    assert reader[job].checked().batch.labels == labels


def test_a_value_of_a_cut_that_is_no_label_is_named(tmp_path: Path) -> None:
    cut = list(make_cuts(tmp_path, [1.0]))[0]
    cut.supervisions[0].custom = {"labels": {"mood": ["calm"]}}
    reader = CutReader(CutTranscripts(languages=("en",)), make_tokenizer(), sample_rate=16000)
    with pytest.raises(MayaError, match=r"supervision .*: the label 'mood' must be text"):
        reader[CutJob(position=Position(0, 1), epoch=0, cuts=[cut])].checked()
    with pytest.raises(MayaError, match=r"supervision .*: the label 'mood' must be text"):
        Utterances.from_cuts(CutSet.from_cuts([cut]), make_tokenizer(), ("en",))


def test_the_report_counts_labels(prepared: Path) -> None:
    page = read_page(prepared / "out", "Corpus")
    counts = page.statistics["hi"]["labels"]
    assert counts["emotion"] == {"values": 2, "utterances": 10, "common": [["angry", 5], ["calm", 5]]}
    assert counts["age"]["utterances"] < 10 and "<h2>Labels</h2>" in draw(page) and "angry 5" in draw(page)


def test_changed_labels_change_the_digests(prepared: Path, tmp_path: Path) -> None:
    table = Table.open(part_path(prepared / "out", "train"))
    first, *rest = table.entries()
    write_table(tmp_path / "other.parquet", [first._replace(labels={"emotion": "sad"}), *rest])
    other = Table.open(tmp_path / "other.parquet")
    assert other.digest != table.digest and other.content_digest() != table.content_digest()
    assert other.texts_digest == table.texts_digest, "a tokenizer needs no new training"


def test_changed_labels_are_reported_when_preparing_again(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c", per_speaker=2)
    prepare_corpus(tmp_path / "c", tmp_path / "out", languages=[], cfg=PrepareConfig())
    rows[0]["labels"] = {"emotion": "calm"}
    write_manifest(tmp_path / "c", rows)
    report = prepare_corpus(tmp_path / "c", tmp_path / "out", languages=[], cfg=PrepareConfig())
    assert "utterances with other labels than before: 1" in report.changes


def test_an_older_table_has_no_labels(tmp_path: Path) -> None:
    write_table(tmp_path / "new.parquet", [make_entry("a", speaker="a"), make_entry("b")])
    old = pq.read_table(tmp_path / "new.parquet").drop_columns(["labels"])
    metadata = {key: value for key, value in old.schema.metadata.items() if key != b"maya.labels"}
    pq.write_table(old.replace_schema_metadata(metadata), tmp_path / "old.parquet")
    new, table = Table.open(tmp_path / "new.parquet"), Table.open(tmp_path / "old.parquet")
    assert list(table.entries()) == list(new.entries()) and table.entry(1).labels == {}
    assert table.label_names == () and table.labels.batch([0, 1]) == {"speaker": [None, "s"]}
    assert table.content_digest() == new.content_digest(), (
        "a run that started with the older table can resume"
    )
    assert table.column("labels").null_count == 2


def test_label_names_are_an_option(tmp_path: Path) -> None:
    cfg = PrepareConfig()
    override(cfg, "labels=emotion,age")
    assert cfg.labels == ("emotion", "age")
    write_tone(tmp_path / "c" / "a.wav")
    write_manifest(
        tmp_path / "c", [ROW | {"emotion": "calm", "text": f"t{i}", "id": str(i)} for i in range(9)]
    )
    prepare_corpus(tmp_path / "c", tmp_path / "out", languages=["en"], cfg=cfg)
    assert Table.open(part_path(tmp_path / "out", "train")).label_names == ("emotion",)
