"""Looking at transcripts: do they fit their audio, their script, and one another.

What is found here are reasons for flags (see flags); those in `TextCheckConfig.drop` cost an
utterance its place. The same utterances in the same order give the same findings.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maya.audio.byte_ranges import file_stamp, read_range
from maya.config import config
from maya.data.corpus.manifest import Dropped
from maya.data.measure.flags import Finding, Flag, check_drop, flag, sort_out
from maya.data.measure.overlaps import Overlap
from maya.data.measure.probe import Probed
from maya.ranges import Count, PosFloat
from maya.text.languages import Language, get_language, language_of_texts, script_share
from maya.text.normalize import unescape

REASONS = {
    "wrong_script": "most letters are not of the language's script",
    "mixed_script": "some letters are not of the language's script",
    "digits": "numbers in digits: how they were read is not known",
    "markup": "brackets around words: a note, or words that were not read",
    "stray_mark": "a word begins with a combining sign",
    "html_entities": "written with HTML entities (&amp;), which were taken for what they stand for",
    "damaged_text": "characters that were lost or mixed up in a conversion",
    "too_little_audio": "far shorter than such a text takes in this language",
    "too_little_text": "far longer than such a text takes in this language",
    "repeated_text": "the same speaker says the same sentence in another utterance",
    "duplicate_audio": "the same bytes of audio as another utterance, and the same text",
    "conflicting_audio": "the same bytes of audio as another utterance, and another text",
}
LEAKS = {
    "text_in_training": "held out, but its text is read in training too",
    "speaker_in_training": "held out, but its speaker is heard in training too",
    "audio_in_training": "held out, but its very audio is in training too",
    "overlap_in_other_part": "held out, but a part of its audio is in training or another held-out part too",
}
# <unk>, [noise], {cough}, (laughs), *laughs*, !SIL, %um; also in full-width brackets.
_MARKUP = re.compile(
    r"<[^<>]*\w[^<>]*>|\[[^][]*\w[^][]*\]|\{[^{}]*\w[^{}]*\}|\([^()]*\w[^()]*\)"
    r"|\*\w[^*]*\*|(?<!\S)[!%][^\W\d]\w*"
)
_WIDE_BRACKETS = str.maketrans("＜＞［］｛｝（）", "<>[]{}()")
_MISREAD = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u2122]")  # of UTF-8 read as Latin-1 or cp1252
_NAMED = 10  # letters or words listed in a detail
_PAIRS = 20_000  # of utterances, from which the speaking rate of a language is estimated
_SMALLEST_SPREAD = 0.1  # of log duration: narrower corpora (one voice, synthesised) are no reason to flag
_FIRST_BYTES = 1 << 16


@config
class TextCheckConfig:
    """drop: reasons (see REASONS) that cost an utterance its place instead of being noted.
    rate_deviations: standard deviations, estimated robustly, that the logarithm of a duration may be off what
    is usual for so many characters. rate_min_utterances: a language with fewer is not checked for it.
    repeat_min_words: shorter texts may be said again, as in corpora of words and digits.
    compare_audio: look for utterances with the same bytes; files of one size are read for it.
    """

    drop: tuple[str, ...] = ()
    rate_deviations: PosFloat = 5.0
    rate_min_utterances: Count = 50
    repeat_min_words: Count = 3
    compare_audio: bool = True


@dataclass(frozen=True, slots=True)
class Checked:
    """kept: in the order they came; flags: of these, in order; dropped: by cfg.drop; twins: by id, the first
    utterance with the same bytes of audio."""

    kept: list[Probed]
    flags: list[Flag]
    dropped: list[Dropped]
    twins: dict[str, str]


def check_texts(probed: Sequence[Probed], cfg: TextCheckConfig) -> Checked:
    """Look at every transcript and at all of them together. Raises MayaError for an unknown cfg.drop."""
    check_drop(cfg.drop, REASONS, "text_checks.drop")
    languages = {
        group[0].row.language: language_of_texts(group[0].row.language, (one.text for one in group))
        for group in _grouped(probed, lambda one: one.row.language)
    }
    findings: dict[str, list[Finding]] = {
        one.row.id: list(text_findings(one.row.text, one.text, languages[one.row.language])) for one in probed
    }
    twins = same_audio(probed) if cfg.compare_audio else {}
    for together in (
        _rate_findings(probed, cfg),
        _repeated_texts(probed, cfg.repeat_min_words),
        _twin_findings(probed, twins),
    ):
        for name, finding in together:
            findings[name].append(finding)
    kept, flags, dropped = sort_out(probed, findings, cfg.drop)
    return Checked(kept, flags, dropped, twins)


def check_leaks(
    probed: Sequence[Probed],
    parts: Mapping[str, str],
    twins: Mapping[str, str],
    shared: Iterable[Overlap] = (),
) -> list[Flag]:
    """Held-out utterances that training knows something of; texts are compared within a language. shared:
    the utterances that have audio in common."""
    training = [one for one in probed if parts[one.row.id] == "train"]
    texts = {(one.row.language, one.text) for one in training}
    speakers = {one.row.speaker for one in training}
    audio = {twins.get(one.row.id, one.row.id) for one in training}
    overlapping = _in_other_parts(shared, parts)
    flags = []
    for one in probed:
        part = parts[one.row.id]
        if part == "train":
            continue
        known = {
            "text_in_training": (one.row.language, one.text) in texts,
            "speaker_in_training": one.row.speaker in speakers,
            "audio_in_training": twins.get(one.row.id, one.row.id) in audio,
        }
        flags += [flag(one, (reason, f"{part}: {LEAKS[reason]}")) for reason, so in known.items() if so]
        if one.row.id in overlapping and not known["audio_in_training"]:
            flags.append(flag(one, ("overlap_in_other_part", f"{part}: {overlapping[one.row.id]}")))
    return flags


def _in_other_parts(shared: Iterable[Overlap], parts: Mapping[str, str]) -> dict[str, str]:
    """By the id of a held-out utterance, how much of its audio is in another part."""
    details: dict[str, str] = {}
    for overlap in shared:
        for one, other in ((overlap.first, overlap.second), (overlap.second, overlap.first)):
            part = parts[other.row.id]
            if part != parts[one.row.id] != "train":
                detail = (
                    f"{overlap.seconds:.2f} s of its audio are in {other.row.id!r} too, which is in {part}"
                )
                details.setdefault(one.row.id, detail)
    return details


def text_findings(raw: str, text: str, language: str | Language) -> Iterator[Finding]:
    """What one transcript tells by itself. raw: as published; text: in normal form."""
    wanted = get_language(language) if isinstance(language, str) else language
    foreign = [c for c in text if unicodedata.category(c)[0] == "L" and not wanted.owns(c)]
    if foreign:
        share = script_share(text, wanted)
        named = "".join(dict.fromkeys(foreign))[:_NAMED]
        reason = "wrong_script" if share < 0.5 else "mixed_script"
        yield reason, f"{1 - share:.0%} of the letters are not {wanted.script}: {named}"
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


def same_audio(probed: Sequence[Probed]) -> dict[str, str]:
    """By id, the first utterance with the very same bytes of audio; only ids that are not alone.

    Only what is equal in size is read, and of that the first 64 KiB unless these are equal too. MayaError
    where a file is gone since it was probed. Different channels of a file are different audio. Parts of
    recordings are the same if they are the same part of one file: hours would be read otherwise for each
    sentence of a long recording.
    """

    def size(one: Probed) -> int:
        return file_stamp(one.path).size if one.row.size is None else one.row.size

    def size_and_channel(one: Probed) -> Hashable:
        return size(one), one.row.channel

    def digest(limit: int | None) -> Callable[[Probed], Hashable]:
        def of(one: Probed) -> bytes:
            count = size(one) if limit is None else min(limit, size(one))
            return hashlib.blake2b(read_range(one.path, one.row.offset or 0, count), digest_size=16).digest()

        return of

    groups = [[one for one in probed if one.row.start is None]]
    for key in (size_and_channel, digest(_FIRST_BYTES), digest(None)):
        groups = [group for old in groups for group in _shared(old, key)]
    parts = [one for one in probed if one.row.start is not None]

    def place(one: Probed) -> Hashable:
        row = one.row
        return one.path, row.offset, row.channel, row.start, row.duration

    groups += _shared(parts, place)
    return {one.row.id: group[0].row.id for group in groups for one in group}


def usual_seconds(
    characters: NDArray[np.float64], seconds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """How long texts of so many characters usually take, (n,), and the spread of log(seconds / usual).

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
    usual = silence + slope * characters if slope > 0 else np.full_like(seconds, np.median(seconds))
    off = np.log(seconds / usual)
    return usual, 1.4826 * float(np.median(np.abs(off - np.median(off))))


def _rate_findings(probed: Sequence[Probed], cfg: TextCheckConfig) -> Iterator[tuple[str, Finding]]:
    for mine in _grouped(probed, lambda one: one.row.language):
        if len(mine) < cfg.rate_min_utterances:
            continue
        seconds = np.array([one.seconds for one in mine])
        usual, spread = usual_seconds(np.array([float(len(one.text)) for one in mine]), seconds)
        off = np.log(seconds / usual) / max(spread, _SMALLEST_SPREAD)
        for i in np.flatnonzero(np.abs(off) > cfg.rate_deviations).tolist():
            one = mine[i]
            reason = "too_little_audio" if off[i] < 0 else "too_little_text"
            detail = f"{len(one.text)} characters in {one.seconds:.2f} s, where {usual[i]:.2f} s are usual"
            yield one.row.id, (reason, detail)


def _repeated_texts(probed: Sequence[Probed], min_words: int) -> Iterator[tuple[str, Finding]]:
    long_enough = [one for one in probed if len(one.text.split()) >= min_words]
    for group in _shared(long_enough, lambda one: (one.row.language, one.row.speaker, one.text)):
        for one in group[1:]:
            yield one.row.id, ("repeated_text", f"the same speaker says the same in {group[0].row.id!r}")


def _twin_findings(probed: Sequence[Probed], twins: Mapping[str, str]) -> Iterator[tuple[str, Finding]]:
    paired = [one for one in probed if one.row.id in twins]
    for group in _grouped(paired, lambda one: twins[one.row.id]):
        texts = {(one.row.language, one.text) for one in group}
        for place, one in enumerate(group):
            other = group[1 if place == 0 else 0]
            if len(texts) > 1:  # which text is right is not known: all are suspect
                detail = f"the same audio as {other.row.id!r}, whose text is {other.text[:40]!r}"
                yield one.row.id, ("conflicting_audio", detail)
            elif place:
                yield one.row.id, ("duplicate_audio", f"the same audio and text as {other.row.id!r}")


def _grouped(probed: Iterable[Probed], key: Callable[[Probed], Hashable]) -> list[list[Probed]]:
    """Utterances with the same key together, in the order they came."""
    groups: dict[Hashable, list[Probed]] = defaultdict(list)
    for one in probed:
        groups[key(one)].append(one)
    return list(groups.values())


def _shared(probed: Iterable[Probed], key: Callable[[Probed], Hashable]) -> list[list[Probed]]:
    """Groups of at least two."""
    return [group for group in _grouped(probed, key) if len(group) > 1]
