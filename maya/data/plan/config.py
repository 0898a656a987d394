"""What a batch plan is made with, and the place in it where a run stands."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal, NamedTuple

from maya.config import config
from maya.errors import MayaError


@config
class CostConfig:
    """Estimated cost of a batch of B utterances padded to S encoder frames and U tokens, in encoder frames:

        fixed + B·S·(1 + S / attention_frames) + lattice·B·S·(U + 1)

    Only the proportions matter: batches of about equal cost are trained on at the same time by the ranks.
    fixed: what a step costs however small the batch is.
    attention_frames: length at which self-attention costs as much as all other layers. A conformer layer of
        width d does about 48·d² operations per frame and 8·d per pair of frames: 6·d frames, 3000 for 512.
    lattice: cost of a lattice node (a frame and a state of the predictor). The joint does about 2·H·V
        operations per node, an encoder of N parameters 2·N per frame: 0.02 for H=640, V=32 000, N=10⁹.
    """

    fixed: float = 0.0
    attention_frames: float = 3000.0
    lattice: float = 0.01


@config
class PlanConfig:
    """Caps are per batch, that is per rank and step; None is no cap. An utterance that exceeds one alone is a
    batch of its own.

    max_seconds: utterances times the longest of them, after the change of speed.
    max_utterances: number of utterances.
    max_tokens: utterances times the most tokens of one.
    max_lattice: utterances times encoder frames (frame_seconds each) times (tokens + 1). It bounds the memory
        of a transducer's joint network where durations alone do not.
    num_buckets: how finely utterances are sorted by duration; more is less padding and less shuffling. Small
        data get fewer, lest the same utterances meet again; where tokens decide about the size of a batch,
        buckets are divided further by tokens.
    temperature: 0 gives all languages the same hours, 1 leaves them as they are.
    too_long: what to do with an utterance longer than max_seconds: refuse, or make it a batch of its own.
    cost: the model of cost by which the work of a step is dealt equally to the ranks.
    """

    max_seconds: float | None = 200.0
    max_utterances: int | None = 256
    max_tokens: int | None = None
    max_lattice: int | None = None
    frame_seconds: float = 0.08
    num_buckets: int = 30
    temperature: float = 0.3
    too_long: Literal["error", "alone"] = "error"
    seed: int = 0
    cost: CostConfig = field(default_factory=CostConfig)


class Position(NamedTuple):
    """The next batch to be trained on: number `batch` of epoch `epoch`, both from 0.

    ranks: the number of ranks that `batch` is counted for, 0 for that of the plan at hand.
    before: (ranks, batches) of the stretches of this epoch that other numbers of ranks have done.
    """

    epoch: int
    batch: int
    ranks: int = 0
    before: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, saved: Sequence[Any]) -> "Position":
        """The position that was saved as (nested) lists; the last two fields may be missing."""
        epoch, batch, *more = saved
        ranks = int(more[0]) if more else 0
        before = tuple((int(w), int(n)) for w, n in more[1]) if len(more) > 1 else ()
        return cls(int(epoch), int(batch), ranks, before)


def check(cfg: PlanConfig, speeds: Sequence[float]) -> None:
    """Raise MayaError for a configuration that no plan can be made with."""
    caps = {n: getattr(cfg, n) for n in ("max_seconds", "max_utterances", "max_tokens", "max_lattice")}
    for name, value in (caps | {"num_buckets": cfg.num_buckets, "frame_seconds": cfg.frame_seconds}).items():
        if value is not None and not value > 0:
            raise MayaError(f"the plan's {name} must be positive, not {value}")
    if all(value is None for value in caps.values()):
        raise MayaError(f"the plan has no cap on its batches: set one of {', '.join(caps)}")
    if not 0.0 <= cfg.temperature <= 1.0:
        raise MayaError(f"the plan's temperature must be from 0 to 1, not {cfg.temperature:g}")
    if cfg.cost.fixed < 0 or cfg.cost.lattice < 0 or not cfg.cost.attention_frames > 0:
        raise MayaError(
            "the plan's cost.fixed and cost.lattice must not be negative, cost.attention_frames positive"
        )
    if not speeds or not min(speeds) > 0:
        raise MayaError(f"speed factors must be positive, not {tuple(speeds)}")
