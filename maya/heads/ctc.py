"""The CTC head (Graves et al. 2006), with CR-CTC (Yao et al. 2024, arXiv:2410.05101)."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep, TrainingMeans, loss_inputs, ramp
from maya.heads.cost import HeadFlops, HeadMemory, Terms
from maya.losses import cr_ctc_loss, ctc_loss, mmi_loss
from maya.losses.mmi import token_bigram
from maya.ranges import BelowOne, Count, NonNegFloat, Share


@config
class CTCConfig(HeadConfig):
    """CTC. `consistency_weight` above 0 is CR-CTC: each batch is masked twice, and the outputs shall agree.

    The paper's weight is 0.2 with CTC alone. Beside a transducer or an attention decoder it is 0.02 in the
    total, and this weight is relative to CTC's own: 0.02 / weight.

    `mmi_share` above 0 is that share of the MMI loss, with a bigram of the training texts, in place of CTC's:
    texts are trained against all others. It takes memory for the square of the vocabulary.
    """

    writes_text: ClassVar[bool] = True
    needs_frames: ClassVar[bool] = True

    kind: Literal["ctc"] = "ctc"
    dropout: BelowOne = 0.0  # before the output layer
    consistency_weight: NonNegFloat = 0.0
    consistency_warmup: Count = 2000  # steps over which its weight rises from 0
    mmi_share: Share = 0.0
    mmi_warmup: Count = 2000  # steps over which its share rises from 0: CTC finds the alignments first

    @property
    def views(self) -> int:
        return 2 if self.consistency_weight else 1

    def flops(self, name: str, context: HeadContext, frames: int, tokens: int) -> HeadFlops:
        products = 2.0 * context.dim * (context.labels + 1) * frames
        return HeadFlops(forward={f"{name} head": products}, training={f"{name} head": 3 * products})

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        # Log probabilities of the head and of the loss are kept; their gradients join them.
        terms, part = Terms(frame=2 * 4.0 * (context.labels + 1)), f"{name} head and loss"
        moments = {f"{name} loss, backward": terms}
        return HeadMemory(kept={part: terms}, released=frozenset((part,)), moments=moments)

    def skip_ramps(self) -> None:
        HeadConfig.skip_ramps(self)
        self.consistency_warmup = 0

    def build(self, context: HeadContext) -> "CTCHead":
        return CTCHead(self, context.dim, context.labels + 1, context.blank)


class CTCHead(Head):
    """A 1×1 convolution from encoder frames to CTC logits: NeMo's ConvASRDecoder.

    `outputs` counts blank, whose id is the last one by default. icefall's head is the same, with dropout
    before it.
    """

    ctc_over = "tokens"
    bigram: Tensor

    def __init__(self, cfg: CTCConfig, dim: int, outputs: int, blank: int | None = None) -> None:
        super().__init__()
        self.cfg, self.blank = cfg, outputs - 1 if blank is None else blank
        self.dropout = nn.Dropout(cfg.dropout)
        conv = nn.Conv1d(dim, outputs, kernel_size=1)
        nn.init.xavier_uniform_(conv.weight)
        self.decoder_layers = nn.Sequential(conv)
        if cfg.consistency_weight:
            self.parts += ("consistency",)
        if cfg.mmi_share:
            self.parts += ("mmi",)
            even = torch.full((outputs, outputs), -math.log(outputs))
            self.register_buffer("bigram", even)  # log probabilities, see `token_bigram`

    def forward(self, enc: Tensor) -> Tensor:
        """enc (..., D) → log-probabilities (..., V), fp32 even under autocast."""
        return self.logits(enc).log_softmax(-1)

    def logits(self, enc: Tensor) -> Tensor:
        """enc (..., D) → the scores before the softmax (..., V), fp32 even under autocast."""
        conv = self.decoder_layers[0]
        assert isinstance(conv, nn.Conv1d)
        logits = nn.functional.linear(self.dropout(enc), conv.weight.squeeze(-1), conv.bias)
        return logits.float() if logits.dtype != torch.float64 else logits

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        log_probs, (tokens, lens, token_lens) = self(encoded.frames), loss_inputs(encoded, batch)
        losses = {"loss": ctc_loss(log_probs, tokens, lens, token_lens, blank=self.blank)}
        if step.views == 2 and "consistency" in self.parts:
            first, second = log_probs.chunk(2)
            losses["consistency"] = cr_ctc_loss(first, second, lens[: len(first)])
        if self.cfg.mmi_share:
            options: dict[str, Any] = {"bigram": self.bigram, "blank": self.blank}
            losses["mmi"] = mmi_loss(log_probs, tokens, lens, token_lens, **options)
        return losses

    def begin_training(self, means: TrainingMeans) -> None:
        if self.cfg.mmi_share:
            self.bigram.copy_(token_bigram(means.texts(), len(self.bigram), self.blank))

    def part_weights(self, step: int) -> dict[str, float]:
        cfg = self.cfg
        mmi = cfg.mmi_share * ramp(step, cfg.mmi_warmup)
        consistency = cfg.consistency_weight * ramp(step, cfg.consistency_warmup)
        return {"loss": 1.0 - mmi, "mmi": mmi, "consistency": consistency}
