"""Eden, icefall's learning-rate schedule: it falls with the steps and with the passes over the data, each
as the inverse square root once past a constant. A function of its arguments alone: no state to resume."""

from maya.config import config
from maya.ranges import NonNegFloat, PosFloat, Share


@config
class EdenConfig:
    """The constants of icefall's LibriSpeech recipe. There an epoch is 2 900 h (three speeds of 960 h): with
    more data per epoch, fewer of them (icefall takes `epochs=1` for GigaSpeech XL's 10 000 h)."""

    steps: PosFloat = 7500.0  # past about so many optimizer steps the rate falls
    epochs: PosFloat = 3.5  # past about so many passes over the data it falls once more
    warmup_steps: NonNegFloat = 500.0
    warmup_start: Share = 0.1  # share of the rate at the beginning of the warm-up


def eden(step: int, epoch: float, *, peak: float, cfg: EdenConfig) -> float:
    """The learning rate of an optimizer step.

        peak * (1 + (b / steps)^2)^-1/4 * (1 + (epoch / epochs)^2)^-1/4 * warm-up,   b = step + 1

    Args:
        step: counts from 0; b counts from 1, since icefall moves its count before the first update.
        epoch: passes over the data done so far. icefall steps it at the end of an epoch (0, 1, 2, ...); with
            the part of the running one added, the rate has no jumps.
        peak: the rate without any of the factors; the product never reaches it (with the defaults, 0.997 of
            it at the end of the warm-up).
    """
    done = step + 1
    by_step = (1 + (done / cfg.steps) ** 2) ** -0.25
    by_epoch = (1 + (epoch / cfg.epochs) ** 2) ** -0.25
    warm = (
        min(1.0, cfg.warmup_start + (1 - cfg.warmup_start) * done / cfg.warmup_steps)
        if cfg.warmup_steps
        else 1.0
    )
    return peak * by_step * by_epoch * warm


def adjusted_steps(step: int, *, batch_seconds: float, reference_seconds: float = 600.0) -> float:
    """How many batches of `reference_seconds` the first `step` steps amount to: what Zipformer's scheduled
    regularisers count by (icefall's get_adjusted_batch_count).

    `batch_seconds` is the cap on the padded audio of one optimizer step, over all ranks and accumulated
    batches (icefall: max_duration * world_size); the cap, not the audio that was in it, so that it is a
    function of the step.
    """
    return step * batch_seconds / reference_seconds
