"""Lattice-free maximum mutual information with a bigram of tokens: the transcript against all others.
Povey et al. 2016, with CTC's alignments as in icefall's conformer_mmi.

    loss = log Σ_w p(x | w) P(w) − log p(x | y) P(y)

w runs over all token sequences, p(x | w) sums CTC's alignments of w, and P is a bigram. The loss is the
negative logarithm of the posterior of the transcript y, so it is not negative.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maya.kernels.checks import check_lens, check_tensor
from maya.kernels.host import numbers_on
from maya.losses.ctc import ctc_loss

DISCOUNT = 0.5  # of each count of a pair, given to the pairs that were not seen


def token_bigram(texts: Iterable[Sequence[int]], outputs: int, blank: int) -> Tensor:
    """Log probabilities log P(next | before) of tokens, (V, V) fp32, V = `outputs`.

    texts: token ids of each transcript, without `blank`. The row of `blank` is the beginning of a text and
    its column the end. Absolute discounting, interpolated with unigrams of which each has one count more: no
    probability is 0.
    """
    counts = torch.zeros(outputs * outputs, dtype=torch.float64)
    rest = iter(texts)
    while chunk := list(itertools.islice(rest, 100_000)):
        # One blank is the end of a text and the beginning of the next one.
        ids = torch.tensor([blank, *itertools.chain.from_iterable((*text, blank) for text in chunk)])
        counts += torch.bincount(ids[:-1] * outputs + ids[1:], minlength=outputs * outputs)
    counts = counts.view(outputs, outputs)
    unigram = counts.sum(0) + 1
    unigram /= unigram.sum()
    total = counts.sum(1, keepdim=True)
    seen = (counts > 0).sum(1, keepdim=True)
    discounted = (counts - DISCOUNT).clamp(min=0) / total.clamp(min=1)
    rest_share = torch.where(total > 0, DISCOUNT * seen / total.clamp(min=1), 1.0)
    return (discounted + rest_share * unigram).log().float()


def mmi_loss(
    log_probs: Tensor, targets: Tensor, logit_lens: Tensor, target_lens: Tensor, *, bigram: Tensor, blank: int
) -> Tensor:
    """The MMI loss of each utterance, (B,), in nats; fp64 for fp64 input, fp32 otherwise, also under
    autocast.

    log_probs, targets, logit_lens, target_lens: as `ctc_loss` takes them. bigram: (V, V) from
      `token_bigram`; it gets no gradient.

    inf, with a gradient of 0, where the transcript has no alignment, as in `ctc_loss`. Raises ValueError that
    names the argument. Time and memory grow with S · V² and S · V: it is for vocabularies of a few thousand.
    """
    op = "mmi_loss"
    check_tensor(op, "log_probs", log_probs, (None, None, None))
    batch, size, vocab = log_probs.shape
    check_tensor(op, "bigram", bigram, (vocab, vocab))
    lens = numbers_on(log_probs.device, check_lens(op, "logit_lens", logit_lens, batch, size, log_probs))
    numerator = ctc_loss(log_probs, targets, logit_lens, target_lens, blank=blank)
    with torch.autocast(log_probs.device.type, enabled=False):
        wide = log_probs if log_probs.dtype == torch.float64 else log_probs.float()
        padding = torch.arange(size, device=wide.device) >= lens[:, None]
        normal = wide.masked_fill(padding[..., None], 0.0).log_softmax(-1)
        table = bigram.to(device=wide.device, dtype=wide.dtype)
        denominator: Tensor = _Denominator.apply(normal, lens, table, blank)
        prior = _text_scores(table, targets.to(wide.device), target_lens.to(wide.device), blank)
        return numerator + torch.where(numerator.isinf(), 0.0, denominator - prior)


def _text_scores(bigram: Tensor, targets: Tensor, target_lens: Tensor, blank: int) -> Tensor:
    """log P(y) of each transcript, (B,)."""
    edge = targets.new_full((len(targets), 1), blank)
    inside = torch.arange(targets.shape[1], device=targets.device) < target_lens[:, None]
    ids = torch.cat([edge, torch.where(inside, targets, blank), edge], 1).long()
    used = torch.arange(ids.shape[1] - 1, device=ids.device) <= target_lens[:, None]
    return torch.where(used, bigram[ids[:, :-1], ids[:, 1:]], 0.0).sum(1)


class _Denominator(torch.autograd.Function):
    """log Σ_w p(x | w) P(w), by the forward and backward algorithm in probabilities, rescaled at each frame.

    A path stands on a label, or on a blank after a label (or after none: the entry of `blank`). The states of
    a row are two vectors of V. The gradient of a frame is the posterior of its outputs.
    """

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lens: Tensor, bigram: Tensor, blank: int) -> Tensor:
        probs, table = log_probs.exp(), _Moves(bigram, blank)
        rows, size, vocab = log_probs.shape
        on_label = log_probs.new_zeros(rows, vocab)
        on_blank = torch.zeros_like(on_label)
        on_blank[:, blank] = 1.0
        scale = log_probs.new_zeros(rows)
        saved = log_probs.new_empty(2, size, rows, vocab)
        for t in range(size):
            label, silent = table.forward(on_label, on_blank, probs[:, t])
            total = label.sum(1) + silent.sum(1)
            runs = t < lens
            on_label = torch.where(runs[:, None], label / total[:, None], on_label)
            on_blank = torch.where(runs[:, None], silent / total[:, None], on_blank)
            scale = scale + torch.where(runs, total.log(), 0.0)
            saved[0, t], saved[1, t] = on_label, on_blank
        ctx.save_for_backward(probs, lens, bigram, saved)
        ctx.blank = blank
        return scale + ((on_label + on_blank) @ table.end).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        probs, lens, bigram, saved = ctx.saved_tensors
        blank, table = ctx.blank, _Moves(bigram, ctx.blank)
        grad = torch.zeros_like(probs)
        on_label = on_blank = table.end.expand(len(probs), -1)
        for t in range(probs.shape[1] - 1, -1, -1):
            if t + 1 < probs.shape[1]:
                label, silent = table.backward(on_label, on_blank, probs[:, t + 1])
                total = (label.amax(1) + silent.amax(1))[:, None]  # any scale will do
                last = (t + 1 >= lens)[:, None]  # rows that end at this frame, or before it
                on_label = torch.where(last, table.end, label / total)
                on_blank = torch.where(last, table.end, silent / total)
            posterior = saved[0, t] * on_label
            posterior[:, blank] = (saved[1, t] * on_blank).sum(1)
            posterior /= posterior.sum(1, keepdim=True)
            grad[:, t] = torch.where((t < lens)[:, None], posterior * grad_loss[:, None], 0.0)
        return grad, None, None, None


class _Moves:
    """The moves from a frame to the next one: a token of the bigram, the same label again, or blank."""

    def __init__(self, bigram: Tensor, blank: int) -> None:
        self.blank = blank
        probs = bigram.exp()
        self.end = probs[:, blank].clone()
        self.next = probs.clone()
        self.next[:, blank] = 0.0  # the end is no move
        # A label that stays is the same token; from a blank, it would be a second one of its kind.
        self.stay = 1.0 - self.next.diagonal()
        self.stay[blank] = 0.0

    def forward(self, on_label: Tensor, on_blank: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        either = on_label + on_blank
        label = probs * (either @ self.next + on_label * self.stay)
        return label, probs[:, self.blank, None] * either

    def backward(self, on_label: Tensor, on_blank: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        ahead = probs * on_label
        silent = ahead @ self.next.T + probs[:, self.blank, None] * on_blank
        return silent + ahead * self.stay, silent
