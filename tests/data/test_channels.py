"""A corpus can name one channel of a recording: readers, tables and audio use that channel only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.shar import SharWriter

from maya.audio.load import load_cut_audio
from maya.data.corpus.folder import describing_files, read_corpus
from maya.data.corpus.manifest import Row
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.prepare.config import PrepareConfig
from maya.data.prepare.data_checks import check_data
from maya.data.prepare.prepare import prepare_corpus
from maya.data.prepare.text_checks import same_audio
from maya.data.table.cuts import audio_cut, entry_cut
from maya.data.table.table import Table, part_path, write_table
from maya.errors import MayaError
from tests.data.making import write_kaldi, write_lines, write_noise

CHANNELS = 3


def assert_audio(folder: Path, rows: list[Row], samples: np.ndarray[Any, Any]) -> None:
    """Check that each row's audio is its channel, or the mean of all channels if it names none."""
    kept, dropped = probe(folder, rows, ProbeConfig())
    assert not dropped and len(kept) == len(rows)
    for entry in kept:
        begin = round((entry.start or 0.0) * 16000)
        segment = samples[begin : begin + round(entry.duration * 16000)]
        channel = entry.channel
        expected = segment.mean(axis=1) if channel is None else segment[:, channel]
        np.testing.assert_allclose(entry.load_audio().numpy(), expected, atol=1e-6)


def test_channels_of_kaldi_segments(tmp_path: Path) -> None:
    samples = write_noise(tmp_path / "r.wav", 4.0, channels=CHANNELS)
    write_kaldi(
        tmp_path,
        wav_scp="r r.wav\r\n",
        segments="a r 0.5 2.0 0\nb r 1.0 2.5 1\nc r 1.0 -1 2\nd r 0 1\ne r 0 2 -1\r\n",
        text="a one\r\nb two\r\nc three\r\nd four\r\ne five\r\n",
        utt2spk="a s1\r\nb s2\n",
    )
    rows, _ = read_corpus(tmp_path, "en")
    assert [(r.id, r.channel, r.text, r.speaker) for r in rows] == [
        ("a", 0, "one", "s1"),
        ("b", 1, "two", "s2"),
        ("c", 2, "three", None),
        ("d", None, "four", None),
        ("e", None, "five", None),
    ]
    assert_audio(tmp_path, rows, samples)


@pytest.mark.parametrize("channel", ["x", "1.5", "-2", "A", "0 1"])
def test_bad_kaldi_channels_are_named(tmp_path: Path, channel: str) -> None:
    write_kaldi(tmp_path, wav_scp="r r.wav\n", segments=f"a r 0 1 {channel}\n", text="a one\n")
    with pytest.raises(MayaError, match=r"segments:1: it must read .* CHANNEL, counted from 0"):
        read_corpus(tmp_path, "en")


@pytest.mark.parametrize("names", [("A", "B"), ("1", "2"), ("a", "b")])
def test_channels_of_kaldi_recordings_that_share_a_file(tmp_path: Path, names: tuple[str, str]) -> None:
    samples = write_noise(tmp_path / "r.wav", 4.0, channels=2)
    write_noise(tmp_path / "own.wav", 4.0, channels=1)
    write_kaldi(
        tmp_path,
        wav_scp="r-A r.wav\nr-B r.wav\nown own.wav\n",
        text="r-A one\nr-B two\nown three\n",
        reco2file_and_channel=f"r-A r {names[0]}\nr-B r {names[1]}\nown x B\n",
    )
    rows, _ = read_corpus(tmp_path, "en")
    assert [(r.id, r.channel) for r in rows] == [("r-A", 0), ("r-B", 1), ("own", None)]
    assert_audio(tmp_path, rows[:2], samples)
    assert tmp_path / "reco2file_and_channel" in describing_files(tmp_path)
    write_kaldi(tmp_path, reco2file_and_channel="r-A r left\n")
    with pytest.raises(MayaError, match=r"reco2file_and_channel:1: it must read RECORDING FILE CHANNEL"):
        read_corpus(tmp_path, "en")


@pytest.mark.parametrize("name", ["channel", "channel_selector"])
@pytest.mark.parametrize(
    ("value", "channel"),
    [(0, 0), (2, 2), ([1], 1), ("1", 1), ("average", None), ("Average", None), (None, None), ("", None)],
)
def test_channels_of_nemo(tmp_path: Path, name: str, value: Any, channel: int | None) -> None:
    samples = write_noise(tmp_path / "r.wav", 4.0, channels=CHANNELS)
    line = {"audio_filepath": "r.wav", "text": "one", name: value}
    write_lines(tmp_path / "manifest.json", line, line | {"offset": 1.0, "duration": 1.5})
    rows, _ = read_corpus(tmp_path, "en")
    assert [row.channel for row in rows] == [channel] * 2
    assert_audio(tmp_path, rows, samples)


def test_nemo_rows_of_one_file_get_different_ids(tmp_path: Path) -> None:
    line = {"audio_filepath": "r.wav", "text": "one"}
    write_lines(tmp_path / "manifest.json", line | {"channel": 0}, line | {"channel": 1})
    assert [row.id for row in read_corpus(tmp_path, "en")[0]] == ["r-channel0", "r-channel1"]


@pytest.mark.parametrize("value", [-1, 1.5, True, [0, 1], [], "left", {"a": 1}])
def test_bad_nemo_channels_are_named(tmp_path: Path, value: Any) -> None:
    write_lines(tmp_path / "manifest.json", {"audio_filepath": "r.wav", "text": "one", "channel": value})
    with pytest.raises(MayaError, match=r"manifest\.json:1: (the channel must be|it names several channels)"):
        read_corpus(tmp_path, "en")


def multi_cut(folder: Path, *channels: Any) -> MultiCut:
    """A cut of all channels from 0.5 s on, with one supervision for each item of `channels`."""
    recording = Recording.from_file(folder / "r.wav", "r")
    supervisions = [
        SupervisionSegment(f"u{i}", "r", 0.25, 2.0, channel=c, text=f"text {i}", language="en", speaker="s")
        for i, c in enumerate(channels)
    ]
    return MultiCut("c", 0.5, 3.0, list(range(CHANNELS)), supervisions=supervisions, recording=recording)


def test_channels_of_lhotse_multi_cuts(tmp_path: Path) -> None:
    samples = write_noise(tmp_path / "r.wav", 4.0, channels=CHANNELS)
    CutSet.from_cuts([multi_cut(tmp_path, 0, [1], 2, [0, 1, 2])]).to_file(tmp_path / "cuts.jsonl.gz")
    rows, _ = read_corpus(tmp_path)
    assert [(row.id, row.channel, row.start) for row in rows] == [
        ("u0", 0, 0.75),
        ("u1", 1, 0.75),
        ("u2", 2, 0.75),
        ("u3", None, 0.75),
    ]
    assert_audio(tmp_path, rows, samples)
    trimmed = multi_cut(tmp_path, 0, 1, 2).trim_to_supervisions(keep_overlapping=False)
    lhotse_audio = [cut.load_audio()[0] for cut in trimmed]
    kept, _ = probe(tmp_path, rows[:3], ProbeConfig())
    for entry, expected in zip(kept, lhotse_audio, strict=True):
        np.testing.assert_allclose(entry.load_audio().numpy(), expected, atol=1e-6)


def test_channels_of_lhotse_mono_cuts_and_supervisions(tmp_path: Path) -> None:
    samples = write_noise(tmp_path / "cuts/r.wav", 4.0, channels=CHANNELS)
    recording = Recording.from_file(tmp_path / "cuts/r.wav", "r")
    supervision = SupervisionSegment("u", "r", 0.0, 1.0, channel=2, text="one", language="en")
    cut = MonoCut("c", 1.0, 2.0, 2, supervisions=[supervision], recording=recording)
    CutSet.from_cuts([cut]).to_file(tmp_path / "cuts/cuts.jsonl.gz")
    (tmp_path / "pair").mkdir()
    write_lines(tmp_path / "pair/recordings.jsonl", recording.to_dict())
    write_lines(
        tmp_path / "pair/supervisions.jsonl",
        supervision.to_dict(),
        supervision.to_dict() | {"id": "v", "channel": [0, 1, 2]},
    )
    for folder, channels in (("cuts", [2]), ("pair", [2, None])):
        rows, _ = read_corpus(tmp_path / folder)
        assert [row.channel for row in rows] == channels
        assert_audio(tmp_path / folder, rows, samples)


@pytest.mark.parametrize(
    ("channel", "message"), [(3, "names channel 3 of a"), ([0, 1], "names several channels")]
)
def test_bad_lhotse_channels_are_named(tmp_path: Path, channel: Any, message: str) -> None:
    write_noise(tmp_path / "r.wav", 4.0, channels=CHANNELS)
    write_lines(tmp_path / "recordings.jsonl", Recording.from_file(tmp_path / "r.wav", "r").to_dict())
    supervision = SupervisionSegment("u", "r", 0.0, 1.0, channel=channel, text="one", language="en")
    write_lines(tmp_path / "supervisions.jsonl", supervision.to_dict())
    with pytest.raises(MayaError, match=r"supervisions\.jsonl:1: recording 'r': it " + message):
        read_corpus(tmp_path)


def test_channels_with_other_names_are_counted_from_zero(tmp_path: Path) -> None:
    samples = write_noise(tmp_path / "r.wav", 4.0, channels=2)
    recording = Recording.from_file(tmp_path / "r.wav", "r").to_dict()
    recording["sources"][0]["channels"] = [5, 7]
    recording["channel_ids"] = [5, 7]
    write_lines(tmp_path / "recordings.jsonl", recording)
    supervision = SupervisionSegment("u", "r", 0.0, 1.0, channel=7, text="one", language="en")
    write_lines(tmp_path / "supervisions.jsonl", supervision.to_dict())
    rows, _ = read_corpus(tmp_path)
    assert [row.channel for row in rows] == [1]
    assert_audio(tmp_path, rows, samples)


def test_channels_of_shar(tmp_path: Path) -> None:
    samples = write_noise(tmp_path / "r.wav", 4.0, channels=CHANNELS)
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}) as writer:
        writer.write(multi_cut(tmp_path, 1, [0, 1, 2]))
    rows, _ = read_corpus(tmp_path / "shar")
    assert [(row.id, row.channel) for row in rows] == [("u0", 1), ("u1", None)]
    kept, dropped = probe(tmp_path / "shar", rows, ProbeConfig())
    part = samples[round(0.75 * 16000) :][:32000]
    assert not dropped
    for entry, expected in zip(kept, (part[:, 1], part.mean(axis=1)), strict=True):
        np.testing.assert_allclose(entry.load_audio().numpy(), expected, atol=1e-3)


def test_an_utterance_with_a_missing_channel_is_dropped(tmp_path: Path) -> None:
    write_noise(tmp_path / "r.wav", 4.0, channels=2)
    rows = [
        Row(id=f"u{c}", language="en", text="one", audio="r.wav", where="x:1", channel=c) for c in (0, 1, 2)
    ]
    for decode in (True, False):
        kept, (dropped,) = probe(tmp_path, rows, ProbeConfig(decode=decode))
        assert [entry.id for entry in kept] == ["u0", "u1"]
        assert dropped.id == "u2" and "2 channels" in dropped.detail and "no channel 2" in dropped.detail


def test_each_channel_is_its_own_audio(tmp_path: Path) -> None:
    write_noise(tmp_path / "r.wav", 4.0, channels=2)
    write_noise(tmp_path / "mono.wav", 4.0, channels=1)
    rows = [
        Row(id=f"{name}{c}", language="en", text="one", audio=f"{name}.wav", where="x:1", channel=c)
        for name, c in (("r", 0), ("r", 1), ("r", None), ("mono", 0), ("mono", None))
    ]
    kept, _ = probe(tmp_path, rows, ProbeConfig())
    assert same_audio(kept) == {"mono0": "mono0", "monoNone": "mono0"}


def prepared(tmp_path: Path) -> np.ndarray[Any, Any]:
    """A corpus of two channels of four recordings, prepared in tmp_path/data."""
    corpus = tmp_path / "corpus"
    samples = write_noise(corpus / "r0.wav", 2.0, channels=2)
    for i in range(1, 4):
        soundfile.write(corpus / f"r{i}.wav", np.roll(samples, i * 100, axis=0), 16000, subtype="FLOAT")
    names = [f"u{i}{c}" for i in range(4) for c in (0, 1)]
    write_kaldi(
        corpus,
        wav_scp="".join(f"r{i} r{i}.wav\n" for i in range(4)),
        segments="".join(f"u{i}{c} r{i} 0.5 1.5 {c}\n" for i in range(4) for c in (0, 1)),
        text="".join(f"{name} text {'abcdefgh'[n]}\n" for n, name in enumerate(names)),
    )
    report = prepare_corpus(corpus, tmp_path / "data", languages=["en"], cfg=PrepareConfig())
    assert report.rows == 8 and not report.dropped
    assert not {"overlap_in_other_part", "audio_in_training"} & report.flagged.keys()
    return samples


def test_channels_reach_the_table(tmp_path: Path) -> None:
    samples = prepared(tmp_path)
    data = tmp_path / "data"
    assert check_data(data) == []
    for part in ("train", "dev", "test"):
        table = Table.open(part_path(data, part))
        assert len(table)
        for i, entry in enumerate(table.entries()):
            assert entry == table.entry(i) and entry.channel == int(entry.id[2])
            assert table.audio(i).channel == entry.channel
            for audio in (load_cut_audio(entry_cut(entry)), table.audio(i).load_audio()):
                expected = np.roll(samples, int(entry.id[1]) * 100, axis=0)[8000:24000, entry.channel]
                np.testing.assert_allclose(audio.numpy(), expected, atol=1e-4)


def test_tables_without_a_channel_column_are_read(tmp_path: Path) -> None:
    """Earlier releases wrote such tables."""
    prepared(tmp_path)
    path = part_path(tmp_path / "data", "train")
    entries = list(Table.open(path).entries())
    old = pq.read_table(path).drop_columns(["channel"])
    pq.write_table(old, tmp_path / "old.parquet")
    table = Table.open(tmp_path / "old.parquet")
    assert list(table.entries()) == [entry._replace(channel=None) for entry in entries]
    assert table.entry(0).channel is None and set(table.numbers("channel").tolist()) == {-1}
    assert list(table.read("id", "channel")) == [(entry.id, None) for entry in entries]
    assert len(audio_cut(table.audio(0)).channel) == 2
    write_table(tmp_path / "new.parquet", entries)
    assert list(Table.open(tmp_path / "new.parquet").entries()) == entries


def test_the_same_audio_in_two_parts_is_reported_per_channel(tmp_path: Path) -> None:
    prepared(tmp_path)
    path = part_path(tmp_path / "data", "dev")
    (entry,) = list(Table.open(part_path(tmp_path / "data", "train")).entries())[:1]
    write_table(path, [entry._replace(id="other", channel=1 - (entry.channel or 0))])
    other = [
        problem.id for problem in check_data(tmp_path / "data") if problem.reason == "audio_in_two_parts"
    ]
    write_table(path, [entry._replace(id="other")])
    same = [problem.id for problem in check_data(tmp_path / "data") if problem.reason == "audio_in_two_parts"]
    assert "other" in same and len(same) == len(other) + 1 or same == ["other"]


@pytest.mark.parametrize("channel", [2, -1, 99])
def test_an_impossible_channel_in_a_table_is_refused(tmp_path: Path, channel: int) -> None:
    prepared(tmp_path)
    entry = next(Table.open(part_path(tmp_path / "data", "train")).entries())
    with pytest.raises(MayaError, match=r"has 2 channels, no channel .*prepare the data again"):
        entry._replace(channel=channel).check()


@pytest.mark.parametrize("value", ["1", 1.0, -1, True])
def test_bad_channels_in_a_manifest_are_named(tmp_path: Path, value: Any) -> None:
    row = {"id": "a", "language": "en", "text": "one", "audio": "a.wav"}
    write_lines(tmp_path / "manifest.jsonl", row | {"channel": value})
    with pytest.raises(MayaError, match=r"manifest\.jsonl:1: the field 'channel' must be a whole number"):
        read_corpus(tmp_path)
    write_lines(tmp_path / "manifest.jsonl", row | {"channel": 1})
    assert replace(read_corpus(tmp_path)[0][0], where="").channel == 1
