"""Corpora in other projects' forms: correct rows, correct audio, and a clear error for bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from maya.audio.load import load_cut_audio
from maya.data.corpus.folder import describing_files, read_corpus
from maya.data.corpus.manifest import PARTS
from maya.data.measure.entry import Entry
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.prepare import prepare_corpus
from maya.data.prepare.text_checks import same_audio
from maya.data.table.cuts import entry_cut
from maya.data.table.table import cuts, part_path
from maya.errors import MayaError
from tests.data.making import rows_of, write_kaldi, write_lines, write_noise, write_tone


def one_cut_audio(entry: Entry, folder: Path) -> np.ndarray[Any, Any]:
    """The samples of the entry's cut after it was saved and read again, as in training."""
    CutSet.from_cuts([entry_cut(entry)]).to_file(folder / "saved.jsonl.gz")
    (cut,) = CutSet.from_file(folder / "saved.jsonl.gz")
    assert cut.supervisions[0].duration == cut.duration and cut.supervisions[0].start == 0
    return load_cut_audio(cut, 16000).numpy()


def test_metadata_jsonl(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "metadata.jsonl",
        {"file_name": "a/b.wav", "transcription": "one", "speaker_id": 7, "language": "en"},
        "",
        {"file_name": "c.wav", "text": "एक", "split": "validation", "id": 3, "extra": [1]},
    )
    rows = rows_of(tmp_path, "hi")
    assert [(r.id, r.audio, r.text, r.speaker, r.language, r.split) for r in rows] == [
        ("a/b", "a/b.wav", "one", "7", "en", None),
        ("3", "c.wav", "एक", None, "hi", "dev"),
    ]
    assert rows[1].where.endswith("metadata.jsonl:3")


def test_metadata_jsonl_in_the_folders_of_its_splits(tmp_path: Path) -> None:
    for folder in ("test", "train"):
        write_lines(tmp_path / folder / "metadata.jsonl", {"file_name": "a.wav", "text": "one"})
    rows = rows_of(tmp_path, "en")
    assert [(r.id, r.audio, r.split) for r in rows] == [
        ("test/a", "test/a.wav", "test"),
        ("train/a", "train/a.wav", "train"),
    ]
    assert [p.parent.name for p in describing_files(tmp_path)] == ["test", "train"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":1: not JSON"),
        ({"text": "x"}, r":1: no field holds the path of the audio as text; name it one of file_name"),
        ({"file_name": {"bytes": ""}, "text": "x"}, r":1: no field holds the path"),
        ({"file_name": "../a.wav", "text": "x"}, r":1: the path '\.\./a\.wav' leaves the corpus folder"),
        ({"file_name": "a.wav", "text": 5}, r":1: the field 'text' must be text, not 5"),
        ({"file_name": "a.wav", "text": "x", "language": "xx"}, r":1: unknown language 'xx'"),
        ({"file_name": "a.wav", "text": "x", "split": "all"}, r":1: split 'all' is none of train"),
    ],
)
def test_bad_metadata_jsonl_is_named(tmp_path: Path, line: dict[str, Any] | str, message: str) -> None:
    write_lines(tmp_path / "metadata.jsonl", line)
    with pytest.raises(MayaError, match=r"metadata\.jsonl" + message):
        read_corpus(tmp_path, "en")


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.json", "my_list.json"])
def test_nemo(tmp_path: Path, name: str) -> None:
    write_lines(
        tmp_path / name,
        {"audio_filepath": "hi/a.wav", "duration": 1.5, "text": "एक", "speaker": 12},
        {"audio_filepath": "/far/b.wav", "duration": 2, "offset": 3.25, "text": "two", "lang": "en"},
        {"audio_filepath": "/far/b.wav", "offset": 60.0, "text": "three", "language": "en", "id": "x"},
    )
    write_lines(tmp_path / "other.json", {"labels": []})
    rows = rows_of(tmp_path)
    assert [(r.id, r.language, r.audio, r.start, r.duration, r.speaker) for r in rows] == [
        ("hi/a", "hi", "hi/a.wav", None, 1.5, "12"),
        ("/far/b-00003250-00005250", "en", "/far/b.wav", 3.25, 2, None),
        ("x", "en", "/far/b.wav", 60.0, None, None),
    ]
    assert describing_files(tmp_path) == [tmp_path / name]


def test_file_names_give_the_split_of_nemo_manifests(tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        line = {"audio_filepath": f"{part}.wav", "text": "one", "duration": 1}
        write_lines(tmp_path / f"{part}_manifest.json", line)
    assert {r.id: r.split for r in rows_of(tmp_path, "en")} == {
        "train": "train",
        "validation": "dev",
        "test": "test",
    }
    write_lines(tmp_path / "more.json", {"audio_filepath": "test.wav", "text": "one"})
    with pytest.raises(MayaError, match=r"json:1: the id 'test' occurs in .*more\.json:1 already"):
        read_corpus(tmp_path, "en")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", r":2: not a JSON object but list"),
        ({"text": "x"}, r":2: the field 'audio_filepath' must be the path"),
        ({"audio_filepath": ["a.wav", "b.wav"], "text": "x"}, r":2: the field 'audio_filepath' must be"),
        ({"audio_filepath": "b.wav", "duration": 1}, r":2: the field 'text' is missing"),
        ({"audio_filepath": "b.wav", "text": "x", "shard_id": 3}, r":2: it lies in a tar, which was not"),
        ({"audio_filepath": "b.wav", "text": "x", "offset": -1}, r":2: the field 'offset' must be seconds"),
        ({"audio_filepath": "b.wav", "text": "x", "offset": "1"}, r":2: the field 'offset' must be seconds"),
        ({"audio_filepath": "b.wav", "text": "x", "offset": 1, "duration": 0}, r":2: .*seconds above zero"),
        ({"audio_filepath": "x/../../b.wav", "text": "x"}, r":2: the path .* leaves the corpus folder"),
        ({"audio_filepath": "a.wav", "text": "x"}, r":2: the id 'a' occurs in line 1 already"),
    ],
)
def test_bad_nemo_is_named(tmp_path: Path, line: dict[str, Any] | str, message: str) -> None:
    write_lines(tmp_path / "manifest.json", {"audio_filepath": "a.wav", "text": "x"}, line)
    with pytest.raises(MayaError, match=r"manifest\.json" + message):
        read_corpus(tmp_path, "en")


def test_kaldi(tmp_path: Path) -> None:
    write_kaldi(
        tmp_path, wav_scp="a  hi/x 1.wav\nb /far/b.wav\nc c.wav\n", text="b two\na  एक दो \nd four\n",
        utt2spk="a s1\nb s2\n", utt2lang="b en\n",
    )  # fmt: skip
    rows, dropped = read_corpus(tmp_path)
    assert [(r.id, r.text, r.audio, r.speaker, r.language, r.start) for r in rows] == [
        ("b", "two", "/far/b.wav", "s2", "en", None),
        ("a", "एक दो", "hi/x 1.wav", "s1", "hi", None),
    ]
    assert [(d.id, d.reason) for d in dropped] == [("c", "no_transcript"), ("d", "missing_audio")]
    assert [p.name for p in describing_files(tmp_path)] == ["wav.scp", "text", "utt2spk", "utt2lang"]


def test_kaldi_segments(tmp_path: Path) -> None:
    write_kaldi(tmp_path, wav_scp="r r.wav\n", segments="u1 r 0.5 1.75\nu2 r 2 -1\n", text="u1 one\nu2 two\n")
    rows = rows_of(tmp_path, "en")
    assert [(r.id, r.audio, r.start, r.duration) for r in rows] == [
        ("u1", "r.wav", 0.5, 1.25),
        ("u2", "r.wav", 2.0, None),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"wav_scp": "a sph2pipe -f wav a.sph |\n"},
            r"wav\.scp:1: 'sph2pipe .*' is a command, and none is run",
        ),
        ({"wav_scp": "b b.wav\na x.ark:42\n"}, r"wav\.scp:2: 'x\.ark:42' lies in a Kaldi archive"),
        ({"wav_scp": "a\n"}, r"wav\.scp:1: nothing follows 'a'"),
        ({"wav_scp": "a a.wav\na b.wav\n"}, r"wav\.scp:2: 'a' occurs in line 1 already"),
        ({"wav_scp": "a ../a.wav\n"}, r"text:1: the path '\.\./a\.wav' leaves the corpus folder"),
        ({"utt2lang": "a xx\n"}, r"text:1: unknown language 'xx'"),
        ({"segments": "a r 0 1\n"}, r"segments:1: wav\.scp has no recording 'r'"),
        ({"segments": "a a 2 1\n"}, r"segments:1: it must read UTTERANCE RECORDING START END"),
        ({"segments": "a a 0 nan\n"}, r"segments:1: it must read"),
        ({"segments": "a a 0\n"}, r"segments:1: it must read"),
        ({"text": "b one\n"}, r"text describes no utterance"),
    ],
)
def test_bad_kaldi_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write_kaldi(tmp_path, **({"wav_scp": "a a.wav\n", "text": "a one\n"} | files))
    with pytest.raises(MayaError, match=message):
        read_corpus(tmp_path, "en")


def test_kaldi_without_text_or_language(tmp_path: Path) -> None:
    write_kaldi(tmp_path, wav_scp="a a.wav\n")
    with pytest.raises(MayaError, match="has a wav.scp and no file named text"):
        read_corpus(tmp_path)
    write_kaldi(tmp_path, text="a one\n")
    with pytest.raises(MayaError, match="text:1: its language is not given"):
        read_corpus(tmp_path)


def lhotse_parts(folder: Path) -> tuple[Recording, list[SupervisionSegment]]:
    """lhotse's manifests of one recording with two utterances."""
    recording = Recording.from_file(write_tone(folder / "r.wav", 3.0), "r")
    spans = [("u1", 0.0, 1.25, "one"), ("u2", 1.5, 1.0, "two")]
    return recording, [
        SupervisionSegment(i, "r", start, seconds, text=text, language="en", speaker="s")
        for i, start, seconds, text in spans
    ]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize("cuts", [False, True])
def test_lhotse(tmp_path: Path, ending: str, cuts: bool) -> None:
    recording, supervisions = lhotse_parts(tmp_path)
    RecordingSet.from_recordings([recording]).to_file(tmp_path / f"x_recordings_dev.{ending}")
    SupervisionSet.from_segments(supervisions).to_file(tmp_path / f"x_supervisions_dev.{ending}")
    if cuts:
        cut = MonoCut("c", 0.0, 3.0, 0, supervisions=supervisions, recording=recording)
        CutSet.from_cuts(cut.trim_to_supervisions()).to_file(tmp_path / f"x_cuts.{ending}")
    rows = rows_of(tmp_path)
    assert [(r.id, r.text, r.audio, r.speaker, r.language, r.start, r.duration) for r in rows] == [
        ("u1", "one", str(tmp_path / "r.wav"), "s", "en", 0.0, 1.25),
        ("u2", "two", str(tmp_path / "r.wav"), "s", "en", 1.5, 1.0),
    ]
    assert len(describing_files(tmp_path)) == (1 if cuts else 2)


def test_lhotse_of_whole_recordings_and_splits(tmp_path: Path) -> None:
    for part in ("train", "dev"):
        recording = Recording.from_file(write_tone(tmp_path / f"{part}.wav", 1.0), part)
        cut = recording.resample(8000).to_cut()
        cut.supervisions = [SupervisionSegment(part, part, 0, 1.0, text="one", language="en")]
        CutSet.from_cuts([cut]).to_file(tmp_path / f"cuts_{part}.jsonl.gz")
    rows = rows_of(tmp_path)
    assert [(r.id, r.split, r.start, r.duration) for r in rows] == [
        ("dev", "dev", None, 1.0),
        ("train", "train", None, 1.0),
    ]
    assert len(probe(tmp_path, rows, ProbeConfig())[0]) == 2


def bad_cut(**changes: Any) -> dict[str, Any]:
    source = {"type": "file", "channels": [0], "source": "r.wav"} | changes.pop("source", {})
    recording = {
        "id": "r",
        "sources": [source],
        "sampling_rate": 16000,
        "num_samples": 48000,
        "duration": 3.0,
    }
    supervision = {"id": "u", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, "text": "one"}
    cut = {"id": "c", "start": 0.0, "duration": 3.0, "channel": 0, "type": "MonoCut"}
    recording |= changes.pop("recording", {})
    supervision |= changes.pop("supervision", {})
    return cut | {"supervisions": [supervision], "recording": recording} | changes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":1: not JSON"),
        (bad_cut(type="MixedCut"), r":1: a cut of type 'MixedCut' is not a part of one recording"),
        (bad_cut() | {"recording": None}, r":1: the cut has no recording"),
        (bad_cut(supervisions={}), r":1: the cut has no list of supervisions"),
        (bad_cut(start="1"), r":1: the field 'start' must be seconds, not '1'"),
        (bad_cut(supervision={"start": -1e13}), r":1: the field 'start' must be seconds"),
        (bad_cut(supervision={"duration": 0}), r":1: the field 'duration' must be seconds above zero"),
        (bad_cut(supervision={"id": None}), r":1: the field 'id' is missing"),
        (bad_cut(supervision={"language": "xx"}), r":1: unknown language 'xx'"),
        (bad_cut(recording={"sources": []}), r":1: recording 'r' is not one file"),
        (bad_cut(recording={"transforms": [{"name": "Speed"}]}), r":1: recording 'r' is changed by 'Speed'"),
        (bad_cut(source={"type": "command"}), r":1: the audio of recording 'r' is of type 'command'; only"),
        (bad_cut(source={"source": "s3://b/r.wav"}), r":1: recording 'r' lies at 's3://b/r\.wav', which"),
        (bad_cut(source={"source": "../r.wav"}), r":1: the path '\.\./r\.wav' leaves"),
        (
            bad_cut(source={"channels": [1, 2]}),
            r":1: recording 'r': it names channel 0 of a recording that has \[1, 2\]",
        ),
    ],
)
def test_bad_lhotse_cuts_are_named(tmp_path: Path, line: dict[str, Any] | str, message: str) -> None:
    write_lines(tmp_path / "cuts.jsonl.gz", line)
    with pytest.raises(MayaError, match=r"cuts\.jsonl\.gz" + message):
        read_corpus(tmp_path, "en")


def test_bad_lhotse_files_are_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "supervisions.jsonl.gz", bad_cut()["supervisions"][0])
    with pytest.raises(MayaError, match=r"needs a file recordings\.jsonl\.gz beside it"):
        read_corpus(tmp_path, "en")
    write_lines(tmp_path / "recordings.jsonl.gz", {"id": "other"})
    with pytest.raises(
        MayaError, match=r"supervisions\.jsonl\.gz:1: recordings\.jsonl\.gz has no recording 'r'"
    ):
        read_corpus(tmp_path, "en")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(MayaError, match=r"supervisions\.jsonl\.gz is not a sound gzip file"):
        read_corpus(tmp_path, "en")
    path.write_bytes(b"plain text")
    with pytest.raises(MayaError, match=r"supervisions\.jsonl\.gz is not a sound gzip file"):
        read_corpus(tmp_path, "en")


@pytest.mark.parametrize("name", ["r.wav", "r.flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_segments_of_a_recording_are_read(tmp_path: Path, name: str, channels: int) -> None:
    samples = write_noise(tmp_path / name, 50.0, channels=channels)  # longer than the limit for an utterance
    write_kaldi(
        tmp_path, wav_scp=f"r {name}\n", text="u1 one\nu2 two\nu3 three\nu4 four\nu5 five\n",
        segments="u1 r 0.5 1.75\nu2 r 48.123 -1\nu3 r 49 50.3\nu4 r 49 51\nu5 r 1 45\n",
    )  # fmt: skip
    kept, dropped = probe(tmp_path, rows_of(tmp_path, "en"), ProbeConfig())
    assert [(d.id, d.reason) for d in dropped] == [("u4", "duration_mismatch"), ("u5", "too_long")]
    assert "from 49 s to 51 s, the audio lasts 50.00 s" in dropped[0].detail
    assert [round(entry.duration, 3) for entry in kept] == [1.25, 1.877, 1.0]
    for entry, (begin, end) in zip(kept, [(0.5, 1.75), (48.123, 50.0), (49.0, 50.0)], strict=True):
        expected = samples[round(begin * 16000) : round(end * 16000)].mean(axis=1)
        np.testing.assert_allclose(one_cut_audio(entry, tmp_path), expected, atol=1e-6)
    assert same_audio(kept) == {}


def test_segments_at_another_rate_with_and_without_decoding(tmp_path: Path) -> None:
    write_noise(tmp_path / "r.wav", 3.0, rate=44100)
    line = {"audio_filepath": "r.wav", "offset": 1.0, "duration": 1.5, "text": "one"}
    write_lines(
        tmp_path / "m.json",
        line,
        line | {"id": "again"},
        line | {"offset": 2.9, "duration": 0.1, "id": "end"},
    )
    for decode in (True, False):
        kept, dropped = probe(tmp_path, rows_of(tmp_path, "en"), ProbeConfig(decode=decode))
        assert not dropped and [len(one_cut_audio(entry, tmp_path)) for entry in kept] == [24000, 24000, 1600]
        assert set(same_audio(kept)) == {kept[0].id, "again"}, "equal segments of one file"


def test_a_long_recording_is_prepared(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    samples = write_noise(corpus / "r.flac", 60.0)[:, 0]
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    names = [f"u{i:02d}" for i in range(40)]
    texts = [f"{name} {words[i % 10]} {words[i // 10]}\n" for i, name in enumerate(names)]
    write_kaldi(
        corpus, wav_scp="r r.flac\n", text="".join(texts),
        segments="".join(f"{n} r {i * 1.5} {i * 1.5 + 1.3:.2f}\n" for i, n in enumerate(names)),
        utt2spk="".join(f"{n} s{i % 8}\n" for i, n in enumerate(names)),
    )  # fmt: skip
    report = prepare_corpus(corpus, tmp_path / "data", languages=["en"], cfg=PrepareConfig())
    assert report.rows == 40 and not report.dropped
    prepared = [cut for part in PARTS for cut in cuts(part_path(tmp_path / "data", part))]
    assert sorted(cut.id for cut in prepared) == names
    for cut in prepared[::7]:
        begin = round(int(cut.id[1:]) * 1.5 * 16000)
        np.testing.assert_allclose(load_cut_audio(cut).numpy(), samples[begin : begin + 20800], atol=1e-6)


@pytest.mark.parametrize("spelling", ["en", "EN", "en-US", "en_us", "eng", "English"])
def test_every_form_accepts_every_spelling_of_a_language(tmp_path: Path, spelling: str) -> None:
    cut = bad_cut(supervision={"language": spelling})
    forms: dict[str, list[tuple[str, dict[str, Any] | str]]] = {
        "own": [("manifest.jsonl", {"id": "a", "audio": "a.wav", "text": "x", "language": spelling})],
        "json": [("metadata.jsonl", {"file_name": "a.wav", "text": "x", "lang": spelling})],
        "csv": [("metadata.csv", f"file_name,text,locale\na.wav,x,{spelling}")],
        "nemo": [("train.json", {"audio_filepath": "a.wav", "text": "x", "lang": spelling})],
        "kaldi": [("wav.scp", "a a.wav"), ("text", "a x"), ("utt2lang", f"a {spelling}")],
        "lhotse": [("cuts.jsonl", cut)],
        "folder": [(f"{spelling}/a.txt", "x")],
    }
    for name, files in forms.items():
        for path, content in files:
            write_lines(tmp_path / name / path, content)
        if name == "folder":
            write_tone(tmp_path / name / spelling / "a.wav", 0.2)
        assert [row.language for row in rows_of(tmp_path / name)] == ["en"], name
