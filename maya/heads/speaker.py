"""A head that gives each utterance an embedding of its speaker's voice, learnt by telling the speakers of the
training data apart."""

from typing import Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.encoders.conformer.masked_norm import MaskedBatchNorm
from maya.errors import MayaError
from maya.heads.base import HeadContext, LossStep, Prediction, TrainingMeans
from maya.heads.classify import UtteranceConfig, UtteranceHead
from maya.heads.pooling import EcapaPooling, UnbiasedStatistics
from maya.kernels.host import numbers_on
from maya.losses.angular_margin import class_cosines, margin_logits, scheduled_margin
from maya.ranges import Count, NonNegFloat, PosFloat, PosInt

SPEAKER = "speaker"
_NAME_BYTES = 64


@config
class SpeakerConfig(UtteranceConfig):
    """Pooling (→ batch norm) → linear layer (→ batch norm) → embedding; AAM-softmax over the speakers.

    variant: whose details pooling and margin have, see `EcapaPooling`, `UnbiasedStatistics` (wespeaker's
    statistics) and `margin_logits`. embedding: its size. pool_norm, embedding_norm: batch norm before and
    after the linear layer.
    speakers: of the training data, or more; training says how many there are. new_speakers: factors of
    `data.speed_perturb` at which a voice counts as that of another speaker.
    margin, scale: of the softmax. margin_start, margin_ramp: steps before the margin, and until it is whole.
    centres: of each speaker. hardest: number of wrong speakers that are made harder by `penalty`, which grows
    with the margin. A second stage with a large margin: train.init_from, margin=0.5 and hardest=0.
    """

    kind: Literal["speaker"] = "speaker"
    pooling: Literal["statistics", "attentive"] = "attentive"
    global_context: bool = True
    variant: Literal["speechbrain", "wespeaker"] = "speechbrain"
    embedding: PosInt = 192
    pool_norm: bool = True
    embedding_norm: bool = False
    speakers: Count = 0
    new_speakers: tuple[PosFloat, ...] = ()
    margin: NonNegFloat = 0.2
    scale: PosFloat = 30.0
    margin_start: Count = 0
    margin_ramp: Count = 0
    centres: PosInt = 1
    hardest: Count = 0
    penalty: NonNegFloat = 0.06

    def build(self, context: HeadContext) -> "SpeakerHead":
        return SpeakerHead(self, context)


class SpeakerHead(UtteranceHead):
    """Embeddings of voices.

    State besides the layers: `centres` (speakers · (1 + new_speakers) · centres, embedding), and `names`
    (speakers, 64) uint8, the UTF-8 of the speakers' names; rows of zeros are of no speaker.
    """

    predicts = SPEAKER
    cfg: SpeakerConfig
    names: Tensor

    def __init__(self, cfg: SpeakerConfig, context: HeadContext) -> None:
        super().__init__(cfg, context, cfg.embedding)
        if cfg.pooling == "attentive":
            self.pool = EcapaPooling(
                context.dim, cfg.attention_dim, global_context=cfg.global_context, variant=cfg.variant
            )
        elif cfg.variant == "wespeaker":
            self.pool = UnbiasedStatistics()
        self.pool_norm = MaskedBatchNorm(2 * context.dim) if cfg.pool_norm else None
        self.out_norm = MaskedBatchNorm(cfg.embedding) if cfg.embedding_norm else None
        self.groups = 1 + len(cfg.new_speakers)
        self.centres = nn.Parameter(torch.empty(cfg.speakers * self.groups * cfg.centres, cfg.embedding))
        if cfg.speakers:
            nn.init.xavier_uniform_(self.centres)
        self.register_buffer("names", torch.zeros(cfg.speakers, _NAME_BYTES, dtype=torch.uint8))
        self._known: tuple[str, ...] | None = None  # decoded from `names`

    def begin_training(self, means: TrainingMeans) -> None:
        speakers = sorted(name for name in means.counts(SPEAKER) if name)
        if len(speakers) < 2:
            raise MayaError("a speaker head needs training data of at least two speakers with names")
        if len(speakers) > self.cfg.speakers:
            raise MayaError(
                f"the training data have {len(speakers)} speakers: set the field speakers={len(speakers)} of "
                f"the speaker head, which has room for {self.cfg.speakers}"
            )
        rows = torch.zeros_like(self.names, device="cpu")
        for row, name in zip(rows, speakers, strict=False):
            code = name.encode()
            if len(code) > _NAME_BYTES:
                raise MayaError(
                    f"the name of the speaker {name!r} is longer than {_NAME_BYTES} bytes: shorten it"
                )
            row[: len(code)] = torch.frombuffer(bytearray(code), dtype=torch.uint8)
        self.names.copy_(rows)
        self._known = tuple(speakers)

    @property
    def known(self) -> tuple[str, ...]:
        """The speakers of the training data."""
        if self._known is None:
            rows = (bytes(row).rstrip(b"\0").decode(errors="replace") for row in self.names.cpu().tolist())
            self._known = tuple(name for name in rows if name)
        return self._known

    def of_pooled(self, pooled: Tensor) -> Tensor:
        alone = torch.ones(len(pooled), 1, dtype=torch.bool, device=pooled.device)
        if self.pool_norm is not None:
            pooled = self.pool_norm(pooled[:, None], alone)[:, 0]
        embedding = super().of_pooled(pooled)
        return embedding if self.out_norm is None else self.out_norm(embedding[:, None], alone)[:, 0]

    def embed(self, encoded: Encoded) -> Tensor:
        """The embeddings (B, E) of utterances, fp32 at least, not of length 1."""
        return self.outputs(encoded)

    def _cosines(self, embeddings: Tensor) -> Tensor:
        """(B, groups · n) with n known speakers: at the speed of their own, then at each of new_speakers."""
        parts = self.centres.view(self.groups, self.cfg.speakers, self.cfg.centres, -1)
        used = parts[:, : len(self.known)].flatten(0, 2)  # rows without a speaker are no class
        return class_cosines(embeddings, used, self.cfg.centres)

    def targets(self, batch: Batch) -> Tensor:
        """(B,) int64 class numbers, -1 for speakers that are not of the training data. Raises MayaError for a
        speed that `new_speakers` does not name, where it names some."""
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(self.known)}
        own = [numbers.get(name, -1) for name in batch.labels.get(SPEAKER, [None] * batch.size)]
        if self.cfg.new_speakers and batch.speeds is not None:
            groups = [self._group(speed) * len(self.known) for speed in batch.speeds]
            own = [n + g if n >= 0 else n for n, g in zip(own, groups, strict=True)]
        return numbers_on(batch.langs.device, own)

    def _group(self, speed: float) -> int:
        for number, factor in enumerate((1.0, *self.cfg.new_speakers)):
            if abs(speed - factor) < 1e-4:
                return number
        raise MayaError(
            f"audio is played {speed:g} times as fast, which the speaker head's new_speakers does not name: "
            "add it there, or take it out of data.speed_perturb"
        )

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        cfg, embeddings, targets = self.cfg, self.embed(encoded), self.targets(batch)
        margin = scheduled_margin(cfg.margin, step.step, cfg.margin_start, cfg.margin_ramp)
        logits = margin_logits(
            self._cosines(embeddings), targets.clamp(min=0), margin=margin, scale=cfg.scale,
            beyond="linear" if cfg.variant == "speechbrain" else "shifted", hardest=cfg.hardest,
            penalty=cfg.penalty * (margin / cfg.margin if cfg.margin else 0.0),
        )  # fmt: skip
        loss = nn.functional.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
        return {"loss": loss}

    def said(self, outputs: Tensor) -> list[Prediction]:
        """The nearest known speaker at a speed of 1, and its probability among them."""
        if not self.known:
            raise MayaError("the speaker head knows no speakers by name: it gives embeddings only")
        cosines = self._cosines(outputs)[:, : len(self.known)]
        probabilities, numbers = (self.cfg.scale * cosines).softmax(-1).max(-1)
        rows = zip(numbers.tolist(), probabilities.tolist(), strict=True)
        return [Prediction(label=self.known[number], probability=p) for number, p in rows]
