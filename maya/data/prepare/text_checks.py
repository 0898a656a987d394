"""Checks of transcripts: do they fit their audio, their script, and one another.

Findings become flags; an utterance is dropped for the reasons in `TextCheckConfig.drop`. The same utterances
in the same order give the same findings. The checks that compare utterances need only those that may be alike
(see maya.data.prepare.compare).
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maya.audio.byte_ranges import read_range
from maya.config import config
from maya.data.measure.entry import Entry
from maya.data.measure.flags import Finding
from maya.data.measure.reasons import LEAKS
from maya.ranges import Count, PosFloat
from maya.text.languages import Language, get_language, script_share
from maya.text.normalize import unescape

# <unk>, [noise], {cough}, (laughs), *laughs*, !SIL, %um; also in full-width brackets.
_MARKUP = re.compile(
    r"<[^<>]*\w[^<>]*>|\[[^][]*\w[^][]*\]|\{[^{}]*\w[^{}]*\}|\([^()]*\w[^()]*\)"
    r"|\*\w[^*]*\*|(?<!\S)[!%][^\W\d]\w*"
)
_WIDE_BRACKETS = str.maketrans("＜＞［］｛｝（）", "<>[]{}()")
_MISREAD = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u2122]")  # of UTF-8 read as Latin-1 or cp1252
_NAMED = 10  # letters or words listed in a detail
FITTED = 1 << 20  # utterances, from which it is estimated
_PAIRS = 20_000  # of utterances, from which the speaking rate of a language is estimated
_SMALLEST_SPREAD = 0.1  # of log duration: narrower corpora (one voice, synthesised) are no reason to flag
_FIRST_BYTES = 1 << 16


@config
class TextCheckConfig:
    """drop: reasons (see maya.data.measure.reasons.TEXT) for which an utterance is dropped instead of
    flagged. rate_deviations: standard deviations, estimated robustly, that the logarithm of a duration may be
    off what is usual for so many characters. rate_min_utterances: a language with fewer is not checked for
    it. repeat_min_words: shorter texts may be said again, as in corpora of words and digits.
    compare_audio: look for utterances with the same bytes; files of one size are read for it.
    """

    drop: tuple[str, ...] = ()
    rate_deviations: PosFloat = 5.0
    rate_min_utterances: Count = 50
    repeat_min_words: Count = 3
    compare_audio: bool = True


def leak_findings(part: str, leaks: Iterable[str], overlap: str | None) -> Iterator[Finding]:
    """The findings of a held-out utterance. leaks: some of LEAKS, that part of it which is in training;
    overlap: what of its audio is in another part (see compare)."""
    leaks = list(leaks)
    for reason in leaks:
        yield reason, f"{part}: {LEAKS[reason]}"
    if overlap is not None and "audio_in_training" not in leaks:
        yield "overlap_in_other_part", f"{part}: {overlap}"


def text_findings(raw: str, text: str, language: str | Language) -> Iterator[Finding]:
    """The findings of one transcript. raw: as published; text: in normal form."""
    expected = get_language(language) if isinstance(language, str) else language
    foreign = [c for c in text if unicodedata.category(c)[0] == "L" and not expected.owns(c)]
    if foreign:
        share = script_share(text, expected)
        named = "".join(dict.fromkeys(foreign))[:_NAMED]
        reason = "wrong_script" if share < 0.5 else "mixed_script"
        yield reason, f"{1 - share:.0%} of the letters are not {expected.script}: {named}"
    if numbers := re.findall(r"\S*\d\S*", text):
        yield "digits", f"how was this read: {' '.join(numbers[:_NAMED])}"
    plain = unescape(raw)
    if plain != raw:
        yield "html_entities", f"read as: {plain[:80]}"
    if "\ufffd" in raw or _is_misread(raw):
        yield "damaged_text", f"is this what was written: {raw[:80]}"
    if marked := _MARKUP.findall(plain.translate(_WIDE_BRACKETS)):
        yield "markup", f"is this spoken: {' '.join(marked[:_NAMED])}"
    if strays := [word for word in text.split() if unicodedata.category(word[0])[0] == "M"]:
        point = f"U+{ord(strays[0][0]):04X}"
        yield "stray_mark", f"the word {strays[0]!r} begins with the combining sign {point}"


def _is_misread(text: str) -> bool:
    """Whether UTF-8 was read as another encoding: naÃ¯ve for naïve."""
    if not _MISREAD.search(text):
        return False
    for encoding in ("latin-1", "cp1252"):
        try:
            return text.encode(encoding).decode("utf-8") != text
        except UnicodeError:
            continue
    return False


def same_audio(entries: Sequence[Entry]) -> dict[str, str]:
    """By id, the first utterance with the very same bytes of audio; only ids that are not alone.

    Only what is equal in size is read, every place once, and of it the first 64 KiB unless these are equal
    too. MayaError where a file is gone since it was measured. Different channels of a file are different
    audio. Parts of recordings are the same if they are the same part of one file: hours would be read
    otherwise for each sentence of a long recording.
    """

    def size(entry: Entry) -> int:
        return entry.file_size if entry.size is None else entry.size

    def size_and_channel(entry: Entry) -> Hashable:
        return size(entry), entry.channel

    digests: dict[tuple[str, int, int], bytes] = {}

    def digest(limit: int | None) -> Callable[[Entry], Hashable]:
        def of(entry: Entry) -> bytes:
            count = size(entry) if limit is None else min(limit, size(entry))
            place = entry.path, entry.offset or 0, count
            if place not in digests:
                digests[place] = hashlib.blake2b(read_range(*place), digest_size=16).digest()
            return digests[place]

        return of

    groups = [[entry for entry in entries if entry.start is None]]
    for key in (size_and_channel, digest(_FIRST_BYTES), digest(None)):
        groups = [group for old in groups for group in _shared(old, key)]
    parts = [entry for entry in entries if entry.start is not None]

    def place(entry: Entry) -> Hashable:
        return entry.path, entry.offset, entry.channel, entry.start, entry.duration

    groups += _shared(parts, place)
    return {entry.id: group[0].id for group in groups for entry in group}


class UsualDuration(NamedTuple):
    """How long texts take in a language: `silence` seconds around the words and `slope` a character, or
    `middle` seconds whatever the text, where slope is 0. spread: of log(seconds / usual)."""

    silence: float
    slope: float
    middle: float
    spread: float

    def seconds(self, characters: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) what is usual for texts of so many characters."""
        if self.slope <= 0:
            return np.full(len(characters), self.middle)
        return self.silence + self.slope * characters.astype(np.float64)

    def off(self, characters: NDArray[np.floating], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) how far the logarithms of durations are off what is usual, in standard deviations."""
        return np.log(seconds / self.seconds(characters)) / max(self.spread, _SMALLEST_SPREAD)


def usual_duration(characters: NDArray[np.float64], seconds: NDArray[np.float64]) -> UsualDuration:
    """Estimated from n texts and their durations, of which a million (FITTED) tell as much as more.

    A line through the medians (Theil, 1950; Sen, 1968): up to 29 % of it may be wrong. Its height above zero
    is the silence around the words. The spread is 1.4826 times the median absolute deviation, a standard
    deviation if the logarithms are normal.
    """
    rng = np.random.default_rng(0)
    a, b = rng.integers(len(seconds), size=(2, _PAIRS))
    a, b = a[characters[a] != characters[b]], b[characters[a] != characters[b]]
    slope = float(np.median((seconds[a] - seconds[b]) / (characters[a] - characters[b]))) if len(a) else 0.0
    silence = float(np.median(seconds - slope * characters))
    if slope <= 0 or silence < 0:  # too alike in length to tell, or wholly proportional
        slope, silence = float(np.median(seconds / characters)) if slope > 0 else 0.0, 0.0
    usual = UsualDuration(silence, slope, float(np.median(seconds)), 0.0)
    off = np.log(seconds / usual.seconds(characters))
    return usual._replace(spread=1.4826 * float(np.median(np.abs(off - np.median(off)))))


def rate_finding(characters: int, seconds: float, usual: float) -> Finding:
    """Of a text that is far longer or shorter than is usual."""
    reason = "too_little_audio" if seconds < usual else "too_little_text"
    return reason, f"{characters} characters in {seconds:.2f} s, where {usual:.2f} s are usual"


def repeated_texts(entries: Sequence[Entry], min_words: int) -> Iterator[tuple[str, Finding]]:
    """(id, finding) of each text that its speaker said before."""
    long_enough = [entry for entry in entries if len(entry.text.split()) >= min_words]
    for group in _shared(long_enough, lambda entry: (entry.language, entry.speaker, entry.text)):
        for entry in group[1:]:
            yield entry.id, ("repeated_text", f"the same speaker says the same in {group[0].id!r}")


def twin_findings(entries: Sequence[Entry], twins: Mapping[str, str]) -> Iterator[tuple[str, Finding]]:
    """(id, finding) of utterances with the same audio. twins: see `same_audio`."""
    paired = [entry for entry in entries if entry.id in twins]
    for group in _grouped(paired, lambda entry: twins[entry.id]):
        texts = {(entry.language, entry.text) for entry in group}
        for place, entry in enumerate(group):
            other = group[1 if place == 0 else 0]
            if len(texts) > 1:  # which text is right is not known: all are suspect
                detail = f"the same audio as {other.id!r}, whose text is {other.text[:40]!r}"
                yield entry.id, ("conflicting_audio", detail)
            elif place:
                yield entry.id, ("duplicate_audio", f"the same audio and text as {other.id!r}")


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], Hashable]) -> list[list[Entry]]:
    """Utterances with the same key together, in the order they came."""
    groups: dict[Hashable, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return list(groups.values())


def _shared(entries: Iterable[Entry], key: Callable[[Entry], Hashable]) -> list[list[Entry]]:
    """Groups of at least two."""
    return [group for group in _grouped(entries, key) if len(group) > 1]
