"""Statistics of a corpus by language: hours, speakers, letters, labels, and distributions of durations,
texts and sound.

Utterances are counted one at a time. 8 bytes are kept of each text, to count the distinct ones; everything
else is of fixed size, or grows with the number of speakers, letters and labels. Seconds are added up as whole
numbers of 2^-60 s, so that the sums do not depend on the order of the utterances, nor on who counted which.
"""

import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maya.data.corpus.manifest import PARTS
from maya.data.measure.entry import Entry
from maya.text.languages import get_language, script_share
from maya.text.scripts import main_script

_COMMON_LABELS = 20  # values of a label that are reported
_EXACT = 1 << 60
_FOREIGN = 0.5  # a text with less of its letters in its language's script is counted as foreign


def _steps(low: float, step: float, count: int) -> tuple[float, ...]:
    return tuple(round(low + step * i, 6) for i in range(count + 1))


# Quantity to the edges of its bins; what lies beyond is counted in the outermost.
EDGES: dict[str, tuple[float, ...]] = {
    "seconds": _steps(0, 0.1, 600),
    "characters": _steps(0, 1, 600),
    "characters_per_second": _steps(0, 0.25, 160),
    "level": _steps(-100, 1, 100),  # dBFS of active speech
    "snr": _steps(-20, 1, 100),  # dB
    "high_band": _steps(-100, 1, 100),  # dB of all power
    "silence": _steps(0, 0.05, 200),  # seconds, the longer of before and after
    "clipped": (0, 1e-9, 1e-5, 1e-4, 1e-3, 1e-2, 1),  # share of samples; the first bin is none at all
}


class Histogram:
    """Counts of values between `edges`."""

    def __init__(self, edges: Sequence[float], counts: Iterable[int] = ()) -> None:
        self.edges = edges
        self.counts = list(counts) or [0] * (len(edges) - 1)

    def add(self, value: float) -> None:
        place = bisect_right(self.edges, value) - 1
        self.counts[min(max(place, 0), len(self.counts) - 1)] += 1

    @property
    def total(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The value below which this share lies, as if values were spread evenly within a bin; the first
        edge if there are no values."""
        target, passed = share * self.total, 0
        for place, count in enumerate(self.counts):
            if count and passed + count >= target:
                low, high = self.edges[place], self.edges[place + 1]
                return low + (high - low) * (target - passed) / count
            passed += count
        return self.edges[0]


class _Language:
    """The numbers of one language."""

    def __init__(self, code: str) -> None:
        self.language = get_language(code)
        self.scripts: Counter[str] = Counter()  # of texts, where the language does not tell its script
        self.parts = {part: [0, 0] for part in PARTS}  # utterances, seconds * _EXACT
        self.longest = 0.0
        self.characters = 0
        self._foreign = 0
        self.unnamed = 0  # utterances that name no speaker
        self.speakers: Counter[str] = Counter()  # seconds * _EXACT of each
        self.texts = array("Q")  # hashes
        self.letters: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # the first utterance with a letter
        self.labels: dict[str, Counter[str]] = {}  # utterances with each value, by name
        self.spread = {name: Histogram(edges) for name, edges in EDGES.items()}

    def add(self, entry: Entry, part: str) -> None:
        totals, seconds, sound = self.parts[part], entry.duration, entry.sound
        totals[0] += 1
        totals[1] += int(seconds * _EXACT)
        for label, text in entry.labels.items():
            self.labels.setdefault(label, Counter())[text] += 1
        self.longest = max(self.longest, seconds)
        self.characters += len(entry.text)
        if entry.speaker == entry.id:
            self.unnamed += 1
        else:
            self.speakers[entry.speaker] += int(seconds * _EXACT)
        self.texts.append(_hash(entry.text))
        self.letters.update(entry.text)
        for letter in set(entry.text).difference(self.first):
            self.first[letter] = entry.id
        if self.language.script:
            self._foreign += script_share(entry.text, self.language) < _FOREIGN
        elif script := main_script([entry.text]):
            self.scripts[script] += 1
        measured = {
            "seconds": seconds,
            "characters": len(entry.text),
            "characters_per_second": len(entry.text) / seconds,
        }
        if sound is not None:
            measured |= {"level": sound.level, "snr": sound.snr, "clipped": sound.clipped}
            measured["silence"] = max(sound.lead, sound.trail)
            if sound.high_band is not None:
                measured["high_band"] = sound.high_band
        for name, value in measured.items():
            self.spread[name].add(value)

    def merge(self, other: "_Language") -> None:
        """Add what was counted elsewhere, of utterances that come after these."""
        for part, (count, seconds) in other.parts.items():
            self.parts[part][0] += count
            self.parts[part][1] += seconds
        self.longest = max(self.longest, other.longest)
        self.characters += other.characters
        self._foreign += other._foreign
        self.unnamed += other.unnamed
        self.scripts.update(other.scripts)
        self.speakers.update(other.speakers)
        self.letters.update(other.letters)
        self.texts.extend(array("Q", np.unique(other.texts).astype(np.uint64).tobytes()))
        self.first = other.first | self.first
        for label, counts in other.labels.items():
            self.labels.setdefault(label, Counter()).update(counts)
        for name, histogram in other.spread.items():
            self.spread[name].counts = [
                a + b for a, b in zip(self.spread[name].counts, histogram.counts, strict=True)
            ]

    @property
    def foreign(self) -> int:
        """Texts mostly in another script."""
        return self._foreign + self.scripts.total() - max(self.scripts.values(), default=0)

    def summary(self) -> dict[str, Any]:
        by_part = {
            p: {"utterances": n, "hours": exact / _EXACT / 3600} for p, (n, exact) in self.parts.items()
        }
        return {
            "utterances": sum(n for n, _ in self.parts.values()),
            "hours": sum(exact for _, exact in self.parts.values()) / _EXACT / 3600,
            "longest_seconds": self.longest,
            "speakers": len(self.speakers) + self.unnamed,
            "texts": len(np.unique(self.texts)),
            "characters": self.characters,
            "alphabet": len(self.letters),
            "foreign_script": self.foreign,
            "parts": by_part,
        }

    def spreads(self) -> dict[str, Any]:
        seconds = [exact / _EXACT for exact in sorted(self.speakers.values())]
        named = {
            "named": len(seconds),
            "unnamed_utterances": self.unnamed,
            "median_seconds": float(np.median(seconds)) if seconds else 0.0,
            "largest_seconds": float(seconds[-1]) if seconds else 0.0,
        }
        letters = sorted(self.letters.items(), key=lambda item: (-item[1], item[0]))
        return {
            "speakers": named,
            "letters": [[letter, count, self.first[letter]] for letter, count in letters],
            "labels": {name: _label_counts(counts) for name, counts in sorted(self.labels.items())},
            "histograms": {name: made.counts for name, made in self.spread.items() if made.total},
        }


def _hash(text: str) -> int:
    """The same in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _label_counts(counts: Counter[str]) -> dict[str, Any]:
    """Number of values, utterances that have one, and the commonest [value, utterances]."""
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_COMMON_LABELS]
    return {"values": len(counts), "utterances": counts.total(), "common": [list(item) for item in common]}


class Statistics:
    """Numbers of all languages. `add` every utterance, then take both of the results, each JSON-able."""

    def __init__(self) -> None:
        self._languages: dict[str, _Language] = {}

    def add(self, entry: Entry, part: str) -> None:
        if entry.language not in self._languages:
            self._languages[entry.language] = _Language(entry.language)
        self._languages[entry.language].add(entry, part)

    def merge(self, other: "Statistics") -> None:
        """Add what was counted of utterances that come after these."""
        for code, numbers in other._languages.items():
            if code in self._languages:
                self._languages[code].merge(numbers)
            else:
                self._languages[code] = numbers

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per language: hours, utterances, speakers, characters, distinct texts, longest utterance, texts
        mostly in another script, and hours and utterances of each part."""
        return {code: self._languages[code].summary() for code in sorted(self._languages)}

    def spreads(self) -> dict[str, dict[str, Any]]:
        """Per language: seconds of speakers (largest and median), letters [letter, count, the first id that
        has it] from the commonest on, labels, and counts of each quantity between its EDGES."""
        return {code: self._languages[code].spreads() for code in sorted(self._languages)}


def histogram(spreads: Mapping[str, Any], name: str) -> Histogram | None:
    """The histogram of a quantity from `spreads` of a language; None where nothing was measured."""
    counts = spreads["histograms"].get(name)
    return Histogram(EDGES[name], counts) if counts else None
