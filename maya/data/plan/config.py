"""Configuration of a batch plan, and a position in it."""

from collections.abc import Sequence
from dataclasses import field
from math import inf
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from maya.config import config
from maya.errors import MayaError
from maya.ranges import Finite, NonNegFloat, PosFloat, PosInt, Range, Seed, Share


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

    fixed: NonNegFloat = 0.0
    attention_frames: PosFloat = 3000.0
    lattice: NonNegFloat = 0.01


@config
class MemoryConfig:
    """A cap on the memory of a training step. A batch of B utterances padded to S encoder frames and U tokens
    takes, in bytes,

        fixed + length·S + B·(utterance + frame·S + pair·S² + label·(U + 1) + node·S·(U + 1))

    and may take max_bytes. Training measures the terms before the first step (maya.train.memory.probe) where
    `limit` asks for it; maya.models.sizing computes them on paper.

    limit: GB that training may take on a device: "off" is no cap, "auto" all that is free on the GPU. On a
        CPU it counts the process as a whole.
    safety: share of it that a batch may take. The rest is for memory that is free but in pieces.
    max_bytes, None for no cap, and the terms: filled in by what measures them.
    """

    limit: PosFloat | Literal["off", "auto"] = "off"
    safety: Annotated[float, Range(above=0, max=1)] = 0.9
    max_bytes: PosFloat | None = None
    fixed: Finite = 0.0
    length: Finite = 0.0
    utterance: Finite = 0.0
    frame: Finite = 0.0
    pair: Finite = 0.0
    label: Finite = 0.0
    node: Finite = 0.0

    def bytes(self, batch: Any, frames: Any, tokens: Any) -> Any:
        """Bytes of a step on `batch` utterances of at most so many frames and tokens; numbers or arrays."""
        return self.fixed + self.length * frames + batch * self.per_utterance(frames, tokens)

    def per_utterance(self, frames: Any, tokens: Any) -> Any:
        """Bytes that one more utterance adds."""
        nodes = frames * (tokens + 1)
        each = self.utterance + self.frame * frames + self.pair * frames * frames
        return each + self.label * (tokens + 1) + self.node * nodes

    def room(self, frames: Any, tokens: Any) -> Any:
        """Utterances, a real number, that max_bytes has room for; 0 or less where not even the rest fits."""
        if self.max_bytes is None:
            return inf
        free = self.max_bytes - self.fixed - self.length * frames
        return free / np.maximum(self.per_utterance(frames, tokens), 1e-9)


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
    same_speaker: utterances of one speaker in a row, see maya.data.plan.speaker_rows. An encoder that learns
        from utterances (LaCT) goes through a row with one memory. All caps count every utterance of a row.
    cost: the model of cost by which the work of a step is dealt equally to the ranks.
    memory: what a training step may take; None of its terms are caps until they are measured.
    """

    max_seconds: PosFloat | None = 200.0
    max_utterances: PosInt | None = 256
    max_tokens: PosInt | None = None
    max_lattice: PosInt | None = None
    frame_seconds: PosFloat = 0.08
    num_buckets: PosInt = 30
    temperature: Share = 0.3
    too_long: Literal["error", "alone"] = "error"
    same_speaker: PosInt = 1
    seed: Seed = 0
    cost: CostConfig = field(default_factory=CostConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)


class Position(NamedTuple):
    """The next batch to be trained on: number `batch` of epoch `epoch`, both from 0.

    ranks: the number of ranks that `batch` is counted for, 0 for that of the plan at hand.
    before: (ranks, batches) of the stretches of this epoch that other numbers of ranks have done.
    digest: of the cuts that were read in this epoch, where only reading them again leads to this batch
        (maya.data.loading.lhotse_loader); "" in a plan, which can seek.
    """

    epoch: int
    batch: int
    ranks: int = 0
    before: tuple[tuple[int, int], ...] = ()
    digest: str = ""

    @classmethod
    def of(cls, saved: Sequence[Any]) -> "Position":
        """The position that was saved as (nested) lists; the last three fields may be missing."""
        epoch, batch, *optional = saved
        ranks = int(optional[0]) if optional else 0
        before = tuple((int(w), int(n)) for w, n in optional[1]) if len(optional) > 1 else ()
        return cls(int(epoch), int(batch), ranks, before, str(optional[2]) if len(optional) > 2 else "")

    def saved(self) -> list[Any]:
        """As nested lists, for JSON."""
        return [self.epoch, self.batch, self.ranks, [list(stretch) for stretch in self.before], self.digest]


def check(cfg: PlanConfig, speeds: Sequence[float]) -> None:
    """Raise MayaError for a configuration that no plan can be made with."""
    caps = {n: getattr(cfg, n) for n in ("max_seconds", "max_utterances", "max_tokens", "max_lattice")}
    if all(value is None for value in caps.values()) and cfg.memory.max_bytes is None:
        raise MayaError(f"the plan has no cap on its batches: set one of {', '.join(caps)}")
    if cfg.same_speaker > 1:
        raise MayaError(
            f"data.plan.same_speaker={cfg.same_speaker} needs the speakers of a prepared table "
            '(data.source="table"); set it to 1'
        )
    if not speeds or not min(speeds) > 0:
        raise MayaError(f"speed factors must be positive, not {tuple(speeds)}")
