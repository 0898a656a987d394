"""Losses and gradients recorded from NeMo: TDT with sigma 0.02; RNN-T on the token part of those logits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maya.losses import ctc_loss, rnnt_loss, tdt_loss


@pytest.fixture(scope="module")
def nemo(shared: Path) -> dict[str, Any]:
    return torch.load(shared / "golden/nemo/tdt_ctc_tiny.pt", weights_only=True)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_tdt(nemo: dict[str, Any], backend: str) -> None:
    logits = nemo["joint_logits"].clone().requires_grad_()
    tokens, durations = logits.split([nemo["V"] + 1, len(nemo["durations"])], -1)
    rest = nemo["labels"], nemo["elen"], nemo["ulen"]
    loss = tdt_loss(
        tokens, durations, *rest, durations=nemo["durations"], blank=nemo["V"], sigma=0.02, backend=backend
    )
    torch.testing.assert_close(loss, nemo["tdt_loss"], rtol=1e-5, atol=0)
    loss.sum().backward()
    scale = nemo["tdt_grad"].abs().max()
    assert (logits.grad - nemo["tdt_grad"]).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_rnnt(nemo: dict[str, Any], backend: str) -> None:
    logits = nemo["joint_logits"][..., : nemo["V"] + 1].clone().requires_grad_()
    loss = rnnt_loss(logits, nemo["labels"], nemo["elen"], nemo["ulen"], blank=nemo["V"], backend=backend)
    torch.testing.assert_close(loss, nemo["rnnt_loss"], rtol=1e-5, atol=0)
    loss.sum().backward()
    scale = nemo["rnnt_grad"].abs().max()
    assert (logits.grad - nemo["rnnt_grad"]).abs().max() <= 1e-5 * scale


def test_ctc_accepts_recorded_log_probabilities(nemo: dict[str, Any]) -> None:
    log_probs = nemo["ctc"]
    loss = ctc_loss(log_probs, nemo["labels"], nemo["elen"], nemo["ulen"], blank=nemo["V"])
    plain = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), nemo["labels"], nemo["elen"], nemo["ulen"], blank=64, reduction="none"
    )
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
