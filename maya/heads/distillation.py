"""A head that learns another model's frames: knowledge distillation as in DistilHuBERT.

Chang et al. 2022, "DistilHuBERT: Speech Representation Learning by Layer-wise Distillation of Hidden-unit
BERT" (arXiv:2110.01900), equation 1.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep, Teacher, TrainingMeans
from maya.ranges import NonNegFloat, PosInt


@config
class DistillationConfig(HeadConfig):
    """Distillation of the encoder's frames from those of a trained model. It needs no text: with it alone a
    student learns from untranscribed audio. The teacher is not part of the checkpoint."""

    places: ClassVar[tuple[str, ...]] = ("teacher",)

    kind: Literal["distillation"] = "distillation"
    teacher: str = ""  # a checkpoint, a run folder or a .nemo archive
    dim: PosInt = 512  # channels of the teacher's frames, as `maya info` shows them
    cosine: NonNegFloat = 1.0  # weight of the cosine beside the distance

    def build(self, context: HeadContext) -> "Distillation":
        if not self.teacher:
            raise MayaError("the teacher of a distillation head is empty: name a checkpoint or a run folder")
        return Distillation(self, context.dim)


class Distillation(Head):
    """A linear layer from the student's frames to the teacher's; the loss of a frame is

        mean |s − t| − cosine · log σ(cos(s, t))

    and an utterance's is the mean over its frames. The teacher hears the audio without noise and masks.
    """

    conditioned = False  # the teacher is told no language

    def __init__(self, cfg: DistillationConfig, dim: int) -> None:
        super().__init__()
        self.cfg, self.out = cfg, nn.Linear(dim, cfg.dim)
        self.teacher: list[Teacher] = []  # in a list: it is no part of this module

    def begin_training(self, means: TrainingMeans) -> None:
        teacher = means.teacher(self.cfg.teacher)
        if teacher.dim != self.cfg.dim:
            raise MayaError(
                f"the frames of {self.cfg.teacher} have {teacher.dim} channels: set the head's dim to it, "
                f"not to {self.cfg.dim}"
            )
        self.teacher = [teacher]

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        if not self.teacher:
            raise MayaError(
                "a distillation head has losses only in training, where its teacher is loaded: call "
                "begin_training first"
            )
        teacher = self.teacher[0]
        if teacher.sample_rate != batch.sample_rate:
            raise MayaError(
                f"the teacher takes audio at {teacher.sample_rate} Hz, not {batch.sample_rate} Hz"
            )
        with torch.no_grad():
            goal = teacher(batch.audio, batch.audio_lens)
        return {"loss": self.distance(encoded, goal, step.views)}

    def distance(self, encoded: Encoded, goal: Encoded, views: int = 1) -> Tensor:
        """(B,) from frames (B, S, D) and the teacher's (B / views, S', D'): frame i of S is compared with the
        one that lies at the same share of the utterance."""
        frames, lens = self.out(encoded.frames).float(), encoded.lens
        target, goal_lens = goal.frames.float().repeat(views, 1, 1), goal.lens.repeat(views)
        place = torch.arange(frames.shape[1], device=frames.device)
        index = ((2 * place + 1) * goal_lens[:, None]) // (2 * lens[:, None].clamp(min=1))
        index = index.clamp(max=max(target.shape[1] - 1, 0))
        target = target.gather(1, index[..., None].expand(-1, -1, target.shape[2]))
        cosine = functional.cosine_similarity(frames, target, dim=-1)
        loss = (frames - target).abs().mean(-1) - self.cfg.cosine * functional.logsigmoid(cosine)
        used = place < lens[:, None]
        return loss.masked_fill(~used, 0.0).sum(1) / lens.clamp(min=1)
