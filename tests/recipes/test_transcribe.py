"""`maya transcribe` (transcribe_inputs.py, transcribe_method.py and others): inputs, outputs, errors."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import maya
from maya.align.speakers.encoder import VoiceEncoder
from maya.decode.long.long_audio import LongAudioConfig, speech_defaults
from maya.decode.transcription import TranscriptionConfig
from maya.recipes.cli import main
from maya.recipes.pcm import PCMFormat, pcm_pieces, read_pcm
from maya.recipes.transcribe_inputs import StdinAudio, read_inputs
from maya.recipes.transcribe_method import SearchOptions
from maya.score.files.transcripts import read_transcripts
from tests import tones
from tests.recipes.transcribing import save_model, save_recordings

CLI = [sys.executable, "-m", "maya.recipes.cli", "transcribe"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model") / "best.pt"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings, the last of them damaged, a text and a hidden file, and one more in a folder."""
    top = tmp_path_factory.mktemp("audio") / "talks"
    save_recordings(top, 6, bad=1)
    (top / "notes.txt").write_text("no audio")
    (top / ".hidden.wav").write_bytes(b"")
    (top / "more").mkdir()
    soundfile.write(top / "more" / "0000.wav", tones.speak("ab"), tones.RATE)
    return top


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a command. The recordings are tones, which silero takes for no speech."""
    capsys.readouterr()
    detector = () if {"--vad", "--stream", "--mic", "-"} & {*map(str, arguments)} else ("--vad", "energy")
    status = main(["transcribe", *map(str, arguments), *detector])
    return status, *capsys.readouterr()


def test_a_folder_with_a_bad_file(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, model, folder)
    assert status == 1
    names = sorted(line.split("\t")[0] for line in out.splitlines())
    assert names == [str(folder / f"{i:04d}.flac") for i in range(5)] + [str(folder / "more" / "0000.wav")]
    assert err.count("0005.flac") == 1 and "Traceback" not in err
    assert "passed over 1 file that is no audio (1 .txt)" in err and ".hidden.wav" in err
    assert "transcribed 6 of 7 recordings" in err and "1 failed" in err


def test_python_gives_the_same(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [*sorted(folder.glob("*.flac")), folder / "more" / "0000.wav"]
    speech = LongAudioConfig(vad=replace(speech_defaults(), detector="energy"))
    # Each alone: a batch may round another way.
    cfg = TranscriptionConfig(max_seconds_per_batch=0.1, long_audio=speech)
    results = {r.id: r for r in maya.load(model, "cpu").transcribe_each(paths, cfg=cfg)}
    _, out, _ = run(capsys, model, folder, "--batch-seconds", "0.1")
    texts = {name: r.hypothesis.text for name, r in results.items() if r.hypothesis is not None}
    assert texts == dict(line.split("\t") for line in out.splitlines())
    bad = results[str(folder / "0005.flac")]
    assert bad.hypothesis is None and "0005.flac" in bad.error and bad.seconds == 0
    good = results[str(folder / "0000.flac")]
    assert good.error == "" and good.seconds == pytest.approx(len(tones.speak("abc de")) / tones.RATE)


def test_files_of_several_formats_and_resume(
    model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_dir = tmp_path / "out"
    command = [model, folder, "--output-dir", out_dir, "--format", "json,srt,ctm", "--vad", "off"]
    status, out, err = run(capsys, *command)
    assert status == 1 and out == ""
    stems = [f"{i:04d}" for i in range(5)] + ["more/0000"]
    suffixes = (".json", ".srt", ".ctm")
    expected = sorted(stem + suffix for stem in stems for suffix in suffixes)
    written = [path for path in out_dir.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert sorted(path.relative_to(out_dir).as_posix() for path in written) == expected
    row = json.loads((out_dir / "0000.json").read_text())
    assert row["text"] and row["words"][0]["start"] is not None and row["model"] == model
    (out_dir / "0001.srt").unlink()
    (folder / "0002.flac").touch()
    _, _, err = run(capsys, *command, "--resume")
    assert "transcribed 2 of 3 recordings" in err and "4 were done before" in err  # and the bad one again
    assert (out_dir / "0001.srt").is_file()
    _, _, err = run(capsys, *command, "--resume", "--language", "hi")
    assert "transcribed 6 of 7 recordings" in err  # other options: nothing is kept


def test_json_on_stdout_is_one_list(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [folder / "0000.flac", folder / "0005.flac", folder / "0001.flac"]
    status, out, _ = run(capsys, model, *files, "--format", "json")
    assert status == 1 and {row["id"] for row in json.loads(out)} == {str(files[0]), str(files[2])}
    status, out, _ = run(capsys, model, files[0], "--format", "vtt")
    assert status == 0 and out.startswith("WEBVTT\n\n1\n")


def test_manifests_patterns_and_parts(
    model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"audio_filepath": str(folder / "0000.flac"), "lang": "en", "offset": 0.5, "duration": 1.0},
        {"audio": str(folder / "0001.flac"), "id": "second", "language": "hi", "text": "unused"},
        {"audio": str(folder / "0001.flac"), "id": "third", "language": "xx"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, out, err = run(capsys, model, manifest, "--format", "jsonl")
    rows = {row["id"]: row for row in map(json.loads, out.splitlines())}
    assert status == 1 and "does not know the language 'xx'" in err
    assert rows["second"]["language"] == "hi" and len(rows) == 2
    part = next(row for name, row in rows.items() if name != "second")
    assert part["id"].endswith("0000-0.50") and part["seconds"] == 1.0 and part["language"] == "en"
    status, out, _ = run(capsys, model, f"{folder}/**/*0.wav")
    assert status == 0 and out.startswith(str(folder / "more" / "0000.wav"))
    manifest.write_text('{"audio": 3}\n')
    status, _, err = run(capsys, model, manifest)
    assert status == 1 and f"{manifest}:1: it names no audio" in err


def test_channels(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tones.speak("abc"), tones.speak("hgf")
    soundfile.write(tmp_path / "two.wav", np.stack([first, second], 1), tones.RATE)
    for name, samples in (("left", first), ("right", second)):
        soundfile.write(tmp_path / f"{name}.wav", samples, tones.RATE)
    two, alone = tmp_path / "two.wav", ("--vad", "off", "--batch-seconds", "0.1")
    _, out, _ = run(capsys, model, tmp_path / "left.wav", tmp_path / "right.wav", *alone)
    texts = {Path(name).stem: text for name, text in (line.split("\t") for line in out.splitlines())}
    _, out, _ = run(capsys, model, two, "--channel", "all", *alone)
    assert dict(line.split("\t") for line in out.splitlines()) == {
        f"{two}#1": texts["left"], f"{two}#2": texts["right"]
    }  # fmt: skip
    _, out, _ = run(capsys, model, two, "--channel", "2", "--format", "ctm", "--vad", "off")
    assert {line.split()[1] for line in out.splitlines()} == {"2"}
    status, _, err = run(capsys, model, two, "--channel", "3")
    assert status == 1 and "has 2 channels, so no channel 3" in err
    out_dir = tmp_path / "out"
    assert run(capsys, model, two, "--channel", "all", "--output-dir", out_dir)[0] == 0
    assert {p.name for p in out_dir.glob("*.txt")} == {"two.channel1.txt", "two.channel2.txt"}
    _, _, err = run(capsys, model, two, "--channel", "all", "--output-dir", out_dir, "--resume")
    assert "1 were done before" in err or err.count("transcribed") == 0


def test_equal_names_get_files_of_their_own(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "a.flac", "b/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, tones.speak("ab"), tones.RATE)
    files = [tmp_path / name for name in ("a.wav", "a.flac", "b/a.wav")]
    assert run(capsys, model, *files, "--output-dir", tmp_path / "out")[0] == 0
    assert {p.name for p in (tmp_path / "out").glob("*.txt")} == {"a.wav.txt", "a.flac.txt", "a.wav-2.txt"}


def test_beam_hot_words_and_alternatives(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "0003.flac"
    command = [model, file, "--method", "ctc", "--format", "jsonl"]
    plain = json.loads(run(capsys, *command)[1])
    beam = json.loads(run(capsys, *command, "--beam", "6", "--n-best", "4")[1])
    assert (
        len(beam["alternatives"]) == 3 and beam["search_score"] is not None and plain["search_score"] is None
    )
    texts = [beam["text"], *(other["text"] for other in beam["alternatives"])]
    assert len({*texts}) == 4
    scores = [beam["search_score"], *(other["search_score"] for other in beam["alternatives"])]
    assert scores == sorted(scores, reverse=True)
    hot = json.loads(run(capsys, *command, "--hotwords", "the lazy dog", "--hotword-weight", "40")[1])
    assert hot["text"] != plain["text"]
    same = json.loads(run(capsys, *command, "--hotwords", "the lazy dog", "--hotword-weight", "0")[1])
    assert same["text"] == plain["text"]


def test_speakers(model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options of recipes.speaker_options; the voices' encoder has random weights here."""
    torch.manual_seed(0)
    torch.save({"model_state": VoiceEncoder().state_dict()}, tmp_path / "weights.pt")
    own = ("--speakers", "--speaker-weights", tmp_path / "weights.pt", "--format", "json,rttm,srt")
    status, _, _ = run(capsys, model, folder / "0000.flac", *own, "--output-dir", tmp_path / "out")
    assert status == 0
    transcript = json.loads((tmp_path / "out" / "0000.json").read_text())
    assert transcript["turns"] and {word["speaker"] for word in transcript["words"]} <= set("ABCDEFGH")
    assert all(segment["speaker"] for segment in transcript["segments"])
    rows = read_transcripts(tmp_path / "out" / "0000.rttm", "hyp")
    assert [row.speaker for row in rows] == [turn["speaker"] for turn in transcript["turns"]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--format", "srt"], "srt on the standard output holds one recording; add --output-dir DIR"),
        (["--format", "txt,json"], "several formats need a folder for their files: add --output-dir DIR"),
        (["--resume"], "--resume looks at the files in --output-dir: name one"),
        (["--raw", "s16le"], "--raw and --rate belong together"),
        (["--lm-weight", "1"], "--lm-weight is the weight of a language model: name one with --lm"),
        (["--hotword-weight", "1"], "--hotword-weight is the weight of hot words"),
        (["--lm", "nowhere.arpa"], "there is no language model nowhere.arpa"),
        (["--n-best", "2"], "--n-best writes alternatives: add --format json or jsonl"),
        (["--beam", "2", "--n-best", "3", "--format", "json"], "--n-best 3 needs --beam 3 or more"),
        (["--words-per-line", "2"], "--words-per-line divides subtitles: add --format srt or vtt"),
        (["--format", "rttm"], "rttm says who speaks when: add --speakers"),
        (["--most-speakers", "2"], "--most-speakers and --speaker-weights belong to --speakers"),
        (["--speakers", "--speaker-weights", "nowhere.pt"], "there is no file nowhere.pt"),
        (["--mic"], "--mic listens to the microphone: leave the files out"),
        (["--stream", "--vad", "off"], "--vad is for whole recordings: leave it or --stream out"),
        (["--stream", "--format", "srt"], "a stream is printed as it is recognised"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], sentence: str, model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, model, folder, *options)
    assert (status, out) == (1, "") and sentence in err and "Traceback" not in err


def test_nothing_to_transcribe(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").touch()
    for argument, sentence in (
        (tmp_path, "holds no audio file (wav flac"),
        (tmp_path / "x.wav", "x.wav is not a file"),
        (f"{tmp_path}/*.wav", "no file matches"),
    ):
        status, _, err = run(capsys, model, argument)
        assert status == 1 and sentence in err and len(err.splitlines()) == 1
    status, _, err = run(capsys, model)
    assert status == 1 and "name audio files, a folder, a manifest, - for stdin, or --mic" in err


def test_microphone(model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A stub of sounddevice plays a recording and then Ctrl-C."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    status, _, err = run(capsys, model, "--mic")
    assert status == 1 and "--mic needs the package sounddevice" in err

    class InputStream:
        def __init__(
            self, *, samplerate: int, channels: int, dtype: str, blocksize: int, callback: Any
        ) -> None:
            assert (samplerate, channels, dtype) == (16000, 1, "float32")
            samples = tones.speak("abc de")
            for begin in range(0, len(samples), blocksize):
                callback(samples[begin : begin + blocksize, None], blocksize, None, None)

        def __enter__(self) -> "InputStream":
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            return self

        def __exit__(self, *_: object) -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)

    stub: Any = type(sys)("sounddevice")
    stub.InputStream, stub.PortAudioError = InputStream, RuntimeError
    monkeypatch.setitem(sys.modules, "sounddevice", stub)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        status, out, err = run(capsys, model, "--mic")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert status == 130 and "listening; Ctrl-C ends" in err and len(out.strip()) > 0


def test_inputs_of_a_folder_and_phrases_of_a_file(folder: Path, tmp_path: Path) -> None:
    inputs = read_inputs([str(folder)], "mix", StdinAudio(sample_rate=16000))
    assert [item.name for item in inputs.items] == [f"{i:04d}" for i in range(6)] + ["more/0000"]
    assert all(item.recording.channel == "mix" for item in inputs.items)
    (tmp_path / "names.txt").write_text("# names\nAnil Kapoor\nPune :2\n")
    phrases = SearchOptions(hotwords=(str(tmp_path / "names.txt"), "Goa")).phrases()
    assert [(p.text, p.weight) for p in phrases] == [("Anil Kapoor", 1.0), ("Pune", 2.0), ("Goa", 1.0)]


def test_pcm_of_any_division() -> None:
    samples = tones.speak("ab")
    raw = (samples * 32767).astype("<i2").tobytes()

    class Drip(io.BytesIO):
        """Gives odd numbers of bytes."""

        def read1(self, size: int = -1, /) -> bytes:
            return self.read(min(size, 333))

    pieces = list(pcm_pieces(Drip(raw), PCMFormat.raw("s16le", 16000), 16000))
    assert len(pieces) > 10 and np.abs(np.concatenate(pieces) - samples).max() < 1e-4
    wav = io.BytesIO()
    soundfile.write(wav, np.stack([samples, samples], 1), 16000, format="WAV", subtype="PCM_16")
    endless = bytearray(wav.getvalue())
    endless[4:8] = endless[40:44] = b"\xff\xff\xff\xff"  # as ffmpeg writes into a pipe
    read = read_pcm(io.BytesIO(bytes(endless)), None, 16000)
    assert isinstance(read, np.ndarray) and np.abs(read - samples).max() < 1e-4


def test_stdin_stream_and_pipes(model: str, folder: Path) -> None:
    """Whole processes: WAV and FLAC on stdin, a stream, a closed pipe, Ctrl-C."""
    raw = soundfile.read(folder / "0000.flac", dtype="int16")[0].tobytes()
    whole = subprocess.run([*CLI, model, "-"], input=(folder / "0000.flac").read_bytes(), capture_output=True)
    piped = subprocess.run(
        [*CLI, model, "-", "--raw", "s16le", "--rate", "16000"], input=raw, capture_output=True
    )
    assert whole.returncode == piped.returncode == 0, whole.stderr
    assert whole.stdout == piped.stdout and whole.stdout.startswith(b"stdin\t")
    streamed = subprocess.run(
        [*CLI, model, "-", "--raw", "s16le", "--rate", "16000", "--stream", "--format", "jsonl"],
        input=raw, capture_output=True,
    )  # fmt: skip
    assert streamed.returncode == 0, streamed.stderr
    last = json.loads(streamed.stdout.splitlines()[-1])
    assert last["final"] and last["text"] and last["seconds"] == pytest.approx(len(raw) / 32000, abs=1e-3)
    reader, writer = os.pipe()
    os.close(reader)
    closed = subprocess.run([*CLI, model, str(folder)], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert closed.returncode == 141 and b"Traceback" not in closed.stderr
    waiting = subprocess.Popen(
        [*CLI, model, "-", "--raw", "s16le", "--rate", "16000", "--stream"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert waiting.stdin is not None and waiting.stderr is not None
    waiting.stdin.write(raw)
    waiting.stdin.flush()
    assert waiting.stderr.readline()  # the model is ready
    time.sleep(1.0)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130 and b"Traceback" not in err and out.strip()
