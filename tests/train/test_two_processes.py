"""The gradient does not depend on the split of a batch over processes."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from maya.data.loading.batch import Batch
from maya.encoders import FastConformer, FastConformerConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import build_model
from maya.train import failure
from maya.train.checkpoints.state import State
from maya.train.config import TrainConfig
from maya.train.distributed import make_accelerator
from maya.train.failure import Tally, stop_unless_finite
from maya.train.step import Step, train_step
from tests import tiny
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
    )  # fmt: skip


def _gradient(norm: str, groups: list[list[int]], run_dir: Path, cpu: bool = True) -> dict[str, torch.Tensor]:
    """The change of each weight in one step of gradient descent with rate 1."""
    torch.manual_seed(0)
    cfg = TrainConfig(lr=1.0, warmup_steps=0, min_lr=1.0, clip=1e9, precision="fp32", threads=1)
    accelerator = make_accelerator(cfg, cpu=cpu)
    model = build_model(_cfg(norm))
    before = {k: v.clone() for k, v in model.named_parameters()}
    wrapped = accelerator.prepare_model(model)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    train_step(Step(wrapped, sgd, accelerator, run_dir), [_batch(g) for g in groups], cfg, State())
    return {k: before[k] - v.detach() for k, v in model.named_parameters()}


def _rank(rank: int, norm: str, shares: list[list[list[int]]], out: str) -> None:
    torch.save(_gradient(norm, shares[rank], Path(out)), Path(out) / f"{rank}.pt")


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
    single = _gradient(norm, whole, tmp_path)
    pair.run(_rank, norm, shares, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    scale = max(float(v.detach().abs().max()) for v in single.values())
    for name, value in single.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), f"{name}: ranks hold different weights"
        error = float((ranks[0][name] - value).detach().abs().max()) / scale
        assert error < 2e-5, f"{name}: relative difference {error:.1e}"


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    whole = _gradient("layer_norm", [[0, 1, 2, 3, 4]], tmp_path)
    parts = _gradient("layer_norm", [[0, 4], [1, 2, 3]], tmp_path)
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

    def keep(run: Any, failed: failure.Failure) -> None:
        if failed.rank == 0:
            time.sleep(0.5)
            weights.write_text("written")

    model: Any = torch.nn.Linear(1, 1)
    model.step, model.frozen = 3, frozenset()
    run: Any = SimpleNamespace(model=model, folder=Path(out))
    slow = mock.patch.object(failure, "keep", keep)
    with slow, pytest.raises(failure.NotFinite), failure.watched(run, [], 0.0, False):
        raise failure.NotFinite("not a number", "loss", [], 1.0)
    assert weights.is_file()


@pytest.mark.xdist_group("pair")
def test_no_rank_ends_while_rank_0_writes_the_weights_of_a_failed_step(tmp_path: Path, pair: Pair) -> None:
    """The launcher would end rank 0 too."""
    pair.run(_fail_while_rank_0_writes, str(tmp_path))
