"""A training that moves to another machine through the storage, and `maya supervise`."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from maya.recipes import supervise as recipe
from maya.recipes.cli import main
from maya.recipes.supervise import supervise, training_command, watch_command
from maya.recipes.train import train
from maya.storage.s3 import Place
from maya.train.checkpoints.checkpoint import load_checkpoint, step_checkpoints
from tests import tiny
from tools.s3_server import Proxy


def test_a_run_moves_to_another_machine(
    tmp_path: Path, place: Place, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, uploaded, lost, restored elsewhere: the parameters equal those of a run on one machine."""
    monkeypatch.setattr("os.nice", lambda _: 0)
    top = tiny.prepare_run(tiny.experiment(), tmp_path, utterances=12)
    run, data, other = top / "run", top / "data", top / "other"
    with tiny.interrupted(after=8):
        train(tiny.experiment(), data, run, cpu=True)
    assert main(["watch", str(run), "--to", str(place), "--once"]) == 0
    assert main(["restore", str(other), "--from-storage", str(place)]) == 0
    assert [step for step, _ in step_checkpoints(other)] == [8]
    for folder in (run, other):
        train(tiny.experiment(), data, folder, cpu=True)
    stayed, moved = (load_checkpoint(step_checkpoints(f)[-1][1], training=True) for f in (run, other))
    assert stayed.step == moved.step == 12 and stayed.weights.keys() == moved.weights.keys()
    assert all(torch.equal(stayed.weights[name], moved.weights[name]) for name in stayed.weights)
    assert main(["restore", str(other), "--from-storage", str(place)]) == 0  # it is newer: nothing is brought
    assert main(["watch", str(other), "--to", str(place), "--once"]) == 0  # and it is the same run


@pytest.fixture
def scripts(tmp_path: Path) -> Namespace:
    """A training that lasts until the file `end` is there, and a watcher that writes a line when it starts
    and dies at its first start."""
    training = (
        f"import os, time\nwhile not os.path.exists({str(tmp_path / 'end')!r}): time.sleep(0.05)\nexit(3)"
    )
    watching = (
        "import os, sys, time\n"
        f"path, end = {str(tmp_path / 'starts')!r}, {str(tmp_path / 'end')!r}\n"
        "count = len(open(path).readlines()) if os.path.exists(path) else 0\n"
        "open(path, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "if '--once' in sys.argv: exit(0)\n"
        "if count == 0: os.kill(os.getpid(), 9)\n"
        "open(end, 'w')\n"
        "time.sleep(60)"
    )
    return Namespace(
        training=[sys.executable, "-c", training], watch=[sys.executable, "-c", watching],
        starts=tmp_path / "starts",
    )  # fmt: skip


def test_a_watcher_that_is_killed_starts_again(
    scripts: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And after the training has ended, all that is there is uploaded. The training's status is returned."""
    monkeypatch.setattr(recipe, "_POLL_SECONDS", 0.05)
    assert supervise(scripts.training, scripts.watch, tmp_path / "watch.log") == 3
    assert scripts.starts.read_text() == "\n\n--once\n"
    assert "the watcher ended (-9)" in capfd.readouterr().err


def test_its_commands() -> None:
    args = Namespace(experiment="egs.indic12.mini", overrides=["train.lr=1e-3"], data=Path("d"),
                     run_dir=Path("r"), gpus=2, to="s3://b/r", watch=["keep_local=3"])  # fmt: skip
    text = " ".join(training_command(args)[1:])
    assert text == (
        "-m maya.recipes.launch --standalone --nproc-per-node 2 train --experiment egs.indic12.mini "
        "--data d --run-dir r --set train.lr=1e-3 --set train.keep=1000000"
    )
    assert training_command(Namespace(**vars(args) | {"gpus": 0}))[-1] == "--cpu"
    assert watch_command(args)[-5:] == ["r", "--to", "s3://b/r", "--set", "keep_local=3"]


def test_launch_is_refused_with_reasons(
    tmp_path: Path, place: Place, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run"), "--gpus", "0"]
    command = ["supervise", "--experiment", "tests.tiny", *where]
    assert main([*command, "--to", "s3://no-such-bucket/a"]) == 1
    assert "cannot be used (bucket): the bucket no-such-bucket does not exist" in capsys.readouterr().err
    assert main([*command, "--to", str(place)]) == 1
    printed = capsys.readouterr()
    assert "NOT READY  tokenizer" in printed.out and "the run is not started" in printed.err


@pytest.mark.slow
def test_supervised_training_ends_uploaded(tmp_path: Path, place: Place, proxy: Proxy) -> None:
    """The whole: checks, training, a watcher beside it, and again on a machine that has only the data."""
    top = tiny.prepare_run(tiny.experiment(), tmp_path, utterances=12)
    command = ["supervise", "--experiment", "tests.tiny", "--data", str(top / "data"), "--gpus", "0"]
    command += ["--to", str(place), "--run-dir"]
    assert main([*command, str(top / "run"), "--set", "train.init_from="]) == 0
    assert [step for step, _ in step_checkpoints(top / "run")] == [6, 12]
    assert main([*command, str(top / "fresh")]) == 0
    assert [step for step, _ in step_checkpoints(top / "fresh")] == [12]
