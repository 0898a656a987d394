"""Who spoke when: the diarisation error rate (DER) and its parts.

DER = (missed + false alarm + confusion) / reference speech, in seconds of speakers: two at once count twice
(NIST Rich Transcription, md-eval). The speakers of the hypothesis are paired with those of the reference so
that the time in common is largest. Results depend on two choices, so both are always printed: the collar,
time that is left out on either side of a boundary of the reference, and whether overlapping speech counts.
meeteval's own DER downloads NIST's Perl script when it is called; this one needs nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maya.errors import MayaError
from maya.score.files.transcript import TranscriptRow

Turns = dict[str, list[tuple[float, float]]]  # by speaker, in order and apart


@dataclass(frozen=True, kw_only=True, slots=True)
class DiarizationErrors:
    """Seconds of speakers: reference speech, and the three kinds of errors. collar: seconds on either side of
    a boundary. overlap: whether speech of several speakers counts."""

    speech: float
    missed: float
    false_alarm: float
    confusion: float
    collar: float
    overlap: bool

    @property
    def rate(self) -> float:
        """(missed + false_alarm + confusion) / speech; infinite for errors without speech."""
        errors = self.missed + self.false_alarm + self.confusion
        if self.speech:
            return errors / self.speech
        return float("inf") if errors else 0.0


def diarization_errors(
    refs: Sequence[TranscriptRow], hyps: Sequence[TranscriptRow], *, collar: float = 0.0, overlap: bool = True
) -> DiarizationErrors:
    """DER of all recordings together, over all the time in which either side has speech.

    Speakers are paired within each recording. Raises MayaError for segments without times or speakers, and
    for recordings that the references lack.
    """
    own, others = _by_recording(refs, "references"), _by_recording(hyps, "hypotheses")
    if extra := others.keys() - own.keys():
        raise MayaError(f"the references hold no recording {min(extra)!r}, which the hypotheses hold")
    sums = np.zeros(4)
    for recording, turns in own.items():
        sums += _recording_errors(turns, others.get(recording, {}), collar, overlap)
    speech, missed, false_alarm, confusion = map(float, sums)
    return DiarizationErrors(
        speech=speech, missed=missed, false_alarm=false_alarm, confusion=confusion, collar=collar,
        overlap=overlap,
    )  # fmt: skip


def _recording_errors(ref: Turns, hyp: Turns, collar: float, overlap: bool) -> NDArray[np.float64]:
    """(4,) seconds: speech, missed, false alarm, confusion."""
    marks = {time for turns in (ref, hyp) for own in turns.values() for turn in own for time in turn}
    edges = {time for own in ref.values() for turn in own for time in turn}
    if collar:
        marks |= {edge + side * collar for edge in edges for side in (-1, 1)}
    times = np.array(sorted(marks))
    if len(times) < 2:
        return np.zeros(4)
    lengths, middles = np.diff(times), (times[:-1] + times[1:]) / 2
    active_ref, active_hyp = _activity(ref, middles), _activity(hyp, middles)
    # As in md-eval, speakers are paired over all the time, also that which is left out below.
    common = (active_ref * lengths) @ active_hyp.T  # (reference speakers, speakers) seconds
    if collar:
        distance = np.abs(middles[:, None] - np.array(sorted(edges))[None]).min(axis=1)
        lengths = np.where(distance < collar, 0.0, lengths)
    if not overlap:
        lengths = np.where(active_ref.sum(axis=0) > 1, 0.0, lengths)
    correct = np.zeros(len(middles))
    for i, j in best_pairs(common):
        correct += active_ref[i] * active_hyp[j]
    n_ref, n_hyp = active_ref.sum(axis=0), active_hyp.sum(axis=0)
    parts = (
        n_ref, np.maximum(n_ref - n_hyp, 0), np.maximum(n_hyp - n_ref, 0), np.minimum(n_ref, n_hyp) - correct,
    )  # fmt: skip
    return np.array([float((part * lengths).sum()) for part in parts])


def best_pairs(common: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs (row, column), each used once, with the largest sum: the assignment problem, by augmenting paths
    (Kuhn 1955, Munkres 1957; the O(n^3) form with potentials)."""
    n, m = common.shape
    if n > m:
        return sorted((i, j) for j, i in best_pairs(common.T))
    costs = common.max(initial=0.0) - common
    row_potential, column_potential = np.zeros(n + 1), np.zeros(m + 1)
    owner = np.zeros(m + 1, np.int64)  # of a column: its row, from 1; column 0 holds the row to place
    for row in range(1, n + 1):
        owner[0], column = row, 0
        smallest, came_from = np.full(m + 1, np.inf), np.zeros(m + 1, np.int64)
        used = np.zeros(m + 1, bool)
        while owner[column]:
            used[column] = True
            current = owner[column]
            reduced = costs[current - 1] - row_potential[current] - column_potential[1:]
            better = np.flatnonzero(~used[1:] & (reduced < smallest[1:])) + 1
            smallest[better], came_from[better] = reduced[better - 1], column
            following = int(np.where(used, np.inf, smallest)[1:].argmin()) + 1
            step = smallest[following]
            row_potential[owner[used]] += step
            column_potential[used] -= step
            smallest[~used] -= step
            column = following
        while column:
            owner[column] = owner[came_from[column]]
            column = int(came_from[column])
    return sorted((int(owner[j]) - 1, j - 1) for j in range(1, m + 1) if owner[j])


def _activity(turns: Turns, middles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(speakers, intervals) 1 where the speaker speaks in the interval."""
    rows = np.zeros((len(turns), len(middles)))
    for row, own in zip(rows, turns.values(), strict=True):
        for start, end in own:
            row[(middles > start) & (middles < end)] = 1
    return rows


def _by_recording(rows: Sequence[TranscriptRow], side: str) -> dict[str, Turns]:
    """By recording and speaker the turns, those that overlap or touch as one."""
    turns: dict[str, Turns] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.start is None or row.end is None or not row.speaker:
            raise MayaError(f"the {side} hold a segment without times or speaker; give RTTM, STM or SegLST")
        turns[row.recording][row.speaker].append((row.start, row.end))
    return {
        recording: {name: _merged(own) for name, own in speakers.items()}
        for recording, speakers in turns.items()
    }


def _merged(turns: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(turn for turn in turns if turn[1] > turn[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
