"""The transducer head: a prediction and a joint network, trained by TDT, RNN-T or pruned RNN-T."""

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep, loss_inputs, ramp
from maya.heads.cost import HeadFlops, HeadMemory
from maya.heads.transducer.cost import transducer_flops, transducer_memory
from maya.heads.transducer.joint import Joint, JointConfig
from maya.heads.transducer.predictor import Predictor, PredictorConfig
from maya.heads.transducer.simple import SimpleJoint
from maya.heads.transducer.stateless import StatelessConfig, StatelessPredictor
from maya.kernels.tdt.fused import draw
from maya.losses import (
    fused_pruned_rnnt_loss,
    fused_rnnt_loss,
    fused_tdt_loss,
    prune_ranges,
    simple_rnnt_loss,
)
from maya.ranges import BelowOne, Count, NonNegFloat, NotEmpty, Range, Share

AnyPredictor = Predictor | StatelessPredictor
AnyPredictorConfig = PredictorConfig | StatelessConfig


@config
class PrunedConfig:
    """Pruned RNN-T (Kuang et al. 2022, arXiv:2206.13236), with the constants of icefall's recipes.

    Over `warmup_steps` the simple loss goes from weight 1 to `simple_scale` and the pruned one from 0.1 to 1:
    the windows are worth little before the simple joiner knows where the alignment lies.
    """

    s_range: Annotated[int, Range(min=2)] = 5  # label positions that a frame keeps
    simple_scale: NonNegFloat = 0.5
    lm_scale: Share = 0.25  # share of the simple loss's arcs that the predictor has to score alone
    am_scale: Share = 0.0  # and the encoder
    rnnt_type: Literal["regular", "modified", "constrained"] = "regular"
    delay_penalty: NonNegFloat = 0.0  # nats that a label gains for each frame it comes earlier
    warmup_steps: Count = 2000


@config
class TransducerConfig(HeadConfig):
    """A transducer. With `loss` tdt it also predicts how many frames a token lasts: one of `durations`."""

    writes_text: ClassVar[bool] = True

    kind: Literal["transducer"] = "transducer"
    loss: Literal["tdt", "rnnt", "pruned"] = "tdt"
    predictor: AnyPredictorConfig = field(default_factory=PredictorConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    durations: Annotated[tuple[Count, ...], NotEmpty()] = (0, 1, 2, 3, 4)
    sigma: NonNegFloat = 0.02  # TDT logit under-normalisation; NeMo's recipes use 0.02, the paper 0.05
    omega: Share = 0.1  # probability of the plain RNN-T loss on a step, training only
    loss_eps: BelowOne = 1e-4  # cells with less posterior mass are left out of the gradient; 0: none
    pruned: PrunedConfig = field(default_factory=PrunedConfig)

    def describe(self) -> str:
        durations = f", durations {' '.join(map(str, self.durations))}" if self.loss == "tdt" else ""
        return (
            f"{self.loss}{durations}, {self.predictor.kind} predictor of {self.predictor.hidden}, "
            f"joint of {self.joint.hidden}"
        )

    def flops(self, name: str, context: HeadContext, frames: int, tokens: int) -> HeadFlops:
        return transducer_flops(self, context.dim, context.labels + 1, frames, tokens)

    def memory(self, name: str, context: HeadContext, *, cuda: bool) -> HeadMemory:
        return transducer_memory(self, context.labels + 1, cuda=cuda)

    def skip_ramps(self) -> None:
        HeadConfig.skip_ramps(self)
        self.pruned.warmup_steps = 0

    def build(self, context: HeadContext) -> "TransducerHead":
        if list(self.durations) != sorted(set(self.durations)) or max(self.durations) < 1:
            raise MayaError(f"a transducer's durations must ascend from 0 or more, not {self.durations}")
        return TransducerHead(self, context)


class TransducerHead(Head):
    """`decoder` (NeMo's name of the prediction network), `joint` and, where pruned, `simple_joint`."""

    def __init__(self, cfg: TransducerConfig, context: HeadContext) -> None:
        super().__init__()
        self.cfg, self.blank = cfg, context.blank
        hidden, labels = cfg.predictor.hidden, context.labels
        self.decoder = build_predictor(cfg.predictor, labels, context.blank)
        durations = len(cfg.durations) if cfg.loss == "tdt" else 0
        self.joint = Joint(cfg.joint, context.dim, hidden, labels, durations, context.blank)
        if cfg.loss == "pruned":
            self.simple_joint = SimpleJoint(context.dim, hidden, labels)
            self.parts = ("loss", "simple")

    @property
    def durations(self) -> tuple[int, ...] | None:
        """The durations that it predicts; None unless it is a TDT."""
        return self.cfg.durations if self.cfg.loss == "tdt" else None

    def part_weights(self, step: int) -> dict[str, float]:
        if self.cfg.loss != "pruned":
            return {}
        share = ramp(step, self.cfg.pruned.warmup_steps)
        return {"loss": 0.1 + 0.9 * share, "simple": 1 - share * (1 - self.cfg.pruned.simple_scale)}

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        """Joint and loss in one operator, so that the logits of a batch are never held."""
        cfg, joint, enc = self.cfg, self.joint, encoded.frames
        pred = self.decoder(batch.tokens)
        f, g = joint.project_encoder(enc), joint.project_predictor(pred)
        weight, bias, duration_weight, duration_bias = joint.output_layer()
        options: dict[str, Any] = {
            "blank": self.blank,
            "activation": cfg.joint.activation,
            "eps": cfg.loss_eps,
        }
        if self.training and cfg.joint.dropout > 0:
            # From the CPU's generator, whose state checkpoints hold: each step and rank has its own mask.
            options |= {"dropout": cfg.joint.dropout, "seed": int(torch.randint(2**31, ()))}
        tokens, *lens = loss_inputs(encoded, batch)
        if cfg.loss == "pruned":
            simple, ranges = self._simple_loss(enc, pred, tokens, lens)
            loss = fused_pruned_rnnt_loss(
                f, g, weight, bias, tokens, ranges, *lens,
                rnnt_type=cfg.pruned.rnnt_type, delay_penalty=cfg.pruned.delay_penalty, **options,
            )  # fmt: skip
            return {"loss": loss, "simple": simple}
        if cfg.loss == "rnnt":
            return {"loss": fused_rnnt_loss(f, g, weight, bias, tokens, *lens, **options)}
        if self.training and cfg.omega > 0 and draw(step.generator) < cfg.omega:
            step.objective = "rnnt"
            loss = fused_rnnt_loss(f, g, weight, bias, tokens, *lens, **options)
            unused = [x for x in (duration_weight, duration_bias) if x is not None]
            return {"loss": loss + sum(x[:0].sum() for x in unused)}  # in the graph, with zero gradient
        loss = fused_tdt_loss(
            f, g, weight, bias, duration_weight, duration_bias, tokens, *lens,
            durations=cfg.durations, sigma=cfg.sigma, **options,
        )  # fmt: skip
        return {"loss": loss}

    def _simple_loss(
        self, enc: Tensor, pred: Tensor, tokens: Tensor, lens: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The simple loss (B,), and the windows of label positions that it finds for the pruned one.

        tokens (B, U); lens: those of frames and of tokens, (B,) each.
        """
        cfg = self.cfg.pruned
        am, lm = self.simple_joint(enc, pred)
        simple, px_occupation, py_occupation = simple_rnnt_loss(
            am, lm, tokens, *lens, blank=self.blank, lm_only_scale=cfg.lm_scale,
            am_only_scale=cfg.am_scale, rnnt_type=cfg.rnnt_type, delay_penalty=cfg.delay_penalty,
        )  # fmt: skip
        ranges = prune_ranges(
            px_occupation, py_occupation, *lens, s_range=cfg.s_range, rnnt_type=cfg.rnnt_type
        )
        return simple, ranges


def build_predictor(cfg: AnyPredictorConfig, vocab_size: int, blank: int | None = None) -> AnyPredictor:
    """The prediction network of `vocab_size` labels besides `blank`, by default the id after them. Raises
    MayaError for an LSTM with another blank."""
    if isinstance(cfg, StatelessConfig):
        return StatelessPredictor(cfg, vocab_size, blank)
    if blank not in (None, vocab_size):
        raise MayaError(
            "an LSTM predictor has its blank after the labels; only a stateless one takes another"
        )
    return Predictor(cfg, vocab_size)
