"""The Triton joint against fp64: in the interpreter without a GPU, compiled with one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maya.kernels.joint import JointSettings, OutputLayer, RowList, kernel, tune
from maya.kernels.joint.dropout import dropout_scale
from maya.kernels.joint.synthetic import synthetic_problem
from maya.kernels.pruned_rnnt import fused_pruned_rnnt_loss, prune_ranges
from maya.kernels.rnnt import fused_rnnt_loss
from maya.kernels.tdt import fused_tdt_loss
from tests.kernels.joint_cases import DEVICE, FP, check_errors, compare, problem, vars_of

# With a GPU, `make gpu-check` runs all tests of this file, compiled.
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []


@pytest.mark.parametrize("dtype", FP)
@pytest.mark.parametrize(
    "activation, dropout, durations, bias",
    [("relu", 0.0, 0, True), ("tanh", 0.3, 5, True), ("sigmoid", 0.5, 3, False)],
)
def test_error_is_at_most_twice_that_of_torch(
    activation: str, dropout: float, durations: int, bias: bool, dtype: torch.dtype
) -> None:
    settings = JointSettings(74, activation, dropout, seed=12345678901)
    compare(problem(dtype, durations=durations, bias=bias, settings=settings))


@pytest.mark.parametrize("hidden, vocab", [(16, 32), (17, 33), (1, 2)])
def test_sizes_around_the_tiles(hidden: int, vocab: int) -> None:
    compare(problem(hidden=hidden, vocab=vocab, settings=JointSettings(blank=0)))


def test_any_position_of_blank_and_label() -> None:
    for blank in (0, 32, 74):
        p = problem(settings=JointSettings(blank))
        p.rows.label[:] = torch.where(p.rows.label == blank, 1, p.rows.label)
        compare(p)


def test_results_do_not_depend_on_vocabulary_splits_and_row_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(settings=JointSettings(74, "tanh", 0.2, seed=3), durations=2)
    whole = vars_of(p.scores("triton")), vars_of(p.gradients("triton"))
    monkeypatch.setattr(kernel, "MOST_SPLITS", 1)
    monkeypatch.setattr(kernel, "ROW_STEP", 16)
    monkeypatch.setattr(kernel, "HIDDEN_BYTES", 1)
    monkeypatch.setattr(kernel, "LOGIT_BYTES", 1)
    parts = vars_of(p.scores("triton")), vars_of(p.gradients("triton"))
    for a, b in zip(sum(whole, []), sum(parts, []), strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2**31, -5, 2**40 + 7])
def test_dropout_mask_equals_torch_bit_for_bit(seed: int) -> None:
    settings = JointSettings(2, "relu", 0.4, seed)
    p = problem(hidden=48, vocab=3, settings=settings)
    ones, layer = torch.ones_like(p.f), replace(p.layer, bias=None)
    hidden = kernel.JointKernels(ones, torch.ones_like(p.g), layer, settings).hidden(p.rows)
    assert torch.equal(hidden != 0, dropout_scale(p.rows, 48, settings, torch.float32) != 0)
    # The backward draws the same mask: with these gradients, df counts the kept elements of each frame.
    counts = torch.zeros_like(p.f)
    joint = kernel.JointKernels(ones, torch.ones_like(p.g), layer, settings)
    joint.add_by(p.rows.frame, torch.ones(len(p.rows), 48, device=DEVICE), p.rows, counts)
    by_hand = torch.zeros_like(p.f).index_add_(0, p.rows.frame, (hidden != 0).float())
    torch.testing.assert_close(counts * 0.6, by_hand)


def test_rows_may_come_in_any_order() -> None:
    p = problem()
    order = torch.randperm(len(p.rows), device=DEVICE)
    mixed = replace(p, rows=p.rows.take(order), masses=(p.masses[0][order], p.masses[1][order]))
    # Not bit by bit: numpy's product, not the GPU's, rounds a row by where it lies.
    torch.testing.assert_close(mixed.scores("triton").label, p.scores("triton").label[order])
    for a, b in zip(vars_of(mixed.gradients("triton")), vars_of(p.gradients("triton")), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_only_needed_gradients_are_computed() -> None:
    p = problem(durations=2)
    full = vars_of(p.gradients("triton"))
    for needed in (
        (True, False, False, True, False, False),
        (False, True, True, False, True, False),
        (False,) * 6,
    ):
        for flag, x, y in zip(needed, vars_of(p.gradients("triton", needed)), full, strict=True):
            assert (x is not None) == flag
            assert x is None or y is None or torch.equal(x, y)


def test_an_empty_row_list_gives_zero_gradients() -> None:
    p = problem(durations=2)
    none = torch.empty(0, dtype=torch.int64, device=DEVICE)
    empty = p.masses[0][:0]
    p = replace(
        p, rows=p.rows.take(none), masses=(empty, empty), duration_grad=torch.empty(0, 2, device=DEVICE)
    )
    assert p.scores("triton").blank.shape == (0,)
    for x in vars_of(p.gradients("triton")):
        assert x is not None and not x.any()


def test_masked_tokens_and_nan() -> None:
    p = problem()
    assert p.layer.bias is not None
    p.layer.bias[40:50] = float("-inf")
    p.rows.label.clamp_(max=39)
    compare(p)
    assert not p.gradients("triton").weight[40:50].any()
    p.f[0] = float("nan")
    assert torch.equal(p.scores("triton").blank.isnan(), p.rows.frame == 0)
    assert p.gradients("triton").g.isnan().any()


def test_inputs_need_not_be_contiguous() -> None:
    p = problem(hidden=48)
    other = replace(
        p, f=p.f.t().contiguous().t(), g=torch.cat([p.g, p.g], 1)[:, :48],
        layer=OutputLayer(p.layer.weight.t().contiguous().t(), torch.stack([p.layer.bias] * 2, 1)[:, 0]),
    )  # fmt: skip
    columns = torch.stack([p.rows.utterance, p.rows.frame, p.rows.state, p.rows.label], 1).unbind(1)
    other = replace(other, rows=RowList(*columns))
    assert not any(x.is_contiguous() for x in (other.f, other.g, other.layer.weight, other.rows.frame))
    assert torch.equal(other.scores("triton").norm, p.scores("triton").norm)
    assert torch.equal(other.gradients("triton").weight, p.gradients("triton").weight)


def test_tf32_follows_the_setting_of_torch() -> None:
    p, default = problem(), torch.get_float32_matmul_precision()
    used = []
    try:
        for setting in ("highest", "high"):
            torch.set_float32_matmul_precision(setting)
            used.append(kernel.JointKernels(p.f, p.g, p.layer, p.settings).precision)
    finally:
        torch.set_float32_matmul_precision(default)
    assert used == ["ieee", "tf32"]


@pytest.mark.skipif(DEVICE == "cuda", reason="the GPU computes bf16 rightly")
def test_the_interpreter_refuses_bf16() -> None:
    with pytest.raises(ValueError, match="bf16"):
        problem(torch.bfloat16).scores("triton")


def test_fp64_runs_in_torch() -> None:
    p = problem(torch.float64)
    assert torch.equal(p.scores("triton").norm, p.scores("torch").norm)
    assert torch.equal(p.gradients("triton").weight, p.gradients("torch").weight)


def run_loss(kind: str, tensors: list[Tensor], lens: list[Tensor], backend: str) -> list[Tensor]:
    """Loss, then the gradients of `tensors`, of a joint with dropout and a batch with an impossible row."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    options = {"blank": 0, "activation": "tanh", "backend": backend, "dropout": 0.2, "seed": 9, "eps": 0.0}
    if kind == "tdt":
        loss = fused_tdt_loss(*leaves, *lens, durations=(0, 1, 3), sigma=0.02, **options)
    elif kind == "pruned":
        occupations = torch.linspace(0, 1, 4 * 6 * 4, device=DEVICE).view(4, 6, 4)
        ranges = prune_ranges(occupations.sin(), occupations.cos(), *lens[1:], s_range=2)
        loss = fused_pruned_rnnt_loss(*leaves[:4], lens[0], ranges, *lens[1:], **options)
    else:
        loss = fused_rnnt_loss(*leaves[:4], *lens, fastemit=0.01, **options)
    (loss * torch.arange(1, 1 + len(loss), device=DEVICE)).nan_to_num(posinf=0.0).sum().backward()
    return [loss.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)]


@pytest.mark.parametrize("dtype", FP)
@pytest.mark.parametrize("kind", ["rnnt", "tdt", "pruned"])
def test_fused_losses_end_to_end(kind: str, dtype: torch.dtype) -> None:
    f, g = torch.randn(4, 6, 24), torch.randn(4, 4, 24)
    layer = [torch.randn(40, 24) / 5, torch.randn(40), torch.randn(3, 24) / 5, torch.randn(3)]
    tensors = [x.to(DEVICE, dtype) for x in (f, g, *layer)]
    lens = [torch.randint(1, 40, (4, 3)), torch.tensor([6, 4, 1, 0]), torch.tensor([3, 0, 1, 2])]
    lens = [x.to(DEVICE) for x in lens]
    outputs = run_loss(kind, tensors, lens, "triton")
    plain = run_loss(kind, tensors, lens, "torch")
    exact = run_loss(kind, [x.double() for x in tensors], lens, "torch")
    assert outputs[0].isinf().tolist()[3] and outputs[0][:2].isfinite().all()
    assert not outputs[1][3].any() and not outputs[2][3].any()
    check_errors([x.float() for x in outputs], plain, exact)


def test_probabilities_near_one_keep_their_digits() -> None:
    # Rows keep their places (eps=0): numpy's product, not the GPU's, rounds a row by where it lies.
    p = synthetic_problem((2, 12, 4, 72, 301), kind="sharp", activation="tanh")
    tensors = [x.to(DEVICE) for x in (p.f, p.g, p.weight, p.bias)]
    lens = [x.to(DEVICE) for x in (p.targets, p.f_lens, p.target_lens)]

    def run(dtype: torch.dtype, backend: str) -> list[Tensor]:
        leaves = [x.to(dtype).clone().requires_grad_() for x in tensors]
        loss = fused_rnnt_loss(*leaves, *lens, blank=p.blank, activation="tanh", eps=0.0, backend=backend)
        loss.sum().backward()
        return [loss.detach(), *(x.grad for x in leaves if x.grad is not None)]

    forms = run(torch.float32, "triton"), run(torch.float32, "torch"), run(torch.float64, "torch")
    check_errors(*forms)


def test_tune_times_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = kernel.SMALL_TILES
    monkeypatch.setattr(tune, "ROUNDS", 1)
    times = tune.tune(20, 32, 70, torch.float16, DEVICE, (tiles,))
    assert times.keys() == {"norm", "logit_gradient"}
    assert all(row.keys() == {"cuBLAS", tiles} and row[tiles] > 0 for row in times.values())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("hidden, vocab", [(640, 32769), (640, 32768), (320, 1025)])
def test_production_sizes_on_a_gpu(hidden: int, vocab: int, dtype: torch.dtype) -> None:
    settings = JointSettings(vocab - 1, "tanh", 0.1, seed=7)
    p = problem(
        dtype, batch=3, size=40, labels=30, hidden=hidden, vocab=vocab, durations=5, settings=settings
    )
    compare(p)
    again = p.gradients("triton"), p.gradients("triton")
    for x, y in zip(*map(vars_of, again), strict=True):
        assert x is not None and y is not None and torch.equal(x, y)  # no atomics


@pytest.mark.gpu
@pytest.mark.parametrize("tdt", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "real", "sharp"])
def test_headline_shape_takes_less_than_2_gb(kind: str, tdt: bool) -> None:
    durations = (0, 1, 2, 3, 4) if tdt else None
    shape = (16, 250, 60, 640, 32769)
    p = synthetic_problem(shape, kind=kind, durations=durations, dtype=torch.bfloat16, device=DEVICE)
    leaves = [x.requires_grad_() for x in p.leaves]
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    lens = (p.targets, p.f_lens, p.target_lens)
    if tdt:
        loss = fused_tdt_loss(*leaves, *lens, durations=durations, blank=p.blank, backend="triton")
    else:
        loss = fused_rnnt_loss(*leaves, *lens, blank=p.blank, backend="triton")
    loss.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 2e9
    assert loss.isfinite().all() and all(x.grad is not None and x.grad.isfinite().all() for x in leaves)
