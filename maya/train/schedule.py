"""Learning-rate schedules: a function of the optimizer step alone, so resuming needs no state."""

import math


def warmup_cosine(step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up to `peak` over `warmup_steps`, then half a cosine down to `floor` at `total_steps`.

    `step` counts from 0; the first step already learns (rate peak / warmup_steps), and past `total_steps`
    the rate stays at `floor`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))


def encoder_share(step: int, hold_steps: int) -> float:
    """The encoder's share of the learning rate: nothing for `hold_steps`, then rising over as many.

    A fresh encoder is a usable set of random features. Trained from the first step on, it spends them on the
    frequencies of the output units, which its heads have not learnt yet: its frames become nearly alike, and
    training stays on that plateau. egs/indic12/RESULTS.md compares the two.
    """
    return min(1.0, max(0.0, (step - hold_steps + 1) / hold_steps)) if hold_steps else 1.0
