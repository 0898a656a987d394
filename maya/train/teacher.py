"""Trained models that heads learn from while training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from maya.encoders.base import Encoded
from maya.heads.base import TrainingMeans
from maya.models.speech_model import SpeechModel
from maya.train.checkpoints.checkpoint import Loader, build, load_checkpoint


class FrozenTeacher:
    """The encoder of a trained model, see `maya.heads.base.Teacher`."""

    def __init__(self, model: SpeechModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self.dim, self.sample_rate = model.cfg.encoder.d_model, model.cfg.features.sample_rate

    @torch.no_grad()
    def __call__(self, audio: Tensor, audio_lens: Tensor) -> Encoded:
        return self.model.encode_audio(audio, audio_lens)


def load_teacher(path: str, *, device: torch.device, load: Loader = load_checkpoint) -> FrozenTeacher:
    """The model of a checkpoint or run folder on `device`. Raises MayaError where there is none."""
    return FrozenTeacher(build(load(Path(path))).to(device))


def start_heads(
    model: SpeechModel,
    texts: Callable[[], Iterable[Sequence[int]]],
    counts: Callable[[str], Mapping[str, int]],
    device: torch.device,
    load: Loader = load_checkpoint,
) -> None:
    """Give each head what it needs from outside before the first step, see `Head.begin_training`."""
    teacher = partial(load_teacher, device=device, load=load)
    means = TrainingMeans(texts=texts, counts=counts, teacher=teacher)
    for head in model.named_heads().values():
        head.begin_training(means)
