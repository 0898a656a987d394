"""Signs of a decoder that loops: repeated n-grams, too many words a second, text that packs too well.

The rules are those in use for Whisper and its relatives. Compression ratio: openai/whisper, transcribe.py.
Repeats, trigram share and words a second: what people who filter transcripts apply. Ordinary speech sometimes
meets a rule (a counted beat, a chorus), so a sign is a reason to look, not an error.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maya.score.wer import words_of

REPEATS = 4  # times that an n-gram of 1 to LONGEST words follows itself
LONGEST = 4
TRIGRAM_SHARE = 0.3
_FEWEST_TRIGRAMS = 5  # of a shorter text one trigram is too large a share
WORDS_PER_SECOND = 6.0
COMPRESSION = 2.4


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatedNGram:
    """Words that follow themselves. times: in a row, at least 2. place: index of the first word."""

    words: tuple[str, ...]
    times: int
    place: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSigns:
    """The signs in one text; an empty `reasons` means that none was seen."""

    repeats: tuple[RepeatedNGram, ...]
    trigram_share: float
    words_per_second: float
    compression: float

    @property
    def reasons(self) -> list[str]:
        """A sentence for each rule that the text meets."""
        reasons = [
            f"{' '.join(r.words)!r} {r.times} times in a row" for r in self.repeats if r.times >= REPEATS
        ]
        if self.trigram_share > TRIGRAM_SHARE:
            reasons.append(f"one trigram is {100 * self.trigram_share:.0f} % of all")
        if self.words_per_second > WORDS_PER_SECOND:
            reasons.append(f"{self.words_per_second:.1f} words a second")
        if self.compression > COMPRESSION:
            reasons.append(f"compression ratio {self.compression:.1f}")
        return reasons


def repeated_ngrams(words: Sequence[str], longest: int = LONGEST) -> list[RepeatedNGram]:
    """The runs of n-grams of 1 to `longest` words that follow themselves at once, in order of place.

    A run is named by its shortest n-gram: "a a a a" is "a" four times and not "a a" twice.
    """
    runs = []
    for n in range(1, longest + 1):
        i = 0
        while i + 2 * n <= len(words):
            times = 1
            while tuple(words[i + times * n : i + (times + 1) * n]) == tuple(words[i : i + n]):
                times += 1
            gram = tuple(words[i : i + n])
            if times > 1 and not _is_repeat(gram):
                runs.append(RepeatedNGram(words=gram, times=times, place=i))
                i += (times - 1) * n
            else:
                i += 1
    return sorted(runs, key=lambda run: (run.place, len(run.words)))


def loop_signs(text: str, seconds: float = 0.0) -> LoopSigns:
    """The signs in a text; seconds: of its audio, 0 if not known."""
    words = words_of(text)
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    total = trigrams.total()
    data = " ".join(words).encode()
    return LoopSigns(
        repeats=tuple(repeated_ngrams(words)),
        trigram_share=max(trigrams.values()) / total if total >= _FEWEST_TRIGRAMS else 0.0,
        words_per_second=len(words) / seconds if seconds > 0 else 0.0,
        compression=len(data) / len(zlib.compress(data)) if data else 0.0,
    )


def repeats_table(texts: Iterable[str], count: int = 10) -> list[tuple[str, int, int]]:
    """(n-gram, most times in a row, number of texts) of the n-grams that repeat in most texts."""
    most: dict[str, int] = {}
    where: Counter[str] = Counter()
    for text in texts:
        own = repeated_ngrams(words_of(text))
        for run in own:
            name = " ".join(run.words)
            most[name] = max(most.get(name, 0), run.times)
        where.update({" ".join(run.words) for run in own})
    return [(name, most[name], n) for name, n in sorted(where.items(), key=lambda x: (-x[1], x[0]))[:count]]


def loops_result(rows: Iterable[tuple[str, str, float]]) -> dict[str, Any]:
    """JSON values of the utterances with signs. rows: (id, text, seconds)."""
    rows = list(rows)
    signs = {id: loop_signs(text, seconds).reasons for id, text, seconds in rows}
    return {
        "suspicious": {id: reasons for id, reasons in signs.items() if reasons},
        "repeated": [
            {"ngram": name, "most_in_a_row": most, "utterances": n}
            for name, most, n in repeats_table(text for _, text, _ in rows)
        ],
    }


def _is_repeat(gram: tuple[str, ...]) -> bool:
    """Whether an n-gram is itself a shorter one repeated."""
    n = len(gram)
    return any(n % k == 0 and gram == gram[:k] * (n // k) for k in range(1, n))
