"""What a corpus holds, by language: hours, speakers, letters, and how durations, texts and sound are spread.

Counted while utterances pass by, one at a time. Of each utterance 8 bytes are kept, to tell how many texts
are distinct; everything else is of fixed size, or grows with the number of speakers and letters.
"""

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
        edge if there is none."""
        wanted, passed = share * self.total, 0
        for place, count in enumerate(self.counts):
            if count and passed + count >= wanted:
                low, high = self.edges[place], self.edges[place + 1]
                return low + (high - low) * (wanted - passed) / count
            passed += count
        return self.edges[0]


class _Language:
    """The numbers of one language."""

    def __init__(self, code: str) -> None:
        self.language = get_language(code)
        self.scripts: Counter[str] = Counter()  # of texts, where the language does not tell its script
        self.parts = {part: [0, 0.0] for part in PARTS}  # utterances, seconds
        self.longest = 0.0
        self.characters = 0
        self.foreign = 0
        self.unnamed = 0  # utterances that name no speaker
        self.speakers: Counter[str] = Counter()  # seconds of each
        self.texts = array("q")
        self.letters: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # the first utterance with a letter
        self.spread = {name: Histogram(edges) for name, edges in EDGES.items()}

    def add(self, one: Entry, part: str) -> None:
        mine, seconds, sound = self.parts[part], one.duration, one.sound
        mine[0] += 1
        mine[1] += seconds
        self.longest = max(self.longest, seconds)
        self.characters += len(one.text)
        if one.speaker == one.id:
            self.unnamed += 1
        else:
            self.speakers[one.speaker] += seconds  # type: ignore[assignment]
        self.texts.append(hash(one.text))
        self.letters.update(one.text)
        for letter in set(one.text).difference(self.first):
            self.first[letter] = one.id
        if self.language.script:
            self.foreign += script_share(one.text, self.language) < _FOREIGN
        elif script := main_script([one.text]):
            self.scripts[script] += 1
            self.foreign = self.scripts.total() - max(self.scripts.values())
        measured = {
            "seconds": seconds,
            "characters": len(one.text),
            "characters_per_second": len(one.text) / seconds,
        }
        if sound is not None:
            measured |= {"level": sound.level, "snr": sound.snr, "clipped": sound.clipped}
            measured["silence"] = max(sound.lead, sound.trail)
            if sound.high_band is not None:
                measured["high_band"] = sound.high_band
        for name, value in measured.items():
            self.spread[name].add(value)

    def summary(self) -> dict[str, Any]:
        by_part = {p: {"utterances": n, "hours": seconds / 3600} for p, (n, seconds) in self.parts.items()}
        return {
            "utterances": sum(n for n, _ in self.parts.values()),
            "hours": sum(seconds for _, seconds in self.parts.values()) / 3600,
            "longest_seconds": self.longest,
            "speakers": len(self.speakers) + self.unnamed,
            "texts": len(np.unique(np.frombuffer(self.texts, np.int64))),
            "characters": self.characters,
            "alphabet": len(self.letters),
            "foreign_script": self.foreign,
            "parts": by_part,
        }

    def spreads(self) -> dict[str, Any]:
        seconds = sorted(self.speakers.values())
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
            "histograms": {name: made.counts for name, made in self.spread.items() if made.total},
        }


class Statistics:
    """Numbers of all languages. `add` every utterance, then take both of the results, each JSON-able."""

    def __init__(self) -> None:
        self._languages: dict[str, _Language] = {}

    def add(self, one: Entry, part: str) -> None:
        if one.language not in self._languages:
            self._languages[one.language] = _Language(one.language)
        self._languages[one.language].add(one, part)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per language: hours, utterances, speakers, characters, distinct texts, longest utterance, texts
        mostly in another script, and hours and utterances of each part."""
        return {code: self._languages[code].summary() for code in sorted(self._languages)}

    def spreads(self) -> dict[str, dict[str, Any]]:
        """Per language: what speakers say most and in the median (seconds), letters [letter, count, the
        first id that has it] from the commonest on, and counts of each quantity between its EDGES."""
        return {code: self._languages[code].spreads() for code in sorted(self._languages)}


def histogram(spreads: Mapping[str, Any], name: str) -> Histogram | None:
    """The histogram of a quantity from `spreads` of a language; None where nothing was measured."""
    counts = spreads["histograms"].get(name)
    return Histogram(EDGES[name], counts) if counts else None
