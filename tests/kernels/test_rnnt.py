"""RNN-T loss: brute force, then the reference, then the fast form, then torchaudio."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maya.kernels.rnnt import rnnt_loss
from tests import oracles
from tests.kernels import brute_force

INF = float("inf")
BLANK = 2  # in the middle of the vocabulary: nothing may rely on its being first or last


def problem(
    frames: list[int], labels: list[int], vocab: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets, lengths of a ragged batch; one frame and one label more padding than needed."""
    size, width = max(frames) + 1, max(labels) + 1
    logits = 2 * torch.randn(len(frames), size, width + 1, vocab, dtype=dtype)
    targets = torch.randint(vocab - 1, (len(frames), width))
    targets += (targets >= BLANK).long()
    return logits, targets, torch.tensor(frames), torch.tensor(labels)


def value_and_grad(
    logits: Tensor, *args: Tensor, weights: Tensor | None = None, **options
) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    loss = rnnt_loss(leaf, *args, blank=BLANK, **options)
    weights = torch.ones_like(loss) if weights is None else weights.to(loss)
    loss.backward(weights)
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_every_small_lattice_equals_the_sum_over_all_alignments(backend: str) -> None:
    frames = [t for t in range(1, 5) for _ in range(5)]
    labels = [u for _ in range(1, 5) for u in range(5)]
    logits, targets, *lens = problem(frames, labels)
    weights = torch.linspace(0.5, 2.0, len(frames))  # a row must get its own incoming gradient
    leaf = logits.clone().requires_grad_()
    rows = zip(leaf, targets, frames, labels, strict=True)
    expected = torch.stack([brute_force.rnnt(x, y, t, u, BLANK) for x, y, t, u in rows])
    (expected * weights).sum().backward()

    loss, grad = value_and_grad(logits, targets, *lens, weights=weights, backend=backend)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, leaf.grad, rtol=1e-11, atol=1e-12)


def test_gradcheck() -> None:
    logits, targets, *lens = problem([3, 2, 1], [2, 0, 2], vocab=4)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rnnt_loss(x, targets, *lens, blank=BLANK), logits)


@pytest.mark.parametrize("clamp", [None, 0.05])
def test_error_is_at_most_twice_that_of_torchaudio(clamp: float | None) -> None:
    torchaudio_loss = oracles.torchaudio().rnnt_loss
    logits, targets, *lens = problem([60, 41, 7, 1], [20, 3, 0, 11], vocab=40)
    options = {} if clamp is None else {"clamp": clamp}
    truth, true_grad = value_and_grad(logits, targets, *lens, backend="torch", **options)
    loss, grad = value_and_grad(logits.float(), targets, *lens, **options)

    leaf = logits.float()
    # torchaudio wants tensors without spare padding.
    cut = leaf[:, :60, :21].contiguous().requires_grad_()
    ints = [targets[:, :20].int().contiguous(), *(x.int() for x in lens)]
    peer = torchaudio_loss(cut, *ints, blank=BLANK, clamp=-1 if clamp is None else clamp, reduction="none")
    peer.sum().backward()

    torch.testing.assert_close(loss, peer.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad[:, :60, :21], cut.grad, rtol=1e-4, atol=1e-5)
    assert (loss - truth).abs().max() <= 2 * (peer.detach() - truth).abs().max() + 1e-6
    peer_error = (cut.grad - true_grad[:, :60, :21]).abs().max()
    assert (grad - true_grad).abs().max() <= 2 * peer_error


def test_a_long_unlikely_utterance_keeps_its_precision() -> None:
    logits, targets, *lens = problem([400], [80], vocab=8)
    loss, grad = value_and_grad(20 * logits.float(), targets, *lens)
    truth, true_grad = value_and_grad(20 * logits.float().double(), targets, *lens)
    assert truth.item() > 5000
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), true_grad, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly_and_rounded_once(dtype: torch.dtype) -> None:
    logits, targets, *lens = problem([9, 4], [5, 2], dtype=dtype)
    loss, grad = value_and_grad(logits, targets, *lens)
    truth, true_grad = value_and_grad(logits.double(), targets, *lens, backend="reference")
    assert loss.dtype == torch.float32 and grad.dtype == dtype
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=1e-6)
    # half a unit in the last place of the largest value, and subnormals of fp16
    torch.testing.assert_close(grad.double(), true_grad, rtol=torch.finfo(dtype).eps / 2 + 1e-6, atol=1e-7)


def test_autocast_has_no_effect() -> None:
    logits, targets, *lens = problem([9, 4], [5, 2], dtype=torch.float32)
    plain, plain_grad = value_and_grad(logits, targets, *lens)
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_grad = value_and_grad(logits, targets, *lens)
    assert torch.equal(plain, cast) and torch.equal(plain_grad, cast_grad)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_impossible_rows_are_infinite_with_zero_gradient(backend: str) -> None:
    logits, targets, frames, labels = problem([5, 0, 4, 0], [2, 0, 2, 3])
    logits[2, :, :, targets[2, 1]] = -INF  # its second label can never be emitted
    # What a mean over the batch sends back into an infinite loss must not spoil it either.
    weights = torch.tensor([1.0, INF, INF, float("nan")])
    loss, grad = value_and_grad(logits, targets, frames, labels, backend=backend, weights=weights)
    assert loss.isinf().tolist() == [False, True, True, True] and (loss > 0).all()
    assert torch.equal(grad[1:], torch.zeros_like(grad[1:]))
    assert grad[0].isfinite().all() and grad[0].abs().max() > 0


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_masked_vocabulary_is_allowed(backend: str) -> None:
    logits, targets, *lens = problem([4, 3], [2, 1], vocab=9)
    logits[..., 8] = -INF
    targets = targets.clamp(max=7)
    loss, grad = value_and_grad(logits, targets, *lens, backend=backend)
    assert torch.equal(grad[..., 8], torch.zeros_like(grad[..., 8])) and grad.isfinite().all()
    short = logits[..., :8].contiguous()
    torch.testing.assert_close(loss, value_and_grad(short, targets, *lens)[0])


def test_padding_is_never_read_and_gets_zero_gradient() -> None:
    logits, targets, frames, labels = problem([5, 3], [3, 1])
    loss, grad = value_and_grad(logits, targets, frames, labels)
    for row in range(2):
        logits[row, frames[row] :] = float("nan")
        logits[row, :, labels[row] + 1 :] = float("nan")
        targets[row, labels[row] :] = -100
    spoilt, spoilt_grad = value_and_grad(logits, targets, frames, labels)
    assert torch.equal(loss, spoilt) and torch.equal(grad, spoilt_grad)
    assert spoilt_grad[1, 3:].abs().max() == 0 and spoilt_grad[1, :, 2:].abs().max() == 0


def test_nan_in_a_valid_cell_gives_a_nan_loss() -> None:
    logits, targets, *lens = problem([5, 3], [3, 1])
    logits[0, 1, 1, 0] = float("nan")
    loss, _ = value_and_grad(logits, targets, *lens)
    assert loss[0].isnan() and loss[1].isfinite()


def test_results_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets, *lens = problem([7, 5], [3, 2])
    whole = value_and_grad(logits, targets, *lens)
    monkeypatch.setattr(
        "maya.kernels.token_softmax.BLOCK_ELEMENTS", {"cpu": 2 * 4 * 6}
    )  # 2 frames of the first row
    blocked = value_and_grad(logits, targets, *lens)
    torch.testing.assert_close(blocked, whole)


def test_logits_need_not_be_contiguous() -> None:
    logits, targets, *lens = problem([5, 3], [3, 1], vocab=8)
    view = logits[..., :6]
    assert not view.is_contiguous()
    targets = targets.clamp(max=5)
    strided, packed = (value_and_grad(x, targets, *lens) for x in (view, view.contiguous()))
    assert torch.equal(strided[0], packed[0]) and torch.equal(strided[1], packed[1])
    turned = view.transpose(1, 2).contiguous().transpose(1, 2)
    leaf = turned.detach().requires_grad_()
    rnnt_loss(leaf, targets, *lens, blank=BLANK).sum().backward()
    assert torch.equal(leaf.grad, packed[1])


@pytest.mark.parametrize(("fastemit", "clamp"), [(0.3, None), (0.0, 0.02), (0.3, 0.02)])
def test_fastemit_and_clamp_equal_the_reference(fastemit: float, clamp: float | None) -> None:
    logits, targets, *lens = problem([5, 3, 4], [3, 1, 0])
    weights = torch.tensor([1.0, 3.0, 0.5])
    options = {"fastemit": fastemit, "clamp": clamp, "weights": weights}
    fast = value_and_grad(logits, targets, *lens, backend="torch", **options)
    truth = value_and_grad(logits, targets, *lens, backend="reference", **options)
    torch.testing.assert_close(fast, truth, rtol=1e-11, atol=1e-12)
    if clamp is not None:
        assert fast[1][1].abs().max() == pytest.approx(3 * clamp)  # clipped before the incoming gradient


def test_fastemit_scales_label_arcs_only() -> None:
    """Without labels nothing changes but the value."""
    logits, targets, *lens = problem([4], [0])
    plain, plain_grad = value_and_grad(logits, targets, *lens)
    loss, grad = value_and_grad(logits, targets, *lens, fastemit=0.5)
    torch.testing.assert_close((loss, grad), (1.5 * plain, plain_grad))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "cuda"}, "unknown backend"),
        ({"blank": 6}, "blank 6"),
        ({"fastemit": -1.0}, "fastemit"),
        ({"targets": torch.tensor([[0, BLANK, 1]])}, "row 0 holds target 2"),
        ({"targets": torch.tensor([[0, 6, 1]])}, "row 0 holds target 6"),
        ({"targets": torch.tensor([[0, 1]])}, "targets must be"),
        ({"logit_lens": torch.tensor([6])}, "0..5 frames"),
        ({"target_lens": torch.tensor([4])}, "0..3 labels"),
        ({"target_lens": torch.tensor([2, 2])}, "target_lens must be"),
    ],
)
def test_wrong_arguments_are_refused(change: dict, message: str) -> None:
    arguments = {
        "logits": torch.zeros(1, 5, 4, 6),
        "targets": torch.tensor([[0, 1, 3]]),
        "logit_lens": torch.tensor([5]),
        "target_lens": torch.tensor([3]),
        "blank": BLANK,
    }
    with pytest.raises(ValueError, match=message):
        rnnt_loss(**(arguments | change))


class _LargeTensors(TorchDispatchMode):
    """Counts the tensors made with at least `size` elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.storages = size, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.untyped_storage().nbytes() >= self.size * out.element_size():
            self.storages.add(out.untyped_storage().data_ptr())
        return out


def test_only_the_gradient_is_as_large_as_the_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, targets, *lens = problem([30, 20], [6, 3], vocab=400, dtype=torch.float32)
    logits.requires_grad_()
    monkeypatch.setattr("maya.kernels.token_softmax.BLOCK_ELEMENTS", {"cpu": 10_000})
    with _LargeTensors(logits.numel() // 2) as made:
        loss = rnnt_loss(logits, targets, *lens, blank=BLANK)
        assert made.storages <= {logits.untyped_storage().data_ptr()}
        loss.sum().backward()
    assert made.storages - {logits.untyped_storage().data_ptr()} == {logits.grad.untyped_storage().data_ptr()}
