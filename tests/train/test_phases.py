"""An encoder that is frozen at first: its weights, its computation, the log, and resuming."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from maya.encoders import Encoded
from maya.heads import LanguageConfig, head_weights
from maya.models.speech_model import build_model
from maya.recipes.experiment import Experiment
from maya.recipes.train import train
from maya.train.accelerator import make_accelerator, wrap_again
from maya.train.checkpoints.checkpoint import load_checkpoint, step_path
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.optimizers import schedule
from maya.train.step import Step, train_step
from tests import tiny
from tests.pair import Pair
from tests.train.test_two_processes import _batch, _cfg

FREEZE, RAMP, STEPS = 3, 4, 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and a folder `run` with a tokenizer."""
    return tiny.prepare_run(_experiment(), tmp_path_factory.mktemp("phases"), utterances=12)


def _experiment() -> Experiment:
    exp = tiny.experiment()
    exp.model.encoder.dropout = exp.model.encoder.dropout_att = 0.1
    exp.model.heads["language"] = LanguageConfig(weight=0.3)
    exp.model.heads["ctc"].ramp_steps = RAMP
    exp.train.steps, exp.train.warmup_steps, exp.train.encoder_lr = STEPS, 2, 1e-3
    exp.train.freeze, exp.train.freeze_steps = ("encoder",), FREEZE
    exp.train.encoder_layer_decay = 0.9
    exp.train.save_every, exp.train.keep, exp.train.log_every = 1, 99, 1
    exp.train.valid_every = STEPS
    return exp


def _run(data: Path, to: Path, first: int = 0) -> Path:
    """Train to the end in a copy of the prepared run folder. With `first`, stop there once and resume."""
    shutil.copytree(data / "run", to)
    if first:
        with tiny.interrupted(after=first):
            train(_experiment(), data / "data", to, cpu=True)
        torch.rand(100)  # the process that continues has drawn other random numbers
    train(_experiment(), data / "data", to, cpu=True)
    return to


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return _run(data, tmp_path_factory.mktemp("straight") / "run")


def _moved(run: Path, a: int, b: int) -> set[str]:
    """Names of the state that differs between the checkpoints of two steps."""
    before, after = (load_checkpoint(step_path(run, s)).weights for s in (a, b))
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_frozen_encoder_is_bitwise_unchanged_then_learns(straight: Path) -> None:
    frozen, thawed = _moved(straight, 1, FREEZE), _moved(straight, FREEZE, STEPS)
    assert frozen and not [name for name in frozen if name.startswith("encoder.")]
    assert {"heads.transducer.decoder.prediction.embed.weight", "heads.ctc.decoder_layers.0.weight"} <= frozen
    assert "encoder.layers.0.conv.batch_norm.running_mean" in thawed  # statistics, too
    assert "encoder.layers.1.self_attn.linear_q.weight" in thawed
    training = load_checkpoint(step_path(straight, FREEZE), training=True).training
    assert training is not None
    owners = [g["encoder"] for g in training["optimizer"]["param_groups"] for _ in g["params"]]
    assert not any(owners[i] for i in training["optimizer"]["state"])  # no moments, no decay


@pytest.mark.parametrize("first", [FREEZE - 1, FREEZE, FREEZE + 1])
def test_resume_around_a_phase_change_is_exact(
    data: Path, straight: Path, tmp_path: Path, first: int
) -> None:
    continued = _run(data, tmp_path / "run", first)
    a, b = (load_checkpoint(step_path(r, STEPS), training=True) for r in (straight, continued))
    for name, value in a.weights.items():
        assert torch.equal(value, b.weights[name]), name
    assert a.training is not None and b.training is not None
    moments, others = (t.training["optimizer"]["state"] for t in (a, b))  # type: ignore[index]
    assert moments.keys() == others.keys()
    for i, moment in moments.items():
        assert torch.equal(moment["exp_avg"], others[i]["exp_avg"])
    assert _log(straight) == _log(continued)


def _log(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = ("kind", "step", "loss", "lr", "encoder_lr", "weight_ctc", "weight_transducer", "encoder", "heads",
            "ctc")  # fmt: skip
    return [{k: r[k] for k in kept if k in r} for r in rows]


def test_log_shows_each_phase_change_at_its_step(data: Path, straight: Path, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    rows = _log(straight)
    phases = {r["step"]: {k: v for k, v in r.items() if k not in ("kind", "step")} for r in rows
              if r["kind"] == "phase"}  # fmt: skip
    assert phases == {
        0: {"encoder": "frozen", "heads": "warming up", "ctc": "rising"},
        2: {"heads": "learning"},
        FREEZE: {"encoder": "warming up"},
        RAMP: {"ctc": "full"},
        FREEZE + 2: {"encoder": "learning"},
    }
    train_rows = {r["step"]: r for r in rows if r["kind"] == "train"}
    assert [train_rows[s]["encoder_lr"] == 0 for s in (FREEZE, FREEZE + 1)] == [True, False]
    assert train_rows[1]["weight_ctc"] == 0 and train_rows[RAMP + 1]["weight_ctc"] == 0.3
    assert train_rows[1]["weight_transducer"] == 1 and train_rows[RAMP + 1]["weight_transducer"] == 0.7
    events = b"".join(p.read_bytes() for p in (straight / "tensorboard").iterdir())
    assert b"phase/encoder" in events and b"warming up" in events

    shutil.copytree(data / "run", tmp_path / "run")
    exp = _experiment()
    exp.train.steps = exp.train.valid_every = FREEZE + 1
    capsys.readouterr()
    train(exp, data / "data", tmp_path / "run", cpu=True)
    out = capsys.readouterr().out
    assert f"phase step {FREEZE}  encoder: warming up" in out
    assert out.index("step 3/4") < out.index("phase step 3") < out.index("step 4/4")


def test_frozen_encoder_saves_no_tensors_for_backward() -> None:
    model = build_model(_cfg("batch_norm")).train()
    model.cfg.encoder.dropout = 0.5
    batch, saved = _batch([0, 1]), []

    def keep(t: torch.Tensor) -> torch.Tensor:
        saved.append(t)
        return t

    for frozen in (True, False):
        model.freeze(("encoder",) if frozen else ())
        model.train()
        assert model.encoder.training is not frozen and model.head("transducer").training
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            encoded = model.encode_audio(batch.audio, batch.audio_lens)
        assert encoded.frames.requires_grad is not frozen
        assert bool(saved) is not frozen


def test_first_ramp_step_survives_a_text_that_ctc_cannot_align() -> None:
    model, batch = build_model(_cfg("layer_norm")).train(), _batch([0, 1])
    frames = torch.randn(2, 5, model.cfg.encoder.d_model)  # nine tokens in the first row
    encoded = Encoded(frames, torch.tensor([5, 5]))
    heads = model.cfg.heads
    heads["ctc"].ramp_steps = 4
    assert model.losses(encoded, batch).parts["ctc"][0].isinf()
    out = model.losses(encoded, batch, weights=head_weights(heads, 0))
    assert out.total.isfinite().all()
    torch.testing.assert_close(out.total, out.parts["transducer"])
    out.total.sum().backward()
    grads = [p.grad for p in model.head("ctc").parameters()]
    assert all(g is not None and g.abs().sum() == 0 for g in grads)  # DDP gets its gradient


def _weights(groups: list[list[int]], run_dir: Path) -> dict[str, torch.Tensor]:
    """The weights after four steps of plain gradient descent, the encoder frozen in the first two."""
    torch.manual_seed(0)
    cfg = TrainConfig(lr=0.01, warmup_steps=0, min_lr=0.01, clip=1e9, precision="fp32", threads=1,
                      freeze=("encoder",), freeze_steps=2, steps=4)  # fmt: skip
    model_cfg = _cfg("batch_norm")
    model_cfg.heads["ctc"].ramp_steps = 2
    accelerator, state, model = make_accelerator(cfg, cpu=True), State(), build_model(model_cfg)
    heads = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    sgd = torch.optim.SGD([{"params": [*model.encoder.parameters()], "encoder": True}, {"params": heads}])
    model.freeze(schedule.frozen(cfg, 0))
    wrapped = accelerator.prepare_model(model)
    while state.step < cfg.steps:
        if model.frozen != schedule.frozen(cfg, state.step):
            del wrapped
            model.freeze(())
            wrapped = wrap_again(model, accelerator)
        model.begin_step(state.step, 0.0)
        tools = Step(wrapped, sgd, accelerator, run_dir)
        train_step(tools, [_batch(g) for g in groups], cfg, state)
        state.step += 1
    return {k: v.detach().clone() for k, v in model.state_dict().items() if v.is_floating_point()}


def _rank(rank: int, shares: list[list[list[int]]], out: str) -> None:
    torch.save(_weights(shares[rank], Path(out)), Path(out) / f"{rank}.pt")
    AcceleratorState._reset_state(reset_partial_state=False)
    _wrap_bf16_again()


def _wrap_bf16_again() -> None:
    """Wrapping again removes the old autocast first. The model still runs under autocast."""
    accelerator = make_accelerator(TrainConfig(precision="bf16"), cpu=True)
    model = build_model(_cfg("layer_norm"))
    depths = []
    for frozen in (True, False, True):
        model.freeze(("encoder",) if frozen else ())
        wrapped = accelerator.prepare_model(model) if not depths else wrap_again(model, accelerator)
        assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
        forward, depth = model.forward, 0
        while hasattr(forward, "__wrapped__"):
            forward, depth = forward.__wrapped__, depth + 1
        depths.append(depth)
        wrapped(_batch([0, 1])).total.sum().backward()
        assert (model.encoder.layers[0].self_attn.linear_q.weight.grad is None) is frozen
        model.zero_grad()
        del wrapped
    assert depths[0] == depths[1] == depths[2] > 0


@pytest.mark.xdist_group("pair")
def test_two_processes_equal_one_across_a_phase_change(tmp_path: Path, pair: Pair) -> None:
    single = _weights([[0, 1, 2, 3, 4]], tmp_path)
    shares = [[[0, 3]], [[1, 2, 4]]]  # one batch a step: it shares batch-norm statistics between ranks
    pair.run(_rank, shares, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    start = build_model_weights()
    movement = max(float((value - start[name]).abs().max()) for name, value in single.items())
    for name, value in single.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), f"{name}: ranks hold different weights"
        error = float((ranks[0][name] - value).abs().max()) / movement
        assert error < 1e-3, f"{name}: relative difference {error:.1e}"
    learnt = [n for n in single if n.startswith("encoder.layers.") and not torch.equal(single[n], start[n])]
    assert len(learnt) > 20  # with both ranks' gradients


def build_model_weights() -> dict[str, torch.Tensor]:
    """The initial weights of `_weights`."""
    torch.manual_seed(0)
    return build_model(_cfg("batch_norm")).state_dict()
