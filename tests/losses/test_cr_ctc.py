"""CR-CTC's consistency term: value and gradient, the detached target, padding, wrong arguments."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maya.losses import cr_ctc_loss

INF = float("inf")


def views(frames: list[int], vocab: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Logits of both views, one frame longer than needed, and lengths."""
    a, b = (3 * torch.randn(2, len(frames), max(frames) + 1, vocab, dtype=dtype)).unbind()
    return a.requires_grad_(), b.requires_grad_(), torch.tensor(frames)


def by_definition(a: Tensor, b: Tensor, lens: Tensor) -> Tensor:
    of_a, of_b = a.log_softmax(-1), b.log_softmax(-1)
    options: dict[str, Any] = {"reduction": "none", "log_target": True}
    frames = F.kl_div(of_a, of_b.detach(), **options) + F.kl_div(of_b, of_a.detach(), **options)
    used = torch.arange(a.shape[1]) < lens[:, None]
    return 0.5 * frames.sum(-1).masked_fill(~used, 0.0).sum(1)


def test_value_and_gradient_equal_the_definition() -> None:
    a, b, lens = views([6, 3, 0, 1])
    weights = torch.tensor([1.0, 0.5, 2.0, -3.0], dtype=torch.float64)
    loss, expected = cr_ctc_loss(a, b, lens), by_definition(a, b, lens)
    torch.testing.assert_close(loss, expected)
    assert loss[2] == 0 and (loss >= 0).all()
    gradients = torch.autograd.grad((loss * weights).sum(), (a, b))
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weights).sum(), (a, b)))
    # The input may be normalised or not.
    torch.testing.assert_close(cr_ctc_loss(a.log_softmax(-1), b.log_softmax(-1), lens), loss)


def test_each_view_has_gradients_and_the_other_is_a_detached_target() -> None:
    a, b, lens = views([4, 2])
    (both, _) = torch.autograd.grad(cr_ctc_loss(a, b, lens).sum(), (a, b))
    (alone,) = torch.autograd.grad(cr_ctc_loss(a, b.detach(), lens).sum(), a)
    assert torch.equal(both, alone)
    # The gradient of a is that of half the cross-entropy with b's posteriors as targets.
    used = torch.arange(a.shape[1]) < lens[:, None]
    entropy = -0.5 * (b.detach().softmax(-1) * a.log_softmax(-1)).sum(-1)[used].sum()
    torch.testing.assert_close(torch.autograd.grad(entropy, a)[0], alone)
    assert not cr_ctc_loss(a, a, lens).any()


def test_padding_is_ignored_and_a_row_alone_equals_its_batch() -> None:
    a, b, lens = views([5, 2])
    loss = cr_ctc_loss(a, b, lens)
    spoilt = [x.detach().clone() for x in (a, b)]
    for x in spoilt:
        x[1, 2:] = float("nan")
        x.requires_grad_()
    again = cr_ctc_loss(*spoilt, lens)
    assert torch.equal(loss, again)
    again.sum().backward()
    for x in spoilt:
        assert x.grad.isfinite().all() and not x.grad[1, 2:].any()
    torch.testing.assert_close(cr_ctc_loss(a[1:, :2], b[1:, :2], lens[1:]), loss[1:])


def test_masked_tokens() -> None:
    a, b, lens = (x.detach().clone() for x in views([4, 4]))
    a[..., 3] = b[..., 3] = -INF  # impossible in both views
    a[1, 0, 2] = -INF  # impossible in one view
    a.requires_grad_(), b.requires_grad_()
    loss = cr_ctc_loss(a, b, lens)
    assert loss.isfinite().tolist() == [True, False] and loss[1] == INF
    keep = [0, 1, 2, 4, 5, 6]
    torch.testing.assert_close(cr_ctc_loss(a[..., keep], b[..., keep], lens)[0], loss[0])
    loss.sum().backward()
    for x in (a, b):
        assert x.grad.isfinite().all() and not x.grad[..., 3].any()


def test_half_precision_input_and_autocast() -> None:
    a, b, lens = views([9, 5], vocab=30, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cr_ctc_loss(a, b, lens)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), by_definition(a.double(), b.double(), lens))
    loss.sum().backward()
    assert a.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs_a": torch.zeros(4, 5)}, "log_probs_a must be"),
        ({"log_probs_b": torch.zeros(1, 4, 6)}, "log_probs_b must be"),
        ({"log_probs_b": torch.zeros(1, 4, 5).double()}, "log_probs_b is torch.float64"),
        ({"log_probs_b": torch.zeros(1, 4, 5, device="meta")}, "log_probs_b is on meta"),
        ({"lens": torch.tensor([5])}, r"lens must lie in 0..4"),
        ({"lens": torch.tensor([2.0])}, "lens must be integers"),
        ({"lens": torch.tensor([2, 2])}, "lens must be"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"log_probs_a": torch.zeros(1, 4, 5), "log_probs_b": torch.zeros(1, 4, 5)}
    with pytest.raises(ValueError, match=message):
        cr_ctc_loss(**(arguments | {"lens": torch.tensor([4])} | change))
