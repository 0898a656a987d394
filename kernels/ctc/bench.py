"""Benchmark of CTC from logits: `python -m maya.kernels.bench ctc`.

Both forms include the log-softmax. On a CPU there is one form, torch's operator.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from maya.kernels.bench.measure import Cost, Form, Setting
from maya.kernels.checks import Transcripts
from maya.kernels.ctc import CTCLoss
from maya.kernels.joint.bench import backends


def forms(setting: Setting) -> list[Form]:
    logits, transcripts = problem(setting)
    return [_form(backend, logits, transcripts) for backend in backends(setting)]


def reference(setting: Setting, *, exact: bool) -> Form:
    """torch's operator, in fp64 if exact."""
    logits, transcripts = problem(setting)
    return _form("torch", logits.double() if exact else logits, transcripts)


def problem(setting: Setting) -> tuple[Tensor, Transcripts]:
    """Logits (B, S, V) fp32 and full utterances; the last token is the blank."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(setting.batch, setting.frames, setting.vocab, generator=random)
    targets = torch.randint(setting.vocab - 1, (setting.batch, setting.labels), generator=random)
    lens = [setting.frames] * setting.batch, [setting.labels] * setting.batch
    return logits.to(setting.device), Transcripts(targets.to(setting.device), *lens, setting.vocab - 1)


def _triton(log_probs: Tensor, transcripts: Transcripts) -> Tensor:
    loss: Tensor = CTCLoss.apply(log_probs, transcripts)
    return loss


def _torch(log_probs: Tensor, transcripts: Transcripts) -> Tensor:
    frames, labels = (torch.tensor(x) for x in (transcripts.frames, transcripts.labels))
    scores = log_probs.transpose(0, 1)
    return F.ctc_loss(scores, transcripts.targets, frames, labels, blank=transcripts.blank, reduction="none")


def _form(backend: str, logits: Tensor, transcripts: Transcripts) -> Form:
    run: Callable[[Tensor, Transcripts], Tensor] = _triton if backend == "triton" else _torch

    def forward() -> Tensor:
        return run(logits.log_softmax(-1), transcripts)

    def both() -> tuple[Tensor, Tensor]:
        leaf = logits.detach().requires_grad_()
        loss = run(leaf.log_softmax(-1), transcripts)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), grad

    nbytes = 4.0 * logits.numel()
    return Form(
        name=f"CTC, {backend}",
        forward=forward,
        both=both,
        outputs=lambda: dict(zip(("loss", "logits"), both(), strict=True)),
        # Logits and log probabilities; then the gradients of both.
        cost=lambda: (Cost(bytes=2 * nbytes), Cost(bytes=6 * nbytes)),
    )
