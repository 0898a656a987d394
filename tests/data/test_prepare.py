import errno
import json
from pathlib import Path
from typing import Any

import lhotse
import pytest
import torch
from lhotse import CutSet

import maya.data.prepare.prepare as prepare_module
from maya.audio.load import load_audio, load_cut_audio
from maya.data.loading.loader import EvalLoader
from maya.data.measure.probe import ProbeConfig
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import PrepareReport, prepare_corpus
from maya.data.prepare.split import SplitConfig
from maya.data.table.table import cuts, part_path
from maya.errors import MayaError
from maya.text.languages import LANGUAGES
from maya.text.tokenizer import TokenizerConfig, train_tokenizer
from tests.data.making import write_corpus, write_manifest, write_tar, write_tone

FILES = [
    "audio_files.arrow",
    "dev.parquet",
    "dropped.jsonl",
    "flagged.jsonl",
    "report.html",
    "report.json",
    "splits.json",
    "summary.json",
    "test.parquet",
    "train.parquet",
]


def run(corpus: Path, out: Path, languages: tuple[str, ...] = (), **config: Any) -> PrepareReport:
    return prepare_corpus(corpus, out, languages=languages, cfg=PrepareConfig(**config))


def cuts_of(out: Path) -> dict[str, CutSet]:
    return {part: cuts(part_path(out, part)) for part in ("train", "dev", "test")}


def test_prepare_a_corpus(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in write_corpus(tmp_path / "c")}
    report = run(tmp_path / "c", tmp_path / "out", ("en", "hi", "ta"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "out", "out.probed"]
    part_of = {}
    for part, part_cuts in cuts_of(tmp_path / "out").items():
        lhotse.validate(part_cuts.to_eager())
        for cut in part_cuts:
            part_of[cut.id] = part
            (supervision,) = cut.supervisions
            row = rows[cut.id]
            assert (supervision.text, supervision.language) == (row["text"], row["language"])
            assert (supervision.speaker, supervision.custom["raw_text"]) == (row["speaker"], row["text"])
            assert torch.equal(load_cut_audio(cut), load_audio(tmp_path / "c" / row["audio"]))
    assert part_of.keys() == rows.keys()
    assert report.rows == 40 and not report.dropped
    assert report.languages["en"]["utterances"] == 20 and report.languages["en"]["speakers"] == 5
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["languages"]["hi"]["hours"] == pytest.approx(report.languages["hi"]["hours"])
    splits = json.loads((tmp_path / "out/splits.json").read_text())
    assert splits == report.splits and splits["hi"]["method"] == "speaker"
    assert report.notes == ["no utterances in ta"]
    lines = report.table().splitlines()
    assert lines[0].split()[:3] == ["language", "utts", "hours"]
    assert lines[1].split()[:2] == ["en", "20"] and lines[3].split()[:2] == ["all", "40"]


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c")
    for out in ("one", "two", "two"):  # the third replaces the second
        run(tmp_path / "c", tmp_path / out)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_other_files_of_the_output_folder_are_left_alone(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    (tmp_path / "out/cuts_train.jsonl.gz").write_text("of an earlier version, which wrote it")
    run(tmp_path / "c", tmp_path / "out")
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*FILES, "notes.txt"])


def test_dropped_utterances_are_listed(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    (tmp_path / "c" / rows[3]["audio"]).unlink()
    rows[7]["text"] = "…"
    write_manifest(tmp_path / "c", rows)
    report = run(tmp_path / "c", tmp_path / "out")
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert [(d["id"], d["language"], d["reason"]) for d in dropped] == [
        (rows[3]["id"], "en", "missing_audio"),
        (rows[7]["id"], "en", "empty_transcript"),
    ]
    assert dropped[0]["where"].endswith("manifest.jsonl:4") and "there is no file" in dropped[0]["detail"]
    assert report.dropped == {"empty_transcript": 1, "missing_audio": 1}
    assert "dropped 2 of 40 (dropped.jsonl): 1 empty_transcript, 1 missing_audio" in report.table()
    assert sum(len(part_cuts) for part_cuts in cuts_of(tmp_path / "out").values()) == 38


def test_a_language_that_is_wholly_unusable_is_refused(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    for row in rows:
        if row["language"] == "hi":
            (tmp_path / "c" / row["audio"]).unlink()
    message = "all 20 utterances of 'hi' are unusable, 20 missing_audio; the first is 'hi-000'"
    with pytest.raises(MayaError, match=message):
        run(tmp_path / "c", tmp_path / "out", max_dropped_fraction=1.0)
    assert not (tmp_path / "out").exists()


def test_too_many_unusable_utterances_are_refused(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    for row in rows[:5]:
        (tmp_path / "c" / row["audio"]).unlink()
    with pytest.raises(
        MayaError, match=r"5 of 40 utterances are unusable, more than max_dropped_fraction=0\.1"
    ):
        run(tmp_path / "c", tmp_path / "out", max_dropped_fraction=0.1)
    run(tmp_path / "c", tmp_path / "out", max_dropped_fraction=0.13)


def test_languages_are_selected_and_others_are_reported(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c")
    report = run(tmp_path / "c", tmp_path / "out", ("hi",))
    assert list(report.languages) == ["hi"] and report.not_selected == {"en": 20} and report.rows == 20
    (note,) = report.notes
    assert note.startswith("left out because their language was not asked for: 20 in en (languages=en,hi")
    with pytest.raises(MayaError, match="has no utterance in ta, only in en, hi; set languages=en,hi"):
        run(tmp_path / "c", tmp_path / "out", ("ta",))


def test_missing_speakers_are_reported_once(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    for row in rows:
        del row["speaker"]
    write_manifest(tmp_path / "c", rows)
    report = run(tmp_path / "c", tmp_path / "out")
    assert report.notes == ["40 utterances name no speaker: each counts as a speaker of its own"]
    assert report.languages["en"]["speakers"] == 20


def test_few_speakers_are_reported(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", speakers=1, per_speaker=12)
    report = run(tmp_path / "c", tmp_path / "out")
    assert report.notes == ["too few speakers to hold any out, so dev and test have known voices: en, hi"]


def test_only_held_out_data_is_refused(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "c")
    write_manifest(tmp_path / "c", [row | {"split": "test"} for row in rows])
    with pytest.raises(MayaError, match="no utterance is left to train on"):
        run(tmp_path / "c", tmp_path / "out", split=SplitConfig(dev=0.0))


def test_prepare_tars_with_other_rates_and_channels(tmp_path: Path) -> None:
    """Rows in a tar, at 22.05 kHz and in stereo, give the same audio as the files."""
    rows = write_corpus(tmp_path / "c")
    members = {}
    for i, row in enumerate(rows):
        path = write_tone(tmp_path / "files" / f"{row['id']}.flac", 0.5 + 0.01 * i, 22050, 1 + i % 2)
        members[f"audio/{path.name}"] = path.read_bytes()
        row |= {"tar": "all.tar", "audio": f"audio/{path.name}"}
    write_tar(tmp_path / "c/all.tar", members)
    write_manifest(tmp_path / "c", rows)
    run(tmp_path / "c", tmp_path / "out")
    for part_cuts in cuts_of(tmp_path / "out").values():
        for cut in part_cuts:
            assert cut.sampling_rate == 22050, "the table has only the stored rate"
            whole = load_audio(tmp_path / "files" / f"{cut.id}.flac", 8000)
            assert torch.equal(load_cut_audio(cut, 8000), whole)


def test_prepare_a_folder_of_audio_and_text_files(tmp_path: Path) -> None:
    """The folder has audio files with a text file beside each. The only requested language is used."""
    for i in range(12):
        write_tone(tmp_path / f"c/deep/{i}.mp3", 1.0, 44100, 2)
        (tmp_path / f"c/deep/{i}.txt").write_text(f"वाक्य {i}।\n", encoding="utf-8")
    report = run(tmp_path / "c", tmp_path / "out", ("hi",))
    assert report.languages["hi"]["utterances"] == 12
    cut = next(iter(cuts_of(tmp_path / "out")["train"]))
    assert cut.sampling_rate == 44100 and load_cut_audio(cut, 16000).ndim == 1


class TestFailuresLeaveNothingBehind:
    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        write_corpus(tmp_path / "c")
        return tmp_path / "c"

    def break_writing(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        """Make writing fail at the second file, after the first is written."""
        real = prepare_module.TableWriter

        def failing(path: Path) -> Any:
            if "dev" in path.name:
                path.write_bytes(b"half")
                raise error
            return real(path)

        monkeypatch.setattr(prepare_module, "TableWriter", failing)

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_full_disk(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        self.break_writing(monkeypatch, OSError(code, "No space left on device"))
        message = r"the disk of .*out is full: about \d+ MB are needed, \d+ MB are free"
        with pytest.raises(MayaError, match=message):
            run(corpus, tmp_path / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "out.probed"]

    def test_earlier_results_survive(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(corpus, tmp_path / "out")
        before = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
        self.break_writing(monkeypatch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(corpus, tmp_path / "out", split=SplitConfig(seed=5))
        assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "out", "out.probed"]

    def test_leftovers_of_a_killed_run_are_replaced(self, corpus: Path, tmp_path: Path) -> None:
        (tmp_path / ".out.partial").mkdir()
        (tmp_path / ".out.partial/train.parquet").write_bytes(b"half")
        run(corpus, tmp_path / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "out", "out.probed"]

    def test_a_partly_moved_result_has_no_summary(self, corpus: Path, tmp_path: Path) -> None:
        """Moving six files is not atomic: summary.json is removed first and moved last."""
        run(corpus, tmp_path / "out")
        (tmp_path / "out/splits.json").unlink()
        (tmp_path / "out/splits.json").mkdir()
        with pytest.raises(MayaError, match="cannot write"):
            run(corpus, tmp_path / "out")
        assert not (tmp_path / "out/summary.json").exists()

    def test_a_file_in_the_way_is_named(self, corpus: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(MayaError, match="cannot write .*file"):
            run(corpus, tmp_path / "file/out")


def test_real_corpus(shared: Path, tmp_path: Path) -> None:
    """Real recordings are prepared and loaded in batches: a few dozen utterances in two languages."""
    folder = shared / "corpora/indic12"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").open(encoding="utf-8")]
    selected = [r | {"audio": str(folder / r["audio"])} for r in rows if r["language"] in ("en", "bn")][::8]
    write_manifest(tmp_path / "c", selected)
    report = run(tmp_path / "c", tmp_path / "out", tuple(LANGUAGES))
    assert report.rows == len(selected) and not report.dropped
    assert report.splits["bn"]["method"] == report.splits["en"]["method"] == "speaker"
    prepared = cuts_of(tmp_path / "out")
    texts: dict[str, list[str]] = {}
    for cut in prepared["train"]:
        texts.setdefault(cut.supervisions[0].language, []).append(cut.supervisions[0].text)
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=150))
    claimed = {r["id"]: r["duration"] for r in selected}
    for batch in EvalLoader(
        prepared["train"], tokenizer, tuple(LANGUAGES), sample_rate=16000, max_seconds=60
    ):
        for row, n, name in zip(batch.audio, batch.audio_lens, batch.ids, strict=True):
            assert int(n) / 16000 == pytest.approx(claimed[name], abs=0.01)
            assert 0.001 < float(row[:n].abs().max()) < 2
        assert {LANGUAGES[list(LANGUAGES)[i]].code for i in batch.langs} <= {"en", "bn"}


def test_prepare_without_decoding(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c")
    report = run(tmp_path / "c", tmp_path / "out", probe=ProbeConfig(decode=False))
    assert report.languages["en"]["utterances"] == 20
