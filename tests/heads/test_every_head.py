"""What went wrong in others' trainings of heads, tried on every head that hears more than words: dropout that
is set and not applied, losses or gradients that are not numbers, options that nothing reads. The modes of a
validation are in tests/train/test_validate.py, rare classes beside each head."""

import ast
import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import maya.heads
from maya.encoders import Encoded
from maya.heads import (
    ClassifyConfig,
    DiarizationConfig,
    EventConfig,
    HeadConfig,
    HeadContext,
    LanguageConfig,
    LossStep,
    MaskedPredictionConfig,
    PitchConfig,
    PunctuationConfig,
    RegressConfig,
    SpeakerConfig,
    UnitCTCConfig,
)
from maya.heads.base import TrainingMeans
from tests.heads.test_classify import batch_of

HEADS: dict[str, tuple[Any, list[str | None]]] = {
    "mood": (ClassifyConfig(label="mood", classes=("sad", "glad")), ["sad", "glad"]),
    "language": (LanguageConfig(), [None, None]),
    "arousal": (RegressConfig(label="arousal"), ["0.3", "0.9"]),
    "sounds": (EventConfig(label="sounds", classes=("laugh",)), ["0.1-0.2 laugh", "none"]),
    "f0": (PitchConfig(), ["0.04 120 0 130", "0.04 0 0 0"]),
    "clusters": (MaskedPredictionConfig(label="clusters", codes=3), ["0.02 0 1 2", "0.02 2 2"]),
    "phonemes": (UnitCTCConfig(units=("a", "b")), ["a b", "b"]),
    "speaker": (SpeakerConfig(speakers=2, embedding=8), ["a", "b"]),
    "turns": (DiarizationConfig(hidden=8, n_heads=2), ["0.1-0.4 ann; 0.3-0.5 ben", "0.2-0.4 ann"]),
    "written": (PunctuationConfig(), ["0.0 0.1 Yes,", "0.0 0.1 no."]),
}


def made(name: str, **options: Any) -> tuple[Any, Any]:
    cfg, labels = HEADS[name]
    context = HeadContext(
        dim=4, labels=3, blank=3, languages=("en", "hi"), hidden_dims=(4, 4), frame_seconds=0.04
    )
    torch.manual_seed(1)
    head = dataclasses.replace(cfg, **options).build(context)
    if name == "speaker":
        means: Any = {"texts": list, "teacher": None, "counts": lambda label: {"a": 1, "b": 1}}
        head.begin_training(TrainingMeans(**means))
    return head, batch_of([1.0, 1.0], {name: labels})


def loss_of(head: Any, batch: Any, frames: torch.Tensor, lens: list[int]) -> torch.Tensor:
    encoded = Encoded(frames, torch.tensor(lens), {0: frames, 1: frames})
    losses = head.losses(encoded, batch, LossStep())
    return torch.stack([*losses.values()]).sum(0)


def test_every_head_of_sound_is_in_the_table() -> None:
    kinds = {type(cfg) for cfg, _ in HEADS.values()}
    # Heads of text, and the one that gives audio (tests/encoders/test_separation.py).
    text = {"AttentionDecoderConfig", "CTCConfig", "CanaryDecoderConfig",
            "DistillationConfig", "HeadConfig", "LanguageModelConfig",
            "TransducerConfig", "MultisoftmaxCTCConfig", "MultisoftmaxTransducerConfig",
            "WhisperDecoderConfig",
            "SeparationConfig"}  # fmt: skip
    public = {name for name in maya.heads.__all__ if name.endswith("Config")} - text
    assert {kind.__name__ for kind in kinds} == public


@pytest.mark.parametrize("name", HEADS)
def test_dropout_is_applied_in_training_alone(name: str) -> None:
    frames = torch.randn(2, 25, 4)
    for dropout in (0.0, 0.5):
        head, batch = made(name, dropout=dropout)
        first, second = (loss_of(head, batch, frames, [25, 20]) for _ in range(2))
        assert torch.equal(first, second) is (dropout == 0.0)
        head.eval()
        first, second = (loss_of(head, batch, frames, [25, 20]) for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [0, 1, 25])
def test_losses_and_gradients_are_finite(name: str, size: int) -> None:
    """Of frames that do not vary, of one frame, and of a row without any. A text of too few frames for CTC
    has an infinite loss, and no gradient."""
    head, batch = made(name)
    frames = torch.ones(2, 25, 4, requires_grad=True)
    loss = loss_of(head, batch, frames, [25, size])
    assert (
        loss[0].isfinite()
        and not loss.isnan().any()
        and (loss[1].isfinite() or (name, size) == ("phonemes", 0))
    )
    loss.masked_fill(loss.isinf(), 0.0).sum().backward()
    grads = [p.grad for p in (frames, *head.parameters()) if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", HEADS)
def test_a_row_without_the_label_learns_nothing(name: str) -> None:
    if name == "language":
        pytest.skip("every utterance has a language, or -1")
    head, batch = made(name)
    batch.labels[name] = [batch.labels[name][0], None]
    assert loss_of(head, batch, torch.randn(2, 25, 4), [25, 25])[1] == 0


def test_every_option_of_a_head_is_read() -> None:
    """An option that no code of the head's module, or of the base, reads would be set in vain."""
    base = attributes(sys.modules[HeadConfig.__module__]) | {"kind"}
    for cfg, _ in HEADS.values():
        read = set(base)
        for cls in type(cfg).__mro__[:-1]:
            read |= attributes(sys.modules[cls.__module__])
        options = {f.name for f in dataclasses.fields(cfg)}
        assert not options - read, type(cfg).__name__


def attributes(module: Any) -> set[str]:
    tree = ast.parse(Path(inspect.getfile(module)).read_text(encoding="utf-8"))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
