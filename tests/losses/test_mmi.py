"""The MMI loss: by enumeration of all alignments, its gradient, padding, impossible rows, the bigram."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from maya.losses.mmi import mmi_loss, token_bigram

BLANK = 2
TEXTS = [[0, 1, 1], [1], [0, 0], []]


def logits(rows: int, frames: int, vocab: int = 3) -> Tensor:
    return (2 * torch.randn(rows, frames, vocab, dtype=torch.float64)).requires_grad_()


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k != BLANK)


def by_enumeration(log_probs: Tensor, text: list[int], bigram: Tensor) -> float:
    """The loss of one utterance, log_probs (S, V), by the definition."""
    of_text, everything = [], []
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        words = collapsed(path)
        ids = [BLANK, *words, BLANK]
        score = sum(float(log_probs[t, k]) for t, k in enumerate(path))
        score += sum(float(bigram[a, b]) for a, b in itertools.pairwise(ids))
        everything.append(score)
        if list(words) == text:
            of_text.append(score)
    return float(torch.tensor(everything).logsumexp(0) - torch.tensor(of_text).logsumexp(0))


@pytest.mark.parametrize("text", [[0, 1], [1, 1], [0], []])
def test_the_loss_is_that_of_all_alignments(text: list[int]) -> None:
    x = logits(1, 5)
    bigram = token_bigram(TEXTS, 3, BLANK).double()
    targets = torch.tensor([text]) if text else torch.zeros(1, 0, dtype=torch.long)
    loss = mmi_loss(x, targets, torch.tensor([5]), torch.tensor([len(text)]), bigram=bigram, blank=BLANK)
    expected = by_enumeration(x.detach()[0].log_softmax(-1), text, bigram)
    assert loss.item() == pytest.approx(expected, abs=1e-6) and expected > 0


@pytest.mark.parametrize("blank", [0, 3])
def test_the_gradient(blank: int) -> None:
    x = logits(3, 6, 4)
    labels = [k for k in range(4) if k != blank]
    targets = torch.tensor([[labels[0], labels[2]], [labels[1], labels[1]], [labels[2], blank]])
    lens, target_lens = torch.tensor([6, 4, 1]), torch.tensor([2, 2, 1])
    bigram = token_bigram([[labels[0], labels[1]], [labels[2]]], 4, blank).double()

    def loss(x: Tensor) -> Tensor:
        return mmi_loss(x, targets, lens, target_lens, bigram=bigram, blank=blank)

    assert torch.autograd.gradcheck(loss, (x,))


def test_a_row_alone_equals_its_batch_and_padding_is_ignored() -> None:
    x, lens, target_lens = logits(2, 6), torch.tensor([6, 3]), torch.tensor([2, 1])
    targets, bigram = torch.tensor([[0, 1], [1, 0]]), token_bigram(TEXTS, 3, BLANK)
    both = mmi_loss(x, targets, lens, target_lens, bigram=bigram, blank=BLANK)
    spoilt = x.detach().clone()
    spoilt[1, 3:] = float("nan")
    spoilt.requires_grad_()
    again = mmi_loss(spoilt, targets, lens, target_lens, bigram=bigram, blank=BLANK)
    torch.testing.assert_close(again, both)
    alone = mmi_loss(x[1:, :3], targets[1:, :1], lens[1:], target_lens[1:], bigram=bigram, blank=BLANK)
    torch.testing.assert_close(alone, both[1:])
    again.sum().backward()
    assert spoilt.grad is not None and spoilt.grad.isfinite().all() and not spoilt.grad[1, 3:].any()


def test_an_impossible_row_is_infinite_with_no_gradient() -> None:
    x = logits(2, 2)
    targets, bigram = torch.tensor([[0, 0], [0, 1]]), token_bigram(TEXTS, 3, BLANK)
    loss = mmi_loss(x, targets, torch.tensor([2, 2]), torch.tensor([2, 2]), bigram=bigram, blank=BLANK)
    assert loss[0] == math.inf and loss[1].isfinite()
    loss.sum().backward()
    assert x.grad is not None and not x.grad[0].any() and x.grad[1].any()


def test_single_precision_stays_close_over_long_utterances() -> None:
    """1000 frames of sharp outputs that the bigram finds unlikely."""
    torch.manual_seed(1)
    x = (20 * torch.randn(1, 1000, 40)).float()
    bigram = token_bigram([[i % 39, (i + 1) % 39] for i in range(200)], 40, 39)
    targets = torch.randint(0, 39, (1, 100))
    args = (targets, torch.tensor([1000]), torch.tensor([100]))
    single = mmi_loss(x, *args, bigram=bigram, blank=39)
    double = mmi_loss(x.double(), *args, bigram=bigram.double(), blank=39)
    assert float(single) == pytest.approx(float(double), rel=1e-5)


def test_the_bigram_is_normalised_and_follows_the_counts() -> None:
    bigram = token_bigram([[0, 1]] * 98 + [[1, 0]], 3, BLANK).exp()
    torch.testing.assert_close(bigram.sum(1), torch.ones(3))
    assert (bigram > 0).all() and bigram[0, 1] > 0.9 and bigram[BLANK, 0] > 0.9 and bigram[1, BLANK] > 0.9
    assert bigram[2, 2] < bigram[2, 1]
