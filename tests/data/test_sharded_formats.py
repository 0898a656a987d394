"""Corpora in tars and tables: Shar, NeMo's tarred data sets, Hugging Face's data sets, lhotse's recipes."""

import json
from pathlib import Path
from typing import Any

import lhotse.recipes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from maya.audio.load import load_audio, load_cut_audio
from maya.audio.tar_index import index_tar
from maya.data.corpus.folder import describing_files, is_named, read_corpus
from maya.data.corpus.hugging_face import data_set_files
from maya.data.corpus.lhotse_recipes import recipe_names
from maya.data.corpus.manifest import PARTS, Problem, Row
from maya.data.corpus.nemo_tarred import nemo_tarred
from maya.data.corpus.shar import shar_shards
from maya.data.corpus.shards import by_number, expanded
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus
from maya.data.table.cuts import entry_cut
from maya.data.table.table import cuts, part_path
from maya.errors import MayaError
from maya.text.languages import language_code
from tests.data.making import encoded, rows_of, tone, write_lines, write_tar, write_tone


def audio_of(corpus: Path, row: Row) -> np.ndarray:
    """The row's samples at 16 kHz, as training reads them."""
    kept, dropped = probe(corpus, [row], ProbeConfig())
    assert not dropped, dropped
    return load_cut_audio(entry_cut(kept[0]), 16000).numpy()


def encoded_tone(seconds: float, suffix: str = "flac", pitch: float = 220.0) -> bytes:
    return encoded(tone(seconds, pitch=pitch), 16000, suffix)


class TestShar:
    def write(self, folder: Path, count: int = 5, **options: Any) -> list[MonoCut]:
        made = []
        for i in range(count):
            recording = Recording.from_file(
                write_tone(folder.parent / f"w{i}.wav", 1.0 + 0.1 * i, pitch=200 + i), f"r{i}"
            )
            cut = MonoCut(f"dir/c{i}", 0.0, recording.duration, 0, recording=recording)
            fields = {"text": "one", "language": "English", "speaker": f"s{i}"} | options
            cut.supervisions = [SupervisionSegment(f"u{i}", f"r{i}", 0.0, cut.duration, **fields)]
            made.append(cut)
        last = made[-1]
        last.supervisions = [
            SupervisionSegment("a", last.recording_id, 0.0, 0.5, text="one", language="en"),
            SupervisionSegment("b", last.recording_id, 0.6, 0.4, text="two", language="en"),
        ]
        folder.mkdir(parents=True)
        CutSet.from_cuts(made).to_shar(folder, fields={"recording": "flac"}, shard_size=2)
        return made

    def test_rows_and_audio(self, tmp_path: Path) -> None:
        made = self.write(tmp_path / "shar")
        rows = rows_of(tmp_path / "shar")
        assert [r.id for r in rows] == ["dir/c0", "dir/c1", "dir/c2", "dir/c3", "a", "b"]
        assert [(r.language, r.speaker, r.start) for r in rows[3:]] == [
            ("en", "s3", None), ("en", None, 0.0), ("en", None, 0.6),
        ]  # fmt: skip
        for row, cut in zip(rows, made[:4], strict=False):
            np.testing.assert_allclose(audio_of(tmp_path / "shar", row), cut.load_audio()[0], atol=1e-4)
        whole = made[4].load_audio()[0]
        np.testing.assert_allclose(audio_of(tmp_path / "shar", rows[5]), whole[9600:16000], atol=1e-4)
        assert [path for pair in shar_shards(tmp_path / "shar") for path in pair] == describing_files(
            tmp_path / "shar"
        )
        assert len(shar_shards(tmp_path / "shar")) == 3 and shar_shards(tmp_path) == shar_shards(
            tmp_path / "shar"
        )

    def test_folders_tell_language_and_split(self, tmp_path: Path) -> None:
        self.write(tmp_path / "c/hi/train", 2, language=None)
        rows = rows_of(tmp_path / "c")
        assert [(r.id, r.language, r.split, r.tar) for r in rows[:1]] == [
            ("dir/c0", "hi", "train", "hi/train/recording.000000.tar")
        ]

    def test_missing_audio_is_dropped_or_a_clear_error(self, tmp_path: Path) -> None:
        self.write(tmp_path / "shar")
        tar = tmp_path / "shar/recording.000001.tar"
        tar.write_bytes(tar.read_bytes()[:9000])
        rows, dropped = read_corpus(tmp_path / "shar")
        assert len(rows) + len(dropped) == 6 and dropped[0].reason == "missing_audio"
        assert "has no member 'dir/c" in dropped[0].detail and "is truncated" in dropped[0].detail
        tar.unlink()
        with pytest.raises(MayaError, match=r"cuts\.000001.* has no recording\.000001\.tar beside it"):
            read_corpus(tmp_path / "shar")

    def test_bad_cuts_are_named(self, tmp_path: Path) -> None:
        self.write(tmp_path / "shar", 1)
        (tmp_path / "shar/cuts.000000.jsonl.gz").unlink()
        (tmp_path / "shar/cuts.000000.jsonl").write_text('{"id": 3}\n')
        with pytest.raises(MayaError, match=r"cuts\.000000\.jsonl:1: the field 'id' must be text"):
            read_corpus(tmp_path / "shar")


class TestNemoTarred:
    def write(self, folder: Path, *, sharded: bool = False, per_shard: int = 2) -> list[dict[str, Any]]:
        lines = []
        for shard in range(3):
            members = {
                f"{shard}_{i}.wav": encoded_tone(1.0, "wav", 200 + 10 * shard + i) for i in range(per_shard)
            }
            write_tar(folder / f"audio_{shard}.tar", members)
            lines += [
                {"audio_filepath": name, "text": "one two", "duration": 1.0, "lang": "en", "shard_id": shard}
                for name in members
            ]
        if sharded:
            for shard in range(3):
                path = folder / f"sharded_manifests/manifest_{shard}.json"
                write_lines(path, *(line for line in lines if line["shard_id"] == shard))
        else:
            self.rewrite(folder, lines)
        return lines

    def rewrite(self, folder: Path, lines: list[dict[str, Any]]) -> None:
        write_lines(folder / "tarred_audio_manifest.json", *lines)

    @pytest.mark.parametrize("sharded", [False, True])
    def test_rows_and_audio(self, tmp_path: Path, sharded: bool) -> None:
        lines = self.write(tmp_path, sharded=sharded)
        rows = rows_of(tmp_path)
        assert [(r.id, r.audio, Path(str(r.tar)).name) for r in rows] == [
            (Path(line["audio_filepath"]).stem, line["audio_filepath"], f"audio_{line['shard_id']}.tar")
            for line in lines
        ]
        np.testing.assert_allclose(audio_of(tmp_path, rows[3]), tone(1.0, pitch=211), atol=1e-4)
        manifests, tars = nemo_tarred(tmp_path)
        assert describing_files(tmp_path) == [*manifests, *tars] and len(tars) == 3

    def test_pieces_of_one_recording(self, tmp_path: Path) -> None:
        """NeMo writes a recording once and numbers the utterances in it."""
        lines = self.write(tmp_path)
        lines[:1] = [
            lines[0] | {"audio_filepath": f"0_0-sub{i}.wav", "offset": 0.4 * i, "duration": 0.4}
            for i in (1, 2)
        ]
        self.rewrite(tmp_path, lines)
        rows = rows_of(tmp_path)
        assert [(r.audio, r.start) for r in rows[:2]] == [("0_0.wav", 0.4), ("0_0.wav", 0.8)]
        with pytest.raises(AssertionError, match="duration_mismatch"):
            audio_of(
                tmp_path,
                rows[1].__class__(**{f: getattr(rows[1], f) for f in rows[1].__slots__} | {"start": 2.0}),
            )
        np.testing.assert_allclose(audio_of(tmp_path, rows[0]), tone(1.0, pitch=200)[6400:12800], atol=1e-4)

    def test_other_names_by_patterns(self, tmp_path: Path) -> None:
        self.write(tmp_path / "d", sharded=True)
        for shard in range(3):
            (tmp_path / f"d/audio_{shard}.tar").rename(tmp_path / f"x-{shard}.tar")
            path = tmp_path / f"d/sharded_manifests/manifest_{shard}.json"
            path.write_text(path.read_text().replace(f', "shard_id": {shard}', ""))
        corpus = Path(
            f"nemo:{tmp_path}/d/sharded_manifests/manifest__OP_0..2_CL_.json:{tmp_path}/x-{{0..2}}.tar"
        )
        assert is_named(corpus) and not is_named(tmp_path)
        rows = rows_of(corpus)
        assert len(rows) == 6 and [Path(str(r.tar)).name for r in rows[::2]] == [
            "x-0.tar",
            "x-1.tar",
            "x-2.tar",
        ]
        np.testing.assert_allclose(audio_of(corpus, rows[5]), tone(1.0, pitch=221), atol=1e-4)
        (tmp_path / "x-1.tar").unlink()
        with pytest.raises(MayaError, match=r"there is no file .*x-1\.tar, which the corpus nemo:.* names"):
            read_corpus(corpus)

    def test_missing_audio_is_dropped_or_a_clear_error(self, tmp_path: Path) -> None:
        lines = self.write(tmp_path)
        write_tar(tmp_path / "audio_1.tar", {"1_0.wav": encoded_tone(1.0, "wav")})
        rows, dropped = read_corpus(tmp_path)
        assert len(rows) == 5 and [(d.id, d.reason) for d in dropped] == [("1_1", "missing_audio")]
        assert "audio_1.tar has no member '1_1.wav'" in dropped[0].detail
        (tmp_path / "audio_2.tar").unlink()
        with pytest.raises(
            MayaError, match=r"manifest\.json:5: it lies in shard 2, and there is no tar of that"
        ):
            read_corpus(tmp_path)
        self.rewrite(tmp_path, [lines[0] | {"shard_id": "0"}])
        with pytest.raises(MayaError, match="the field 'shard_id' must be the number of the tar"):
            read_corpus(tmp_path)


class TestHuggingFace:
    """The files are written with pyarrow in the layout of `datasets` 4."""

    AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    FEATURES = {
        "audio": {"sampling_rate": 16000, "_type": "Audio"},
        "transcription": {"dtype": "string", "_type": "Value"},
        "language": {"names": ["hi", "en"], "_type": "ClassLabel"},
        "speaker_id": {"dtype": "int64", "_type": "Value"},
    }

    def table(self, count: int, first: int = 0, inside: bool = True) -> pa.Table:
        audio = [
            {
                "bytes": encoded_tone(0.5 + 0.1 * i, pitch=300 + first + i) if inside else None,
                "path": f"{i}.flac",
            }
            for i in range(count)
        ]
        columns = {
            "audio": pa.array(audio, self.AUDIO),
            "transcription": [f"one {'two ' * i}".strip() for i in range(count)],
            "language": pa.array([1] * count, pa.int64()),
            "speaker_id": pa.array(range(count), pa.int64()),
        }
        metadata = {"huggingface": json.dumps({"info": {"features": self.FEATURES}})}
        return pa.table(columns).replace_schema_metadata(metadata)

    def save(self, folder: Path, tables: list[pa.Table]) -> None:
        """Write the tables in the layout of save_to_disk."""
        folder.mkdir(parents=True)
        names = [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
        for name, table in zip(names, tables, strict=True):
            with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
        (folder / "dataset_info.json").write_text("{}")

    def check(self, corpus: Path, made: Path, rows: list[Row], stems: list[str]) -> None:
        assert [r.id for r in rows] == stems
        assert [(r.language, r.speaker) for r in rows[:3]] == [("en", "0"), ("en", "1"), ("en", "2")]
        assert [r.text for r in rows[:3]] == ["one", "one two", "one two two"]
        np.testing.assert_allclose(audio_of(corpus, rows[2]), tone(0.7, pitch=302), atol=1e-4)
        assert all(str(r.tar).startswith(str(made)) for r in rows)

    def test_saved_to_disk(self, tmp_path: Path) -> None:
        corpus, made = tmp_path / "d", tmp_path / "made"
        self.save(corpus, [self.table(3), self.table(2, first=50)])
        rows = rows_of(corpus, made=made)
        stems = [
            f"data-0000{f}-of-00002-00000{i}" for f, count in ((0, 3), (1, 2)) for i in range(1, count + 1)
        ]
        self.check(corpus, made, rows, stems)
        np.testing.assert_allclose(audio_of(corpus, rows[4]), tone(0.6, pitch=351), atol=1e-4)
        tars = {path: path.stat() for path in made.iterdir()}
        assert rows_of(corpus, made=made) == rows and {p: p.stat() for p in made.iterdir()} == tars
        first = next(iter(tars))
        data = first.read_bytes()
        first.unlink()
        rows_of(corpus, made=made)
        assert first.read_bytes() == data and first.stat().st_mtime == tars[first].st_mtime
        assert len(describing_files(corpus)) == 2 and data_set_files(corpus) == describing_files(corpus)

    def test_splits_of_a_saved_dictionary(self, tmp_path: Path) -> None:
        for split in ("train", "validation"):
            self.save(tmp_path / "d" / split, [self.table(3)])
        (tmp_path / "d/dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
        rows = rows_of(tmp_path / "d", made=tmp_path / "made")
        assert [r.split for r in rows] == ["train"] * 3 + ["dev"] * 3
        assert rows[3].id == "validation/data-00000-of-00001-000001"

    def test_parquet_of_the_hub(self, tmp_path: Path) -> None:
        (tmp_path / "d/data").mkdir(parents=True)
        pq.write_table(self.table(3), tmp_path / "d/data/train-00000-of-00001.parquet", row_group_size=2)
        pq.write_table(self.table(3, first=50), tmp_path / "d/data/test-00000-of-00001.parquet")
        pq.write_table(pa.table({"no": ["audio"]}), tmp_path / "d/other.parquet")
        rows = rows_of(tmp_path / "d", made=tmp_path / "made")
        stems = [f"data/{s}-00000-of-00001-00000{i}" for s in ("test", "train") for i in (1, 2, 3)]
        self.check(tmp_path / "d", tmp_path / "made", rows[3:], stems[3:])
        assert [r.split for r in rows] == ["test"] * 3 + ["train"] * 3

    def test_audio_beside_the_table(self, tmp_path: Path) -> None:
        self.save(tmp_path / "d", [self.table(3, inside=False)])
        for i in range(3):
            write_tone(tmp_path / f"d/{i}.flac", 0.5 + 0.1 * i, pitch=300 + i)
        rows = rows_of(tmp_path / "d")
        assert [(r.audio, r.tar) for r in rows] == [(f"{i}.flac", None) for i in range(3)]
        np.testing.assert_allclose(audio_of(tmp_path / "d", rows[2]), tone(0.7, pitch=302), atol=1e-4)

    def test_rows_without_audio_are_dropped(self, tmp_path: Path) -> None:
        table = self.table(3)
        audio = pa.array([None, *table.column("audio").to_pylist()[1:]], self.AUDIO)
        self.save(tmp_path / "d", [table.set_column(0, "audio", audio)])
        rows, dropped = read_corpus(tmp_path / "d", made=tmp_path / "made")
        assert [r.id[-1] for r in rows] == ["2", "3"]
        assert isinstance(dropped[0], Problem) and dropped[0].reason == "missing_audio"
        assert "row 1 of" in dropped[0].detail

    def test_bad_files_are_clear_errors(self, tmp_path: Path) -> None:
        self.save(tmp_path / "d", [self.table(3)])
        with pytest.raises(MayaError, match=r"the audio lies inside .*arrow, and has to be written to a tar"):
            read_corpus(tmp_path / "d")
        path = tmp_path / "d/data-00000-of-00001.arrow"
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(
            MayaError, match=r"\.arrow cannot be read: it is truncated, damaged or of another"
        ):
            read_corpus(tmp_path / "d", made=tmp_path / "made")
        assert list((tmp_path / "made").glob("*")) == []
        self.save(tmp_path / "e", [self.table(3).drop_columns(["transcription"])])
        with pytest.raises(MayaError, match="no column holds the text; name it one of text, transcription"):
            read_corpus(tmp_path / "e")
        self.save(tmp_path / "f", [self.table(3).drop_columns(["audio"])])
        with pytest.raises(MayaError, match="has no column with audio"):
            read_corpus(tmp_path / "f")
        (tmp_path / "d/state.json").write_text("{}")
        with pytest.raises(MayaError, match=r"state\.json names no files; save the data set again"):
            read_corpus(tmp_path / "d")

    def test_preparing(self, tmp_path: Path) -> None:
        self.save(tmp_path / "d", [self.table(20)])
        report = prepare_corpus(tmp_path / "d", tmp_path / "out", languages=["en"], cfg=PrepareConfig())
        assert report.rows == 20 and sorted(p.name for p in tmp_path.iterdir()) == [
            "d", "out", "out.audio", "out.probed",
        ]  # fmt: skip
        prepared = [cut for part in PARTS for cut in cuts(part_path(tmp_path / "out", part))]
        assert len(prepared) == 20 and all(len(load_cut_audio(cut)) == cut.num_samples for cut in prepared)


class TestRecipes:
    @pytest.fixture
    def recipe(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """A recipe that returns manifests by language and part, as lhotse's recipes do."""

        def prepare_tones(corpus_dir: Path, output_dir: Path | None = None) -> dict[str, Any]:
            assert output_dir is None and (corpus_dir / "a.wav").is_file(), "no a.wav"
            manifests: dict[str, Any] = {}
            for part in ("train-clean", "dev"):
                recording = Recording.from_file(corpus_dir / "a.wav", f"{part}-a")
                supervision = SupervisionSegment(
                    f"{part}-1", recording.id, 0.25, 0.5, text="one", language="English"
                )
                manifests[part] = {
                    "recordings": RecordingSet.from_recordings([recording]),
                    "supervisions": SupervisionSet.from_segments([supervision]),
                }
            return {"en": manifests}

        monkeypatch.setattr(lhotse.recipes, "prepare_tones", prepare_tones, raising=False)
        write_tone(tmp_path / "d/a.wav", 1.0)
        return Path(f"lhotse:tones:{tmp_path / 'd'}")

    def test_rows(self, recipe: Path, tmp_path: Path) -> None:
        rows = rows_of(recipe)
        assert [(r.id, r.split, r.language, r.start, r.duration) for r in rows] == [
            ("train-clean-1", "train", "en", 0.25, 0.5),
            ("dev-1", "dev", "en", 0.25, 0.5),
        ]
        assert len(audio_of(recipe, rows[0])) == 8000
        assert describing_files(recipe) == [tmp_path / "d/a.wav"]

    def test_bad_files_are_clear_errors(self, recipe: Path, tmp_path: Path) -> None:
        assert "librispeech" in recipe_names() and "yesno" in recipe_names()
        with pytest.raises(MayaError, match=r"lhotse has no recipe 'no_such'; it has .*librispeech.*yesno"):
            read_corpus(Path(f"lhotse:no_such:{tmp_path}"))
        with pytest.raises(MayaError, match="recipe tones cannot read .* no a.wav"):
            (tmp_path / "d/a.wav").unlink()
            read_corpus(recipe)
        with pytest.raises(MayaError, match=r"recipe yesno cannot read .*assert len\(wave_files\) == 60"):
            read_corpus(Path(f"lhotse:yesno:{tmp_path}"))
        with pytest.raises(MayaError, match="there is no corpus folder"):
            read_corpus(Path(f"lhotse:yesno:{tmp_path}/none"))
        with pytest.raises(MayaError, match="must read lhotse:NAME:DIR"):
            read_corpus(Path("lhotse:yesno"))

    def test_a_real_recipe(self, tmp_path: Path) -> None:
        """lhotse's recipe for LJSpeech reads metadata.csv and wavs/."""
        lines = []
        for i in range(3):
            write_tone(tmp_path / f"wavs/LJ001-000{i}.wav", 1.0 + 0.1 * i, 22050, pitch=200 + i)
            lines.append(f"LJ001-000{i}|Dr. {i}|Doctor {i}\n")
        (tmp_path / "metadata.csv").write_text("".join(lines))
        corpus = Path(f"lhotse:ljspeech:{tmp_path}")
        rows = rows_of(corpus)
        assert [(r.id, r.text, r.language) for r in rows[:1]] == [("LJ001-0000", "Dr. 0", "en")]
        assert abs(len(audio_of(corpus, rows[2])) - 1.2 * 16000) < 2


def test_names_of_languages() -> None:
    assert [language_code(name) for name in ("en-US", "Hindi", "tam", "pa_IN", "en")] == [
        "en", "hi", "ta", "pa", "en",
    ]  # fmt: skip
    assert language_code("French") == "fr"


def test_patterns_and_numbers() -> None:
    assert expanded("a__OP_08..11_CL_.tar") == ["a_08.tar", "a_09.tar", "a_10.tar", "a_11.tar"]
    assert expanded("{0..1}/x_OP_1..2_CL_") == ["0/x1", "0/x2", "1/x1", "1/x2"] and expanded("a") == ["a"]
    with pytest.raises(MayaError, match="goes from 3 to 1"):
        expanded("{3..1}")
    with pytest.raises(MayaError, match="goes from 0 to 99999999999"):
        expanded("{0..99999999999}")
    assert by_number([Path("v2/a_7.tar"), Path("b.tar")]) == {7: Path("v2/a_7.tar")}
    with pytest.raises(MayaError, match="are both number 7"):
        by_number([Path("a_7.tar"), Path("b_07.tar")])


def test_members_without_plain_audio_are_dropped(tmp_path: Path) -> None:
    """The tar of a Shar has features under the recording's name; each utterance is dropped."""
    TestShar().write(tmp_path / "shar", 2)
    tar = tmp_path / "shar/recording.000000.tar"
    names = [member.name for member in index_tar(tar)]
    write_tar(tar, {name: b"no audio at all" for name in names})
    rows, _ = read_corpus(tmp_path / "shar")
    kept, dropped = probe(tmp_path / "shar", rows, ProbeConfig())
    assert not kept and {d.reason for d in dropped} == {"unreadable_audio"}
    assert load_audio(tmp_path / "w0.wav").ndim == 1
