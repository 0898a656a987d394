"""How to train: the options of the loop and of its schedule."""

from dataclasses import field
from typing import Annotated, Literal, Protocol

from maya.config import config
from maya.errors import MayaError
from maya.ranges import BelowOne, Count, Limit, NonNegFloat, PosFloat, PosInt, Range, Seed
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

    steps: Count = 1000
    epochs: Count = 0  # where not 0, so many of them end it too, and each leaves epoch-0001.pt ...
    # Passes over the data that make an epoch: with a draw of three speeds, 3 are one epoch of icefall's.
    passes: PosInt = 1
    optimizer: Literal["adamw", "scaled_adam"] = "adamw"
    schedule: Literal["cosine", "eden"] = "cosine"
    lr: PosFloat = 1e-3  # peak rate, of the heads and, unless encoder_lr is given, of the encoder
    # Where the cosine ends, for the heads as for the encoder, but never above the peak.
    min_lr: NonNegFloat = 1e-6
    warmup_steps: Count = 100  # of the heads from step 0, of the encoder from the step it begins to learn at
    eden: EdenConfig = field(default_factory=EdenConfig)  # has a warm-up of its own
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.98)
    weight_decay: NonNegFloat = 1e-3  # of AdamW
    clip: Limit = 1.0  # AdamW: greatest norm of the gradients; inf: no clipping
    clipping_scale: PosFloat = 2.0  # ScaledAdam: the same, in medians of the norms of recent steps
    # Zipformer's dropout and regularisers follow the audio seen, in batches of so many seconds: 600 are
    # icefall's. A training much shorter than theirs moves them on faster with less.
    regularizer_seconds: PosFloat = 600.0
    accumulate: PosInt = 1
    ctc_first: Count = 0  # steps at the start with CTC alone: cheap while the encoder learns to listen
    ctc_ramp: Count = 0  # steps at the start over which CTC's weight rises from 0 to model.ctc_weight
    init_from: str = ""  # a checkpoint, or a run folder, of another model to take the modules below from
    init_modules: tuple[str, ...] = ("encoder",)
    encoder_lr: PosFloat | None = None  # peak rate of the encoder's top layer; none: the same as the heads
    # Each layer learns at this multiple of the rate of the layer above it.
    encoder_layer_decay: Annotated[float, Range(above=0, max=1)] = 1.0
    encoder_freeze: Count = 0  # steps at the start without any gradient work in the encoder, statistics held
    encoder_hold: Count = 0  # steps at the start in which only the heads learn; see schedule.encoder_share
    per: Literal["token", "utterance"] = (
        "token"  # the loss is summed, then divided by a global count of these
    )
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the GPU has it, else fp32
    seed: Seed = 1
    # Intervals in steps; 0 is never. The last step is always logged and saved, whatever they say.
    log_every: Count = 20
    valid_every: Count = 500  # 0: no validation, no best.pt
    samples_every: Count = 0  # a few utterances of the dev set are shown decoded
    samples: PosInt = 3  # how many, always the same, spread over the languages
    save_every: Count = 500
    keep: PosInt = 3  # newest training checkpoints to keep
    average_every: Count = 20  # samples of the running average of the weights; 0: no average is kept
    threads: Count = 0  # CPU threads for torch; 0 leaves the choice to torch


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
    if cfg.epochs and cfg.schedule == "cosine":
        raise MayaError("the cosine ends with train.steps: train.epochs is for train.schedule=eden")
    if cfg.optimizer == "scaled_adam" and cfg.encoder_layer_decay != 1:
        raise MayaError("train.encoder_layer_decay is for train.optimizer=adamw")
