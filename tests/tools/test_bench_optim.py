import math

import pytest
import torch
from torch import nn

from maya.train.optimizers.scaled_adam import ScaledAdam
from tools.bench import optim as bench_optim


def test_shapes_equal_zipformer_medium() -> None:
    shapes = bench_optim.medium_shapes()
    assert len(shapes) == 743 and sum(math.prod(s) for s in shapes) == 65_549_011


def test_reference_loop_equals_scaled_adam() -> None:
    shapes: list[tuple[int, ...]] = [(3, 4), (3, 4), (7,), ()]
    ours = [nn.Parameter(torch.randn(s)) for s in shapes]
    loop = [nn.Parameter(p.detach().clone()) for p in ours]
    a, b = ScaledAdam(ours, lr=0.01), bench_optim.LoopScaledAdam(loop, lr=0.01)
    for _ in range(9):
        for p, q in zip(ours, loop, strict=True):
            p.grad = q.grad = torch.randn_like(p)
        a.step()
        b.step()
    for p, q in zip(ours, loop, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_prints_one_line_per_optimizer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bench_optim, "medium_shapes", lambda: [(2, 3), (4,), ()])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    bench_optim.main(["--repeats", "2"])
    out = capsys.readouterr().out
    assert "3 tensors, 11 parameters" in out and out.count("x ScaledAdam's time") == 4
