import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lhotse import CutSet
from lhotse.dataset import DynamicBucketingSampler

from maya.audio.load import load_cut_audio
from maya.data.corpus.manifest import read_manifest
from maya.data.measure.entry import SOUND_FIELDS, Entry
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.table.cuts import audio_cut, entry_cut
from maya.data.table.table import SCHEMA, Table, cuts, part_path, write_table
from maya.errors import MayaError
from tests.data.making import write_corpus, write_manifest, write_tar, write_tone


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """Entries of files, of tar members at 22.05 kHz (some in stereo), and of parts of a long recording."""
    folder = tmp_path_factory.mktemp("c")
    rows: list[dict[str, Any]] = write_corpus(folder, per_speaker=2)
    members = {}
    for i, row in enumerate(rows[:4]):
        data = write_tone(folder / "x" / f"{i}.flac", 0.5 + 0.1 * i, 22050, 1 + i % 2).read_bytes()
        members[f"{i}.flac"] = data
        row |= {"tar": "a.tar", "audio": f"{i}.flac", "licence": "CC0", "source": "tones"}
    write_tar(folder / "a.tar", members)
    corpus_rows = read_manifest(write_manifest(folder, rows))
    write_tone(folder / "long.wav", 5.0, 44100)
    for i, start in enumerate((0.0, 1.2345)):
        values = {"id": f"part{i}", "language": "en", "text": "one", "audio": "long.wav", "where": "here"}
        corpus_rows.append(type(corpus_rows[0])(**values, start=start, duration=1.1))  # type: ignore[arg-type]
    kept, dropped = probe(folder, corpus_rows, ProbeConfig())
    assert not dropped
    return kept


@pytest.fixture(scope="module")
def table(probed: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Table:
    path = part_path(tmp_path_factory.mktemp("data"), "train")
    assert write_table(path, probed) == len(probed)
    return Table.open(path)


def test_lazy_cuts_equal_eager_cuts(table: Table, probed: list[Entry], tmp_path: Path) -> None:
    """They are equal when iterated, indexed by number or id, filtered, and saved and read by lhotse."""
    expected = [entry_cut(entry) for entry in probed]
    lazy = table.cuts()
    assert lazy.is_lazy and len(lazy) == len(expected) == len(table)
    assert list(lazy) == list(cuts(table.path)) == expected
    assert [entry_cut(table.entry(i)) for i in range(len(table))] == expected
    assert (lazy[2], lazy[-1], lazy["part1"]) == (expected[2], expected[-1], expected[-1])
    lazy.to_file(tmp_path / "cuts.jsonl.gz")
    assert list(CutSet.from_file(tmp_path / "cuts.jsonl.gz")) == expected
    assert list(lazy.filter(lambda cut: cut.duration > 0.6)) == [c for c in expected if c.duration > 0.6]
    assert list(lazy.subset(first=3)) == expected[:3] and list(pickle.loads(pickle.dumps(lazy))) == expected
    with pytest.raises(IndexError):
        lazy[len(expected)]
    with pytest.raises(KeyError):
        lazy["nobody"]


def test_audio_cuts_have_the_same_audio(table: Table, probed: list[Entry]) -> None:
    for i in (0, 1, 5, len(table) - 2, len(table) - 1):
        cut, whole = audio_cut(table.audio(i)), entry_cut(probed[i])
        assert torch.equal(load_cut_audio(cut), load_cut_audio(whole))
        for rate in (None, 16000, 8000):
            assert torch.equal(table.audio(i).load_audio(rate), load_cut_audio(whole, rate)), "without lhotse"
        assert (cut.id, cut.duration, cut.supervisions) == (whole.id, whole.duration, [])
        assert table.durations[i] == cut.duration


def test_lhotse_samples_from_the_lazy_cuts(table: Table) -> None:
    sampler = DynamicBucketingSampler(table.cuts(), max_duration=2.0, num_buckets=2, shuffle=True)
    ids = [cut.id for batch in sampler for cut in batch]
    assert sorted(ids) == sorted(table.ids)


def test_columns_of_a_table(table: Table, probed: list[Entry]) -> None:
    assert table.ids == [entry.id for entry in probed] and table.ids[1:3] == [o.id for o in probed[1:3]]
    codes, values = table.codes("language")
    assert [values[code] for code in codes] == [entry.language for entry in probed]
    codes, values = table.codes("source")
    assert values == ["tones"] and sorted(codes)[:2] == [-1, -1] and (codes == 0).sum() == 4
    np.testing.assert_array_equal(table.numbers("offset"), [-1 if o.offset is None else o.offset
                                                            for o in probed])  # fmt: skip
    assert np.isnan(table.numbers("start")).sum() == len(probed) - 2
    assert list(table.read("text", "speaker")) == [(entry.text, entry.speaker) for entry in probed]
    assert [e.id for e in table.entries([3, 1])] == [table.ids[3], table.ids[1]]


def test_entries_are_read_as_they_were_written(table: Table, probed: list[Entry]) -> None:
    for entry, again in zip(probed, table.entries(), strict=True):
        assert again.sound is not None and entry.sound is not None
        assert again.sound.level == pytest.approx(entry.sound.level, rel=1e-6)
        sound = {name: getattr(entry, name) for name in SOUND_FIELDS}  # kept as float32
        assert again._replace(**sound) == entry


def test_the_same_entries_give_the_same_bytes(table: Table, probed: list[Entry], tmp_path: Path) -> None:
    write_table(tmp_path / "again.parquet", probed)
    assert (tmp_path / "again.parquet").read_bytes() == table.path.read_bytes()


def test_an_empty_table(tmp_path: Path) -> None:
    write_table(tmp_path / "none.parquet", [])
    empty = Table.open(tmp_path / "none.parquet")
    assert len(empty) == 0 and list(empty.cuts()) == [] and len(empty.durations) == 0
    assert list(empty.ids) == [] and empty.codes("language")[1] == []


def test_tables_with_several_row_groups(table: Table, tmp_path: Path) -> None:
    """Row numbers, ids and dictionaries are right across several row groups."""
    entry = table.entry(0)
    many = [entry._replace(id=f"id-{i}", speaker=f"s{i // 10_000}", text=str(i)) for i in range(40_000)]
    write_table(tmp_path / "many.parquet", many)
    big = Table.open(tmp_path / "many.parquet")
    assert pq.ParquetFile(big.path).num_row_groups == 3
    rows = [0, 16_383, 16_384, 39_999]
    assert [big.ids[i] for i in rows] == [f"id-{i}" for i in rows]
    assert [big.entry(i) for i in rows] == [many[i] for i in rows]
    codes, values = big.codes("speaker")
    assert values == ["s0", "s1", "s2", "s3"] and np.bincount(codes).tolist() == [10_000] * 4
    assert big.audio(39_999).id == "id-39999"


class TestDamage:
    def damaged(self, table: Table, path: Path, change: Any) -> Path:
        read = pq.read_table(table.path)
        pq.write_table(change(read), path)
        return path

    def test_a_missing_table(self, tmp_path: Path) -> None:
        with pytest.raises(MayaError, match=r"there is no table .*x\.parquet; run stage 1 \(prepare\) first"):
            Table.open(tmp_path / "x.parquet")

    @pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.99])
    def test_truncated(self, table: Table, tmp_path: Path, part: float) -> None:
        data = table.path.read_bytes()
        (tmp_path / "t.parquet").write_bytes(data[: int(len(data) * part)])
        with pytest.raises(
            MayaError, match=r"t\.parquet cannot be read: it is truncated, damaged or no Parq"
        ):
            Table.open(tmp_path / "t.parquet")

    def test_flipped_bytes_are_found(self, table: Table, tmp_path: Path) -> None:
        """With a flipped byte, all rows are read or one clear error is raised. Pages have checksums."""
        data, refused = table.path.read_bytes(), 0
        for place in range(4, len(data), len(data) // 600):
            changed = bytearray(data)
            changed[place] ^= 0xFF
            (tmp_path / "t.parquet").write_bytes(changed)
            try:
                assert list(Table.open(tmp_path / "t.parquet").entries()) is not None
            except MayaError as error:
                assert "t.parquet" in str(error) and "\n" not in str(error)
                refused += 1
        assert refused > 300

    def test_codes_past_their_dictionary(self, table: Table, tmp_path: Path) -> None:
        """A damaged footer can leave an empty dictionary beside its codes. Every way to read says so."""
        ways: list[Any] = [
            lambda t: list(t.read("language")),
            lambda t: t.entry(0),
            lambda t: t.codes("language"),
            lambda t: t.strings("language"),
            lambda t: t.content_digest(),
        ]
        opened = Table.open(table.path)
        group = pq.ParquetFile(table.path, read_dictionary=["language"]).read_row_group(0)
        language = group.column("language").combine_chunks()
        empty = pa.DictionaryArray.from_arrays(language.indices, pa.array([], pa.string()), safe=False)
        damaged = group.set_column(group.schema.get_field_index("language"), "language", empty)
        file = SimpleNamespace(
            num_row_groups=1,
            metadata=opened._file.metadata,
            schema_arrow=opened._file.schema_arrow,
            read_row_group=lambda _, names, use_threads: damaged.select(names),
            read=lambda names, use_threads: damaged.select(names),
        )
        opened._file = cast(Any, file)
        for way in ways:
            with pytest.raises(MayaError, match=r"\.parquet cannot be read: it is truncated, damaged"):
                way(opened)

    def test_a_missing_column(self, table: Table, tmp_path: Path) -> None:
        path = self.damaged(table, tmp_path / "t.parquet", lambda t: t.drop_columns(["speaker"]))
        with pytest.raises(MayaError, match="t.parquet has no column 'speaker'; prepare the data again"):
            Table.open(path)

    def test_a_wrong_type(self, table: Table, tmp_path: Path) -> None:
        def change(t: pa.Table) -> pa.Table:
            place = SCHEMA.get_field_index("duration")
            field = pa.field("duration", pa.string(), nullable=False)
            return t.set_column(place, field, t.column("duration").cast(pa.string()))

        with pytest.raises(MayaError, match="the column 'duration' holds string, not double"):
            Table.open(self.damaged(table, tmp_path / "t.parquet", change))

    def test_missing_values(self, table: Table, tmp_path: Path) -> None:
        def change(t: pa.Table) -> pa.Table:
            nothing = pa.array([None] * len(t), pa.string())
            return t.set_column(SCHEMA.get_field_index("text"), pa.field("text", pa.string()), nothing)

        with pytest.raises(MayaError, match="the column 'text' may lack values"):
            Table.open(self.damaged(table, tmp_path / "t.parquet", change))

    def test_another_parquet_file(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
        with pytest.raises(MayaError, match="is no table that maya prepare wrote"):
            Table.open(tmp_path / "t.parquet")
        other = pa.schema(SCHEMA, metadata={"maya.table": "9"})
        pq.write_table(other.empty_table(), tmp_path / "t.parquet")
        with pytest.raises(MayaError, match="is of version 9, not 1"):
            Table.open(tmp_path / "t.parquet")


def test_columns_equal_the_fields_of_an_entry() -> None:
    assert SCHEMA.names == list(Entry._fields)
    assert re.fullmatch(r"\d+", SCHEMA.metadata[b"maya.table"].decode())
