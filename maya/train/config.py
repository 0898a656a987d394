"""The options of the training loop and of its schedule."""

from dataclasses import field
from typing import Annotated, Literal

from maya.config import config
from maya.errors import MayaError
from maya.models.config import ENCODER, SpeechModelConfig
from maya.ranges import BelowOne, Count, Distinct, Limit, NonNegFloat, PosFloat, PosInt, Range, Seed
from maya.train.optimizers.eden import EdenConfig


@config
class TrainConfig:
    """The options of training. Steps are optimizer steps; each takes `accumulate` batches per rank.

    Rates, the weights of heads and what is frozen are functions of the step alone: see
    maya.train.optimizers.schedule; each head has its own first step and ramp
    (`model.heads.NAME.first_step`, `ramp_steps`).

    `freeze` names parts of the model that do not learn: "encoder" and names of heads. A frozen part does no
    gradient work and keeps its statistics. With `freeze_steps` the parts learn after so many steps; without
    they are frozen throughout, and have no optimizer state. `encoder_hold` is for a fresh encoder: its
    statistics and moments move from the start, and its rate stays 0 while the heads begin.

    `steps` and `epochs` may grow in a run that has begun or ended. With Eden nothing else changes. The cosine
    ends at `steps`, so its rates then differ from those of a run that was planned for as many steps (a
    warning says so).
    """

    steps: Count = 1000
    epochs: Count = 0  # where not 0, training also ends after so many; each writes epoch-0001.pt ...
    # Passes over the data that make an epoch: with a draw of three speeds, 3 are one epoch of icefall's.
    passes: PosInt = 1
    optimizer: Literal["adamw", "scaled_adam", "muon"] = "adamw"
    schedule: Literal["cosine", "eden"] = "cosine"
    # muon is for training from scratch on little data: fewer steps, each a little longer.
    lr: PosFloat = 1e-3  # peak rate, of the heads and, unless encoder_lr is given, of the encoder
    # The end of the cosine, for heads and encoder; never above the peak.
    min_lr: NonNegFloat = 1e-6
    warmup_steps: Count = 100  # of the heads from step 0, of the encoder from its first step of learning
    eden: EdenConfig = field(default_factory=EdenConfig)  # it has its own warm-up
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.98)
    weight_decay: NonNegFloat = 1e-3  # of AdamW
    clip: Limit = 1.0  # AdamW: largest norm of the gradients; inf: no clipping
    clipping_scale: PosFloat = 2.0  # ScaledAdam: the same, in medians of the norms of recent steps
    # Zipformer's dropout and regularisers follow the audio seen so far, in batches of so many seconds: 600 in
    # icefall. A much shorter training needs a smaller number.
    regularizer_seconds: PosFloat = 600.0
    accumulate: PosInt = 1
    init_from: str = ""  # a checkpoint or run folder of another model that the parts below are taken from
    # "encoder", names of heads, or the beginning of names in the state dict: heads.transducer.decoder
    init_modules: tuple[str, ...] = ("encoder",)
    encoder_lr: PosFloat | None = None  # peak rate of the encoder's top layer; none: the same as the heads
    # Each layer learns at this multiple of the rate of the layer above it.
    encoder_layer_decay: Annotated[float, Range(above=0, max=1)] = 1.0
    freeze: Annotated[tuple[str, ...], Distinct()] = ()  # parts that do not learn: encoder, names of heads
    freeze_steps: PosInt | None = None  # steps at the start for which they are frozen; none: all steps
    # Of what is not frozen: all; the encoder's `top_layers` and the heads; the scales and biases of norms; or
    # model.adapters. learn_vocabulary: with the latter two also embeddings and output layers.
    learn: Literal["all", "top", "norms", "adapters"] = "all"
    top_layers: PosInt = 2
    learn_vocabulary: bool = False
    # Pieces, from the first, whose rows in embeddings and output layers do not change: other languages'.
    fixed_pieces: Count = 0
    # AdamW: pull towards the weights at the start, as weight decay pulls towards zero (L2-SP, Li et al. 2018,
    # arXiv:1802.01483)
    l2_sp: NonNegFloat = 0.0
    encoder_hold: Count = 0  # steps at the start in which only the heads learn; see schedule.encoder_share
    per: Literal["token", "utterance"] = (
        "token"  # the loss is summed, then divided by a global count of these
    )
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the GPU has it, else fp32
    # fsdp: every process holds a share of weights and optimizer (FSDP2); auto: above 2 B parameters
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    compile: bool = False  # torch.compile of each block of the encoder, in training
    # A process that has not answered, or made no progress in a step, for so long ends the training; 0: never.
    timeout_seconds: NonNegFloat = 600.0
    seed: Seed = 1
    # Intervals in steps; 0 is never. The last step is always logged and saved, whatever they say.
    log_every: Count = 20
    valid_every: Count = 500  # 0: no validation, no best.pt
    samples_every: Count = 0  # the output for a few utterances of the dev set is shown
    samples: PosInt = 3  # the number of these utterances; always the same, spread over the languages
    save_every: Count = 500
    keep: PosInt = 3  # newest training checkpoints to keep
    keep_best: PosInt = 1  # weights of the validations with the lowest errors to keep; 1: best.pt alone
    save_in_background: bool = True  # from a copy in memory, while training goes on
    # With a damaged newest checkpoint training goes back to the one before, or stops.
    damaged: Literal["go_back", "stop"] = "go_back"
    average_every: Count = 20  # samples of the running average of the weights; 0: no average is kept
    # Decay a step of a second average (EMA), from the same samples, for `maya average`; 0: none is kept.
    ema: BelowOne = 0.0
    # Steps, in all, that may be left out because losses or gradients are not finite; see train/failure.py.
    skip_non_finite: Count = 0
    skip_in_row: PosInt = 3  # of them in a row, after which training stops
    # A loss above the median of recent steps by so many of their deviations is reported; 0: never.
    spike: NonNegFloat = 8.0
    stall_seconds: NonNegFloat = 300.0  # without a step, after which the place is reported; 0: never
    # Validations in a row without a clear improvement, after which training ends; 0: never.
    patience: Count = 0
    # Trackers of accelerate beside TensorBoard: wandb, mlflow, aim, or one that an experiment registers.
    trackers: Annotated[tuple[str, ...], Distinct()] = ()
    threads: Count = 0  # CPU threads for torch; 0 leaves the choice to torch


def check(cfg: TrainConfig, model: SpeechModelConfig) -> None:
    """Refuse a schedule that contradicts itself or names parts that the model lacks (MayaError)."""
    parts = (ENCODER, *model.heads)
    if unknown := [name for name in cfg.freeze if name not in parts]:
        raise MayaError(f"train.freeze names {unknown[0]!r}; the parts of this model are {', '.join(parts)}")
    if set(cfg.freeze) == set(parts) and not cfg.freeze_steps:
        raise MayaError("train.freeze names every part, so nothing would learn: leave one out")
    if ENCODER in cfg.freeze and cfg.encoder_hold:
        raise MayaError(
            "train.freeze is for an encoder that is trained already, train.encoder_hold for a fresh one: "
            "choose one"
        )
    if cfg.freeze_steps and not cfg.freeze:
        raise MayaError("train.freeze_steps needs train.freeze: name what is frozen, such as encoder")
    if cfg.epochs and cfg.schedule == "cosine":
        raise MayaError("the cosine ends with train.steps: train.epochs is for train.schedule=eden")
    for name, default in (("encoder_layer_decay", 1.0), ("l2_sp", 0.0), ("fixed_pieces", 0)):
        if cfg.optimizer == "scaled_adam" and getattr(cfg, name) != default:
            raise MayaError(f"train.{name} is for train.optimizer=adamw")
    if cfg.optimizer == "muon" and cfg.l2_sp:
        raise MayaError("train.l2_sp is for train.optimizer=adamw")
    if cfg.learn == "adapters" and model.adapters.type == "none":
        raise MayaError("train.learn=adapters needs model.adapters.type: lora or bottleneck")
