"""Masked batch norm against torch's batch norm of the valid frames."""

import torch
from torch import nn

from maya.encoders.conformer.masked_norm import MaskedBatchNorm, untracked_statistics

LENS = torch.tensor([11, 7, 1, 0])
VALID = torch.arange(11) < LENS[:, None]


def pair(masked=True):
    ours, reference = MaskedBatchNorm(6, masked=masked).double(), nn.BatchNorm1d(6).double()
    nn.init.normal_(reference.weight)
    nn.init.normal_(reference.bias)
    ours.load_state_dict(reference.state_dict())  # the same names, strictly
    return ours, reference


def test_training_equals_batch_norm_of_the_valid_frames():
    ours, reference = pair()
    for step in range(3):
        x = (torch.randn(4, 11, 6, dtype=torch.float64) * 3 + 5 * step).requires_grad_()
        packed = reference(x[VALID])
        y = ours(x, VALID)
        torch.testing.assert_close(y[VALID], packed)
        grads = torch.autograd.grad(y[VALID].cos().sum(), [x, *ours.parameters()])
        torch.testing.assert_close(
            grads, torch.autograd.grad(packed.cos().sum(), [x, *reference.parameters()])
        )
    torch.testing.assert_close(ours.state_dict(), reference.state_dict())
    ours.eval()
    reference.eval()
    torch.testing.assert_close(ours(x, VALID)[VALID], reference(x[VALID]))


def test_unmasked_counts_padding_as_nemo_does():
    ours, reference = pair(masked=False)
    x = torch.randn(4, 11, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x, VALID), reference(x.flatten(0, 1)).view_as(x))
    torch.testing.assert_close(ours.state_dict(), reference.state_dict())


def test_large_offset_keeps_precision():
    """E[x^2] - E[x]^2 in fp32 would lose the variance here."""
    norm = MaskedBatchNorm(2)
    y = norm(torch.randn(2, 400, 2) * 0.1 + 500, torch.ones(2, 400, dtype=torch.bool))
    torch.testing.assert_close(y.std((0, 1)), torch.ones(2), rtol=2e-2, atol=0)


def test_no_valid_frame_one_valid_frame_and_untracked_statistics():
    norm = MaskedBatchNorm(3)
    before = {k: v.clone() for k, v in norm.state_dict().items() if k != "num_batches_tracked"}
    y = norm(torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool))
    with untracked_statistics(norm):
        norm(torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))
    assert y.isfinite().all()
    assert all(torch.equal(norm.state_dict()[k], v) for k, v in before.items())
    single = torch.zeros(2, 4, dtype=torch.bool)
    single[0, 0] = True
    assert norm(torch.randn(2, 4, 3), single).isfinite().all() and norm.running_var.isfinite().all()
    assert not torch.equal(norm.running_mean, before["running_mean"])
