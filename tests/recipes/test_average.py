"""The candidates of averaging, and their selection on dev."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from maya.data.measure.entry import Entry
from maya.data.table.table import part_path, write_table
from maya.errors import MayaError
from maya.recipes import average as stage
from maya.text.tokenizer import TokenizerConfig, train_tokenizer
from maya.train.checkpoints import checkpoint as ckpt
from maya.train.checkpoints.averaging import RunningAverage
from maya.train.heads import read_heads
from tests import tiny


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose only weight is its step. Averaged every 10 steps, saved at 100, 200 (best) and 300."""
    tokenizer = train_tokenizer({"en": ["ab ba abba", "a b"]}, TokenizerConfig(vocab_size=8))
    running = RunningAverage()
    for step in range(10, 301, 10):
        running.update({"w": torch.tensor([float(step)])})
        if step % 100 == 0:
            made = ckpt.Checkpoint(
                model_config=tiny.experiment().model, tokenizer=tokenizer, step=step, notes={},
                weights={"w": torch.tensor([float(step)])}, training={"average": running.state_dict()},
            )  # fmt: skip
            ckpt.save_checkpoint(ckpt.step_path(tmp_path, step), made)
            if step == 200:
                ckpt.save_checkpoint(tmp_path / "best.pt", made)
    return tmp_path


def offered(run: Path, ends: int) -> dict[str, float]:
    checkpoints = ckpt.step_checkpoints(run)
    last = ckpt.load_checkpoint(checkpoints[-1][1], training=True)
    return {c.name: float(c.weights["w"]) for c in stage.candidates(run, checkpoints, last, ends)}


def test_candidates_are_last_best_and_means(run: Path) -> None:
    expected = {
        "last (step 300)": 300.0,
        "best (step 200)": 200.0,
        "mean of steps 200–300": 255.0,  # of 210, 220, ..., 300
        "mean of steps 100–300": 205.0,
    }
    assert offered(run, 1) == expected
    assert offered(run, 2) == expected | {"mean of steps 100–200": 155.0}
    assert offered(run, 9) == offered(run, 2)


def test_named_interval_needs_only_its_two_checkpoints(run: Path) -> None:
    checkpoints = ckpt.step_checkpoints(run)
    assert float(stage.stretch(checkpoints, 300, 200).weights["w"]) == 205.0
    assert stage.stretch(checkpoints, 200, 100).step == 200
    assert float(stage.stretch(checkpoints, None, 300).weights["w"]) == 155.0  # from the first sample on
    ckpt.step_path(run, 200).unlink()
    assert float(stage.stretch(ckpt.step_checkpoints(run), 300, 200).weights["w"]) == 205.0
    for step, avg in ((300, 150), (250, 50), (300, 400), (300, 0), (200, 100)):
        with pytest.raises(MayaError, match="kept are those of 100, 300"):
            stage.stretch(ckpt.step_checkpoints(run), step, avg)


def test_best_candidate_on_dev_is_kept_with_its_scores(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(nn.Module):
        def __init__(self, cfg: object) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    def validation(*_: object, whole: bool) -> object:
        assert whole  # the final choice is made on all of dev

        def validate(model: Model, heads: tuple[str, ...]) -> dict[str, float]:
            error = abs(float(model.w.detach()) - 150.0)  # the mean of steps 100–200 is the nearest
            return {"error": error, "loss": error, "wer": error, "cer": error}

        return validate

    monkeypatch.setattr(stage, "SpeechModel", Model)
    monkeypatch.setattr(stage, "dev_validation", validation)
    prepared(run, {"dev": ["a"]})
    stage.average(tiny.experiment(), run, run)
    chosen = ckpt.load_checkpoint(run / "averaged.pt")
    assert chosen.notes["weights"] == "best (step 200)" and chosen.step == 200
    stage.average(tiny.experiment(), run, run, ends=2)
    chosen = ckpt.load_checkpoint(run / "averaged.pt")
    assert chosen.notes["weights"] == "mean of steps 100–200" and float(chosen.weights["w"]) == 155.0
    assert len(chosen.notes["dev"]) == 5 and chosen.notes["dev"]["last (step 300)"]["wer"] == 150.0
    stage.average(tiny.experiment(), run, run, step=300, avg=100)
    chosen = ckpt.load_checkpoint(run / "averaged.pt")
    assert chosen.notes["weights"] == "mean of steps 200–300" and chosen.step == 300


@pytest.mark.parametrize(
    ("method", "chosen", "head"),
    [
        ("auto", "last (step 300)", "ctc"),  # the lowest CER of any trained head
        ("transducer", "mean of steps 200–300", "transducer"),
        ("ctc", "last (step 300)", "ctc"),
    ],
)
def test_candidates_are_compared_by_the_decoding_head(
    run: Path, monkeypatch: pytest.MonkeyPatch, method: Any, chosen: str, head: str
) -> None:
    """best.pt (step 200) was kept before the transducer was trained: weights without the head that decodes,
    or with "auto" without any of the heads, come last, whatever their error."""
    for path in (run / "best.pt", *(path for _, path in ckpt.step_checkpoints(run))):
        loaded = ckpt.load_checkpoint(path, training=True)
        loaded.notes = {"trained": ["transducer", "ctc"] if loaded.step == 300 else ["ctc"],
                        "heads": {"transducer": {"steps": max(0, loaded.step - 250)},
                                  "ctc": {"steps": loaded.step}}}  # fmt: skip
        ckpt.save_checkpoint(path, loaded)
    offered = []

    class Model(nn.Module):
        def __init__(self, cfg: object) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    def validate(model: Model, heads: tuple[str, ...]) -> dict[str, float]:
        w = float(model.w.detach())
        offered.append((w, heads))
        cer = {"transducer": abs(w - 255.0), "ctc": 1e-3 * abs(w - 300.0) if w > 250 else 90.0}
        if method != "ctc" and w == 200.0:
            cer["ctc"] = 0.0  # its error would win
        if method == "transducer":
            cer["transducer"] += 1.0
        scores = {f"{h}_{rate}": cer[h] for h in heads for rate in ("wer", "cer")}
        used = method if method in heads else min(heads, key=cer.__getitem__)
        return scores | {"loss": 1.0, "error": cer[used], "wer": cer[used], "cer": cer[used]}

    monkeypatch.setattr(stage, "SpeechModel", Model)
    monkeypatch.setattr(stage, "dev_validation", lambda *_, **__: validate)
    exp = tiny.experiment()
    exp.decode.method = method
    stage.average(exp, run, run)
    averaged = ckpt.load_checkpoint(run / "averaged.pt")
    assert averaged.notes["weights"] == chosen
    both = ("transducer", "ctc")
    assert dict(offered) == {300.0: both, 255.0: both, 200.0: ("ctc",), 205.0: both}
    assert averaged.notes["trained"] == list(both)
    assert averaged.notes["heads"]["transducer"]["steps"] == 50
    if method == "auto":
        assert read_heads(averaged).best().head == head


def of_epochs(run: Path) -> Path:
    """The same run with epochs 1, 2 and 3 that ended at steps 100, 200 and 300."""
    for epoch, (_, path) in enumerate(ckpt.step_checkpoints(run), start=1):
        ckpt.epoch_path(run, epoch).write_bytes(path.read_bytes())
    return run


def test_epoch_and_avg_need_two_files(run: Path) -> None:
    paths = ckpt.epoch_checkpoints(of_epochs(run))
    assert list(paths) == [1, 2, 3]
    assert float(stage.passes(paths, 3, 2).weights["w"]) == 205.0
    assert stage.passes(paths, 3, 2).name == "mean of epochs 2–3"
    assert float(stage.passes(paths, 2, 2).weights["w"]) == 105.0  # from the first step on
    paths[2].unlink()
    assert float(stage.passes(ckpt.epoch_checkpoints(run), 3, 2).weights["w"]) == 205.0
    for epoch, avg in ((3, 1), (2, 1), (3, 4), (3, 0), (9, 1)):
        with pytest.raises(MayaError, match="kept are those of 1, 3 "):
            stage.passes(ckpt.epoch_checkpoints(run), epoch, avg)


def test_pairs_of_epoch_and_avg() -> None:
    everything = range(1, 51)
    default = list(stage.choices(everything, (), ()))
    assert {e for e, _ in default} == {40, 45, 50}
    assert [a for e, a in default if e == 50] == [5, 10, 15, 20, 25]
    assert list(stage.choices([10, 20, 30], (), (10, 20, 30))) == [(30, 10), (30, 20), (30, 30)]
    assert list(stage.choices([10, 20, 30], (20, 25), (10, 20, 30))) == [(20, 10), (20, 20)]


def prepared(folder: Path, sets: dict[str, list[str]]) -> Path:
    """Write tables of utterances with these ids."""
    nothing = {"path": "a.wav", "file_size": 1, "file_mtime": 1, "sample_rate": 16000, "channels": 1}
    nothing |= {"num_samples": 16000, "start": None, "duration": 1.0, "text": "a", "raw_text": "a"}
    nothing |= dict.fromkeys(("offset", "size", "member", "kind", "source", "licence"))
    for name, ids in sets.items():
        rows = [Entry(id=i, language="en", speaker="s", where="", **nothing) for i in ids]
        write_table(part_path(folder, name), rows)
    return folder


def test_dev_sets_select_epoch_and_avg(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best_step = {"dev-clean": 195.0, "dev-other": 215.0}  # together they like 205, the mean of epochs 2 and 3

    class Model(nn.Module):
        def __init__(self, cfg: object) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    def validation(*_: object, part: str, whole: bool) -> object:
        assert whole

        def validate(model: Model, heads: tuple[str, ...]) -> dict[str, float]:
            rate = (float(model.w.detach()) - best_step[part]) ** 2 / 1e4
            return {f"{head}_{name}": rate for head in heads for name in ("wer", "cer")}

        return validate

    monkeypatch.setattr(stage, "SpeechModel", Model)
    monkeypatch.setattr(stage, "dev_validation", validation)
    data = prepared(
        tmp_path, {"train": ["t"], "dev": ["a", "b"], "dev-clean": ["a"], "dev-other": ["b"], "test": ["c"],
                   "test-clean": ["c"]},
    )  # fmt: skip
    assert stage.dev_sets(data) == ["dev-clean", "dev-other"]
    stage.select(tiny.experiment(), data, of_epochs(run), epochs=(2, 3), avgs=(1, 2))
    chosen = ckpt.load_checkpoint(run / "averaged.pt")
    assert float(chosen.weights["w"]) == 205.0 and chosen.step == 300
    assert chosen.notes["selected"]["epoch"] == 3 and chosen.notes["selected"]["avg"] == 2
    table = (run / "select.md").read_text().splitlines()
    assert table[0] == "| epoch | avg | dev-clean | dev-other | mean |" and len(table) == 2 + 4
    assert table[-1] == "| **3** | **2** | **1.00** | **1.00** | **1.00** |"
    capsys.readouterr()
    stage.select(tiny.experiment(), data, run, epochs=(2, 3), avgs=(1, 2))
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "head", "mean"), [("auto", "ctc", 2.0), ("transducer", "transducer", 3.0)]
)
def test_epochs_are_selected_by_the_decoding_head(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any, head: str, mean: float
) -> None:
    class Model(nn.Module):
        def __init__(self, cfg: object) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    def validation(*_: object, part: str, whole: bool) -> object:
        wer = {"dev-clean": 1.0, "dev-other": 3.0}[part]
        both = {"transducer_wer": wer + 1, "transducer_cer": wer + 1, "ctc_wer": wer, "ctc_cer": wer}
        return lambda model, heads: {"wer": 99.0} | both

    monkeypatch.setattr(stage, "SpeechModel", Model)
    monkeypatch.setattr(stage, "dev_validation", validation)
    parts = {"train": ["t"], "dev": ["a", "b"], "dev-clean": ["a"], "dev-other": ["b"], "test": ["c"]}
    exp = tiny.experiment()
    exp.decode.method = method
    stage.select(exp, prepared(tmp_path, parts), of_epochs(run), epochs=(3,), avgs=(1,))
    averaged = ckpt.load_checkpoint(run / "averaged.pt")
    selected = averaged.notes["selected"]
    assert (selected["head"], selected["mean"]) == (head, mean)
    expected = {"transducer": {"wer": 3.0, "cer": 3.0}, "ctc": {"wer": 2.0, "cer": 2.0}}
    assert read_heads(averaged).dev == expected


def test_nothing_is_selected_on_the_test_set(run: Path, tmp_path: Path) -> None:
    data = prepared(tmp_path, {"train": ["t"], "dev": ["a"], "test": ["c"], "test-clean": ["c"]})
    assert stage.dev_sets(data) == ["dev"]
    with pytest.raises(MayaError, match="no checkpoints of epochs"):
        stage.select(tiny.experiment(), data, run)
    of_epochs(run)
    for name in ("test", "test-clean"):
        with pytest.raises(MayaError, match=f"^{name} holds utterances of the test set"):
            stage.select(tiny.experiment(), data, run, sets=("dev", name))
    with pytest.raises(MayaError, match="keeps the epochs 1, 2, 3: none"):
        stage.select(tiny.experiment(), data, run, epochs=(9,))
    with pytest.raises(MayaError, match="--epoch needs --avg, the number of epochs"):
        stage.average(tiny.experiment(), data, run, epoch=3)


def test_without_dev_the_last_is_taken_and_reported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "dev_validation", lambda *_, **__: None)
    data = prepared(tmp_path, {"train": ["t"], "dev": [], "test": []})
    stage.average(tiny.experiment(), data, run)
    assert "has no dev set to choose on: last (step 300) is taken; --avg names" in capsys.readouterr().out
    assert float(ckpt.load_checkpoint(run / "averaged.pt").weights["w"]) == 300.0
    stage.average(tiny.experiment(), data, run, step=300, avg=100)
    assert "to choose on: mean of steps 200–300 is taken\n" in capsys.readouterr().out
    assert ckpt.load_checkpoint(run / "averaged.pt").notes["weights"] == "mean of steps 200–300"
    stage.select(tiny.experiment(), data, of_epochs(run))
    assert "has no dev set to choose on: last (step 300)" in capsys.readouterr().out
    exp = tiny.experiment()
    exp.data.source = "lhotse"
    stage.average(exp, None, run)
    assert "average: data.dev_cuts names no dev set to choose on: " in capsys.readouterr().out


def test_every_input_makes_the_stage_run_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Model(nn.Module):
        def __init__(self, cfg: object) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    scores = {"error": 1.0, "loss": 1.0, "wer": 1.0, "cer": 1.0}
    monkeypatch.setattr(stage, "SpeechModel", Model)
    monkeypatch.setattr(stage, "dev_validation", lambda *_, **__: lambda model, heads: scores)
    monkeypatch.chdir(tmp_path)  # the folder of a.wav, the audio of all utterances
    experiment, data = tiny.experiment(), prepared(tmp_path, {"train": ["t"], "dev": ["a"], "test": ["c"]})
    changes = {
        "nothing": lambda: None,
        "dev prepared again": lambda: prepared(tmp_path, {"dev": ["a", "b"]}),
        "audio": lambda: Path("a.wav").write_bytes(b"1"),
        "decoding": lambda: setattr(experiment.decode, "method", "ctc"),
        "best": lambda: os.utime(run / "best.pt", (1, 1)),
        "checkpoint": lambda: os.utime(ckpt.step_path(run, 100), (1, 1)),
        "a checkpoint less": lambda: ckpt.step_path(run, 100).unlink(),
        "result": lambda: (run / "averaged.pt").unlink(),
    }
    stage.average(experiment, data, run)
    for kind, change in changes.items():
        capsys.readouterr()
        change()
        stage.average(experiment, data, run)
        assert ("up to date" in capsys.readouterr().out) == (kind == "nothing"), kind
