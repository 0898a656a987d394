import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from maya.audio.tar_index import index_tar
from maya.data.corpus.manifest import Row
from maya.data.measure.probe import ProbeConfig, probe
from tests.data.making import write_tar, write_tone


def row(name: str = "a.wav", **changes: Any) -> Row:
    return replace(
        Row(id=name, language="en", text="One two!", audio=name, where="manifest.jsonl:1"), **changes
    )


def only(folder: Path, row: Row, **config: Any) -> str:
    """The reason for which a row is dropped."""
    kept, dropped = probe(folder, [row], ProbeConfig(**config))
    assert not kept and len(dropped) == 1 and dropped[0].id == row.id and dropped[0].where == row.where
    assert "\n" not in dropped[0].detail
    return f"{dropped[0].reason}: {dropped[0].detail}"


def test_good_audio_of_any_kind_is_kept_in_order(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.5, 8000)
    write_tone(tmp_path / "b.flac", 0.7, 44100, 2)
    write_tone(tmp_path / "c.opus", 0.6, 48000, format="OGG", subtype="OPUS")
    rows = [row("c.opus"), row("a.wav", speaker="me"), row("b.flac", duration=0.69, sample_rate=44100)]
    for decode in (True, False):
        kept, dropped = probe(tmp_path, rows, ProbeConfig(decode=decode))
        assert not dropped
        assert [p.id for p in kept] == ["c.opus", "a.wav", "b.flac"]
        assert [(p.sample_rate, p.channels) for p in kept] == [(48000, 1), (8000, 1), (44100, 2)]
        assert [p.duration for p in kept] == pytest.approx([0.6, 0.5, 0.7], abs=1e-3)
        assert kept[0].text == "one two"
        assert [p.speaker for p in kept] == ["c.opus", "me", "b.flac"], (
            "without a speaker, the id is the speaker"
        )


def test_each_problem_has_its_reason(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.5)
    assert only(tmp_path, row(text=" ?! ")).startswith(
        "empty_transcript: nothing speakable is left of the text"
    )
    assert only(tmp_path, row("none.wav")) == f"missing_audio: there is no file {tmp_path}/none.wav"
    assert only(tmp_path, row("x.wav", tar="no.tar", offset=512, size=3)).startswith("missing_audio")
    assert only(tmp_path, row(sample_rate=8000)).startswith("sample_rate_mismatch: the manifest says 8000 Hz")
    assert only(tmp_path, row(duration=2.0)).startswith(
        "duration_mismatch: the manifest says 2 s, it lasts 0.50 s"
    )
    assert only(tmp_path, row(text="word " * 9)).startswith("text_too_long: 44 characters in 0.50 s, over 40")
    assert only(tmp_path, row(), max_seconds=0.4).startswith("too_long")
    assert only(tmp_path, row(), min_seconds=0.6).startswith("too_short")


def test_broken_audio(tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_bytes(b"RIFF" + bytes(100))
    assert only(tmp_path, row("junk.wav")).startswith(f"unreadable_audio: cannot decode {tmp_path}/junk.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    assert only(tmp_path, row("empty.wav")).startswith("unreadable_audio")
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16000)
    assert only(tmp_path, row("silent.wav")).startswith("silent")
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    assert "not finite" in only(tmp_path, row("nan.wav"))
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    assert only(tmp_path, row("none.wav")).startswith("too_short")


@pytest.mark.parametrize("suffix", ["wav", "flac", "opus"])
def test_truncated_audio_is_found(tmp_path: Path, suffix: str) -> None:
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    path = write_tone(tmp_path / f"a.{suffix}", 3.0, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reason = only(tmp_path, row(path.name, duration=3.0)).split(":")[0]
    assert reason in ("unreadable_audio", "duration_mismatch")


def test_quiet_speech_is_not_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.001 * np.sin(np.arange(8000)), 16000)
    kept, _ = probe(tmp_path, [row()], ProbeConfig())
    assert len(kept) == 1


def test_without_decoding_only_headers_are_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16000)
    kept, _ = probe(tmp_path, [row("silent.wav")], ProbeConfig(decode=False))
    assert len(kept) == 1


def test_members_before_the_damage_of_a_tar_are_kept(tmp_path: Path) -> None:
    data = write_tone(tmp_path / "a.wav", 0.5).read_bytes()
    tar = write_tar(tmp_path / "t.tar", {"a.wav": data, "b.wav": data, "none.wav": b""})
    tar.write_bytes(tar.read_bytes()[: index_tar(tar)[1].offset + 100])
    rows = [row("a.wav", tar="t.tar"), row("b.wav", tar="t.tar")]
    kept, dropped = probe(tmp_path, rows, ProbeConfig())
    assert [p.id for p in kept] == ["a.wav"] and [d.reason for d in dropped] == ["tar_mismatch"]
    assert "has no member 'b.wav' before its damage: " in dropped[0].detail
    assert "is truncated: its member 'b.wav' goes past the end" in dropped[0].detail


def test_empty_members_and_odd_names_are_dropped(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {"none.wav": b""})
    assert only(tmp_path, row("none.wav", tar="t.tar")).startswith("unreadable_audio: cannot decode none.wav")
    assert only(tmp_path, row("n" * 5000)).startswith("missing_audio")
    os.mkfifo(tmp_path / "pipe")
    assert only(tmp_path, row("pipe")).startswith("missing_audio")


@pytest.mark.parametrize("decode", [True, False])
def test_audio_without_samples_is_dropped_whatever_the_limits(tmp_path: Path, decode: bool) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    write_tone(tmp_path / "a.wav", 1.0)
    options = {"min_seconds": 0.0, "decode": decode}
    assert only(tmp_path, row("empty.wav"), **options).endswith("empty.wav holds no audio samples")
    part = row(start=0.5, duration=1e-5)  # less than half a sample
    assert only(tmp_path, part, **options).startswith("too_short")
