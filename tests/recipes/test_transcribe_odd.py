"""`maya transcribe` on odd inputs: names, pipes, files of others, damaged audio in a stream, kinds of WAV."""

import json
import os
import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from maya.recipes import cli
from maya.recipes.pcm import CompressedWAV, read_pcm, read_wav_header
from maya.recipes.transcribe_outputs import LEDGER
from tests import tones
from tests.recipes.transcribing import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model") / "model.pt"))


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = cli.main(["transcribe", *map(str, arguments), "--language", "hi", "--vad", "energy"])
    return status, *capsys.readouterr()


def speech(text: str = "abc de") -> np.ndarray:
    return np.asarray(tones.speak(text), np.float32)


def test_names_that_are_no_text(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names with line ends, tabs and bytes that are no UTF-8: one line each, all formats, and --resume."""
    names = [b"two\nlines.wav", b"a\ttab.wav", b"latin\xe9.wav", b"-dash.wav", "हिंदी [x]*.wav".encode()]
    (tmp_path / "in").mkdir()
    for name in names:
        soundfile.write(tmp_path / "one.wav", speech(), tones.RATE)
        os.rename(tmp_path / "one.wav", os.path.join(os.fsencode(tmp_path / "in"), name))
    status, out, _ = run(capsys, model, tmp_path / "in")
    assert status == 0 and len(out.splitlines()) == len(names)
    assert all(line.count("\t") == 1 for line in out.splitlines())
    every = ("--output-dir", tmp_path / "out", "--format", "txt,json,ctm,tsv,srt,vtt,textgrid")
    assert run(capsys, model, tmp_path / "in", *every)[0] == 0
    assert len([*(tmp_path / "out").iterdir()]) == 7 * len(names) + 1
    status, _, err = run(capsys, model, tmp_path / "in", *every, "--resume")
    assert status == 0 and f"all {len(names)} recordings were done before" in err


def test_a_persons_files_stay(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text beside its audio, in the folder that the outputs go to, is not overwritten; own outputs are."""
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", speech(), tones.RATE)
    (tmp_path / "b.txt").write_text("what was really said")
    options = (model, tmp_path, "--output-dir", tmp_path)
    status, _, err = run(capsys, *options)
    assert status == 1 and "b.txt is there, and not from an earlier run" in err
    assert (tmp_path / "b.txt").read_text() == "what was really said" and not (tmp_path / "a.txt").exists()
    (tmp_path / "b.txt").unlink()
    assert run(capsys, *options)[0] == run(capsys, *options)[0] == 0
    # A run that ended within a recording leaves its files and half a line: they are its own, too.
    rows = (tmp_path / LEDGER).read_text()
    (tmp_path / LEDGER).write_text(rows[: rows.rindex('"files"')])
    status, _, err = run(capsys, *options, "--resume")
    assert status == 0 and "1 were done before" in err
    for line in (tmp_path / LEDGER).read_text().splitlines()[-2:]:
        json.loads(line)


def test_a_pipe_with_a_name(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """<(ffmpeg ...) of a shell."""
    soundfile.write(tmp_path / "a.wav", speech(), tones.RATE)
    os.mkfifo(tmp_path / "pipe")
    data = (tmp_path / "a.wav").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True)
    writer.start()
    status, out, err = run(capsys, model, tmp_path / "pipe")
    writer.join(10)
    assert status == 0, err
    assert out.split("\t")[1] == run(capsys, model, tmp_path / "a.wav")[1].split("\t")[1]


def test_streams_of_damaged_files(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that breaks off costs a line; the next one begins anew."""
    soundfile.write(tmp_path / "good.flac", np.tile(speech(), 20), tones.RATE)
    data = (tmp_path / "good.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    stream = ("--stream", "--language", "hi")

    def lines(*files: str) -> tuple[int, list[str], str]:
        status = cli.main(["transcribe", model, *(str(tmp_path / f) for f in files), *stream])
        out, err = capsys.readouterr()
        return status, [line.split("\t")[-1] for line in out.splitlines()], err

    alone = lines("good.flac")[1]
    status, texts, err = lines("cut.flac", "missing.wav", "good.flac")
    assert status == 1 and texts[-1] == alone[-1]
    assert "cut.flac" in err and "missing.wav" in err


@pytest.mark.parametrize(
    ("subtype", "kept"), [("PCM_24", True), ("PCM_32", True), ("PCM_U8", True), ("ULAW", False)]
)
def test_kinds_of_wav_on_stdin(subtype: str, kept: bool) -> None:
    """Plain samples are read as they come, 24 bits among them; the reader of files has compressed ones."""
    file, samples = BytesIO(), speech()
    soundfile.write(file, samples, tones.RATE, subtype=subtype, format="WAV")
    read = read_pcm(BytesIO(file.getvalue()), None, tones.RATE)
    if kept:
        assert isinstance(read, np.ndarray)
        np.testing.assert_allclose(read, samples, atol=1 / 127)
    else:
        assert read == file.getvalue()
        with pytest.raises(CompressedWAV):
            read_wav_header(BytesIO(file.getvalue()[4:]))


def test_a_piped_wav_of_unknown_length() -> None:
    """24 bits with the length that ffmpeg writes into a pipe."""
    samples = (speech()[:, None] * [1.0, 1.0] * (1 << 23)).astype("<i4")
    body = samples.view("u1").reshape(-1, 4)[:, :3].tobytes()
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, 1, 2, tones.RATE,
                         6 * tones.RATE, 6, 24, b"data", 2**32 - 1)  # fmt: skip
    read = read_pcm(BytesIO(header + body), None, tones.RATE)
    np.testing.assert_allclose(read, speech(), atol=1e-6)


def test_a_full_disk_names_the_file(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    soundfile.write(tmp_path / "a.wav", speech(), tones.RATE)
    monkeypatch.setattr(Path, "write_text", full)
    status, _, err = run(capsys, model, tmp_path / "a.wav", "--output-dir", tmp_path / "out")
    assert status == 1 and "the disk is full" in err and "a.txt" in err
