"""The files that a run writes about itself, and its lines on the terminal."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from maya.train import runlog
from maya.train.runlog import RunLog, Sample, git_state

WORD = "हिन्दी"


def _sample(text: str) -> Sample:
    return Sample(id="a", language="hi", head="ctc", ref=text, hyp=text, wer=0.0)


def test_rows_after_a_killed_run(tmp_path: Path) -> None:
    """Rows up to the checkpoint stay. The last line may end within a letter, or be a number by itself."""
    log = RunLog(tmp_path, main=True)
    log.samples(1, [_sample(WORD), _sample("one\u2028line")])
    log.samples(3, [_sample(WORD)])
    log.metrics("train", 1, {"loss": 1.0})
    log.close()
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes() + f'{{"step": 1, "ref": "{WORD}'.encode()[:-1])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "kind": "phase"}\n7')
    RunLog(tmp_path, main=True, resumed_step=1).close()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["ref"] for row in rows] == [WORD, "one\u2028line"]
    (row,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row)["loss"] == 1.0


def test_a_terminal_without_the_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="latin-1"))
    log = RunLog(tmp_path, main=True)
    log.samples(1, [_sample(WORD)])
    log.close()
    assert b"sample step 1  a  hi  ctc  wer 0.00\n  ref ????" in output.getvalue()


def test_a_difference_that_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*args: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *args], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "names.txt").write_bytes(b"one\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "names.txt").write_bytes("Zoë\n".encode("latin-1"))
    monkeypatch.setattr(runlog, "__file__", str(tmp_path / "maya" / "train" / "runlog.py"))
    commit, difference = git_state()
    assert len(commit) == 40 and "-one\n+Zo\ufffd" in difference
    log = RunLog(tmp_path / "run", main=True)
    log.start(_sample("a"), ["maya"], {})
    log.close()
    assert (tmp_path / "run" / "git.diff").read_text(encoding="utf-8") == difference
