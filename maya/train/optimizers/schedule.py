"""The schedule: rates, weights of heads and frozen parts, all functions of the optimizer step alone (Eden:
and of the epoch), so that resuming needs no state.

Encoder and heads have their own peaks and share one cosine, down to one floor (as NeMo's `min_lr`, which is
absolute; a peak below it is its own floor), or Eden, which has no floor. Layer-wise decay scales a layer's
whole curve.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from maya.heads import HeadConfig, final_weights, head_weights
from maya.models.config import ENCODER
from maya.train.config import TrainConfig
from maya.train.optimizers.eden import eden

Phases = dict[str, str]


def warmup_cosine(
    step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int, start: int = 0
) -> float:
    """Linear warm-up to `peak` over `warmup_steps`, then half a cosine down to `floor` at `total_steps`.

    `step` counts from 0; the first step already learns (rate peak / warmup_steps), and past `total_steps`
    the rate stays at `floor`. A part that begins to learn at `start` warms up from there to the cosine.
    """
    if step < start:
        return 0.0
    done = min(1.0, max(0, step - warmup_steps) / max(1, total_steps - warmup_steps))
    rate = floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))
    return rate * (step - start + 1) / warmup_steps if step - start < warmup_steps else rate


def encoder_share(step: int, hold_steps: int) -> float:
    """The encoder's share of the learning rate: 0 for `hold_steps`, then rising over as many.

    A fresh encoder gives usable random features. Early gradients mostly teach the frequencies of the output
    units, which the heads have not learnt yet: an encoder at full rate collapses to nearly constant frames,
    and training stays on that plateau. egs/indic12/RESULTS.md compares the two.
    """
    return min(1.0, max(0.0, (step - hold_steps + 1) / hold_steps)) if hold_steps else 1.0


def head_rate(cfg: TrainConfig, step: int, epoch: int = 0) -> float:
    """Learning rate of everything outside the encoder; `epoch` counts the passes over the data so far."""
    return _rate(cfg, step, epoch, peak=cfg.lr, start=0)


def encoder_rate(cfg: TrainConfig, step: int, epoch: int = 0) -> float:
    """Learning rate of the encoder's top layer; 0 while it is frozen or held.

    After a freeze it warms up as the heads did: its moments are empty, and Adam's first steps have full size
    whatever the gradient.
    """
    if ENCODER in cfg.freeze and not cfg.freeze_steps:
        return 0.0
    peak = cfg.lr if cfg.encoder_lr is None else cfg.encoder_lr
    start = (cfg.freeze_steps or 0) if ENCODER in cfg.freeze else 0
    return _rate(cfg, step, epoch, peak=peak, start=start) * encoder_share(step, cfg.encoder_hold)


def _rate(cfg: TrainConfig, step: int, epoch: int, *, peak: float, start: int) -> float:
    if cfg.schedule == "eden":
        # As with the cosine, a part that begins later warms up from there to the curve.
        since = (step - start + 1) / cfg.eden.warmup_steps if start and cfg.eden.warmup_steps else 1.0
        return (
            min(1.0, max(0.0, since)) * eden(step, epoch, peak=peak, cfg=cfg.eden) if step >= start else 0.0
        )
    floor = min(cfg.min_lr, peak)
    return warmup_cosine(
        step, peak=peak, floor=floor, warmup_steps=cfg.warmup_steps, total_steps=cfg.steps, start=start
    )


def epoch(cfg: TrainConfig, position: Sequence[Any]) -> int:
    """How many epochs lie behind a position in the data, whose first number is that of whole passes."""
    return position[0] // cfg.passes


def is_over(cfg: TrainConfig, step: int, epochs: int) -> bool:
    """Whether training ends after so many steps and epochs."""
    return step >= cfg.steps or 0 < cfg.epochs <= epochs


def warmup_of(cfg: TrainConfig) -> float:
    """The steps over which the rate rises: Eden has an option of its own."""
    return cfg.eden.warmup_steps if cfg.schedule == "eden" else cfg.warmup_steps


def depends_on_steps(cfg: TrainConfig) -> bool:
    """Whether the rates depend on `train.steps`: the cosine ends there, Eden does not know it."""
    return cfg.schedule == "cosine"


def expected_steps(cfg: TrainConfig, step: int, position: Sequence[Any], batches_per_pass: int) -> int:
    """The step at which training will probably end: `train.steps`, or the end of `train.epochs` if earlier.

    position: (whole passes, batches of the running one), reached at `step`. batches_per_pass: of one rank;
    it differs a little from pass to pass. 0 means unknown, and gives `train.steps`.
    """
    if not cfg.epochs or not batches_per_pass:
        return cfg.steps
    batches = (cfg.epochs * cfg.passes - position[0]) * batches_per_pass - position[1]
    return min(cfg.steps, step + max(0, math.ceil(batches / cfg.accumulate)))


def frozen(cfg: TrainConfig, step: int) -> frozenset[str]:
    """The parts that do not learn at this step."""
    return frozenset(cfg.freeze if not cfg.freeze_steps or step < cfg.freeze_steps else ())


def frozen_throughout(cfg: TrainConfig) -> frozenset[str]:
    """The parts that never learn."""
    return frozenset(() if cfg.freeze_steps else cfg.freeze)


def changing_weights(heads: Mapping[str, HeadConfig], step: int) -> dict[str, float]:
    """The weights at this step of those heads whose weight changes while training."""
    at_start, at_end = head_weights(heads, 0), final_weights(heads, tuple(heads))
    weights = head_weights(heads, step)
    return {name: weights[name] for name in heads if at_start[name] != at_end[name]}


def head_steps(cfg: TrainConfig, step: int, heads: Mapping[str, HeadConfig]) -> dict[str, int]:
    """By head, how many of the first `step` steps trained it: it had weight and was not frozen."""
    counts = {name: head.steps_trained(step) for name, head in heads.items()}
    for name in heads.keys() & set(cfg.freeze):
        in_freeze = (
            heads[name].steps_trained(min(step, cfg.freeze_steps)) if cfg.freeze_steps else counts[name]
        )
        counts[name] -= in_freeze
    return counts


def phases(cfg: TrainConfig, step: int, heads: Mapping[str, HeadConfig]) -> Phases:
    """The state of the encoder and the heads at this step, in words: all heads together, and each head that
    begins late, has a ramp, or is frozen."""
    freeze = (cfg.freeze_steps or 0) if ENCODER in cfg.freeze else 0
    begins, warmup = max(freeze, cfg.encoder_hold), warmup_of(cfg)
    warm = max(freeze + warmup, 2 * cfg.encoder_hold)
    at_rest = frozen(cfg, step)
    if ENCODER in at_rest:
        encoder = "frozen"
    else:
        encoder = "held" if step < begins else "warming up" if step < warm else "learning"
    words = {"encoder": encoder, "heads": "warming up" if step < warmup else "learning"}
    for name, head in heads.items():
        if name in cfg.freeze or head.first_step or head.ramp_steps:
            words[name] = "frozen" if name in at_rest else _weight_phase(head, step)
    return words


def _weight_phase(head: HeadConfig, step: int) -> str:
    if step < head.first_step:
        return "waiting"
    return "rising" if step < head.first_step + head.ramp_steps else "full"


def phase_changes(cfg: TrainConfig, step: int, heads: Mapping[str, HeadConfig]) -> Phases:
    """Those of `phases` that begin with this step; at step 0 all of them."""
    before = phases(cfg, step - 1, heads) if step else {}
    return {name: phase for name, phase in phases(cfg, step, heads).items() if before.get(name) != phase}
