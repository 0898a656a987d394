"""The command line: the whole pipeline, and one sentence for each error."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from maya.recipes.cli import main, parser
from tests import tones

TINY = ["--experiment", "tests.tiny"]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of run.sh went from audio to scores."""
    top = tmp_path_factory.mktemp("road")
    tones.make_corpus(top / "corpus")
    data, run = ["--data", str(top / "data")], ["--run-dir", str(top / "run")]
    assert main(["prepare", *TINY, "--corpus", str(top / "corpus"), "--out", str(top / "data")]) == 0
    assert main(["tokenizer", *TINY, *data, *run]) == 0
    assert main(["train", *TINY, *data, *run, "--cpu"]) == 0
    assert main(["average", *TINY, *data, *run]) == 0
    assert main(["decode", *TINY, *data, *run]) == 0
    assert main(["score", *data, *run]) == 0
    return top


def test_pipeline_ends_with_a_score_table(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--data", str(road / "data"), "--run-dir", str(road / "run")]) == 0
    out = capsys.readouterr().out
    for part in (
        "English",
        "Hindi",
        "macro average",
        "real-time factor",
        "report.html",
        "averaged.pt",
        "tensorboard",
    ):
        assert part in out, part
    result = json.loads((road / "run" / "decode" / "test" / "result.json").read_text())
    assert set(result["languages"]) == {"en", "hi"}


def test_unchanged_stages_are_skipped(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = ["--data", str(road / "data")], ["--run-dir", str(road / "run")]
    assert main(["prepare", *TINY, "--corpus", str(road / "corpus"), "--out", str(road / "data")]) == 0
    for command in ("tokenizer", "train", "average", "decode"):
        assert main([command, *TINY, *data, *run]) == 0
    assert capsys.readouterr().out.count("up to date") == 5
    before = (road / "run" / "decode" / "test" / "hyps.jsonl").stat().st_mtime_ns
    assert main(["decode", *TINY, *data, *run, "--force"]) == 0
    assert (road / "run" / "decode" / "test" / "hyps.jsonl").stat().st_mtime_ns > before
    for method in ("ctc", "ctc_beam"):
        assert main(["decode", *TINY, *data, *run, "--set", f"decode.method={method}"]) == 0
        assert "up to date" not in capsys.readouterr().out


def test_transcribe_every_format_and_rate(
    road: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    audio = tones.speak("abc de")
    twice = np.repeat(audio, 2)  # 32 kHz
    soundfile.write(tmp_path / "a.wav", audio, 16000)
    soundfile.write(tmp_path / "b.flac", np.stack([twice, twice], 1), 32000)
    soundfile.write(tmp_path / "c.ogg", twice, 32000, format="OGG", subtype="VORBIS")
    soundfile.write(tmp_path / "d.opus", np.repeat(audio, 3), 48000, format="OGG", subtype="OPUS")
    soundfile.write(tmp_path / "e.mp3", twice, 32000, format="MP3")
    files = [str(p) for p in sorted(tmp_path.iterdir())]
    assert main(["transcribe", str(road / "run"), *files, "--language", "hi", "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(r["id"] for r in rows) == files and all(r["language"] == "hi" for r in rows)
    assert main(["transcribe", str(road / "run"), files[0], "--method", "ctc"]) == 0
    assert capsys.readouterr().out.startswith(files[0] + "\t")
    assert main(["transcribe", str(road / "run"), files[0], "--context", "4", "4"]) == 0
    assert capsys.readouterr().out.startswith(files[0] + "\t")
    with pytest.raises(SystemExit):
        main(["transcribe", str(road / "run"), files[0], "--context", "-2", "4"])
    assert "--context: must be 0 or more or -1, not -2" in capsys.readouterr().err


def test_info(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(road / "run")]) == 0
    out = capsys.readouterr().out
    assert "languages   en hi" in out and "step        12" in out and len(out.splitlines()) <= 25


def _fails(args: list[str], capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """The command exits with 1 and prints one line on stderr that contains `words`."""
    capsys.readouterr()
    assert main(args) == 1
    shown = capsys.readouterr().err.splitlines()
    lines = [line for line in shown if line and not line.startswith(("decoding with ", "voice activity "))]
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0], lines[0]


def _prepare(corpus: Path, out: Path, *options: str) -> list[str]:
    return ["prepare", *TINY, "--corpus", str(corpus), "--out", str(out), *options]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("audio", None, ("manifest.jsonl:3", "audio")),
        ("text", None, ("manifest.jsonl:3", "text")),
        ("id", "en-000", ("manifest.jsonl:3", "occurs in line 1 already", "en-000")),
        ("language", "xx", ("language", "xx")),
    ],
)
def test_broken_manifest_is_refused(
    name: str, value: str | None, words: tuple[str, ...], tmp_path: Path, capsys
) -> None:  # noqa: ANN001
    corpus = tones.make_corpus(tmp_path / "corpus", utterances=6)
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    if value is None:
        del rows[2][name]
    else:
        rows[2][name] = value
    (corpus / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    _fails(_prepare(corpus, tmp_path / "data"), capsys, *words)
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [("missing", "missing"), ("unreadable", "unreadable"), ("empty", "empty"), ("too long", "long")],
)
def test_a_bad_utterance_is_dropped_with_its_reason(spoil: str, reason: str, tmp_path: Path) -> None:
    corpus = tones.make_corpus(tmp_path / "corpus", utterances=12)
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    if spoil == "missing":
        (corpus / rows[0]["audio"]).unlink()
    elif spoil == "unreadable":
        (corpus / rows[0]["audio"]).write_bytes(b"RIFF, but no more")
    else:
        rows[0]["text"] = "" if spoil == "empty" else "ab " * 300
        (corpus / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(_prepare(corpus, tmp_path / "data")) == 0
    dropped = [json.loads(line) for line in (tmp_path / "data" / "dropped.jsonl").read_text().splitlines()]
    assert [d["id"] for d in dropped] == [rows[0]["id"]] and reason in json.dumps(dropped[0])


def test_missing_inputs_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fails(_prepare(tmp_path / "nowhere", tmp_path / "data"), capsys, "nowhere", "--corpus")
    stage = [*TINY, "--data", str(tmp_path), "--run-dir", str(tmp_path / "run")]
    _fails(["tokenizer", *stage], capsys, "train.parquet", "stage 1")
    _fails(["train", *stage], capsys, "train.parquet", "stage 1")
    _fails(["average", *stage], capsys, "no training checkpoint", "stage 3")
    _fails(["score", "--run-dir", str(tmp_path)], capsys, "hyps.jsonl", "stage 5")
    _fails(["info", str(tmp_path)], capsys, "holds no checkpoint")
    _fails(["transcribe", str(tmp_path), str(tmp_path / "a.wav")], capsys, "a.wav is not a file")


def test_overrides_are_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = ["tokenizer", *TINY, "--data", str(tmp_path), "--run-dir", str(tmp_path)]
    _fails([*stage, "--set", "train.lrr=1"], capsys, "unknown option 'train.lrr'; did you mean 'train.lr'?")
    _fails(
        [*stage, "--set", "train.steps=many"],
        capsys,
        "train.steps expects a whole number (0 or more)",
    )
    _fails([*stage, "--set", "train"], capsys, "'train' is not of the form NAME=VALUE")
    _fails(["tokenizer", "--experiment", "egs.indic12.nothing", *stage[3:]], capsys, "egs.indic12.nothing")


def test_transcribe_refuses_bad_input(road: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no audio at all")
    run = str(road / "run")
    _fails(["transcribe", run, str(tmp_path / "bad.wav")], capsys, "bad.wav")
    soundfile.write(tmp_path / "good.wav", np.zeros(1600), 16000)
    _fails(["transcribe", run, str(tmp_path / "good.wav"), "--language", "fr"], capsys, "'fr'", "en, hi")


def test_checkpoint_of_another_experiment_is_refused(
    road: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(road / "run", tmp_path / "run")
    stage = ["train", *TINY, "--cpu", "--data", str(road / "data"), "--run-dir", str(tmp_path / "run")]
    _fails([*stage, "--set", "train.lr=0.5"], capsys, "another experiment", "train.lr was 0.003, now 0.5")


def test_every_command_has_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "maya.recipes.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "transcribe" in done.stdout
    for command in ("prepare", "tokenizer", "train", "average", "decode", "score", "transcribe", "info"):
        with pytest.raises(SystemExit) as stop:
            parser().parse_args([command, "--help"])
        assert stop.value.code == 0


def test_full_disk_while_decoding(
    road: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(road / "run", tmp_path / "run")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("maya.recipes.decode.asdict", full)
    stage = ["decode", *TINY, "--data", str(road / "data"), "--run-dir", str(tmp_path / "run"), "--force"]
    _fails(stage, capsys, "disk is full")
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_path_that_cannot_be_used(road: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    folders = ["--data", str(road / "data"), "--run-dir", str(tmp_path / "file")]
    _fails(["tokenizer", *TINY, *folders], capsys, f"cannot use {tmp_path / 'file'}: File exists")
    command = ["decode", *TINY, "--data", str(road / "data"), "--run-dir", str(road / "run"), "--into"]
    _fails([*command, str(tmp_path / "file")], capsys, "file/test: Not a directory")
