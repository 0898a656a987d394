"""`maya enroll` and `maya verify` with a small untrained speaker head, and their errors in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from maya.align.speakers.encoder import load_encoder
from maya.align.speakers.enrolment import EnrolledVoices
from maya.align.speakers.tracking import diarize
from maya.audio.vad.config import VADConfig
from maya.convert.icefall.tokens import tokenizer_of
from maya.models.speech_model import SpeechModel
from maya.recipes.cli import run
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests.heads.test_speaker import begin, model_of

SPEAKERS = ("anna", "ben", "carl")


def save(model: SpeechModel, folder: Path, notes: dict) -> Path:
    tokenizer = tokenizer_of(["<unk>", "<s>", "</s>"])
    save_checkpoint(
        folder / "best.pt",
        Checkpoint(
            model_config=model.cfg, tokenizer=tokenizer, weights=model.state_dict(), step=1, notes=notes
        ),
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, recordings of three voices that are chords, and odd ones."""
    path = tmp_path_factory.mktemp("voices")
    model, head = model_of()
    begin(head)
    save(model, path / "run", {"trained": ["voice"]})
    save(model, path / "untrained", {"trained": []})
    other, _ = model_of(variant="wespeaker")
    save(other, path / "other", {"trained": ["voice"]})
    rng, time = np.random.default_rng(0), np.arange(24000) / 16000
    for number, name in enumerate(SPEAKERS):
        for take in range(3):
            tones = sum(
                np.sin(2 * np.pi * (150 + 90 * number) * k * time + rng.uniform(0, 6)) for k in range(1, 9)
            )
            soundfile.write(path / f"{name}{take}.wav", 0.05 * tones + 0.001 * rng.normal(size=24000), 16000)
    soundfile.write(path / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(path / "short.wav", 0.1 * rng.normal(size=1600), 16000)
    (path / "text.wav").write_text("no audio")
    lines = [
        f"{int(a == b)} {a}{i}.wav {b}{j}.wav {a} {b}"
        for a in SPEAKERS for b in SPEAKERS for i in range(3) for j in range(i + 1, 3)
    ]  # fmt: skip
    (path / "trials.txt").write_text("\n".join(lines))
    (path / "one-sided.txt").write_text("1 anna0.wav anna1.wav\n")
    return path


def maya(*words: object) -> tuple[int, str]:
    return run([str(word) for word in words])


def test_enroll_then_verify(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voices = tmp_path / "voices.json"
    for name in SPEAKERS:
        takes = [folder / f"{name}{take}.wav" for take in (0, 1)]
        assert maya("enroll", folder / "run", name, *takes, "--out", voices) == (0, "")
    assert "carl enrolled from 2 recordings; 3 voices" in capsys.readouterr().out
    assert maya("verify", folder / "run", voices, folder / "ben2.wav") == (0, "")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "ben2.wav" in lines[1] and lines[1].split()[1] == "ben"
    assert maya("enroll", folder / "run", "ben", folder / "ben0.wav", "--out", voices) == (0, "")
    assert "ben replaced" in capsys.readouterr().out
    encoder = load_encoder(str(folder / "run" / "best.pt"))
    assert list(EnrolledVoices.load(voices, encoder).voices) == list(SPEAKERS)
    status, text = maya("verify", folder / "other", voices, folder / "ben2.wav")
    assert status == 1 and "enrolled with another model" in text


def test_trials_give_rates_a_page_and_a_scale(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / name for name in ("rates.json", "det.html", "scale.json")}
    command = ["verify", folder / "run", "--trials", folder / "trials.txt", "--root", folder]
    command += [
        "--json",
        files["rates.json"],
        "--page",
        files["det.html"],
        "--calibration",
        files["scale.json"],
    ]
    assert maya(*command) == (0, "")
    out = capsys.readouterr().out
    assert "EER %" in out and "27 trials" in out
    rates = json.loads(files["rates.json"].read_text())
    assert 0 <= rates["eer"][0] <= 1 and rates["targets"] == 9
    assert "<polyline" in files["det.html"].read_text()
    pair = [folder / "anna0.wav", folder / "anna1.wav"]
    assert maya("verify", folder / "run", *pair, "--calibration", files["scale.json"]) == (0, "")
    assert "at even odds" in capsys.readouterr().out


def test_a_cohort_normalises_and_a_scale_weighs_qualities(folder: Path, tmp_path: Path) -> None:
    cohort, scale, rates = (tmp_path / name for name in ("cohort.json", "scale.json", "rates.json"))
    for name in SPEAKERS:
        assert maya("enroll", folder / "run", name, folder / f"{name}0.wav", "--out", cohort)[0] == 0
    command = ["verify", folder / "run", "--trials", folder / "trials.txt", "--root", folder]
    fit = ["--cohort", cohort, "--quality", "--calibration", scale]
    assert maya(*command, *fit) == (0, "")
    content = json.loads(scale.read_text())
    assert len(content["slope"]) == 7 and content["cohort"]
    assert maya(*command, "--cohort", cohort, "--scale", scale, "--json", rates) == (0, "")
    assert 0 <= json.loads(rates.read_text())["eer"][0] <= 1
    status, text = maya(*command, "--scale", scale)
    assert status == 1 and "fitted with --cohort and cannot be used without" in text
    pair = [folder / "anna0.wav", folder / "anna1.wav"]
    status, text = maya("verify", folder / "run", *pair, "--calibration", scale)
    assert status == 1 and "fitted with --cohort" in text
    status, text = maya(*command, "--quality")
    assert status == 1 and "--quality needs --cohort" in text


def test_bad_input_is_told_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    a, run_dir, out = folder / "anna0.wav", folder / "run", tmp_path / "v.json"
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    cases: list[tuple[list[object], str]] = [
        (["verify", run_dir, a], "name two recordings"),
        (["verify", run_dir, a, folder / "none.wav"], "none.wav"),
        (["verify", run_dir, a, folder / "silent.wav"], "is silent"),
        (["verify", run_dir, a, folder / "short.wav"], "0.10 s: too little"),
        (["verify", run_dir, a, folder / "text.wav"], "text.wav"),
        (["verify", run_dir, broken, a], "is no file of voices"),
        (["verify", run_dir, a, a, "--calibration", broken], "is no calibration"),
        (["verify", run_dir, a, a, "--cohort", broken], "belong to --trials"),
        (["verify", run_dir, "--trials", folder / "one-sided.txt"], "only target trials"),
        (["verify", run_dir, "--trials", folder / "none.txt"], "none.txt"),
        (["verify", run_dir, a, a, "--trials", folder / "trials.txt"], "name no others"),
        (["verify", folder / "untrained", a, a], "no trained speaker head"),
        (["verify", tmp_path / "nowhere", a, a], "no weights"),
        (["verify", folder, a, a], "holds no checkpoint"),
        (["verify", a, a, a], "does not hold the weights"),
        (["enroll", run_dir, "anna", "--out", out], "name recordings"),
        (["enroll", run_dir, "anna", folder / "silent.wav", "--out", out], "is silent"),
        (["enroll", run_dir, "anna", a, "--out", broken], "is no file of voices"),
    ]
    for words, complaint in cases:
        status, text = maya(*words)
        assert status == 1 and complaint in text and text.count("\n") == 0, (words, text)
    assert not out.exists()


def test_a_run_tells_speakers_of_a_recording_apart(folder: Path) -> None:
    encoder = load_encoder(str(folder / "run" / "best.pt"))
    takes = [
        torch.from_numpy(soundfile.read(folder / f"{name}0.wav", dtype="float32")[0]) for name in SPEAKERS[:2]
    ]
    audio = torch.cat([torch.zeros(8000), takes[0], torch.zeros(16000), takes[1], torch.zeros(8000)])
    turns = diarize(audio.split(16000), 16000, vad=VADConfig(detector="energy"), encoder=encoder)
    assert len(turns) >= 1 and all(turn.speaker for turn in turns)
