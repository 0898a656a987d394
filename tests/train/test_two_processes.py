"""The gradient does not depend on the split of a batch over processes."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from maya.data.loading.batch import Batch
from maya.encoders import FastConformer, FastConformerConfig, LaCTConfig
from maya.errors import MayaError
from maya.heads import ClassifyConfig, LanguageModelConfig
from maya.heads.language_model import LoraConfig
from maya.models.adapters import AdapterConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import build_model
from maya.train import failure
from maya.train.accelerator import make_accelerator, wrap, wrap_again
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.failure import Tally, stop_unless_finite
from maya.train.optimizers.optim import make_optimizer
from maya.train.optimizers.scaled_adam import _local
from maya.train.sharding import refuse, shard, whole_weights
from maya.train.step import Step, train_step
from tests import tiny, tiny_llm, tiny_zipformer
from tests.pair import Pair

VOCAB = 12


def _cfg(norm: str) -> SpeechModelConfig:
    cfg = tiny.experiment().model
    cfg.vocab_size, cfg.languages, cfg.encoder.conv_norm = VOCAB, ("en", "hi"), norm
    return cfg


def _batch(rows: list[int]) -> Batch:
    """Utterances of very different lengths and token counts, so that per-rank means would be wrong."""
    g = torch.Generator().manual_seed(3)
    lens = torch.tensor([24000, 9000, 16000, 7000, 30000])
    token_lens = torch.tensor([9, 2, 5, 0, 12])
    audio = torch.randn(5, 30000, generator=g) * 0.1 * (torch.arange(30000) < lens[:, None])
    tokens = torch.randint(0, VOCAB, (5, 12), generator=g) * (torch.arange(12) < token_lens[:, None])
    n, u = int(lens[rows].max()), int(token_lens[rows].max())
    return Batch(sample_rate=16000, 
        audio=audio[rows, :n], audio_lens=lens[rows], tokens=tokens[rows, :u], token_lens=token_lens[rows],
        langs=torch.tensor([0, 1, 0, 1, 1])[rows], ids=[str(r) for r in rows],
        labels={"emotion": [["glad", "sad", None, "sad", "glad"][r] for r in rows]},
    )  # fmt: skip


def _gradient(
    model_cfg: SpeechModelConfig, groups: list[list[int]], run_dir: Path, parallel: Any = "ddp"
) -> dict[str, torch.Tensor]:
    """The change of each weight in one step of gradient descent with rate 1."""
    torch.manual_seed(0)
    cfg = TrainConfig(
        lr=1.0, warmup_steps=0, min_lr=1.0, clip=1e9, precision="fp32", threads=1, parallel=parallel
    )
    accelerator = make_accelerator(cfg, cpu=True)
    model = build_model(model_cfg)
    before = {k: v.clone() for k, v in model.named_parameters()}
    shard(model, cfg, accelerator)
    wrapped = wrap(model, accelerator)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    train_step(Step(wrapped, sgd, accelerator, run_dir), [_batch(g) for g in groups], cfg, State())
    after = whole_weights(model)
    return {k: v - after[k].detach() for k, v in before.items() if k in after}


def _rank(rank: int, model_cfg: SpeechModelConfig, shares: list[list[list[int]]], out: str) -> None:
    """One step of this rank with DDP and with FSDP2, of which rank 0 gathers the weights."""
    for parallel in ("ddp", "fsdp"):
        gradient = _gradient(model_cfg, shares[rank], Path(out), parallel)
        torch.save(gradient, Path(out) / f"{parallel}-{rank}.pt")


def _compare(single: dict[str, torch.Tensor], out: Path) -> None:
    ddp, other, fsdp = (
        torch.load(out / f"{name}.pt", weights_only=True) for name in ("ddp-0", "ddp-1", "fsdp-0")
    )
    scale = max(float(v.detach().abs().max()) for v in single.values())
    assert scale > 0
    for name, value in single.items():
        assert torch.equal(ddp[name], other[name]), f"{name}: ranks hold different weights"
        for kind, gradient in (("ddp", ddp), ("fsdp", fsdp)):
            error = float((gradient[name] - value).detach().abs().max()) / scale
            assert error < 2e-5, f"{kind}, {name}: relative difference {error:.1e}"


@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize(
    ("norm", "whole", "shares"),
    [
        ("layer_norm", [[0, 1, 2, 3, 4]], [[[0, 3]], [[1, 2, 4]]]),
        ("batch_norm", [[0, 1, 2, 3, 4]], [[[0, 3]], [[1, 2, 4]]]),  # statistics are shared between ranks
        ("layer_norm", [[0, 1, 2, 3, 4]], [[[0], [3]], [[1, 2], [4]]]),  # with accumulation
    ],
)
def test_two_processes_equal_one(
    norm: str, whole: list[list[int]], shares: list[list[list[int]]], tmp_path: Path, pair: Pair
) -> None:
    single = _gradient(_cfg(norm), whole, tmp_path)
    pair.run(_rank, _cfg(norm), shares, str(tmp_path))
    _compare(single, tmp_path)


@pytest.mark.slow
@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_two_processes_equal_one_with_adapters(kind: Any, tmp_path: Path, pair: Pair) -> None:
    cfg = _cfg("layer_norm")
    cfg.adapters = AdapterConfig(type=kind, rank=4)
    single = _gradient(cfg, [[0, 1, 2, 3, 4]], tmp_path)
    pair.run(_rank, cfg, [[[0, 3]], [[1, 2, 4]]], str(tmp_path))
    _compare(single, tmp_path)


@pytest.mark.parametrize(("option", "value"), [("l2_sp", 0.1), ("fixed_pieces", 5)])
def test_fsdp_refuses_what_needs_whole_weights(option: str, value: float) -> None:
    cfg = replace(TrainConfig(parallel="fsdp"), **{option: value})
    with pytest.raises(MayaError, match=f"no rank has .* whole; .*=ddp, or train.{option}=0"):
        refuse(_cfg("layer_norm"), cfg, shares=False)


HEADS: dict[str, dict[str, Any]] = {
    "rnnt": {"transducer": "rnnt", "ctc_weight": 0.0},
    "tdt": {"transducer": "tdt", "ctc_weight": 0.0},
    "pruned": {"transducer": "pruned", "ctc_weight": 0.0},
    "ctc": {"transducer": "none"},
    "cr_ctc": {"transducer": "none", "cr_ctc_weight": 0.1},
    "attention": {"transducer": "none", "ctc_weight": 0.0, "attention_weight": 1.0},
    "language": {"transducer": "none", "ctc_weight": 0.0, "language_id_weight": 1.0},
    "classify": {"transducer": "none", "ctc_weight": 0.0},
    "language_model": {"transducer": "none", "ctc_weight": 0.0},
}


@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize("head", HEADS)
def test_two_processes_equal_one_for_every_head(head: str, tmp_path: Path, pair: Pair) -> None:
    cfg = tiny.hybrid(**HEADS[head])
    for each in cfg.heads.values():
        if hasattr(each, "dropout"):
            each.dropout = 0.0
    if head == "classify":
        cfg.heads["mood"] = ClassifyConfig(label="emotion", classes=("glad", "sad"))
    elif head == "language_model":
        for package in ("transformers", "peft"):
            pytest.importorskip(package, reason="pip install 'maya-asr[llm]'")
        lm = {"projector_hidden": 32, "stack": 3, "lora": LoraConfig(rank=2, dropout=0.0)}
        cfg.heads["llm"] = LanguageModelConfig(llm=str(tiny_llm.make(tmp_path)), **lm)
    single = _gradient(cfg, [[0, 1, 2, 3, 4]], tmp_path)
    pair.run(_rank, cfg, [[[0, 3]], [[1, 2, 4]]], str(tmp_path))
    _compare(single, tmp_path)


def _steps(rank: int, model_cfg: SpeechModelConfig, optimizer: Any, out: str) -> None:
    """Six steps of this rank with DDP and with FSDP2, random decisions on, the encoder frozen for two."""
    weights: list[dict[str, torch.Tensor]] = []
    for parallel in ("ddp", "fsdp"):
        torch.manual_seed(0)
        schedule: dict[str, Any] = {"parallel": parallel, "freeze": ("encoder",), "freeze_steps": 2}
        cfg = TrainConfig(
            optimizer=optimizer, lr=1e-3, precision="fp32", threads=1, warmup_steps=0, **schedule
        )
        accelerator = make_accelerator(cfg, cpu=True)
        model = build_model(model_cfg)
        shard(model, cfg, accelerator)
        tuner, state = make_optimizer(model, cfg), State()
        model.freeze(cfg.freeze)
        wrapped = wrap(model, accelerator)
        torch.manual_seed(rank)
        for state.step in range(6):
            if state.step == 2:
                del wrapped
                model.freeze(())
                wrapped = wrap_again(model, accelerator)
            model.begin_step(state.step, 10.0 * state.step)
            train_step(
                Step(wrapped, tuner, accelerator, Path(out)), [_batch([[0, 3], [1, 4]][rank])], cfg, state
            )
        weights.append({k: v.detach().clone() for k, v in whole_weights(model).items()})
        held = [[p, *tuner.state[p].values()] for p in model.parameters()]
        size = sum(_local(t).numel() * t.element_size() for tensors in held for t in tensors)
        Path(out, f"bytes-{parallel}-{rank}").write_text(str(size))
    if rank:
        return
    torch.manual_seed(0)
    weights.append(build_model(model_cfg).state_dict())
    moved, apart = (
        torch.cat(
            [(a[name] - b[name]).flatten() for name in weights[2] if a[name].is_floating_point()]
        ).norm()
        for a, b in ((weights[0], weights[2]), (weights[1], weights[0]))
    )
    assert apart < 1e-2 * moved  # Adam turns rounding of gradients near zero into steps
    assert moved > 0, (apart, moved)


ENCODERS: dict[str, Any] = {
    "fastconformer": _cfg("layer_norm").encoder,
    "lact": LaCTConfig(
        d_model=32,
        n_layers=2,
        n_heads=2,
        ff_dim=32,
        subsampling_factor=4,
        subsampling_channels=8,
        dropout=0.1,
    ),
    "zipformer": tiny_zipformer.encoder(),
}


@pytest.mark.xdist_group("pair")
@pytest.mark.parametrize(
    ("encoder", "optimizer"),
    [
        ("fastconformer", "adamw"),
        ("zipformer", "scaled_adam"),
        pytest.param("fastconformer", "scaled_adam", marks=pytest.mark.slow),
        pytest.param("lact", "adamw", marks=pytest.mark.slow),
        pytest.param("lact", "scaled_adam", marks=pytest.mark.slow),
        pytest.param("zipformer", "adamw", marks=pytest.mark.slow),
    ],
)
def test_fsdp_equals_ddp_for_every_encoder_in_about_half_the_memory(
    encoder: str, optimizer: str, tmp_path: Path, pair: Pair
) -> None:
    cfg = replace(_cfg("layer_norm"), encoder=ENCODERS[encoder])
    pair.run(_steps, cfg, optimizer, str(tmp_path))
    for rank in range(2):
        ddp, fsdp = (int((tmp_path / f"bytes-{kind}-{rank}").read_text()) for kind in ("ddp", "fsdp"))
        assert fsdp < 0.56 * ddp, (ddp, fsdp)


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    whole = _gradient(_cfg("layer_norm"), [[0, 1, 2, 3, 4]], tmp_path)
    parts = _gradient(_cfg("layer_norm"), [[0, 4], [1, 2, 3]], tmp_path)
    scale = max(float(v.detach().abs().max()) for v in whole.values())
    for name, value in whole.items():
        assert float((parts[name] - value).abs().max()) / scale < 2e-5, name


def _skip_layers(rank: int, out: str) -> None:
    """Four passes of an encoder that skips layers at random, each rank with random numbers of its own."""
    make_accelerator(TrainConfig(precision="fp32", threads=1), cpu=True)  # begins the process group
    cfg = FastConformerConfig(
        d_model=16, n_layers=4, n_heads=2, subsampling_channels=4, conv_kernel=3, layer_drop=0.7
    )
    encoder, skipped = FastConformer(cfg).train(), []
    for number, layer in enumerate(encoder.layers):
        layer.register_forward_hook(lambda *_, number=number: skipped[-1].remove(number))
    torch.manual_seed(100 + rank)
    for _ in range(4):
        skipped.append([0, 1, 2, 3])
        encoder(torch.randn(2, 64, 80), torch.tensor([64, 40])).frames.sum().backward()
    Path(out, f"skipped-{rank}").write_text(str(skipped))


@pytest.mark.xdist_group("pair")
def test_ranks_that_share_batch_statistics_skip_the_same_layers(tmp_path: Path, pair: Pair) -> None:
    pair.run(_skip_layers, str(tmp_path))
    first, second = ((tmp_path / f"skipped-{rank}").read_text() for rank in range(2))
    assert first == second
    assert len(set(first.strip("[]").split("], ["))) > 1  # drawn anew in each pass


def _with_an_impossible_text(rank: int, out: str) -> None:
    """Rank 1 has two utterances that are too short for their texts."""
    device = make_accelerator(TrainConfig(precision="fp32", threads=1), cpu=True).device
    tally = Tally.before(_batch([0, 1, 2]), torch.Generator(), device)
    tally.losses = torch.tensor([1.0, torch.inf, torch.inf] if rank else [1.0, 2.0, 3.0])
    infeasible, _ = stop_unless_finite([tally], torch.tensor(1.0), 0, Path(out), device, 1.0)
    Path(out, f"infeasible-{rank}").write_text(str(infeasible))


@pytest.mark.xdist_group("pair")
def test_the_log_counts_the_impossible_utterances_of_all_ranks(tmp_path: Path, pair: Pair) -> None:
    """Rank 0 writes the log and the checkpoint."""
    pair.run(_with_an_impossible_text, str(tmp_path))
    assert [(tmp_path / f"infeasible-{rank}").read_text() for rank in range(2)] == ["2", "2"]
    assert (tmp_path / "infeasible.txt").read_text() == "0\t1\n0\t2\n"


def _fail_while_rank_0_writes(rank: int, out: str) -> None:
    make_accelerator(TrainConfig(precision="fp32", threads=1), cpu=True)
    weights = Path(out, "weights")

    def keep(run: Any, failed: failure.Failure, name: str) -> None:
        if failed.rank == 0:
            time.sleep(0.5)
            weights.write_text("written")

    model: Any = torch.nn.Linear(1, 1)
    model.step, model.frozen = 3, frozenset()
    log = SimpleNamespace(main=rank == 0)
    run: Any = SimpleNamespace(model=model, folder=Path(out), cfg=TrainConfig(), log=log)
    slow = mock.patch.object(failure, "keep", keep)
    with slow, pytest.raises(failure.NotFinite), failure.watched(run, State(), [], 0.0, False):
        raise failure.NotFinite("not a number", "loss", [], 1.0)
    assert weights.is_file()


@pytest.mark.xdist_group("pair")
def test_no_rank_ends_while_rank_0_writes_the_weights_of_a_failed_step(tmp_path: Path, pair: Pair) -> None:
    """The launcher would end rank 0 too."""
    pair.run(_fail_while_rank_0_writes, str(tmp_path))
