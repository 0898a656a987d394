"""Word and character error rates, their confidence intervals, and comparisons of two systems.

An error rate is the number of errors in a test set divided by the number of reference tokens. Its interval is
the percentile bootstrap over utterances (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR
performance evaluation", ICASSP 2004): utterances are drawn with replacement and the rate is computed again.
Utterances of one speaker are not independent, so whole speakers are drawn if the speakers are given.

The caller normalises the text (`maya.text.normalize`). Here, Unicode is composed (NFC) and white space is
collapsed. A character is a Unicode code point: a vowel sign or a virama of an Indic script counts as one, and
so does the space between words, as in NeMo and jiwer.
"""

import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import kaldialign
import numpy as np
from numpy.typing import NDArray

from maya.errors import MayaError

MISSING = ""  # in an alignment, the side without a token; no word or character is empty
REPLICATES = 2000
_INDICES_AT_ONCE = 4_000_000  # 32 MB of int64 are drawn at a time

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ErrorStats:
    """Errors of a list of utterances against their references.

    counts: (utterances, 4) int64; columns: substitutions, deletions, insertions, reference tokens.
    """

    counts: Counts

    def __getitem__(self, which: slice) -> "ErrorStats":
        """The errors of a slice of the utterances."""
        return ErrorStats(counts=self.counts[which])

    @property
    def utterance_errors(self) -> Counts:
        """(utterances,) substitutions + deletions + insertions."""
        return self.counts[:, :3].sum(axis=1)

    @property
    def utterance_ref_lengths(self) -> Counts:
        """(utterances,) reference words (or characters)."""
        return self.counts[:, 3]

    @property
    def utterances(self) -> int:
        return len(self.counts)

    @property
    def substitutions(self) -> int:
        return int(self.counts[:, 0].sum())

    @property
    def deletions(self) -> int:
        return int(self.counts[:, 1].sum())

    @property
    def insertions(self) -> int:
        return int(self.counts[:, 2].sum())

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def ref_length(self) -> int:
        """Words (or characters) in all references."""
        return int(self.counts[:, 3].sum())

    @property
    def rate(self) -> float:
        """errors / ref_length, a fraction. Without reference tokens: 0.0 if there is no error, else inf."""
        return float(_ratio(np.array(self.errors), np.array(self.ref_length)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95 % interval of a rate, as fractions; nan if there are fewer than two utterances or speakers."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The difference of two systems on the same utterances.

    difference: rate of the second minus rate of the first (negative: the second is better).
    interval: 95 % bootstrap interval of the difference.
    p_value: two-sided bootstrap probability of a difference at least as large by chance.
    """

    difference: float
    interval: Interval
    p_value: float


def words_of(text: str) -> list[str]:
    """The tokens of WER: composed (NFC) text split at white space."""
    return unicodedata.normalize("NFC", text).split()


def characters_of(text: str) -> list[str]:
    """The tokens of CER: code points of the composed (NFC) text, with one space between words."""
    return list(" ".join(words_of(text)))


def align(ref: Sequence[str], hyp: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (reference token, hypothesis token) of an alignment with the fewest errors; `MISSING` where one
    side has no token."""
    pairs: list[tuple[str, str]] = kaldialign.align(list(ref), list(hyp), MISSING)
    return pairs


def wer(refs: Iterable[str], hyps: Iterable[str]) -> ErrorStats:
    """Word errors of `hyps` against `refs`, two lists of sentences in the same order.

    Raises MayaError if the lists differ in length. An empty reference is kept: every word of its hypothesis
    is an insertion.
    """
    return count_errors(refs, hyps, words_of)


def cer(refs: Iterable[str], hyps: Iterable[str]) -> ErrorStats:
    """Character errors of `hyps` against `refs`: like `wer`, with the tokens of `characters_of`."""
    return count_errors(refs, hyps, characters_of)


def pool(parts: Iterable[ErrorStats]) -> ErrorStats:
    """The utterances of several lists as one list, in order."""
    return ErrorStats(counts=np.concatenate([np.zeros((0, 4), np.int64), *(p.counts for p in parts)]))


def bootstrap_rates(
    stats: ErrorStats,
    *,
    blocks: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int | np.random.SeedSequence = 0,
) -> Rates:
    """Error rates (replicates,) float64 of `replicates` test sets drawn with replacement.

    blocks: a label for each utterance, such as its speaker; utterances with one label are drawn together.
    """
    columns = [_by_block(column, blocks) for column in (stats.utterance_errors, stats.utterance_ref_lengths)]
    return _ratio(*_resampled_sums(columns, replicates, seed))


def interval(
    stats: ErrorStats,
    *,
    blocks: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int | np.random.SeedSequence = 0,
) -> Interval:
    """The 95 % percentile bootstrap interval of `stats.rate`; arguments as for `bootstrap_rates`."""
    if _draws(stats, blocks) < 2:
        return Interval(low=float("nan"), high=float("nan"))
    return _percentiles(bootstrap_rates(stats, blocks=blocks, replicates=replicates, seed=seed))


def macro_average(
    stats: Mapping[str, ErrorStats],
    *,
    blocks: Mapping[str, Sequence[Hashable]] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[float, Interval]:
    """The unweighted mean of the languages' rates, and its 95 % interval.

    Languages without reference tokens are left out. Each language is resampled separately, so the interval
    covers other utterances of the same languages, but not other languages.
    """
    scored = {name: s for name, s in stats.items() if s.ref_length}
    if not scored:
        return float("nan"), Interval(low=float("nan"), high=float("nan"))
    mean = float(np.mean([s.rate for s in scored.values()]))
    if any(_draws(s, blocks[name] if blocks else None) < 2 for name, s in scored.items()):
        return mean, Interval(low=float("nan"), high=float("nan"))
    seeds = np.random.SeedSequence(seed).spawn(len(scored))
    rates = [
        bootstrap_rates(s, blocks=blocks[name] if blocks else None, replicates=replicates, seed=own)
        for (name, s), own in zip(scored.items(), seeds, strict=True)
    ]
    return mean, _percentiles(np.mean(rates, axis=0))


def compare(
    first: ErrorStats,
    second: ErrorStats,
    *,
    blocks: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same utterances by a paired bootstrap.

    Each draw takes the same utterances for both systems, so the effect of hard utterances cancels.
    Raises MayaError if the references differ.
    """
    if not np.array_equal(first.utterance_ref_lengths, second.utterance_ref_lengths):
        raise MayaError(
            "the two systems have different references; score both on the same utterances in the same order"
        )
    lengths = _by_block(first.utterance_ref_lengths, blocks)
    change = _by_block(second.utterance_errors - first.utterance_errors, blocks)
    difference = float(_ratio(change.sum(), lengths.sum()))
    if len(lengths) < 2:
        return _without_interval(difference)
    return _comparison(difference, _ratio(*_resampled_sums([change, lengths], replicates, seed)))


def macro_compare(
    first: Mapping[str, ErrorStats],
    second: Mapping[str, ErrorStats],
    *,
    blocks: Mapping[str, tuple[Sequence[Hashable], Sequence[Hashable]]],
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compare the means of the languages' rates of two systems, each of one or more runs, by `compare`.

    blocks: for each language the labels of the first system's utterances and of the second's. An utterance
    has the same label in every run, so that each draw takes it for all runs of both systems. Languages
    without reference tokens are left out. With fewer than two labels in a language there is nothing to draw:
    interval and p-value are NaN. Raises MayaError if the systems differ in their languages or labels.
    """
    if set(first) != set(second) or any(set(a) != set(b) for a, b in blocks.values()):
        raise MayaError("the two systems were scored on different utterances; decode both on the same set")
    scored = [name for name, stats in sorted(first.items()) if stats.ref_length]
    differences = [second[name].rate - first[name].rate for name in scored]
    if not scored or any(len(set(blocks[name][0])) < 2 for name in scored):
        return _without_interval(float(np.mean(differences)) if scored else float("nan"))
    seeds = np.random.SeedSequence(seed).spawn(len(scored))
    drawn = []
    for name, own in zip(scored, seeds, strict=True):
        order = {label: place for place, label in enumerate(dict.fromkeys(blocks[name][0]))}
        rates = []
        for stats, labels in zip((first[name], second[name]), blocks[name], strict=True):
            in_order = np.argsort([order[label] for label in labels], kind="stable")
            sorted_stats = ErrorStats(counts=stats.counts[in_order])
            sorted_labels = [labels[i] for i in in_order]
            rates.append(bootstrap_rates(sorted_stats, blocks=sorted_labels, replicates=replicates, seed=own))
        drawn.append(rates[1] - rates[0])
    return _comparison(float(np.mean(differences)), np.mean(drawn, axis=0))


def _without_interval(difference: float) -> Comparison:
    nan = float("nan")
    return Comparison(difference=difference, interval=Interval(low=nan, high=nan), p_value=nan)


def _comparison(difference: float, drawn: Rates) -> Comparison:
    # With + 1, a finite number of replicates never gives p = 0.
    tail = 1 + min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = min(1.0, 2.0 * float(tail) / (len(drawn) + 1))
    return Comparison(difference=difference, interval=_percentiles(drawn), p_value=p_value)


def count_errors(
    refs: Iterable[str], hyps: Iterable[str], tokens_of: Callable[[str], list[str]]
) -> ErrorStats:
    """Errors of `hyps` against `refs`, two lists of sentences in the same order, with any kind of token.

    Raises MayaError if the lists differ in length."""
    refs, hyps = list(refs), list(hyps)
    if len(refs) != len(hyps):
        raise MayaError(f"{len(refs)} references but {len(hyps)} hypotheses; give one for each reference")
    counts = np.zeros((len(refs), 4), np.int64)
    for row, ref, hyp in zip(counts, refs, hyps, strict=True):
        errors = kaldialign.edit_distance(tokens_of(ref), tokens_of(hyp))
        row[:] = errors["sub"], errors["del"], errors["ins"], errors["ref_len"]
    return ErrorStats(counts=counts)


def _ratio(errors: Counts, lengths: Counts) -> Rates:
    """errors / lengths, elementwise; 0 / 0 is 0 (empty reference, empty hypothesis), k / 0 is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((lengths == 0) & (errors == 0), 0.0, errors / lengths)


def _draws(stats: ErrorStats, blocks: Sequence[Hashable] | None) -> int:
    return len(_by_block(stats.utterance_ref_lengths, blocks))


def _by_block(values: Counts, blocks: Sequence[Hashable] | None) -> Counts:
    """Sums of `values` (utterances,) over equal labels, in order of appearance; unchanged without labels."""
    if blocks is None:
        return values
    if len(blocks) != len(values):
        raise MayaError(f"{len(blocks)} speaker labels for {len(values)} utterances; give one for each")
    index: dict[Hashable, int] = {}
    which = np.array([index.setdefault(b, len(index)) for b in blocks], np.int64)
    sums = np.zeros(len(index), np.int64)
    np.add.at(sums, which, values)
    return sums


def _resampled_sums(
    columns: list[Counts], replicates: int, seed: int | np.random.SeedSequence
) -> list[Counts]:
    """Sums (replicates,) of each column over rows drawn with replacement, the same rows for all columns."""
    n = len(columns[0])
    if n == 0:
        return [np.zeros(replicates, np.int64) for _ in columns]
    rng = np.random.default_rng(seed)
    sums = [np.empty(replicates, np.int64) for _ in columns]
    step = max(1, _INDICES_AT_ONCE // n)
    for start in range(0, replicates, step):
        drawn = rng.integers(0, n, size=(min(step, replicates - start), n))
        for column, total in zip(columns, sums, strict=True):
            total[start : start + len(drawn)] = column[drawn].sum(axis=1)
    return sums


def _percentiles(rates: Rates) -> Interval:
    # "nearest" because interpolation between two infinite rates (empty references) would give nan.
    low, high = np.percentile(rates, [2.5, 97.5], method="nearest")
    return Interval(low=float(low), high=float(high))
