"""Losses fused with the joint: the dense loss of all logits is the truth, in value and in all gradients."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maya.kernels.joint.synthetic import KINDS, FusedProblem, synthetic_problem
from maya.losses import fused_rnnt_loss, fused_tdt_loss, rnnt_loss, tdt_loss

INF = float("inf")
BLANK = 2  # in the middle of the vocabulary
DURATIONS = (0, 1, 2, 4)
LEAVES = ("f", "g", "weight", "bias", "duration_weight", "duration_bias")
KINDS_OF_LOSS = pytest.mark.parametrize("durations", [None, DURATIONS], ids=["rnnt", "tdt"])


@dataclass
class Case:
    """Arguments of a fused loss; `durations` None means RNN-T."""

    leaves: list[Tensor]
    targets: Tensor
    frames: Tensor
    labels: Tensor
    durations: tuple[int, ...] | None

    def loss(self, **options) -> Tensor:
        given = (*self.leaves, self.targets, self.frames, self.labels)
        if self.durations is None:
            return fused_rnnt_loss(*given, blank=BLANK, **options)
        return fused_tdt_loss(*given, blank=BLANK, durations=self.durations, **options)

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(self, leaves=[x.to(dtype) for x in self.leaves])


def problem(
    frames: list[int],
    labels: list[int],
    durations: tuple[int, ...] | None = None,
    *,
    vocab: int = 7,
    hidden: int = 5,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """A ragged batch, with one frame and one label more padding than needed."""
    batch, size, width = len(frames), max(frames) + 1, max(labels) + 1
    shapes = [(batch, size, hidden), (batch, width + 1, hidden), (vocab, hidden), (vocab,)]
    if durations is not None:
        shapes += [(len(durations), hidden), (len(durations),)]
    targets = torch.randint(vocab - 1, (batch, width))
    targets += (targets >= BLANK).long()
    leaves = [torch.randn(shape, dtype=dtype) for shape in shapes]
    return Case(leaves, targets, torch.tensor(frames), torch.tensor(labels), durations)


def dense(leaves: list[Tensor], case: Case, activation: str, **options) -> Tensor:
    """The same loss of logits that are made in full."""
    f, g, *parameters = leaves
    h = getattr(torch, activation)(f[:, :, None] + g[:, None])
    tokens = torch.nn.functional.linear(h, *parameters[:2])
    rest = (case.targets, case.frames, case.labels)
    if case.durations is None:
        return rnnt_loss(tokens, *rest, blank=BLANK, **options)
    of_durations = torch.nn.functional.linear(h, *parameters[2:])
    return tdt_loss(tokens, of_durations, *rest, blank=BLANK, durations=case.durations, **options)


def run(
    loss: Callable[[list[Tensor]], Tensor], leaves: list[Tensor], weights: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Loss and the gradient of each leaf."""
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    value = loss(leaves)
    value.backward(torch.ones_like(value) if weights is None else weights.to(value))
    assert all(x.grad is not None and x.grad.dtype == x.dtype for x in leaves)
    return value.detach(), *(x.grad for x in leaves)


def fused(case: Case, weights: Tensor | None = None, **options) -> tuple[Tensor, ...]:
    return run(lambda leaves: replace(case, leaves=leaves).loss(**options), case.leaves, weights)


def same(outputs: tuple[Tensor, ...], truth: tuple[Tensor, ...], tolerance: float = 1e-10) -> None:
    for name, x, y in zip(("loss", *LEAVES), outputs, truth, strict=False):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@KINDS_OF_LOSS
def test_eps_zero_equals_the_dense_loss(durations: tuple[int, ...] | None, activation: str) -> None:
    case = problem([9, 5, 1, 7], [4, 0, 0, 6], durations)
    weights = torch.tensor([1.0, -0.5, 2.0, 0.0])
    truth = run(lambda leaves: dense(leaves, case, activation), case.leaves, weights)
    for backend in ("torch", "reference"):
        same(fused(case, weights, eps=0.0, activation=activation, backend=backend), truth)


def test_fastemit_and_sigma_equal_the_dense_losses() -> None:
    for durations, options in ((None, {"fastemit": 0.3}), (DURATIONS, {"sigma": 0.2})):
        case = problem([6, 4], [3, 1], durations)
        truth = run(lambda x, c=case, o=options: dense(x, c, "relu", **o), case.leaves)
        for backend in ("torch", "reference"):
            same(fused(case, eps=0.0, backend=backend, **options), truth)


@KINDS_OF_LOSS
def test_no_bias_equals_a_zero_bias(durations: tuple[int, ...] | None) -> None:
    case = problem([6, 4], [3, 1], durations)
    case.leaves[3::2] = [torch.zeros_like(x) for x in case.leaves[3::2]]
    truth = fused(case, eps=0.0)
    f, g, weight, _, *of_durations = (x.requires_grad_() for x in case.leaves)
    rest = [None if i else x for i, x in enumerate(of_durations)]
    loss = replace(case, leaves=[f, g, weight, None, *rest]).loss(eps=0.0)
    loss.sum().backward()
    same((loss.detach(), f.grad, g.grad, weight.grad), (*truth[:4],))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@KINDS_OF_LOSS
def test_gradcheck(durations: tuple[int, ...] | None, activation: str, dropout: float) -> None:
    case = problem([3, 2, 1], [2, 0, 0], durations, vocab=4, hidden=3)
    leaves = [x.requires_grad_() for x in case.leaves]
    options = {"eps": 0.0, "activation": activation, "dropout": dropout, "seed": 3}
    assert torch.autograd.gradcheck(lambda *x: replace(case, leaves=list(x)).loss(**options), leaves)


@KINDS_OF_LOSS
def test_dropout_is_the_same_on_every_backend(durations: tuple[int, ...] | None) -> None:
    case = problem([6, 4], [3, 1], durations)
    options = {"eps": 0.0, "dropout": 0.5}
    first = fused(case, **options, seed=1)
    same(first, fused(case, **options, seed=1, backend="reference"))
    assert not torch.allclose(first[0], fused(case, **options, seed=2)[0])
    assert not torch.allclose(first[0], fused(case, eps=0.0)[0])


@KINDS_OF_LOSS
def test_impossible_rows_are_infinite_with_zero_gradient(durations: tuple[int, ...] | None) -> None:
    case = problem([5, 0, 4, 0], [2, 0, 2, 3], durations)
    case.targets[case.targets == 6] = 5
    case.targets[2, 1] = 6
    case.leaves[3][6] = -INF  # the second label of row 2 can never be emitted
    alone = replace(
        case,
        leaves=[case.leaves[0][:1], case.leaves[1][:1], *case.leaves[2:]],
        targets=case.targets[:1], frames=case.frames[:1], labels=case.labels[:1],
    )  # fmt: skip
    weights = torch.tensor([1.0, INF, INF, float("nan")])
    for backend in ("torch", "reference"):
        loss, *grads = fused(case, weights, backend=backend, eps=0.0)
        assert loss.isinf().tolist() == [False, True, True, True] and (loss > 0).all()
        for grad in grads[:2]:
            assert torch.equal(grad[1:], torch.zeros_like(grad[1:])) and grad[0].abs().max() > 0
        same(tuple(grads[2:]), fused(alone, weights[:1], eps=0.0)[3:])


@pytest.mark.parametrize("eps", [0.0, 1e-2])
@KINDS_OF_LOSS
def test_a_row_alone_equals_the_row_in_a_batch(durations: tuple[int, ...] | None, eps: float) -> None:
    case = problem([8, 5, 1], [4, 2, 0], durations)
    loss, of_f, of_g, *of_layer = fused(case, eps=eps)
    total = [torch.zeros_like(x) for x in of_layer]
    for b in range(3):
        t, u = int(case.frames[b]), int(case.labels[b])
        f, g, *layer = case.leaves
        single = Case(
            [f[b : b + 1, :t], g[b : b + 1, : u + 1], *layer],
            case.targets[b : b + 1, :u], case.frames[b : b + 1], case.labels[b : b + 1], durations,
        )  # fmt: skip
        alone = fused(single, eps=eps)
        same(alone[:3], (loss[b : b + 1], of_f[b : b + 1, :t], of_g[b : b + 1, : u + 1]), 1e-12)
        total = [x + y for x, y in zip(total, alone[3:], strict=True)]
    same(tuple(total), tuple(of_layer), 1e-12)


@KINDS_OF_LOSS
def test_padding_is_never_read_and_gets_zero_gradient(durations: tuple[int, ...] | None) -> None:
    case = problem([5, 3], [3, 1], durations)
    clean = fused(case)
    for row in range(2):
        case.leaves[0][row, case.frames[row] :] = float("nan")
        case.leaves[1][row, case.labels[row] + 1 :] = float("nan")
        case.targets[row, case.labels[row] :] = -100
    for backend in ("torch", "reference"):
        spoilt = fused(case, backend=backend)
        if backend == "torch":
            assert all(torch.equal(a, b) for a, b in zip(clean, spoilt, strict=True))
        for grad, lens in zip(spoilt[1:3], (case.frames, case.labels + 1), strict=True):
            assert all(grad[b, lens[b] :].abs().max() == 0 for b in range(2))
        assert all(x.isfinite().all() for x in spoilt)


def test_nan_in_a_valid_frame_gives_a_nan_loss() -> None:
    case = problem([5, 3], [3, 1])
    case.leaves[0][0, 1, 0] = float("nan")
    loss, of_f, *_ = fused(case)
    assert loss[0].isnan() and loss[1].isfinite()
    assert of_f[0].isnan().any() and of_f[1].isfinite().all()


@pytest.mark.parametrize("rows", [1, 7, 10_000])
@KINDS_OF_LOSS
def test_results_do_not_depend_on_the_chunk_size(
    durations: tuple[int, ...] | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = problem([7, 5, 2], [3, 2, 0], durations)
    options = {"dropout": 0.2, "seed": 4, "eps": 1e-3}
    whole = fused(case, **options)
    monkeypatch.setattr("maya.kernels.joint.torch_op.MIN_ROWS", 1)
    monkeypatch.setattr("maya.kernels.joint.torch_op.CHUNK_ELEMENTS", {"cpu": rows * 7})
    same(fused(case, **options), whole, 1e-12)


@KINDS_OF_LOSS
def test_only_inputs_that_require_grad_get_a_gradient(durations: tuple[int, ...] | None) -> None:
    case = problem([5, 3], [3, 1], durations)
    whole = fused(case, eps=0.0)
    for chosen in range(len(case.leaves)):
        leaves = [x.clone() for x in case.leaves]
        leaves[chosen].requires_grad_()
        replace(case, leaves=leaves).loss(eps=0.0).sum().backward()
        torch.testing.assert_close(leaves[chosen].grad, whole[1 + chosen], rtol=1e-13, atol=1e-13)
        assert all(x.grad is None for i, x in enumerate(leaves) if i != chosen)
    silent = case.loss()
    assert not silent.requires_grad
    torch.testing.assert_close(silent, whole[0], rtol=1e-13, atol=0)
    with torch.no_grad():
        quiet = replace(case, leaves=[x.requires_grad_() for x in case.leaves]).loss()
    assert torch.equal(quiet, silent)


def test_inputs_need_not_be_contiguous() -> None:
    case = problem([5, 3], [3, 1], DURATIONS)
    truth = fused(case)
    strided = [torch.stack([x, x], -1)[..., 0] for x in case.leaves]
    assert not any(x.is_contiguous() for x in strided)
    leaves = [x.requires_grad_() for x in strided]
    loss = replace(case, leaves=leaves).loss()
    grads = torch.autograd.grad(loss.sum(), leaves)
    same((loss.detach(), *grads), truth, 1e-12)


def test_autocast_has_no_effect_and_fp32_masters_are_allowed() -> None:
    case = problem([9, 4], [5, 2], DURATIONS, dtype=torch.float32)
    plain = fused(case)
    with torch.autocast("cpu", torch.bfloat16):
        cast = fused(case)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    half = [x.bfloat16() if i < 2 else x for i, x in enumerate(case.leaves)]
    loss, *grads = fused(replace(case, leaves=half))
    assert loss.dtype == torch.float32
    assert [x.dtype for x in grads] == [torch.bfloat16] * 2 + [torch.float32] * 4


class _Largest(TorchDispatchMode):
    """The largest number of elements of any tensor made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and x.layout == torch.strided:
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@KINDS_OF_LOSS
def test_no_tensor_is_as_large_as_the_logits(
    durations: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = problem([40, 30], [12, 9], durations, vocab=300, hidden=8, dtype=torch.float32)
    monkeypatch.setattr("maya.kernels.joint.torch_op.MIN_ROWS", 1)
    monkeypatch.setattr("maya.kernels.joint.torch_op.CHUNK_ELEMENTS", {"cpu": 6000})
    rows = int(sum(case.frames * (case.labels + 1)))
    with _Largest() as made:
        fused(case, eps=0.0)
    assert made.elements < 300 * rows / 10  # the lattice of TDT has 20 numbers per cell


@KINDS_OF_LOSS
@pytest.mark.parametrize("kind", KINDS)
def test_error_of_the_default_eps_is_below_bf16_rounding(
    kind: str, durations: tuple[int, ...] | None
) -> None:
    p = synthetic_problem((2, 60, 15, 32, 100), kind=kind, durations=durations, dtype=torch.float64)
    full, lean = (run_synthetic(p, blank=p.blank, **eps) for eps in ({"eps": 0.0}, {}))
    assert torch.equal(full[0], lean[0])
    for x, y in zip(lean[1:], full[1:], strict=True):
        assert (x - y).norm() <= 2e-3 * y.norm()


def run_synthetic(p: FusedProblem, **options) -> tuple[Tensor, ...]:
    rest = (p.targets, p.f_lens, p.target_lens)
    if p.durations is None:
        return run(lambda x: fused_rnnt_loss(*x, *rest, **options), p.leaves)
    return run(lambda x: fused_tdt_loss(*x, *rest, durations=p.durations, **options), p.leaves)


@KINDS_OF_LOSS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_error_is_at_most_twice_that_of_dense_torch(
    dtype: torch.dtype, durations: tuple[int, ...] | None
) -> None:
    case = problem([40, 31, 7, 1], [12, 3, 0, 0], durations, vocab=40, hidden=24).to(dtype)
    exact = case.to(torch.float64)
    truth = run(lambda x: dense(x, exact, "relu"), exact.leaves)
    plain = run(lambda x: dense(x, case, "relu"), case.leaves)
    outputs = fused(case, eps=0.0)
    for name, x, y, z in zip(("loss", *LEAVES), outputs, plain, truth, strict=False):
        error, of_dense = (x - z).norm() / z.norm(), (y - z).norm() / z.norm()
        assert error <= 2 * of_dense + 1e-7, f"{name}: {error:.2e}, dense {of_dense:.2e}"


def test_omega_one_equals_fused_rnnt_and_keeps_durations_in_the_graph() -> None:
    case = problem([5, 3], [3, 1], DURATIONS)
    outputs = fused(case, omega=1.0, sigma=0.5, eps=0.0)
    same(outputs[:5], fused(replace(case, leaves=case.leaves[:4], durations=None), eps=0.0))
    assert all(x.abs().max() == 0 for x in outputs[5:])


def test_omega_draws_once_per_call_from_the_given_generator() -> None:
    case = problem([5, 3], [3, 1], DURATIONS)
    tdt = case.loss()
    ranks = [torch.Generator().manual_seed(7) for _ in range(2)]
    draws = torch.rand(30, generator=torch.Generator().manual_seed(7))
    before = torch.get_rng_state()
    for draw in draws:
        losses = [case.loss(omega=0.4, generator=g) for g in ranks]
        assert torch.equal(losses[0], losses[1])
        assert torch.equal(losses[0], tdt) == (draw.item() >= 0.4)
    assert torch.equal(before, torch.get_rng_state())


def test_empty_batches_and_batches_without_labels() -> None:
    for durations in (None, DURATIONS):
        case = problem([4, 2], [0, 0], durations)
        f, g, *layer = case.leaves
        bare = replace(case, leaves=[f, g[:, :1], *layer], targets=case.targets[:, :0])
        truth = run(lambda x, c=bare: dense(x, c, "relu"), bare.leaves)
        same(fused(bare, eps=0.0), truth)
        none = Case([f[:0], g[:0], *layer], case.targets[:0], case.frames[:0], case.labels[:0], durations)
        loss, *grads = fused(none)
        assert loss.shape == (0,) and all(not x.any() for x in grads)
