"""The settings of a tuning, chosen from the hours of training audio and the kind of change. Each is an option
of the experiment, is printed, and can be overridden."""

from dataclasses import dataclass
from typing import Any, Literal

from maya.config import override
from maya.encoders import EncoderConfig
from maya.recipes.experiment import Experiment

Tune = Literal["all", "top", "norms", "lora", "bottleneck"]
Vocabulary = Literal["keep", "extend", "replace"]

SMALL_DATA: dict[str, Any] = {
    "data.speed_perturb": "0.9,1.0,1.1",
}
"""The augmentation of a tuning on less than `SMALL_HOURS`: options of the experiment."""
SMALL_HOURS = 20.0

# Peak rates of AdamW for a model of width 1: a model of d channels gets 1 / d of it, so that 128 channels
# learn at 8e-4 and 1024 at 1e-4. New weights beside fixed ones bear more, a trained encoder less.
_RATE = {"all": 0.1, "top": 0.1, "norms": 0.3, "lora": 0.3, "bottleneck": 0.3}
# New rows have far to go: with a quarter of this rate CTC stayed at the frequencies of the letters for 200
# steps (egs/finetune/RESULTS.md).
_NEW_ROWS = 0.4
_ENCODER = 0.3  # the encoder's rate relative to the heads'
_PASSES, _FEWEST, _MOST = 12.0, 3.0, 40.0  # over the data: 12 for an hour, fewer for more
_NEW_LANGUAGE = 1.5  # times as many passes where pieces are new


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the settings depend on. seconds, longest: of the training audio and of its longest utterance.
    old_pieces: of the vocabulary, before it was extended. gpu: whether training uses one."""

    seconds: float
    longest: float
    old_pieces: int
    tune: Tune
    vocabulary: Vocabulary
    gpu: bool

    @property
    def hours(self) -> float:
        return self.seconds / 3600


def choose(facts: Facts, encoder: EncoderConfig) -> dict[str, Any]:
    """The settings by name of option."""
    batch = max(20.0, min(240.0 if facts.gpu else 40.0, facts.seconds / 12), 1.2 * facts.longest)
    new = facts.vocabulary != "keep"
    passes = min(_MOST, max(_FEWEST, _PASSES / max(facts.hours, 1e-3) ** 0.5))
    passes *= _NEW_LANGUAGE if new else 1.0
    steps = max(100, round(passes * facts.seconds / batch))
    rate = max(_RATE[facts.tune], _NEW_ROWS * new) / encoder.d_model
    every = max(1, steps // 8)
    options: dict[str, Any] = {
        "train.steps": steps,
        "train.lr": float(f"{rate:.2g}"),
        "train.warmup_steps": max(10, min(500, steps // 10)),
        "data.plan.max_seconds": round(batch, 1),
        "train.valid_every": every,
        "train.save_every": every,
        "train.average_every": max(1, steps // 100),
        "train.log_every": max(1, steps // 40),
        "train.regularizer_seconds": 1.0,  # a Zipformer's schedules go to their end, as the base's have
    }
    if facts.tune in ("all", "top"):
        options["train.encoder_lr"] = float(f"{rate * _ENCODER:.2g}")
    options |= _learning(facts)
    if facts.tune == "all" and facts.vocabulary == "replace":
        # New heads first: their early gradients teach the encoder nothing.
        options |= {"train.freeze": "encoder", "train.freeze_steps": max(1, steps // 8)}
    if facts.hours < SMALL_HOURS:
        options |= SMALL_DATA | {"data.cache_gb": 1.0}
    if facts.gpu:
        options["data.num_workers"] = 4
    return options


def _learning(facts: Facts) -> dict[str, Any]:
    """What learns. Where the encoder stays, or nearly so, the rows of old pieces stay too, bit for bit. Where
    it learns they would be in the way: new pieces of the same sounds learn slowly against fixed ones."""
    new = facts.vocabulary != "keep"
    options: dict[str, Any] = {}
    if facts.tune in ("lora", "bottleneck"):
        options |= {"train.learn": "adapters", "model.adapters.type": facts.tune}
    elif facts.tune != "all":
        options["train.learn"] = facts.tune
    if new and facts.tune != "all":
        options["train.learn_vocabulary"] = "true"
    if facts.vocabulary == "extend" and facts.tune not in ("all", "top"):
        options["train.fixed_pieces"] = facts.old_pieces
    return options


def apply(experiment: Experiment, options: dict[str, Any]) -> None:
    """Set the options in an experiment."""
    for name, value in options.items():
        override(experiment, f"{name}={value}")


def shown(options: dict[str, Any]) -> str:
    """The options as the command line takes them."""
    return " \\\n  ".join(f"--set {name}={value}" for name, value in options.items())
