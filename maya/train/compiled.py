"""torch.compile of each block of an encoder, in training. Validation and decoding stay eager."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from maya.models.speech_model import SpeechModel
from maya.train.config import TrainConfig


def compile_blocks(
    model: SpeechModel, cfg: TrainConfig, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """With `cfg.compile`, compile the forward pass of each block of the encoder, with sizes that may change
    from batch to batch.

    What wraps a block (FSDP2, activation checkpointing) stays outside of its graph. Rows are not packed: only
    a CPU does that, and each batch would need other graphs.
    """
    if not cfg.compile:
        return
    if hasattr(model.encoder, "packs"):
        setattr(model.encoder, "packs", False)  # noqa: B010 - not every encoder has it
    for block in model.encoder.blocks():
        block.forward = _in_training(block, torch.compile(block.forward, backend=backend, dynamic=True))


def _in_training(block: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
    eager = block.forward

    def forward(*args: Any, **options: Any) -> Any:
        return (compiled if block.training else eager)(*args, **options)

    return forward
