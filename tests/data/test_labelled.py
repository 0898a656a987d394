"""Corpora of emotion, sounds and singing, in the layouts of their downloads, with made-up audio."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from maya.data.corpus.folder import form_of, read_corpus
from maya.data.corpus.labelled import labelled_layout
from maya.data.corpus.manifest import Result
from maya.errors import MayaError
from tests.data.making import write_tone


def crema(top: Path) -> None:
    for name in ("1001_DFA_ANG_XX", "1002_IEO_HAP_HI", "1002_IEO_BAD_HI"):
        write_tone(top / "AudioWAV" / f"{name}.wav")


def ravdess(top: Path) -> None:
    for name in ("03-01-06-01-02-01-12", "03-02-01-01-01-02-11", "02-01-06-01-02-01-12"):
        write_tone(top / "Audio_Speech" / f"Actor_{name[-2:]}" / f"{name}.wav", rate=48000)


def vocal_sound(top: Path) -> None:
    for name in ("f0003_0_cough", "m0010_1_throatclearing"):
        write_tone(top / "audio_16k" / f"{name}.wav")


def vocal_set(top: Path) -> None:
    for name in ("female1/long_tones/vibrato/f1_long_vibrato_a", "male11/excerpts/spoken/m11_row_spoken"):
        write_tone(top / "FULL" / f"{name}.wav", rate=44100)


def open_singer(top: Path) -> None:
    for name, text in (
        ("ManRaw/1_歌/1_歌_0", "你好"),
        ("WomanRaw/1_歌/1_歌_0", "再见"),
        ("ManRaw/1_歌/1_歌_1", ""),
    ):
        path = write_tone(top / "OpenSinger" / f"{name}.wav")
        if text:
            path.with_suffix(".txt").write_text(text, encoding="utf-8")


def m4_singer(top: Path) -> None:
    write_tone(top / "Alto-1#newboy" / "0000.wav")
    (top / "meta.json").write_text(json.dumps([{"item_name": "Alto-1#newboy#0000", "txt": "是否"}]))


def fillers(top: Path) -> None:
    names = "clip_name,pfID,label_full_vocab,label_consolidated_vocab,podcast_filename,event_start_inclip"
    names += ",event_end_inclip,clip_split_subset"
    lines = [
        "a.wav,a,Uh,Uh,show,0.3,0.55,train",
        "b.wav,b,None,None,show2,0,1,validation",
        "c.wav,c,Um,Um,s,0,1,extra",
    ]
    (top / "metadata").mkdir(parents=True)
    (top / "metadata" / "PodcastFillers.csv").write_text("\n".join([names, *lines]) + "\n")
    for name in ("train/a", "validation/b"):
        write_tone(top / "audio" / "clip_wav" / f"{name}.wav")


def meld(top: Path) -> None:
    head = (
        "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    )
    lines = [
        '1,"I\x92m fine, really",Ross,joy,positive,0,0,1,1,"00:00:10,000","00:00:11,000"',
        '2,Gone,Joey,sadness,negative,0,1,1,1,"00:00:10,000","00:00:11,000"',
        '3,Long,Joey,fear,negative,0,2,1,1,"00:00:10,000","00:01:11,000"',
    ]
    top.mkdir(parents=True, exist_ok=True)
    (top / "dev_sent_emo.csv").write_text("\n".join([head, *lines]) + "\n", encoding="latin-1")
    for number in (0, 2, 9):  # 9 has no line
        write_tone(top / "dev" / "dev_splits_complete" / f"dia0_utt{number}.wav")


def read(top: Path, make: Callable[[Path], None], name: str) -> Result:
    make(top)
    assert labelled_layout(top) == name
    form = form_of(top)
    assert form is not None and form.name == "emotion, sounds, singing"
    rows, problems = read_corpus(top)
    assert all(row.source == name and row.licence and (top / row.audio).is_file() for row in rows)
    return rows, problems


def test_crema_d(tmp_path: Path) -> None:
    rows, problems = read(tmp_path, crema, "CREMA-D")
    assert [(r.speaker, r.text, dict(r.labels)) for r in rows] == [
        ("1001", "don't forget a jacket", {"emotion": "angry"}),
        ("1002", "it's eleven o'clock", {"emotion": "happy", "level": "high"}),
    ]
    assert not problems and rows[0].language == "en"


def test_a_pointer_of_git_lfs_is_no_recording(tmp_path: Path) -> None:
    crema(tmp_path)
    pointer = tmp_path / "AudioWAV" / "1003_TSI_SAD_LO.wav"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    rows, problems = read_corpus(tmp_path)
    assert len(rows) == 2 and [p.reason for p in problems] == ["not_downloaded"]
    assert "git lfs pull" in problems[0].detail


def test_ravdess(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, ravdess, "RAVDESS")
    assert [(r.speaker, dict(r.labels)) for r in rows] == [
        ("11", {"emotion": "neutral", "level": "normal", "singing": "yes", "sex": "male"}),
        ("12", {"emotion": "fearful", "level": "normal", "singing": "no", "sex": "female"}),
    ]
    assert rows[1].text == "dogs are sitting by the door"


def test_vocal_sound(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, vocal_sound, "VocalSound")
    assert [(r.speaker, r.labels["sound"], r.labels["sex"]) for r in rows] == [
        ("f0003", "cough", "female"),
        ("m0010", "throatclearing", "male"),
    ]


def test_vocal_set(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, vocal_set, "VocalSet")
    assert [(r.speaker, r.labels["technique"], r.labels["singing"], r.labels["sex"]) for r in rows] == [
        ("female1", "vibrato", "yes", "female"),
        ("male11", "spoken", "no", "male"),
    ]


def test_open_singer(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, open_singer, "OpenSinger")
    assert [(r.speaker, r.text, r.language) for r in rows] == [
        ("man-1", "你好", "zh"),
        ("woman-1", "再见", "zh"),
    ]


def test_m4_singer(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, m4_singer, "M4Singer")
    assert [(r.speaker, r.text, dict(r.labels)) for r in rows] == [
        ("Alto-1", "是否", {"singing": "yes", "song": "newboy", "voice": "alto"})
    ]


def test_podcast_fillers(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, fillers, "PodcastFillers")
    assert [(r.split, r.speaker, dict(r.labels)) for r in rows] == [
        ("train", "show", {"event": "uh", "events": "0.3-0.55 uh"}),
        ("dev", "show2", {"event": "none", "events": "none"}),
    ]


def test_meld(tmp_path: Path) -> None:
    rows, problems = read(tmp_path, meld, "MELD")
    assert [(r.id, r.text, r.speaker, r.duration, r.labels["emotion"]) for r in rows] == [
        ("dev-dia0_utt0", "I’m fine, really", "Ross", 1.0, "joy")
    ]
    assert [(p.id, p.reason) for p in problems] == [
        ("dev-dia0_utt1", "missing_audio"),
        ("dev-dia0_utt2", "wrong_cut"),
    ]


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "PodcastFillers.csv").write_text("name\na\n")
    with pytest.raises(MayaError, match="there is no column clip_name"):
        read_corpus(tmp_path)
