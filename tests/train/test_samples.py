"""Samples of the dev set during training: always the same, logged, without effect on training."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maya.data.table.table import Table, part_path
from maya.errors import MayaError
from maya.heads import TransducerConfig
from maya.recipes.experiment import Experiment
from maya.recipes.train import spread, train
from maya.train import loop
from maya.train.checkpoints.checkpoint import load_checkpoint, step_path
from maya.train.config import TrainConfig
from tests import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a folder `run` with a tokenizer."""
    return tiny.prepare_run(tiny.experiment(), tmp_path_factory.mktemp("samples"))


def _experiment(every: int) -> Experiment:
    """An experiment with all randomness on and batch statistics."""
    exp = tiny.experiment()
    exp.model.encoder.dropout = exp.model.head("transducer", TransducerConfig).joint.dropout = 0.1
    exp.model.encoder.conv_norm = "batch_norm"
    exp.model.specaugment.time_masks = 2
    exp.model.features.dither = 1e-5
    exp.model.noise.probability = 0.5
    exp.train.steps, exp.train.valid_every, exp.train.save_every = 8, 8, 4
    exp.model.heads["transducer"].first_step = 3
    exp.train.samples_every, exp.train.samples = every, 3
    return exp


def _run(data: Path, to: Path, exp: Experiment) -> Path:
    if not to.exists():
        shutil.copytree(data / "run", to)
    train(exp, data / "data", to, cpu=True)
    return to


def _rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


def test_samples_are_logged_and_do_not_change_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = _run(data, tmp_path / "without", _experiment(0))
    assert not (without / "samples.jsonl").exists() and "sample step" not in capsys.readouterr().out
    run = _run(data, tmp_path / "with", _experiment(2))
    out = capsys.readouterr().out
    a, b = (load_checkpoint(step_path(r, 8), training=True) for r in (without, run))
    assert any("running_mean" in name for name in a.weights)
    for name, value in a.weights.items():
        assert torch.equal(value, b.weights[name]), name
    assert a.training is not None and b.training is not None
    assert torch.equal(a.training["rng"][0]["torch"], b.training["rng"][0]["torch"])

    rows = _rows(run)
    assert [r["step"] for r in rows] == [2, 2, 2, 4, 4, 4, 6, 6, 6, 8, 8, 8]
    assert set(rows[0]) == {"step", "id", "language", "head", "ref", "hyp", "wer"}
    assert [r["id"] for r in rows[:3]] == [r["id"] for r in rows[9:]]
    assert {r["language"] for r in rows} == {"en", "hi"}
    table = Table.open(part_path(data / "data", "dev"))
    texts = {entry.id: entry.text for entry in table.entries()}
    assert all(texts[r["id"]] == r["ref"] for r in rows)
    assert f"ref {rows[-1]['ref']}\n  hyp {rows[-1]['hyp']}\n" in out

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    shown = board.Tensors(f"sample/{rows[-1]['id']}/text_summary")
    assert [event.step for event in shown] == [2, 4, 6, 8]
    assert f"ref {rows[-1]['ref']}" in shown[-1].tensor_proto.string_val[0].decode()

    # A run stopped after step 5 resumes at the checkpoint of step 4. Rows after it are written again.
    resumed = tmp_path / "resumed"
    shutil.copytree(run, resumed)
    (resumed / "stage-train.json").unlink()
    step_path(resumed, 8).unlink()
    _run(data, resumed, _experiment(2))
    assert _rows(resumed) == rows

    seen = []
    real = loop.Samples.__call__
    monkeypatch.setattr(loop.Samples, "__call__", lambda s, m, head: seen.append(head) or real(s, m, head))
    exp = _experiment(3)
    exp.decode.method = "transducer"
    _run(data, tmp_path / "ctc", exp)
    assert seen == ["ctc", "transducer"]  # steps 3 and 6: CTC is alone up to the third
    assert [r["head"] for r in _rows(tmp_path / "ctc")] == ["ctc"] * 3 + ["transducer"] * 3


def test_samples_are_spread_over_the_languages(data: Path) -> None:
    table = Table.open(part_path(data / "data", "train"))
    codes, names = table.codes("language")
    for count in (1, 2, 3, 5, 8):
        rows = spread(table, count)
        assert len(set(rows.tolist())) == count
        shares = [int((codes[rows] == c).sum()) for c in range(len(names))]
        assert max(shares) - min(shares) <= 1
    assert len(spread(table, 10_000)) == len(table)


def test_bad_options_are_refused() -> None:
    for name, value in (("samples_every", -1), ("samples", 0)):
        with pytest.raises(MayaError, match=f"{name} must be .* or more, not {value}"):
            TrainConfig(**{name: value})  # type: ignore[arg-type]
