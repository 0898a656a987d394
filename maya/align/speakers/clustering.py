"""Which embeddings are of one speaker.

The two most alike clusters are merged, by their mean cosine (average linkage), until none are alike. A
cluster with little speech is no speaker: its windows belong to the nearest one that is. A whole recording is
clustered once. A stream is clustered again with each new window, and its clusters keep the speaker with whom
they share most speech; old windows of a speaker become one item, so that memory and time are bounded.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maya.align.speakers.config import SpeakersConfig

_AT_ONCE = 1500  # embeddings of an hour are clustered in parts of this size, and then their clusters
_HISTORY = 240  # items of a stream
Matrix = NDArray[np.float64]


def cluster(embeddings: Tensor, seconds: Tensor, cfg: SpeakersConfig) -> list[int]:
    """Speakers of the windows of a whole recording, numbered in the order of first speech.

    embeddings (W, D) of length 1, seconds (W,) of each window. At most `cfg.most` speakers. Time grows with
    the square of W up to 1500, and then in proportion.
    """
    if len(embeddings) == 0:
        return []
    weights = seconds.double().numpy()
    sums = embeddings.double().numpy() * weights[:, None]
    groups = [[i] for i in range(len(sums))]
    while len(groups) > _AT_ONCE:
        parts = [groups[begin : begin + _AT_ONCE] for begin in range(0, len(groups), _AT_ONCE)]
        groups = [group for part in parts for group in merged(part, sums, weights, cfg, _AT_ONCE // 2)]
    groups = speakers_among(merged(groups, sums, weights, cfg, cfg.most), sums, weights, cfg)
    numbers = [0] * len(sums)
    for number, group in enumerate(sorted(groups, key=min)):
        for i in group:
            numbers[i] = number
    return numbers


class OnlineClusters:
    """The windows of a stream and their speakers, numbered in the order in which they were found.

    speakers: of the windows that were added and are still items by themselves, the oldest first.
    """

    def __init__(self, cfg: SpeakersConfig) -> None:
        self.cfg, self.count = cfg, 0
        self._sums: list[NDArray[np.float64]] = []
        self._weights: list[float] = []
        self._speakers: list[int] = []
        self._merged = 0  # items in front that stand for many windows

    @property
    def speakers(self) -> list[int]:
        return self._speakers[self._merged :]

    def add(self, embedding: Tensor, seconds: float) -> None:
        """The next window, (D,), of so many seconds."""
        self._sums.append(embedding.double().numpy() * seconds)
        self._weights.append(seconds)
        self._speakers.append(-1)
        if len(self._sums) > _HISTORY:
            self._forget()
        sums, weights = np.stack(self._sums), np.array(self._weights)
        groups = merged([[i] for i in range(len(sums))], sums, weights, self.cfg, self.cfg.most)
        self._name(speakers_among(groups, sums, weights, self.cfg), weights)

    def _name(self, groups: list[list[int]], weights: Matrix) -> None:
        """Give each group the speaker with whom it shares most speech, the largest shares first."""
        count = self.count
        shares = np.zeros((len(groups), count))
        for row, group in enumerate(groups):
            for i in group:
                if self._speakers[i] >= 0:
                    shares[row, self._speakers[i]] += weights[i]
        names = [-1] * len(groups)
        while shares.size and shares.max() > 0:
            row, speaker = divmod(int(shares.argmax()), count)
            names[row] = speaker
            shares[row], shares[:, speaker] = 0, 0
        for row in sorted(range(len(groups)), key=lambda row: min(groups[row])):
            if names[row] < 0:
                # Letters may be used up though groups are not: speakers that nobody is like any more.
                free = sorted(set(range(self.cfg.most)) - set(names))
                names[row] = self.count if self.count < self.cfg.most else free[0]
                self.count = max(self.count, names[row] + 1)
            for i in groups[row]:
                self._speakers[i] = names[row]

    def _forget(self) -> None:
        """Put the older half of the items together, one for each speaker."""
        old = len(self._sums) // 2
        items: dict[int, tuple[NDArray[np.float64], float]] = {}
        for speaker, total, weight in zip(self._speakers[:old], self._sums, self._weights, strict=False):
            before, seconds = items.get(speaker, (np.zeros_like(total), 0.0))
            items[speaker] = before + total, seconds + weight
        self._speakers[:old] = list(items)
        self._sums[:old] = [total for total, _ in items.values()]
        self._weights[:old] = [seconds for _, seconds in items.values()]
        self._merged = len(items)


def merged(
    groups: list[list[int]], sums: Matrix, weights: Matrix, cfg: SpeakersConfig, most: int
) -> list[list[int]]:
    """Groups of rows, merged while two are alike enough or there are more than `most`. The mean cosine of two
    groups is the product of their means. sums (W, D), weighted embeddings; weights (W,)."""
    groups = [list(group) for group in groups]
    totals = np.array([weights[group].sum() for group in groups])
    means = np.stack([sums[group].sum(axis=0) for group in groups]) / totals[:, None]
    likeness = means @ means.T
    np.fill_diagonal(likeness, -np.inf)
    rows, alive = np.arange(len(groups)), len(groups)
    best = likeness.argmax(axis=1)
    while alive > 1:
        values = likeness[rows, best]
        i = int(values.argmax())
        j = int(best[i])
        if values[i] < cfg.threshold and alive <= most:
            break
        means[i] = (means[i] * totals[i] + means[j] * totals[j]) / (totals[i] + totals[j])
        totals[i] += totals[j]
        groups[i] += groups[j]
        groups[j] = []
        row = np.where(np.isneginf(likeness[i]), -np.inf, means @ means[i])
        row[j] = -np.inf
        likeness[i], likeness[:, i] = row, row
        likeness[j], likeness[:, j] = -np.inf, -np.inf
        changed = np.flatnonzero((best == i) | (best == j) | (row > likeness[rows, best]))
        best[changed] = likeness[changed].argmax(axis=1)
        best[i] = row.argmax()
        alive -= 1
    return [group for group in groups if group]


def speakers_among(
    groups: list[list[int]], sums: Matrix, weights: Matrix, cfg: SpeakersConfig
) -> list[list[int]]:
    """The groups with enough speech; the rows of the others join the one whose mean is nearest. The largest
    is always one of them."""
    seconds = [weights[group].sum() for group in groups]
    large = [i for i, own in enumerate(seconds) if own >= min(cfg.speaker_seconds, max(seconds))]
    means = np.stack([sums[groups[i]].sum(axis=0) for i in large])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    kept = [list(groups[i]) for i in large]
    for i, group in enumerate(groups):
        for row in group if i not in large else ():
            kept[int((means @ sums[row]).argmax())].append(row)
    return kept
