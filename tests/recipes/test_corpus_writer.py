"""The corpus folder: whole or absent, the same bytes every time, byte ranges that point at WAVs."""

import errno
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from maya.errors import MayaError
from maya.recipes import corpus_writer
from maya.recipes.corpus_writer import CorpusUtterance, finished, read_seal, verify, write_corpus

SETTINGS = {"corpus": "test", "seed": 1}


def utterances(count: int = 6, seed: int = 0) -> list[CorpusUtterance]:
    rng = np.random.default_rng(seed)
    return [
        CorpusUtterance(
            id=f"u{i}",
            language=("hi", "en")[i % 2],
            text=f"शब्द {i}",
            speaker="s",
            split=("train", "dev", "test")[i % 3],
            kind="synthetic",
            source="test",
            licence="CC0-1.0",
            audio=rng.integers(-9000, 9000, 300 + 77 * i).astype(np.int16),
        )
        for i in range(count)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def test_byte_ranges_hold_the_samples(tmp_path: Path) -> None:
    made = utterances()
    write_corpus(tmp_path / "c", made, SETTINGS)
    for utterance, row in zip(made, rows(tmp_path / "c"), strict=True):
        with open(tmp_path / "c" / row["tar"], "rb") as file:
            file.seek(row["offset"])
            data = file.read(row["size"])
        samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
        assert rate == 16000 and soundfile.info(io.BytesIO(data)).subtype == "PCM_16"
        assert np.array_equal(samples, utterance.audio)
        assert row["duration"] == pytest.approx(len(samples) / 16000, abs=1e-6)
        assert (row["id"], row["text"], row["split"]) == (utterance.id, utterance.text, utterance.split)
        with tarfile.open(tmp_path / "c" / row["tar"]) as tar:
            member = tar.getmember(row["audio"])
        assert (member.offset_data, member.size) == (row["offset"], row["size"])
        assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")


def test_same_utterances_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_corpus(tmp_path / name, utterances(), SETTINGS)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_summary_counts_utterances_and_hours(tmp_path: Path) -> None:
    seal = write_corpus(tmp_path / "c", utterances(), SETTINGS)
    seconds = sum(len(u.audio) for u in utterances() if (u.language, u.split) == ("hi", "train")) / 16000
    assert seal["summary"]["hi"]["train"] == {"utterances": 1, "hours": round(seconds / 3600, 4)}
    assert "train: 2 utterances, 0.00 h, 2 languages" in corpus_writer.describe(seal)


def test_finished_needs_the_same_settings_and_every_file(tmp_path: Path) -> None:
    out = tmp_path / "c"
    assert not finished(out, SETTINGS)
    write_corpus(out, utterances(), SETTINGS)
    assert finished(out, SETTINGS)
    assert not finished(out, {**SETTINGS, "seed": 2})
    with open(out / "hi.tar", "ab") as file:
        file.write(b"x")
    assert not finished(out, SETTINGS)


def test_verify_finds_one_changed_byte(tmp_path: Path) -> None:
    out = tmp_path / "c"
    write_corpus(out, utterances(), SETTINGS)
    verify(out)
    data = bytearray((out / "hi.tar").read_bytes())
    data[600] ^= 1
    (out / "hi.tar").write_bytes(data)
    with pytest.raises(MayaError, match=r"hi\.tar"):
        verify(out)


def broken(error: BaseException) -> Iterator[CorpusUtterance]:
    yield from utterances(3)
    raise error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyboardInterrupt(), "stopped before"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (MayaError("eSpeak NG has no voice xx"), "no voice xx"),
    ],
)
def test_failure_leaves_no_files(tmp_path: Path, error: BaseException, says: str) -> None:
    with pytest.raises(MayaError, match=says):
        write_corpus(tmp_path / "c", broken(error), SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_corpus(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", utterances(), SETTINGS)
    before = contents(tmp_path / "c")
    with pytest.raises(MayaError):
        write_corpus(tmp_path / "c", broken(KeyboardInterrupt()), {**SETTINGS, "seed": 2})
    assert contents(tmp_path / "c") == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_other_settings_replace_the_whole_corpus(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", utterances(), SETTINGS)
    write_corpus(tmp_path / "c", [u for u in utterances(seed=1) if u.language == "en"], {"seed": 2})
    assert sorted(contents(tmp_path / "c")) == ["corpus.json", "en.tar", "manifest.jsonl"]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(MayaError, match="choose another folder"):
        write_corpus(tmp_path, utterances(), SETTINGS)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_temporary_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    prefix = f".c.partial-{corpus_writer.socket.gethostname()}-"
    dead = tmp_path / f"{prefix}{2**22 + 1}"  # above the largest process id of Linux
    living = tmp_path / f"{prefix}1"
    elsewhere = tmp_path / f".c.partial-another-host-{2**22 + 1}"
    for folder in (dead, living, elsewhere):
        folder.mkdir()
    write_corpus(tmp_path / "c", utterances(), SETTINGS)
    assert [dead.exists(), living.exists(), elsewhere.exists()] == [False, True, True]


def test_repeated_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="'u0' appears twice"):
        write_corpus(tmp_path / "c", [*utterances(1), *utterances(1)], SETTINGS)


def test_unreadable_summary_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "corpus.json").write_text("{half")
    assert read_seal(tmp_path) is None
    assert not finished(tmp_path, SETTINGS)
