"""CTC loss: equal to torch's where it is finite; impossible rows follow Maya's rules."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from maya.losses import ctc_loss

INF = float("inf")


def test_equals_the_sum_over_all_frame_labelings() -> None:
    logits = torch.randn(3, 4, 4, dtype=torch.float64)
    targets, labels = torch.tensor([[1, 1], [2, 3], [2, 0]]), torch.tensor([2, 2, 1])
    frames = torch.tensor([4, 3, 4])
    log_probs = logits.log_softmax(-1)
    expected = []
    for row in range(3):
        total = torch.tensor(-INF, dtype=torch.float64)
        for path in itertools.product(range(4), repeat=int(frames[row])):
            merged = [token for token, _ in itertools.groupby(path) if token != 0]
            if merged == targets[row, : labels[row]].tolist():
                score = sum(log_probs[row, t, token] for t, token in enumerate(path))
                total = torch.logaddexp(total, score)
        expected.append(-total)
    loss = ctc_loss(logits, targets, frames, labels, blank=0)
    torch.testing.assert_close(loss, torch.stack(expected))
    # Log probabilities may be passed as well.
    torch.testing.assert_close(ctc_loss(log_probs, targets, frames, labels, blank=0), loss)


def test_gradcheck_with_an_impossible_row() -> None:
    logits = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    targets, lens = torch.tensor([[0, 0], [1, 1], [2, 1]]), (torch.tensor([4, 2, 4]), torch.tensor([2, 2, 2]))

    def possible(x: torch.Tensor) -> torch.Tensor:
        loss = ctc_loss(x, targets, *lens, blank=3)
        return loss[loss.isfinite()]

    assert possible(logits).shape == (2,)
    assert torch.autograd.gradcheck(possible, logits)


def test_impossible_rows_are_infinite_with_zero_gradient() -> None:
    # Too few frames; a repeat that needs one frame more; no frames; a label of probability 0; a good row.
    logits = torch.randn(5, 4, 5, requires_grad=True)
    barred = torch.zeros(5, 4, 5)
    barred[3, :, 2] = -INF
    targets = torch.tensor([[1, 2, 3], [1, 1, 0], [0, 0, 0], [2, 0, 0], [1, 2, 0]])
    frames, labels = torch.tensor([2, 2, 0, 4, 4]), torch.tensor([3, 2, 0, 1, 2])
    loss = ctc_loss(logits + barred, targets, frames, labels, blank=4)
    assert loss.isinf().tolist() == [True, True, True, True, False] and (loss > 0).all()
    # A gradient from a mean over the batch into an infinite loss must also give zero.
    loss.backward(torch.tensor([INF, float("nan"), INF, 1.0, 1.0]))
    assert torch.equal(logits.grad[:4], torch.zeros(4, 4, 5))
    assert logits.grad[4].isfinite().all() and logits.grad[4].abs().max() > 0


def test_equals_torch_on_real_sizes_and_stays_fp32_under_autocast() -> None:
    logits = torch.randn(4, 50, 30)
    targets = torch.randint(29, (4, 12))
    frames, labels = torch.tensor([50, 40, 33, 25]), torch.tensor([12, 3, 0, 7])
    expected = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), targets, frames, labels, blank=29, reduction="none"
    )
    assert torch.equal(ctc_loss(logits, targets, frames, labels, blank=29), expected)
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ctc_loss(half, targets, frames, labels, blank=29)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, ctc_loss(half.float(), targets, frames, labels, blank=29))


def test_padding_is_ignored_and_has_zero_gradient() -> None:
    logits, targets = torch.randn(2, 6, 5, requires_grad=True), torch.tensor([[1, 2, 3], [2, 0, 0]])
    lens = torch.tensor([6, 4]), torch.tensor([3, 1])
    clean = ctc_loss(logits, targets, *lens, blank=4)
    (grad,) = torch.autograd.grad(clean.sum(), logits)
    spoilt = logits.detach().clone()
    spoilt[1, 4:] = float("nan")
    targets[1, 1:] = torch.tensor([-1, 99])
    spoilt.requires_grad_()
    loss = ctc_loss(spoilt, targets, *lens, blank=4)
    loss.sum().backward()
    assert torch.equal(clean, loss) and torch.equal(grad, spoilt.grad)
    assert not spoilt.grad[1, 4:].any()


def test_a_row_alone_equals_its_batch() -> None:
    logits, targets = torch.randn(2, 6, 5), torch.tensor([[1, 2, 3], [2, 0, 0]])
    frames, labels = torch.tensor([6, 4]), torch.tensor([3, 1])
    batch = ctc_loss(logits, targets, frames, labels, blank=4)
    torch.testing.assert_close(
        ctc_loss(logits[1:, :4], targets[1:, :1], frames[1:], labels[1:], blank=4), batch[1:]
    )


@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 5, 4)])
def test_batches_without_frames_or_without_rows(shape: tuple[int, int, int]) -> None:
    logits, none = torch.zeros(shape, requires_grad=True), torch.zeros(shape[0], dtype=torch.int64)
    loss = ctc_loss(logits, torch.zeros(shape[0], 3).long(), none, none, blank=3)
    assert loss.tolist() == [INF] * shape[0]
    loss.sum().backward()
    assert not logits.grad.any()


def test_mixed_devices_are_refused() -> None:
    lens = torch.tensor([6]), torch.tensor([2])
    with pytest.raises(ValueError, match="targets is on meta"):
        ctc_loss(torch.zeros(1, 6, 5), torch.tensor([[1, 2]], device="meta"), *lens, blank=4)
    with pytest.raises(ValueError, match="logit_lens is on meta"):
        ctc_loss(torch.zeros(1, 6, 5), torch.tensor([[1, 2]]), lens[0].to("meta"), lens[1], blank=4)
    with pytest.raises(ValueError, match="target_lens must be integers"):
        ctc_loss(torch.zeros(1, 6, 5), torch.tensor([[1, 2]]), lens[0], lens[1].float(), blank=4)


@pytest.mark.parametrize(
    ("targets", "frames", "blank", "message"),
    [
        ([[1, 4]], [6], 4, "row 0 holds target 4"),
        ([[1, 7]], [6], 4, "row 0 holds target 7"),
        ([[1, 2]], [7], 4, "logit_lens must lie in 0..6"),
        ([[1, 2], [1, 2]], [6], 4, r"targets must be \(1, any\)"),
        ([[1, 2]], [6], 5, "blank 5"),
    ],
)
def test_wrong_arguments_are_refused(
    targets: list[list[int]], frames: list[int], blank: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ctc_loss(
            torch.zeros(1, 6, 5), torch.tensor(targets), torch.tensor(frames), torch.tensor([2]), blank=blank
        )
