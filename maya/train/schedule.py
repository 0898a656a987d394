"""The schedule: rates, the weight of CTC and whether the encoder learns, all functions of the optimizer step
alone (Eden: and of the epoch), so that resuming needs no state.

Encoder and heads have peaks of their own and share one cosine, down to one floor (as NeMo's `min_lr`, which
is absolute; a peak below it is its own floor), or Eden, which has no floor. Layer-wise decay scales a layer's
whole curve.
"""

import math
from collections.abc import Sequence
from typing import Any

from maya.models.text_heads import Head, heads_of
from maya.train.config import TrainConfig
from maya.train.eden import eden

Phases = dict[str, str]


def warmup_cosine(
    step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int, start: int = 0
) -> float:
    """Linear warm-up to `peak` over `warmup_steps`, then half a cosine down to `floor` at `total_steps`.

    `step` counts from 0; the first step already learns (rate peak / warmup_steps), and past `total_steps`
    the rate stays at `floor`. What begins to learn at `start` warms up from there, to where the cosine is.
    """
    if step < start:
        return 0.0
    done = min(1.0, max(0, step - warmup_steps) / max(1, total_steps - warmup_steps))
    rate = floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))
    return rate * (step - start + 1) / warmup_steps if step - start < warmup_steps else rate


def encoder_share(step: int, hold_steps: int) -> float:
    """The encoder's share of the learning rate: nothing for `hold_steps`, then rising over as many.

    A fresh encoder is a usable set of random features. Trained from the first step on, it spends them on the
    frequencies of the output units, which its heads have not learnt yet: its frames become nearly alike, and
    training stays on that plateau. egs/indic12/RESULTS.md compares the two.
    """
    return min(1.0, max(0.0, (step - hold_steps + 1) / hold_steps)) if hold_steps else 1.0


def head_rate(cfg: TrainConfig, step: int, epoch: int = 0) -> float:
    """Learning rate of everything outside the encoder; `epoch` counts the passes over the data so far."""
    return _rate(cfg, step, epoch, peak=cfg.lr, start=0)


def encoder_rate(cfg: TrainConfig, step: int, epoch: int = 0) -> float:
    """Learning rate of the encoder's top layer; 0 while it is frozen or held.

    After a freeze it warms up as the heads have done: its moments are empty, and Adam's first steps are of
    full size whatever the gradient.
    """
    peak = cfg.lr if cfg.encoder_lr is None else cfg.encoder_lr
    return _rate(cfg, step, epoch, peak=peak, start=cfg.encoder_freeze) * encoder_share(
        step, cfg.encoder_hold
    )


def _rate(cfg: TrainConfig, step: int, epoch: int, *, peak: float, start: int) -> float:
    if cfg.schedule == "eden":
        # As the cosine, what begins later warms up from there, to where the curve is.
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


def depends_on_steps(cfg: TrainConfig) -> bool:
    """Whether the rates depend on `train.steps`: the cosine ends there, Eden does not know it."""
    return cfg.schedule == "cosine"


def expected_steps(cfg: TrainConfig, step: int, position: Sequence[Any], batches_per_pass: int) -> int:
    """The step that training will probably end at: `train.steps`, or with `train.epochs` what these take.

    position: (whole passes, batches of the running one), reached at `step`. batches_per_pass: of one rank;
    it differs a little from pass to pass. 0 is not known, and leaves `train.steps`.
    """
    if not cfg.epochs or not batches_per_pass:
        return cfg.steps
    batches = (cfg.epochs * cfg.passes - position[0]) * batches_per_pass - position[1]
    return min(cfg.steps, step + max(0, math.ceil(batches / cfg.accumulate)))


def encoder_frozen(cfg: TrainConfig, step: int) -> bool:
    return step < cfg.encoder_freeze


def ctc_weight(cfg: TrainConfig, step: int, *, full: float) -> float:
    """CTC's share of the loss: 1 (CTC alone) for `ctc_first` steps, or rising from 0 over `ctc_ramp`, then
    `full`."""
    if step < cfg.ctc_first:
        return 1.0
    return full * min(1.0, step / cfg.ctc_ramp) if cfg.ctc_ramp else full


def head_steps(cfg: TrainConfig, step: int, model: Any) -> dict[Head, int]:
    """For each head of a model of configuration `model`, how many of the first `step` steps trained it: those
    that gave its loss more than no weight."""
    heads = heads_of(model)
    if not heads:
        return {}
    if model.attention_weight == 1:
        return {head: step if head == "attention" else 0 for head in heads}
    if model.transducer == "none":  # CTC's share is then 1 throughout
        return dict.fromkeys(heads, step)
    first = min(step, cfg.ctc_first if model.ctc_weight else 0)  # steps of CTC alone
    without_ctc = min(step, 1) if cfg.ctc_ramp and not first else 0  # the first step of a ramp
    alone = step - min(step, cfg.ctc_ramp) if model.ctc_weight == 1 else first
    counts: dict[Head, int] = {
        "transducer": step - alone,
        "ctc": step - without_ctc,
        "attention": step,
    }
    return {head: counts[head] for head in heads}


def phases(cfg: TrainConfig, step: int, *, full: float) -> Phases:
    """What encoder, heads and CTC are at in this step, in words; `full` is CTC's final weight."""
    begins = max(cfg.encoder_freeze, cfg.encoder_hold)
    warm = begins + (cfg.encoder_hold or cfg.warmup_steps)
    waiting = "frozen" if cfg.encoder_freeze else "held"
    encoder = waiting if step < begins else "warming up" if step < warm else "learning"
    heads = "warming up" if step < cfg.warmup_steps else "learning"
    ctc = "alone" if step < cfg.ctc_first or full == 1 else "rising" if step < cfg.ctc_ramp else "full"
    return {"encoder": encoder, "heads": heads} | ({"ctc": ctc} if full else {})


def phase_changes(cfg: TrainConfig, step: int, *, full: float) -> Phases:
    """Those of `phases` that begin with this step; at step 0 all of them."""
    now = phases(cfg, step, full=full)
    before = phases(cfg, step - 1, full=full) if step else {}
    return {name: phase for name, phase in now.items() if before.get(name) != phase}
