"""TDT loss: brute force, then the reference, then the fast form."""

import pytest
import torch
from torch import Tensor

from maya.kernels.rnnt import rnnt_loss
from maya.kernels.tdt import tdt_loss
from tests.kernels import brute_force

INF = float("inf")
BLANK = 2
# With and without 0 and 1, with gaps, and longer than the longest utterance below.
DURATIONS = [(0, 1, 2, 3, 4), (1, 2), (0, 1), (1,), (2, 3), (0, 2), (1, 3, 4), (0, 1, 9)]

Problem = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def problem(
    frames: list[int], labels: list[int], n_durations: int, vocab: int = 5, dtype: torch.dtype = torch.float64
) -> Problem:
    """Token and duration logits, targets, lengths; one frame and one label more padding than needed."""
    size, width = max(frames) + 1, max(labels) + 1
    tokens = 2 * torch.randn(len(frames), size, width + 1, vocab, dtype=dtype)
    durations = 2 * torch.randn(len(frames), size, width + 1, n_durations, dtype=dtype)
    targets = torch.randint(vocab - 1, (len(frames), width))
    targets += (targets >= BLANK).long()
    return tokens, durations, targets, torch.tensor(frames), torch.tensor(labels)


def value_and_grads(
    tokens: Tensor, of_durations: Tensor, *args: Tensor, weights: Tensor | None = None, **options
) -> tuple[Tensor, Tensor, Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in (tokens, of_durations)]
    loss = tdt_loss(*leaves, *args, blank=BLANK, **options)
    loss.backward(torch.ones_like(loss) if weights is None else weights.to(loss))
    return loss.detach(), leaves[0].grad, leaves[1].grad


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("durations", DURATIONS, ids=str)
def test_every_small_lattice_equals_the_sum_over_all_alignments(
    durations: tuple[int, ...], sigma: float
) -> None:
    frames = [t for t in range(1, 5) for _ in range(5)]
    labels = [u for _ in range(1, 5) for u in range(5)]
    case = problem(frames, labels, len(durations))
    weights = torch.linspace(0.5, 2.0, len(frames))
    leaves = [x.clone().requires_grad_() for x in case[:2]]
    rows = zip(*leaves, case[2], frames, labels, strict=True)
    expected = torch.stack(
        [brute_force.tdt(x, w, y, t, u, list(durations), BLANK, sigma) for x, w, y, t, u in rows]
    )
    possible = expected.isfinite()
    assert possible.any()
    (expected[possible] * weights[possible]).sum().backward()

    for backend in ("reference", "torch"):
        loss, *grads = value_and_grads(
            *case, durations=durations, sigma=sigma, weights=weights, backend=backend
        )
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
        for grad, leaf in zip(grads, leaves, strict=True):
            torch.testing.assert_close(grad, leaf.grad, rtol=1e-11, atol=1e-12)


def test_gradcheck() -> None:
    tokens, durations, *rest = problem([3, 2, 1], [2, 0, 1], 3, vocab=4)
    inputs = (tokens.requires_grad_(), durations.requires_grad_())

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return tdt_loss(x, w, *rest, durations=(0, 1, 2), blank=BLANK, sigma=0.1)

    assert torch.autograd.gradcheck(loss, inputs)


def test_only_inputs_that_require_grad_get_a_gradient() -> None:
    tokens, durations, *rest = problem([5, 3], [3, 1], 3)
    whole = value_and_grads(tokens, durations, *rest, durations=(0, 1, 2))
    for chosen in (0, 1):
        leaves = [x.clone() for x in (tokens, durations)]
        leaves[chosen].requires_grad_()
        tdt_loss(*leaves, *rest, durations=(0, 1, 2), blank=BLANK).sum().backward()
        assert torch.equal(leaves[chosen].grad, whole[1 + chosen]) and leaves[1 - chosen].grad is None
    silent = tdt_loss(tokens, durations, *rest, durations=(0, 1, 2), blank=BLANK)
    torch.testing.assert_close(silent, whole[0], rtol=1e-14, atol=0)


def test_fp32_is_close_to_fp64_on_a_real_size() -> None:
    case = problem([60, 41, 7, 1], [20, 3, 0, 1], 5, vocab=40)
    truth = value_and_grads(*case, durations=range(5), sigma=0.02)
    single = value_and_grads(case[0].float(), case[1].float(), *case[2:], durations=range(5), sigma=0.02)
    torch.testing.assert_close(single[0].double(), truth[0], rtol=1e-6, atol=1e-6)
    for grad, true_grad in zip(single[1:], truth[1:], strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad.double(), true_grad, rtol=1e-5, atol=2e-6)


def test_half_precision_is_read_exactly_and_rounded_once() -> None:
    case = problem([9, 4], [5, 2], 3, dtype=torch.bfloat16)
    loss, *grads = value_and_grads(*case, durations=(0, 1, 2))
    wide = (case[0].double(), case[1].double(), *case[2:])
    truth, *true_grads = value_and_grads(*wide, durations=(0, 1, 2), backend="reference")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=1e-6)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert grad.dtype == torch.bfloat16
        torch.testing.assert_close(grad.double(), true_grad, rtol=2**-8, atol=1e-6)


def test_autocast_has_no_effect() -> None:
    case = problem([9, 4], [5, 2], 3, dtype=torch.float32)
    plain = value_and_grads(*case, durations=(0, 1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        cast = value_and_grads(*case, durations=(0, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_impossible_rows_are_infinite_with_zero_gradient(backend: str) -> None:
    # No frames; 3 labels of 2 frames or more in 4; a lone frame; a label of probability 0.
    tokens, durations, targets, *lens = problem([6, 0, 4, 1, 6], [1, 0, 3, 0, 1], 2)
    tokens[4, :, 0, targets[4, 0]] = -INF
    weights = torch.tensor([1.0, INF, INF, float("nan"), 1.0])
    loss, *grads = value_and_grads(
        tokens, durations, targets, *lens, durations=(2, 3), weights=weights, backend=backend
    )
    assert loss.isinf().tolist() == [False, True, True, True, True] and (loss > 0).all()
    for grad in grads:
        assert grad[0].isfinite().all() and grad[0].abs().max() > 0
        assert torch.equal(grad[1:], torch.zeros_like(grad[1:]))


def test_padding_is_never_read_and_gets_zero_gradient() -> None:
    tokens, durations, targets, frames, labels = problem([5, 3], [3, 1], 3)
    clean = value_and_grads(tokens, durations, targets, frames, labels, durations=(0, 1, 2))
    for row in range(2):
        for logits in (tokens, durations):
            logits[row, frames[row] :] = float("nan")
            logits[row, :, labels[row] + 1 :] = float("nan")
        targets[row, labels[row] :] = 99
    spoilt = value_and_grads(tokens, durations, targets, frames, labels, durations=(0, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(clean, spoilt, strict=True))


def test_views_of_one_tensor_are_accepted() -> None:
    tokens, durations, *rest = problem([5, 3], [3, 1], 3)
    truth = value_and_grads(tokens, durations, *rest, durations=(0, 1, 2))
    joint = torch.cat([tokens, durations], -1).requires_grad_()
    tdt_loss(*joint.split([5, 3], -1), *rest, durations=(0, 1, 2), blank=BLANK).sum().backward()
    assert torch.equal(joint.grad, torch.cat(truth[1:], -1))


def test_omega_one_equals_the_rnnt_loss() -> None:
    tokens, durations, targets, *lens = problem([5, 3], [3, 1], 3)
    loss, grad, duration_grad = value_and_grads(
        tokens, durations, targets, *lens, durations=(0, 1, 2), sigma=0.5, omega=1.0
    )
    leaf = tokens.clone().requires_grad_()
    plain = rnnt_loss(leaf, targets, *lens, blank=BLANK)
    plain.sum().backward()
    assert torch.equal(loss, plain.detach()) and torch.equal(grad, leaf.grad)
    assert torch.equal(duration_grad, torch.zeros_like(durations))  # zero, not None: DDP waits for it


def test_omega_draws_once_per_call_from_the_given_generator() -> None:
    case = problem([5, 3], [3, 1], 3)
    tdt = value_and_grads(*case, durations=(0, 1, 2))[0]
    ranks = [torch.Generator().manual_seed(7) for _ in range(2)]
    draws = torch.rand(50, generator=torch.Generator().manual_seed(7))
    before = torch.get_rng_state()
    for draw in draws:
        losses = [tdt_loss(*case, durations=(0, 1, 2), blank=BLANK, omega=0.4, generator=g) for g in ranks]
        assert torch.equal(losses[0], losses[1])
        assert torch.allclose(losses[0], tdt) == (draw.item() >= 0.4)
    assert torch.equal(before, torch.get_rng_state())  # torch's own generator is left alone


def test_sigma_favours_long_durations() -> None:
    """The gradient pushes the longest duration up harder when every token costs sigma more."""
    case = problem([20], [3], 3)
    plain, pushed = (
        value_and_grads(*case, durations=(0, 1, 2), sigma=s)[2][..., 2].sum() for s in (0.0, 0.5)
    )
    assert pushed < plain


@pytest.mark.parametrize(
    ("durations", "message"),
    [((0, 1), "2 durations"), ((0, 2, 1), "must rise"), ((0, 1, 1), "must rise"), ((-1, 0, 1), "must rise")],
)
def test_wrong_durations_are_refused(durations: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tdt_loss(*problem([5], [3], 3), durations=durations, blank=BLANK)


def test_wrong_shapes_and_backends_are_refused() -> None:
    tokens, durations, *rest = problem([5], [3], 1)
    with pytest.raises(ValueError, match="must rise"):
        tdt_loss(tokens, durations, *rest, durations=(0,), blank=BLANK)  # nothing could ever advance
    with pytest.raises(ValueError, match="duration_logits must be"):
        tdt_loss(tokens, durations[:, 1:], *rest, durations=(1,), blank=BLANK)
    with pytest.raises(ValueError, match="unknown backend"):
        tdt_loss(tokens, durations, *rest, durations=(1,), blank=BLANK, backend="cuda")
