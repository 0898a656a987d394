"""Checkpoints are written in the background, in order, from a copy; a failure loses nothing."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.errors import MayaError
from maya.models.speech_model import build_model
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints import space, unbuffered, writer
from maya.train.checkpoints.averaging import RunningAverage
from maya.train.checkpoints.checkpoint import Checkpoint
from maya.train.checkpoints.space import check_space
from maya.train.checkpoints.writer import CheckpointWriter, in_memory
from maya.train.config import TrainConfig
from maya.train.optimizers.optim import make_optimizer
from tests import tiny

NO_TOKENIZER: Any = None


def _checkpoint(value: float) -> Checkpoint:
    model = tiny.hybrid()
    weights = {"w": torch.full((1000,), value)}
    return Checkpoint(model_config=model, tokenizer=NO_TOKENIZER, weights=weights, step=int(value), notes={},
                      training={"moments": [weights["w"] + 1]})  # fmt: skip


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """(name, first weight, first moment) of each file that is written; writing waits for `gate`."""
    files: list[tuple[str, float, float]] = []

    def save(path: Path, checkpoint: Checkpoint) -> None:
        assert GATE.wait(10)
        if "bad" in path.name:
            raise MayaError(f"{path.name}: no space")
        moments = (checkpoint.training or {})["moments"][0]
        files.append((path.name, float(checkpoint.weights["w"][0]), float(moments[0])))

    monkeypatch.setattr(writer, "save_checkpoint", save)
    GATE.clear()
    return files


GATE = threading.Event()


def test_the_copy_is_written_in_order_while_training_goes_on(written: list, tmp_path: Path) -> None:
    done: list[str] = []
    with CheckpointWriter(background=True) as files:
        first = _checkpoint(1.0)
        files.write(tmp_path / "a.pt", first, lambda: done.append("a"))
        first.weights["w"].fill_(9.0)  # the next step
        (first.training or {})["moments"][0].fill_(9.0)
        files.write(tmp_path / "b.pt", _checkpoint(2.0), lambda: done.append("b"))
        files.check()
        assert written == [] and done == []
        GATE.set()
        files.flush()
        assert written == [("a.pt", 1.0, 2.0), ("b.pt", 2.0, 3.0)] and done == ["a", "b"]


def test_memory_holds_two_copies_at_most(written: list, tmp_path: Path) -> None:
    with CheckpointWriter(background=True) as files:
        for name in ("a.pt", "b.pt"):
            files.write(tmp_path / name, _checkpoint(1.0))
        timer = threading.Timer(0.2, GATE.set)
        timer.start()
        files.write(tmp_path / "c.pt", _checkpoint(1.0))  # waits for the first
        assert written and written[0][0] == "a.pt"
    assert [name for name, *_ in written] == ["a.pt", "b.pt", "c.pt"]


@pytest.mark.parametrize("background", [True, False])
def test_a_failed_write_is_reported(written: list, tmp_path: Path, background: bool) -> None:
    GATE.set()
    dropped: list[int] = []
    with pytest.raises(MayaError, match="no space"), CheckpointWriter(background=background) as files:
        files.write(tmp_path / "bad.pt", _checkpoint(1.0), lambda: dropped.append(1))
        files.flush()
    with pytest.raises(MayaError, match="no space"), CheckpointWriter(background=background) as files:
        files.write(tmp_path / "bad.pt", _checkpoint(1.0), lambda: dropped.append(1))
    assert not dropped  # no older file is removed for one that is not there


def test_the_first_error_is_not_masked(
    written: list, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    GATE.set()
    with pytest.raises(ValueError, match="training failed"), CheckpointWriter(background=True) as files:
        files.write(tmp_path / "bad.pt", _checkpoint(1.0))
        raise ValueError("training failed")
    assert "bad.pt: no space" in caplog.text


def test_a_disk_without_room_is_foreseen(
    written: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    GATE.set()
    size = 2 * 4000
    for module in (space, writer):
        monkeypatch.setattr(module, "free_space", lambda _: size - 1)
    with pytest.raises(MayaError, match="the earlier ones are untouched"):
        CheckpointWriter().write(tmp_path / "a.pt", _checkpoint(1.0))
    assert not written
    for module in (space, writer):
        monkeypatch.setattr(module, "free_space", lambda _: size + 1)
    CheckpointWriter().write(tmp_path / "a.pt", _checkpoint(1.0))
    assert "there is room for 1 more" in caplog.text


def test_training_without_room_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The forecast agrees with the size of a checkpoint."""
    model, cfg = build_model(tiny.hybrid()), TrainConfig(ema=0.99, keep=3)
    optimizer = make_optimizer(model, cfg)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    average = RunningAverage()
    average.update(model.state_dict())
    state = {"w": model.state_dict(), "o": optimizer.state_dict(), "a": [average.mean, average.mean]}
    torch.save(in_memory(state), tmp_path / "real.pt")
    real = (tmp_path / "real.pt").stat().st_size

    free = [real * 10**6]
    monkeypatch.setattr(space, "free_space", lambda _: free[0])
    check_space(tmp_path, model, optimizer, cfg)
    assert not caplog.text
    free[0] = 2 * real
    check_space(tmp_path, model, optimizer, cfg)
    assert "lower train.keep" in caplog.text
    free[0] = real // 2
    with pytest.raises(MayaError, match="could not be written"):
        check_space(tmp_path, model, optimizer, cfg)
    sizes = space.bytes_of(state)
    assert sizes == pytest.approx(real, rel=0.35)


def test_shared_tensors_stay_shared_in_a_copy() -> None:
    w = torch.arange(4.0)
    copy = in_memory({"a": w, "b": [w, w[:2]], "c": (1, "x")})
    assert copy["a"] is copy["b"][0] and copy["a"].data_ptr() != w.data_ptr() and copy["c"] == (1, "x")
    assert copy["b"][1].tolist() == [0.0, 1.0]


def test_memory_of_copies_is_used_again(
    written: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large tensors of the second copy lie where those of the first did, and hold the new values; a third
    that comes before the first is on disk takes memory of its own."""
    GATE.set()
    monkeypatch.setattr(writer, "_LARGE", 0)
    places: list[set[int]] = []
    save = writer.save_checkpoint

    def watched(path: Path, checkpoint: Checkpoint) -> None:
        moments = (checkpoint.training or {})["moments"]
        places.append({checkpoint.weights["w"].data_ptr(), moments[0].data_ptr()})
        save(path, checkpoint)

    monkeypatch.setattr(writer, "save_checkpoint", watched)
    with CheckpointWriter(background=True) as files:
        for value in (1.0, 2.0):
            files.write(tmp_path / f"{value}.pt", _checkpoint(value))
            files.flush()
        GATE.clear()
        files.write(tmp_path / "3.pt", _checkpoint(3.0))
        files.write(tmp_path / "4.pt", _checkpoint(4.0))
        GATE.set()
    assert places[0] == places[1] == places[2] and not places[2] & places[3]
    assert [row[1:] for row in written] == [(1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 5.0)]


@pytest.mark.parametrize("direct", ["as here", "refused by open", "refused by write", "unknown"])
def test_a_file_past_the_page_cache_holds_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: str
) -> None:
    """Pieces of all sizes, also after a flush in the middle of a block."""
    monkeypatch.setattr(unbuffered, "_BLOCK", 8192)
    real_open, real_write = os.open, os.write

    def refusing_open(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & unbuffered._DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, mode)

    refused: list[int] = []

    def refusing_write(number: int, data: Any) -> int:
        if not refused:
            refused.append(1)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(number, data[:5000])  # not all at once

    if direct == "refused by open":
        monkeypatch.setattr(unbuffered.os, "open", refusing_open)
    elif direct == "refused by write":
        monkeypatch.setattr(unbuffered.os, "write", refusing_write)
    elif direct == "unknown":
        monkeypatch.setattr(unbuffered, "_DIRECT", 0)
    content = bytes(torch.arange(50_000, dtype=torch.int32).view(torch.uint8).tolist())
    with unbuffered.UnbufferedFile(tmp_path / "a") as file:
        file.write(b"")
        for begin, end in ((0, 1), (1, 5000), (5000, 70_000), (70_000, 70_123), (70_123, len(content))):
            assert file.write(memoryview(content)[begin:end]) == end - begin
            if end == 70_000:
                file.flush()
    assert (tmp_path / "a").read_bytes() == content


def test_an_average_of_exponential_weights() -> None:
    """It begins as the plain mean and then forgets with `decay`."""
    ema = RunningAverage(decay=0.75)
    values = [1.0, 2.0, 3.0, 4.0, 8.0]
    for value in values:
        ema.update({"w": torch.tensor([value]), "count": torch.tensor(3)})
    assert ema.mean["w"].item() == pytest.approx(2.5 + 0.25 * (8.0 - 2.5))
    template = {"w": torch.zeros(1), "count": torch.tensor(7)}
    assert ema.weights(template)["count"].item() == 7 and ema.weights(template)["w"].dtype == torch.float32


@pytest.mark.parametrize("failing", ["fsync", "write within a tensor"])
def test_a_failed_write_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"older")

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(ckpt.os, "fsync" if failing == "fsync" else "write", full)
    pieces: Any = type("Pieces", (), {"model_bytes": b"x"})
    made = _checkpoint(1.0)
    made.tokenizer, made.weights = pieces, {"w": torch.zeros(3 << 20)}
    with pytest.raises(MayaError, match="Disk quota"):
        ckpt.save_checkpoint(path, made)
    assert path.read_bytes() == b"older" and os.listdir(tmp_path) == ["a.pt"]
