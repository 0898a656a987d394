"""The forms of the Triton joint, fused, counted and cublas, against fp64 and each other."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maya.kernels.joint import (
    JointGradients,
    JointSettings,
    RowGradients,
    joint_gradients,
    kernel,
    visited_first,
)
from maya.kernels.joint.forms import FORMS, FormTimes, fastest, fastest_form, table
from maya.kernels.joint.half import scaled_for_half
from maya.kernels.joint.tune_forms import main, measure, merged
from maya.kernels.rnnt import fused_rnnt_loss
from tests.kernels.joint_cases import DEVICE, FP, Problem, compare, problem, vars_of

FORM = pytest.mark.parametrize("form", FORMS[1:])
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []


@pytest.mark.parametrize("dtype", FP)
@pytest.mark.parametrize(
    "activation, dropout, durations, bias, vocab",
    [("relu", 0.0, 0, True, 33), ("tanh", 0.3, 5, True, 97), ("sigmoid", 0.5, 3, False, 97)],
)
@FORM
def test_error_is_at_most_twice_that_of_torch(
    form: str, activation: str, dropout: float, durations: int, bias: bool, vocab: int, dtype: torch.dtype
) -> None:
    settings = JointSettings(vocab - 1, activation, dropout, seed=12345678901, form=form)
    compare(problem(dtype, durations=durations, bias=bias, vocab=vocab, settings=settings))


@pytest.mark.parametrize("hidden, vocab", [(16, 32), (17, 33), (1, 2)])
def test_sizes_around_the_blocks_of_cublas(hidden: int, vocab: int) -> None:
    compare(problem(hidden=hidden, vocab=vocab, settings=JointSettings(0, form="cublas")))


def test_any_position_of_blank_and_label_in_cublas() -> None:
    for blank in (0, 64, 96):
        p = problem(vocab=97, settings=JointSettings(blank, form="cublas"))
        p.rows.label[:] = torch.where(p.rows.label == blank, 1, p.rows.label)
        compare(p)


def test_masked_tokens_and_nan_in_cublas() -> None:
    p = problem(settings=JointSettings(74, form="cublas"))
    assert p.layer.bias is not None
    p.layer.bias[40:50] = float("-inf")
    p.rows.label.clamp_(max=39)
    compare(p)
    assert not p.gradients("triton").weight[40:50].any()
    p.f[0] = float("nan")
    assert torch.equal(p.scores("triton").blank.isnan(), p.rows.frame == 0)
    assert p.gradients("triton").g.isnan().any()


@FORM
def test_chunks_change_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(settings=JointSettings(74, "tanh", 0.2, seed=3, form=form), durations=2)
    whole = vars_of(p.scores("triton")), vars_of(p.gradients("triton"))
    monkeypatch.setattr(kernel, "ROW_STEP", 16)
    for name in ("maya.kernels.joint.kernel.LOGIT_BYTES", "maya.kernels.joint.cublas.LOGIT_BYTES"):
        monkeypatch.setattr(name, 1)
    parts = vars_of(p.scores("triton")), vars_of(p.gradients("triton"))
    for a, b in zip(sum(whole, []), sum(parts, []), strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_an_empty_row_list_gives_zero_gradients_in_cublas() -> None:
    p = problem(durations=2, settings=JointSettings(74, form="cublas"))
    empty = p.masses[0][:0]
    p = replace(
        p, rows=p.rows.take(slice(0)), masses=(empty, empty), duration_grad=torch.empty(0, 2, device=DEVICE)
    )
    assert p.scores("triton").blank.shape == (0,)
    for x in vars_of(p.gradients("triton")):
        assert x is not None and not x.any()


def counted(p: Problem, visited: Tensor, form: str) -> tuple[JointGradients, JointGradients]:
    """Gradients of the visited rows by a counted list, and by the exact list."""
    settings = replace(p.settings, form=form)
    norm = replace(p, settings=settings).scores("triton").norm
    order, rows = visited_first(p.rows, visited)
    exact = visited.nonzero()[:, 0]
    results = []
    for index, these in ((order, rows), (exact, p.rows.take(exact, ascending=True))):
        assert p.duration_grad is not None
        row_grads = RowGradients(norm[index], *(x[index] for x in p.masses), p.duration_grad[index])
        results.append(joint_gradients(p.f, p.g, p.layer, these, row_grads, settings, backend="triton"))
    return results[0], results[1]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
@FORM
def test_counted_rows_give_the_gradient_of_the_exact_list(
    form: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is not visited may hold anything, also nan."""
    monkeypatch.setattr(kernel, "ROW_STEP", 16)
    monkeypatch.setattr(kernel, "LOGIT_BYTES", 1)
    p = problem(durations=2, settings=JointSettings(74, "tanh", 0.2, seed=3))
    visited = torch.rand(len(p.rows), device=DEVICE) < share
    for x in (*p.masses, p.duration_grad):
        assert x is not None
        x[~visited] = float("nan")
    of_count, of_list = counted(p, visited, form)
    for a, b in zip(vars_of(of_count), vars_of(of_list), strict=True):
        assert a is not None and b is not None and a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_visited_rows_come_first_in_their_order() -> None:
    p = problem()
    visited = torch.rand(len(p.rows), device=DEVICE) < 0.5
    order, rows = visited_first(p.rows, visited)
    expected = torch.cat([visited.nonzero()[:, 0], (~visited).nonzero()[:, 0]])
    assert torch.equal(order, expected) and torch.equal(rows.frame, p.rows.frame[expected])
    assert rows.by_frame and rows.count is not None and int(rows.count) == int(visited.sum())


def test_rows_sorted_by_frame_need_no_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(durations=2)
    assert p.rows.by_frame and not p.rows.take(torch.arange(3, device=DEVICE)).by_frame
    sorts, sort = [], torch.sort

    def counting(*args, **options):
        sorts.append(1)
        return sort(*args, **options)

    monkeypatch.setattr(torch, "sort", counting)
    direct = vars_of(p.gradients("triton"))
    assert len(sorts) == 1  # by state
    p.rows.by_frame = False
    for a, b in zip(direct, vars_of(p.gradients("triton")), strict=True):
        assert a is not None and b is not None and torch.equal(a, b)
    assert len(sorts) == 3


@FORM
@pytest.mark.parametrize("factor", [1.0, 65536.0, 2.0**-30])
def test_small_gradients_of_fp16_do_not_underflow(form: str, factor: float) -> None:
    """Masses of 1e-6 over 300 symbols: elements of 3e-9, which fp16 does not have."""
    p = problem(torch.float16, hidden=16, vocab=301, settings=JointSettings(300, form=form), batch=1)
    p.layer.weight *= 0.1
    assert p.layer.bias is not None
    p.layer.bias.zero_()
    scaled = [1e-6 * factor * torch.ones_like(p.masses[0]), 0 * p.masses[1]]
    p = replace(p, masses=(scaled[0], scaled[1]))
    exact = p.to(torch.float64).gradients("torch")
    for name, x in zip(("f", "g", "weight"), vars_of(p.gradients("triton")), strict=False):
        truth = getattr(exact, name)
        assert x is not None
        # Beside blank's column, which is large. fp16 rounds h, W and each element by at most 2**-11.
        if name == "weight":
            x, truth = x[:-1], truth[:-1]
            assert (x != 0).float().mean() > 0.9
        assert float((x.double() - truth).norm()) <= 4 * 2**-11 * float(truth.norm())


def test_the_factor_of_fp16_is_exact() -> None:
    for top in (3e-38, 1e-6, 1.0, 70000.0, 1e30):
        mass = torch.tensor([top / 3, top / 2])
        grads, unscale = scaled_for_half(RowGradients(mass, mass, 0 * mass), torch.float16)
        assert 2**14 <= float((2 * grads.blank).max()) < 2**16 or top < 1e-33
        assert torch.equal(unscale(JointGradients(f=grads.blank.clone())).f, mass)
    for mass in (torch.zeros(2), torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("inf")])):
        grads, _ = scaled_for_half(RowGradients(mass, mass, mass), torch.float16)
        torch.testing.assert_close(grads.blank, mass, rtol=0, atol=0, equal_nan=True)
    grads, _ = scaled_for_half(RowGradients(mass, mass, mass), torch.bfloat16)
    assert grads.blank is mass


def test_channels_that_the_tiles_do_not_cover_are_refused() -> None:
    p = problem(hidden=40)
    joint = kernel.JointKernels(p.f, p.g, p.layer, p.settings)
    with pytest.raises(ValueError, match="40 channels are no multiple of"):
        joint.logit_gradient(p.f, p.rows.label, [p.f[:, :2], p.f[:, 0], p.f[:, 0]], None)


@pytest.mark.parametrize("dtype", FP)
def test_a_product_is_added_in_fp32(dtype: torch.dtype) -> None:
    a, b = torch.randn(5, 40, device=DEVICE, dtype=dtype), torch.randn(40, 6, device=DEVICE, dtype=dtype)
    total = torch.randn(5, 6, device=DEVICE)
    expected = total.double() + a.double() @ b.double()
    kernel.add_product(total, a, b)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)


class FusedModule(nn.Module):
    """A joint and its loss between two layers that the compiler may take."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g, self.out = nn.Linear(8, 20), nn.Linear(8, 20), nn.Linear(20, 33)

    def forward(self, x: Tensor, y: Tensor, targets: Tensor, lens: Tensor) -> Tensor:
        f, g, out = self.f(x).tanh(), self.g(y).tanh(), self.out
        loss = fused_rnnt_loss(f, g, out.weight, out.bias, targets, lens[0], lens[1], blank=32)
        return (loss * 2).exp().log().sum()


def test_a_compiled_module_has_the_same_loss_and_gradient() -> None:
    torch._dynamo.reset()
    module = FusedModule().to(DEVICE)
    inputs = [torch.randn(2, 5, 8, device=DEVICE), torch.randn(2, 4, 8, device=DEVICE)]
    lens = [torch.randint(32, (2, 3)), torch.tensor([[5, 3], [3, 1]])]
    traced: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list) -> object:
        traced.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    results = []
    for run in (module, torch.compile(module, backend=backend)):
        module.zero_grad()
        loss = run(*inputs, *lens)
        loss.backward()
        results.append([loss.detach(), *(x.grad.clone() for x in module.parameters() if x.grad is not None)])
    assert len(results[0]) == 7 and all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert "exp" in traced and not any("fused" in name or "scatter" in name for name in traced)


def test_auto_takes_the_nearest_measured_shape() -> None:
    rows = (
        FormTimes("H200", "bfloat16", 240_000, 640, 32769, {"fused": 2.0, "cublas": 1.0}),
        FormTimes("H200", "bfloat16", 240_000, 640, 1025, {"fused": 1.0, "cublas": 2.0}),
    )
    choose = [(240_000, 640, 32769), (200_000, 640, 40_000), (240_000, 640, 1000), (240_000, 640, 5001)]
    chosen = [fastest(rows, "H200", torch.bfloat16, shape) for shape in choose]
    assert chosen == ["cublas", "cublas", "fused", "fused"]
    assert fastest(rows, "A100", torch.bfloat16, choose[0]) == "fused"
    assert fastest(rows, "H200", torch.float16, choose[0]) == "fused"
    assert fastest_form(*choose[0], torch.bfloat16, torch.device("cpu")) == "fused"
    assert all(set(row.seconds) <= set(FORMS) for row in table())


def test_measurements_are_merged_by_shape(tmp_path: Path) -> None:
    first = FormTimes("H200", "bfloat16", 10, 20, 30, {"fused": 1.0})
    second, other = replace(first, seconds={"fused": 3.0}), replace(first, vocab=31)
    assert merged((first, other), [second]) == [second, other]
    path = tmp_path / "forms.json"
    path.write_text(json.dumps([asdict(first)]))
    assert table(path) == (first,)


@pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU the program itself runs")
def test_every_form_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maya.kernels.joint.tune_forms.ROUNDS", 1)
    row = measure((1, 3, 2, 16, 33), torch.float32, DEVICE)
    assert set(row.seconds) == set(FORMS[1:]) and row.rows == 9 and min(row.seconds.values()) > 0
    assert main([]) == 1  # without a GPU, nothing is written


def test_an_unknown_form_is_refused() -> None:
    f, g = torch.zeros(1, 2, 3), torch.zeros(1, 1, 3)
    none = torch.zeros(1, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="fused_rnnt_loss: unknown form 'fast'"):
        fused_rnnt_loss(
            f, g, torch.zeros(6, 3), None, none, torch.tensor([2]), torch.tensor([0]), blank=0, form="fast"
        )
