"""Which utterances make up which batch, for every epoch and every rank, without touching the data."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maya.data.plan.caps import Caps
from maya.data.plan.cells import Cells, make_cells, seconds_bins
from maya.data.plan.config import PlanConfig, Position, check
from maya.data.plan.deal import Deal, deal
from maya.data.plan.epoch import MIN_BATCHES, Draws, Epoch
from maya.data.plan.speaker_rows import PlannedUtterances, SpeakerRows
from maya.data.plan.stats import PlanStats, measure
from maya.errors import MayaError

_ROWS_AT_ONCE = 1 << 20  # looked at together, which bounds the memory of looking


class _Data(NamedTuple):
    """What a plan knows of the data, once for all speeds and ranks."""

    durations: NDArray[np.float32]  # (n,) seconds
    tokens: NDArray[np.int32]  # (n,)
    langs: NDArray[np.int16]  # (n,) 0 ... L - 1
    codes: NDArray[np.int64]  # (L,) the language indices that were given
    cells: Cells
    rows: SpeakerRows | None = None  # what the columns describe, where it is not single utterances


class BatchPlan:
    """The batches of one rank: a pure function of (seed, epoch, batch, rank, world size) and the data.

    durations: (n,) seconds; token_counts: (n,); langs: (n,) language indices; ids: (n,) names for messages.
    speeds: factors from which one is drawn for each utterance of an epoch, such as (0.9, 1.0, 1.1).
    Raises MayaError for an empty set or, with too_long="error", an utterance longer than max_seconds.
    Safe to use from several threads. Takes up to 25 bytes per utterance while it is made, and half of that
    while it is used; columns that are float32 and int32 are not copied (see docs/benchmarks/plan.md).
    """

    def __init__(
        self,
        durations: ArrayLike,
        token_counts: ArrayLike,
        langs: ArrayLike,
        cfg: PlanConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        speeds: Sequence[float] = (1.0,),
        ids: Sequence[str] | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not below world_size {world_size}")
        check(cfg, speeds)
        columns = (np.asarray(durations), np.asarray(token_counts), np.asarray(langs))
        if len({len(column) for column in columns}) > 1:
            raise ValueError("durations, token_counts and langs differ in length")
        _check_columns(columns[0], columns[1], cfg, ids)
        _check_memory(columns[0], columns[1], Caps(cfg), min(speeds), ids)
        self._begin(_columns(*columns, Caps(cfg)), cfg, rank, world_size, speeds)

    @classmethod
    def of(
        cls, utterances: PlannedUtterances, cfg: PlanConfig, *, rank: int = 0, world_size: int = 1,
        speeds: Sequence[float] = (1.0,),
    ) -> "BatchPlan":  # fmt: skip
        """The plan of utterances, with cfg.same_speaker > 1 in rows of one speaker."""
        rows = SpeakerRows(utterances, cfg) if cfg.same_speaker > 1 else None
        of: Any = utterances if rows is None else rows
        plan = cls(
            of.durations, of.token_counts, of.langs, cfg if rows is None else rows.cfg,
            rank=rank, world_size=world_size, speeds=speeds, ids=of.ids,
        )  # fmt: skip
        plan._data = plan._data._replace(rows=rows)
        return plan

    def _begin(
        self, data: _Data, cfg: PlanConfig, rank: int, world_size: int, speeds: Sequence[float]
    ) -> None:
        self._data, self.cfg, self.rank, self.world_size, self.speeds = (
            data,
            cfg,
            rank,
            world_size,
            tuple(speeds),
        )
        self._caps = Caps(cfg)
        self._hours = np.bincount(data.langs, weights=data.durations, minlength=len(data.codes)) / 3600
        self._ratios = _ratios(self._hours, cfg.temperature)
        self._bands = _bands(data.cells, self._ratios, self._caps, self.speeds)
        self._epochs: dict[int, Epoch] = {}
        self._deals: dict[tuple[int, tuple[tuple[int, int], ...]], Deal | None] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """Number of utterances in the data."""
        return len(self.durations)

    @property
    def durations(self) -> NDArray[np.float32]:
        """(n,) seconds."""
        rows = self._data.rows
        return self._data.durations if rows is None else np.asarray(rows.utterances.durations)

    @property
    def rows(self) -> SpeakerRows | None:
        """What is dealt out with cfg.same_speaker > 1; None for single utterances."""
        return self._data.rows

    def with_speeds(self, speeds: Sequence[float]) -> "BatchPlan":
        """The plan of the same data when utterances are played at these speeds."""
        check(self.cfg, speeds)
        return self._like(self.rank, self.world_size, speeds)

    def for_rank(self, rank: int, world_size: int) -> "BatchPlan":
        """The plan of another rank, or of another number of ranks, which shares this one's memory."""
        return self._like(rank, world_size, self.speeds)

    def _like(self, rank: int, world_size: int, speeds: Sequence[float]) -> "BatchPlan":
        other = object.__new__(BatchPlan)
        other._begin(self._data, self.cfg, rank, world_size, speeds)
        return other

    def num_batches(self, epoch: int) -> int:
        """Batches of this rank in this epoch, when it is begun with this number of ranks; as many for all."""
        return self.remaining(Position(epoch, 0))

    def batch(self, epoch: int, index: int) -> list[int]:
        """Utterance indices of this rank's batch number `index` of the epoch."""
        return self.take(Position(epoch, index)).rows.tolist()

    def batch_speeds(self, epoch: int, index: int) -> list[float]:
        """Speed factor of each utterance of `batch(epoch, index)`."""
        return [self.speeds[i] for i in self.take(Position(epoch, index)).speeds]

    def epoch(self, epoch: int) -> list[list[int]]:
        """All batches of this rank in the epoch, in order."""
        return [self.batch(epoch, index) for index in range(self.num_batches(epoch))]

    def resume(self, saved: Sequence) -> Position:
        """The position at which this plan continues a run with any number of ranks.

        What that run has trained on in the epoch is left out; the rest of the epoch is dealt to the present
        ranks anew. Raises MayaError for a position that does not exist.
        """
        position = Position.of(saved)
        if position.ranks in (0, self.world_size):
            position = position._replace(ranks=self.world_size)
        elif position.batch:
            before = (*position.before, (position.ranks, position.batch))
            position = Position(position.epoch, 0, self.world_size, before)
        else:
            position = position._replace(ranks=self.world_size)
        batches = self.remaining(position._replace(batch=0))
        if position.batch > batches or (position.batch == batches and not position.before):
            raise MayaError(
                f"the saved position is batch {position.batch} of epoch {position.epoch}, which has only "
                f"{batches}: the data or the batch settings changed since it was saved"
            )
        return position if position.batch < batches else Position(position.epoch + 1, 0, self.world_size)

    def advance(self, position: Position) -> Position:
        """The position after one more batch."""
        if self.remaining(position) > 1:
            return position._replace(batch=position.batch + 1)
        return Position(position.epoch + 1, 0, position.ranks)

    def positions(self, start: Position) -> Iterator[Position]:
        """This position and all later ones, without end."""
        while True:
            yield start
            start = self.advance(start)

    def remaining(self, position: Position) -> int:
        """Batches of this rank from a position to the end of its epoch."""
        dealt = self._dealt(position)
        return max(0, len(dealt.steps) - position.batch) if dealt is not None else 0

    def take(self, position: Position) -> Draws:
        """Utterances, and the index of the speed of each in `speeds`, of the batch at a position."""
        dealt = self._dealt(position)
        if dealt is None:
            raise IndexError(f"nothing is left at {position}")
        batch = dealt.steps[position.batch, self.rank]
        draws = self._epoch(position.epoch).draws(
            int(dealt.batches.first[batch]), int(dealt.batches.last[batch])
        )
        rows = self._data.rows
        return draws if rows is None else rows.spread(draws, position.epoch)

    def stats(self, epoch: int) -> PlanStats:
        """Size, padding and language shares of an epoch over all ranks. Looks at all its utterances."""
        dealt = self._dealt(Position(epoch, 0))
        assert dealt is not None
        data, made = self._data, self._epoch(epoch)
        draws = made.draws(0, int(made.starts[-1]))
        if (rows := data.rows) is None:
            columns = data.durations, data.tokens, data.langs
            return measure(dealt, draws, *columns, data.codes, self.speeds, self._caps)
        u, ends = rows.utterances, np.concatenate([[0], np.cumsum(rows.sizes[draws.rows])])
        batches = dealt.batches._replace(first=ends[dealt.batches.first], last=ends[dealt.batches.last])
        langs = np.searchsorted(data.codes, u.langs)
        return measure(
            dealt.of_utterances(batches), rows.spread(draws, epoch), self.durations, u.token_counts, langs,
            data.codes, self.speeds, Caps(rows.given),
        )  # fmt: skip

    def _epoch(self, epoch: int) -> Epoch:
        with self._lock:
            if epoch not in self._epochs:
                while len(self._epochs) > 1:  # a reader who prefetches is at most one epoch ahead
                    del self._epochs[min(self._epochs)]
                self._epochs[epoch] = Epoch(
                    epoch, self._data.cells, self._caps, self._ratios, self._bands, self.speeds, self.cfg.seed
                )
            return self._epochs[epoch]

    def _dealt(self, position: Position) -> Deal | None:
        key = position.epoch, position.before
        with self._lock:
            if key not in self._deals:
                while len(self._deals) > 1:
                    del self._deals[min(self._deals)]
                batches = self._epoch(position.epoch).batches
                self._deals[key] = deal(
                    batches, self.world_size, position.before, self.cfg.seed, position.epoch
                )
            return self._deals[key]


def _columns(durations: NDArray, tokens: NDArray, langs: NDArray, caps: Caps) -> _Data:
    durations = durations.astype(np.float32, copy=False)
    tokens = tokens.astype(np.int32, copy=False)
    lowest = int(langs.min())
    counts = np.bincount((langs - lowest).astype(np.int32))
    codes = np.flatnonzero(counts)
    number = np.zeros(len(counts), np.int16)
    number[codes] = np.arange(len(codes), dtype=np.int16)
    langs = number[(langs - lowest).astype(np.int32)]
    cells = make_cells(durations, tokens, langs, len(codes), caps.by_tokens, caps.cfg.seed)
    return _Data(durations, tokens, langs, codes + lowest, cells)


def _ratios(hours: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """(L,) how often each utterance is drawn per epoch so that language l has a share of the hours that is
    proportional to hours_l^temperature, their sum staying as it is."""
    if temperature == 1.0:
        return np.ones(len(hours))
    weight = (hours / hours.max()) ** temperature
    # Rounded, since the last bits of a power are not the same on every machine.
    return np.round(hours.sum() * weight / weight.sum() / hours, 9)


def _bands(
    cells: Cells, ratios: NDArray[np.float64], caps: Caps, speeds: Sequence[float]
) -> NDArray[np.float64]:
    """(C * speeds,) where each cell lies between 0 and the number of duration buckets when played.

    Padding is least when the density of buckets grows with the square root of that of the padded seconds
    (Panter and Dite 1951, for the steps of a quantiser)."""
    drawn = np.repeat((cells.counts * ratios).sum(axis=1) / len(speeds), len(speeds))
    seconds = (cells.seconds[:, None] / np.asarray(speeds)).ravel()
    loads = drawn / caps.size(seconds, np.repeat(cells.tokens, len(speeds)))
    bands = max(1, min(caps.cfg.num_buckets, int(loads.sum() / MIN_BATCHES)))
    bins = seconds_bins(seconds)
    bins -= bins.min()
    density = np.sqrt(np.bincount(bins, weights=drawn * seconds))
    place = np.cumsum(density) - density
    return (place / (place[-1] + density[-1]) * bands)[bins]


def _check_columns(durations: NDArray, tokens: NDArray, cfg: PlanConfig, ids: Sequence[str] | None) -> None:
    if len(durations) == 0:
        raise MayaError("there is no utterance to plan batches for")
    if not (np.isfinite(durations).all() and durations.min() > 0):
        raise MayaError("every utterance needs a duration above zero; prepare the data again")
    if tokens.min() < 0:
        raise MayaError("the token count of an utterance is negative; prepare the data again")
    longest = int(durations.argmax())
    if cfg.max_seconds is not None and cfg.too_long == "error" and durations[longest] > cfg.max_seconds:
        name = f"utterance {ids[longest]!r}" if ids is not None else f"utterance number {longest}"
        raise MayaError(
            f"{name} is {durations[longest]:.1f} s long, more than the plan's "
            f"max_seconds={cfg.max_seconds:g}; raise max_seconds, prepare the data with a shorter limit, "
            'or set too_long="alone"'
        )


def _check_memory(
    durations: NDArray, tokens: NDArray, caps: Caps, slowest: float, ids: Sequence[str] | None
) -> None:
    """Raise MayaError if an utterance, played as slowly as it may be, does not fit into memory alone."""
    memory = caps.cfg.memory
    if memory.max_bytes is None or caps.cfg.too_long == "alone":
        return
    for first in range(0, len(durations), _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        room = caps.memory_room(durations[some] / slowest, tokens[some])
        worst = first + int(room.argmin())
        if room[worst - first] >= 1:
            continue
        seconds, count = float(durations[worst]) / slowest, int(tokens[worst])
        needed = float(memory.bytes(1, caps.frames(seconds), count)) / 1e9
        name = f"utterance {ids[worst]!r}" if ids is not None else f"utterance number {worst}"
        raise MayaError(
            f"{name} ({seconds:.1f} s, {count} tokens) alone takes {needed:.2f} GB of memory where "
            f"{memory.max_bytes / 1e9:.2f} may be used; give more memory, turn activation checkpointing on, "
            'prepare the data with a shorter limit, or set too_long="alone"'
        )
