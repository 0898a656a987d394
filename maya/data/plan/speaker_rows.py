"""Rows of utterances of one speaker: what a plan deals out instead of single utterances.

The utterances of a speaker and language, in the order of their durations, are cut into groups of a few rows.
In each epoch the utterances of a group are shuffled over its rows. So every utterance is in one row of an
epoch, a row has another content and another order in each, its utterances are of about equal length, and its
size is known without looking at it. A speaker with fewer utterances than a row holds, and the rest of the
others, give shorter rows. An utterance without a speaker is a row of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maya.data.plan.config import PlanConfig
from maya.data.plan.epoch import ROWS, Draws
from maya.errors import MayaError

_GROUP = 16  # rows


class PlannedUtterances(Protocol):
    """What a plan needs to know of n utterances; `maya.data.table.utterances.Utterances` for one.

    durations (n,) seconds, langs (n,), token_counts (n,); speakers (n,): a number for each, -1 for none.
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def durations(self) -> NDArray[Any]: ...
    @property
    def langs(self) -> NDArray[Any]: ...
    @property
    def token_counts(self) -> NDArray[Any]: ...
    @property
    def speakers(self) -> NDArray[Any]: ...


class SpeakerRows:
    """R rows of at most `cfg.same_speaker` utterances.

    durations, token_counts, langs: (R,) of the longest utterance that a row may hold. given: the plan's
    configuration; cfg: with caps for rows instead of utterances. ids: of that longest utterance. Raises
    MayaError where the caps do not allow for a row of the longest, and where no utterance has a speaker.
    """

    def __init__(self, utterances: PlannedUtterances, cfg: PlanConfig) -> None:
        length, self._seed = cfg.same_speaker, cfg.seed
        durations = np.asarray(utterances.durations)
        langs, counts = np.asarray(utterances.langs), np.asarray(utterances.token_counts)
        _check(utterances, cfg)
        speakers = np.asarray(utterances.speakers).astype(np.int64)
        unknown = speakers < 0
        if unknown.all():
            raise MayaError(
                f"data.plan.same_speaker={length} needs speakers, and no utterance of the data names "
                "one; set it to 1, or prepare the data with speakers"
            )
        speakers[unknown] = speakers.max() + 1 + np.arange(unknown.sum())
        self._order = np.lexsort((durations, langs, speakers))
        changes = (np.diff(speakers[self._order]) != 0) | (np.diff(langs[self._order]) != 0)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])  # of each speaker and language
        sizes = np.diff(np.append(starts, len(durations)))
        rows, groups = -(-sizes // length), -(-sizes // (length * _GROUP))
        place = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        of = np.repeat(np.arange(len(sizes)), rows)
        # Utterances of a speaker are divided evenly over the rows, and rows over the groups.
        self._first = np.append(starts[of] + place * sizes[of] // rows[of], len(durations))
        self._group = (np.cumsum(groups) - groups)[of] + place * groups[of] // rows[of]
        begins = self._first[np.concatenate([[0], np.flatnonzero(np.diff(self._group)) + 1])]
        self._bounds = np.append(begins, len(durations))
        longest = self._order[self._bounds[1:] - 1][self._group]
        self.ids: Sequence[str] = _Named(utterances.ids, longest)
        self.durations, self.langs = durations[longest], langs[longest]
        self.token_counts = np.maximum.reduceat(counts[self._order], begins)[self._group]
        self.given, self.cfg = cfg, _for_rows(cfg)
        self.sizes = np.diff(self._first)  # (R,) utterances
        self.utterances = utterances

    def __str__(self) -> str:
        """For people."""
        length = self.given.same_speaker
        short, unknown = (
            int((self.sizes < length).sum()),
            int((np.asarray(self.utterances.speakers) < 0).sum()),
        )
        text = f"{len(self.sizes)} rows of {length} utterances of one speaker"
        text += f", {short} of them shorter, where a speaker has no more" if short else ""
        return text + (f"; {unknown} utterances name no speaker and are alone" if unknown else "")

    def spread(self, draws: Draws, epoch: int) -> Draws:
        """The utterances of these rows in an epoch; those of a row follow one another."""
        parts = [self._members(epoch, row) for row in draws.rows.tolist()]
        sizes = [len(part) for part in parts]
        return Draws(
            np.concatenate(parts).astype(np.int32),
            np.repeat(draws.speeds, sizes),
            np.repeat(np.arange(len(parts)), sizes),
        )

    def _members(self, epoch: int, row: int) -> NDArray[np.int64]:
        group = int(self._group[row])
        begin, end = int(self._bounds[group]), int(self._bounds[group + 1])
        shuffled = np.random.default_rng([self._seed, epoch, ROWS, group]).permutation(end - begin)
        return self._order[begin + shuffled[self._first[row] - begin : self._first[row + 1] - begin]]


def _check(utterances: PlannedUtterances, cfg: PlanConfig) -> None:
    longest, length = int(np.argmax(utterances.durations)), cfg.same_speaker
    seconds = float(utterances.durations[longest])
    if cfg.max_seconds is not None and cfg.too_long == "error" and seconds * length > cfg.max_seconds:
        raise MayaError(
            f"a row of data.plan.same_speaker={length} utterances as long as {utterances.ids[longest]!r} "
            f"({seconds:.1f} s) is longer than data.plan.max_seconds={cfg.max_seconds:g}; raise max_seconds, "
            'lower same_speaker, or set too_long="alone"'
        )


def _for_rows(cfg: PlanConfig) -> PlanConfig:
    """The caps and costs for rows, each as many times the longest utterance as a row may hold."""
    length, memory = cfg.same_speaker, cfg.memory
    return replace(
        cfg,
        same_speaker=1,
        max_seconds=None if cfg.max_seconds is None else cfg.max_seconds / length,
        max_utterances=_share(cfg.max_utterances, length),
        max_tokens=_share(cfg.max_tokens, length),
        max_lattice=_share(cfg.max_lattice, length),
        cost=replace(cfg.cost, fixed=cfg.cost.fixed / length),
        memory=replace(
            memory,
            **{
                name: getattr(memory, name) * length
                for name in ("utterance", "frame", "pair", "label", "node")
            },
        ),
    )


def _share(cap: int | None, length: int) -> int | None:
    return None if cap is None else max(1, cap // length)


class _Named(Sequence[str]):
    """The ids of some utterances, looked up when a message needs one."""

    def __init__(self, ids: Sequence[str], rows: NDArray[np.int64]) -> None:
        self._ids, self._rows = ids, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._ids[int(self._rows[index])]
