"""How to train: the options of the loop and of its schedule."""

from dataclasses import field
from typing import Literal, Protocol

from maya.config import config
from maya.errors import MayaError
from maya.train.eden import EdenConfig


@config
class TrainConfig:
    """How to train. Steps are optimizer steps; each takes `accumulate` batches per rank.

    What changes while training (rates, the weight of CTC, whether the encoder learns) is a function of the
    step alone: see maya.train.schedule. Two ways to keep the encoder back at the start, for two purposes:
    `encoder_freeze` for an encoder that has learnt before, of which nothing may change or be computed while
    new heads find their way; `encoder_hold` for a fresh one, whose statistics and moments must move on.

    `steps` and `epochs` may grow in a run that has begun or ended. With Eden nothing else changes. The cosine
    ends at `steps`, so from there on its rates differ from a run that was planned so (a warning says it).
    """

    steps: int = 1000
    epochs: int = 0  # where not 0, so many of them end it too, and each leaves epoch-0001.pt ...
    passes: int = 1  # over the data, that make an epoch: with a draw of three speeds, 3 are one of icefall's
    optimizer: Literal["adamw", "scaled_adam"] = "adamw"
    schedule: Literal["cosine", "eden"] = "cosine"
    lr: float = 1e-3  # peak rate, of the heads and, unless encoder_lr is given, of the encoder
    min_lr: float = 1e-6  # where the cosine ends, for the heads as for the encoder, but never above the peak
    warmup_steps: int = 100  # of the heads from step 0, of the encoder from the step it begins to learn at
    eden: EdenConfig = field(default_factory=EdenConfig)  # has a warm-up of its own
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-3  # of AdamW
    clip: float = 1.0  # AdamW: greatest norm of the gradients
    clipping_scale: float = 2.0  # ScaledAdam: the same, in medians of the norms of recent steps
    # Zipformer's dropout and regularisers follow the audio seen, in batches of so many seconds: 600 are
    # icefall's. A training much shorter than theirs moves them on faster with less.
    regularizer_seconds: float = 600.0
    accumulate: int = 1
    ctc_first: int = 0  # steps at the start with CTC alone: cheap while the encoder learns to listen
    ctc_ramp: int = 0  # steps at the start over which CTC's weight rises from 0 to model.ctc_weight
    init_from: str = ""  # a checkpoint, or a run folder, of another model to take the modules below from
    init_modules: tuple[str, ...] = ("encoder",)
    encoder_lr: float | None = None  # peak rate of the encoder's top layer; none: the same as the heads
    encoder_layer_decay: float = 1.0  # each layer learns at this multiple of the rate of the one above it
    encoder_freeze: int = 0  # steps at the start without any gradient work in the encoder, statistics held
    encoder_hold: int = 0  # steps at the start in which only the heads learn; see schedule.encoder_share
    per: Literal["token", "utterance"] = (
        "token"  # the loss is summed, then divided by a global count of these
    )
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the GPU has it, else fp32
    seed: int = 1
    log_every: int = 20
    valid_every: int = 500
    samples_every: int = 0  # steps between which a few utterances of the dev set are shown decoded; 0: never
    samples: int = 3  # how many, always the same, spread over the languages
    save_every: int = 500
    keep: int = 3  # newest training checkpoints to keep
    average_every: int = 20  # steps between samples of the running average of the weights
    threads: int = 0  # CPU threads for torch; 0 leaves the choice to torch


class HasCTC(Protocol):
    """A model or its configuration, of which the schedule asks one thing: CTC's final share of the loss."""

    @property
    def ctc_weight(self) -> float: ...


def check(cfg: TrainConfig, model: HasCTC) -> None:
    """Refuse a schedule that contradicts itself or asks for what the model lacks (MayaError)."""
    for name in ("ctc_first", "ctc_ramp"):
        if getattr(cfg, name) and model.ctc_weight == 0:
            raise MayaError(f"train.{name} needs a CTC head: give model.ctc_weight more than 0")
    if cfg.ctc_first and cfg.ctc_ramp:
        raise MayaError("train.ctc_first begins with CTC alone and train.ctc_ramp without it: choose one")
    if cfg.encoder_freeze and cfg.encoder_hold:
        raise MayaError(
            "train.encoder_freeze is for an encoder that has learnt before, train.encoder_hold for a fresh "
            "one: choose one"
        )
    if cfg.passes < 1 or cfg.epochs < 0:
        raise MayaError(
            f"train.passes is 1 or more and train.epochs 0 or more, not {cfg.passes} and {cfg.epochs}"
        )
    if cfg.epochs and cfg.schedule == "cosine":
        raise MayaError("the cosine ends with train.steps: train.epochs is for train.schedule=eden")
    if cfg.samples_every < 0 or cfg.samples < 1:
        raise MayaError(
            "train.samples_every is 0 (never) or more and train.samples 1 or more, not "
            f"{cfg.samples_every} and {cfg.samples}"
        )
    if cfg.optimizer == "scaled_adam" and cfg.encoder_layer_decay != 1:
        raise MayaError("train.encoder_layer_decay is for train.optimizer=adamw")
    if not 0 < cfg.encoder_layer_decay <= 1:
        raise MayaError(
            f"train.encoder_layer_decay is a share above 0 and at most 1, not {cfg.encoder_layer_decay}"
        )
