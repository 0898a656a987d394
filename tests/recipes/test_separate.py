"""`maya separate`: files of each speaker, bounded memory, and what it says of bad input."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from maya.convert.icefall.tokens import tokenizer_of
from maya.encoders import ConvTasNetConfig
from maya.models.separation import separate, separation_model
from maya.models.speech_model import SpeechModel
from maya.recipes.cli import run
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint

RATE = 8000
_MEGABYTE = 1 << 20


def saved(folder: Path, *, causal: bool) -> SpeechModel:
    torch.manual_seed(6)
    norm = "cumulative" if causal else "global"
    encoder = ConvTasNetConfig(
        filters=8, bottleneck=6, hidden=8, skip=6, layers=2, stacks=1, causal=causal, norm=norm
    )  # type: ignore[arg-type]
    config = separation_model(encoder, RATE)
    model = SpeechModel(config).eval()
    notes = {"trained": ["separation"]}
    checkpoint = Checkpoint(
        model_config=config, tokenizer=tokenizer_of(["<unk>", "<s>", "</s>"]), weights=model.state_dict(),
        step=0, notes=notes,
    )  # fmt: skip
    folder.mkdir(parents=True)
    save_checkpoint(folder / "best.pt", checkpoint)
    return model


@pytest.mark.parametrize("causal", [True, False])
def test_each_speaker_is_in_a_file(tmp_path: Path, causal: bool) -> None:
    model = saved(tmp_path / "run", causal=causal)
    audio = np.random.default_rng(0).normal(0, 0.05, 25 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    command = ["separate", str(tmp_path / "a.wav"), "--model", str(tmp_path / "run")]
    assert run([*command, "--output-dir", str(tmp_path / "out"), "--device", "cpu"]) == (0, "")
    whole = separate(model, torch.from_numpy(audio)[None], torch.tensor([len(audio)]))[0].clamp(-1, 1)
    for number, source in enumerate(whole, start=1):
        written, rate = soundfile.read(tmp_path / "out" / f"a_s{number}.wav", dtype="float32")
        assert rate == RATE and np.abs(written - source.numpy()).max() < 1e-4  # 16 bits


def test_bad_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "run", causal=False)
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "long.wav", np.zeros(3 * RATE), RATE)
    common = ["--model", str(tmp_path / "run"), "--output-dir", str(tmp_path / "out"), "--device", "cpu"]
    files = [str(tmp_path / name) for name in ("text.wav", "absent.wav", "long.wav")]
    status, _ = run(["separate", *files, *common, "--max-seconds", "1"])
    errors = capsys.readouterr().err
    assert status == 1 and all(name in errors for name in files)
    assert "is longer than 1 s, and this model is not causal" in errors
    assert not list((tmp_path / "out").glob("*.wav"))
    assert "name recordings to separate" in run(["separate", *common])[1]
    assert "two recordings are named long" in run(["separate", files[2], files[2], *common])[1]
    other = ["--model", str(tmp_path / "absent"), "--output-dir", str(tmp_path / "out")]
    assert run(["separate", files[2], *other])[0] == 1


_MEASURE = """
import resource, sys
from maya.recipes.cli import run
assert run(sys.argv[1:]) == (0, ""), "failed"
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_an_hour_takes_the_memory_of_a_minute(tmp_path: Path) -> None:
    saved(tmp_path / "run", causal=True)
    peaks = []
    for minutes in (1, 60):
        path = tmp_path / f"m{minutes}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(np.random.default_rng(1).normal(0, 0.05, 60 * RATE))
        command = [
            "separate",
            str(path),
            "--model",
            str(tmp_path / "run"),
            "--output-dir",
            str(tmp_path / "out"),
        ]
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, *command, "--device", "cpu"], capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.split("peak")[1]) * 1024)
        assert soundfile.info(tmp_path / "out" / f"m{minutes}_s2.wav").frames == minutes * 60 * RATE
    assert peaks[1] - peaks[0] < 30 * _MEGABYTE
